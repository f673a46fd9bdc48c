/**
 * Layers that another pageserver has made become part of a timeline, as they are. The caller has verified and synced
 * them.
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import type { LayerDescriptor } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import type { LayerSet, NewLayer } from "./layer-set.ts";
import type { Retention } from "./retention.ts";

export interface AdoptedLayer {
  /** Where the file is now, on the same file system; it is moved from there. */
  readonly temporaryPath: string;
  /** What it is; its name is chosen anew. */
  readonly descriptor: LayerDescriptor;
}

/** Moves the files into the set; all of them, or none: after a failure they are where they were. */
export async function adoptLayers(
  layers: readonly AdoptedLayer[],
  change: { readonly endLsn: Lsn; readonly retention?: Retention; readonly onPublished: () => void },
  set: LayerSet,
): Promise<void> {
  const { endLsn, ...rest } = change;
  set.checkUsable();
  for (const { descriptor } of layers) checkContinues(descriptor, endLsn, set);
  const added: NewLayer[] = layers.map(({ temporaryPath, descriptor }) => {
    const { kind, startLsn, endLsn: layerEnd } = descriptor;
    return { temporaryPath, descriptor: { ...descriptor, name: set.newName(kind, startLsn, layerEnd) } };
  });
  await set.publish({ added, durableLsn: endLsn, ...rest, returnFiles: true });
}

function checkContinues(layer: LayerDescriptor, endLsn: Lsn, set: LayerSet): void {
  const { startLsn, durableLsn } = set;
  const lowest = layer.kind === LayerKind.Delta ? durableLsn : startLsn;
  if (layer.startLsn >= lowest && layer.endLsn <= endLsn && endLsn >= durableLsn) return;
  const span = `${formatLsn(layer.startLsn)} to ${formatLsn(layer.endLsn)}`;
  throw new NeonError(
    ErrorCode.Conflict,
    `layer ${layer.name}, ${span}, does not continue the timeline from ${formatLsn(durableLsn)} to ${formatLsn(endLsn)}`,
    { data: { layer: layer.name, durable_lsn: formatLsn(durableLsn), end_lsn: formatLsn(endLsn) } },
  );
}
