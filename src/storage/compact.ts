/**
 * Compaction of one timeline's layers: merges and images, planned here, worked out elsewhere from immutable files,
 * published here. Nothing is lost if it is stopped at any point; what is readable stays the same.
 */
import type { Lsn } from "../base/lsn.ts";
import type { CompactionRequest, PlacedLayer, WrittenOutput } from "./compaction-job.ts";
import type { Key } from "./key.ts";
import type { KeyRange } from "./key-range.ts";
import type { LayerFile } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import type { GarbagePolicy, ImagePolicy } from "./plan-images.ts";
import { type MergePolicy, planMerge } from "./plan-merge.ts";
import type { TimelineStore } from "./store.ts";

export interface CompactionPolicy {
  readonly merge: MergePolicy;
  readonly images: ImagePolicy;
  /** A file is closed at the next key when it has this size in bytes. */
  readonly fileBytesMax: number;
  /** Keys of which images are made; of the others every version matters. */
  readonly imagesWithin: KeyRange;
  /** Keys at which files are cut, so that what is kept for different reasons lies in different files. */
  readonly cuts: readonly Key[];
}

/** Runs a piece of work, perhaps in another thread. */
export type RunCompaction = (request: CompactionRequest) => Promise<WrittenOutput[]>;

export interface CompactionResult {
  readonly merges: number;
  /** Layers that were replaced. */
  readonly inputLayers: number;
  readonly inputBytes: number;
  readonly deltaLayers: number;
  readonly deltaBytes: number;
  readonly imageLayers: number;
  readonly imageBytes: number;
}

/** Merges as long as the policy wants to, then makes images at the end of what is durable. */
export async function compactStore(
  store: TimelineStore,
  policy: CompactionPolicy,
  run: RunCompaction,
): Promise<CompactionResult> {
  const sums = {
    merges: 0,
    inputLayers: 0,
    inputBytes: 0,
    deltaLayers: 0,
    deltaBytes: 0,
    imageLayers: 0,
    imageBytes: 0,
  };
  for (
    let plan = planMerge(store.layers(), policy.merge);
    plan;
    plan = planMerge(store.layers(), policy.merge)
  ) {
    using pin = store.pin();
    using output = store.beginOutput();
    const names = new Set(plan.inputs.map((layer) => layer.name));
    const { startLsn, endLsn, inputs } = plan;
    const { directory, prefix } = output;
    const written = await run({
      kind: "merge",
      inputs: pin.layers
        .filter((layer) => names.has(layer.name))
        .map((descriptor) => ({ path: store.pathOf(descriptor), descriptor })),
      startLsn,
      endLsn,
      startInclusive: startLsn === store.startLsn,
      cuts: policy.cuts,
      fileBytesMax: policy.fileBytesMax,
      output: { directory, prefix },
    });
    await store.replaceLayers(written, names);
    sums.merges++;
    sums.inputLayers += inputs.length;
    sums.inputBytes += sumBytes(inputs);
    sums.deltaLayers += written.length;
    sums.deltaBytes += sumBytes(written.map((layer) => layer.descriptor));
  }
  const images = await addImages(store, { ...policy, lsn: store.durableLsn }, run);
  sums.imageLayers += images.length;
  sums.imageBytes += sumBytes(images.map((layer) => layer.descriptor));
  return sums;
}

export interface ImageOptions extends Pick<CompactionPolicy, "imagesWithin" | "fileBytesMax"> {
  readonly images: ImagePolicy | GarbagePolicy;
  readonly lsn: Lsn;
  /** Only to see what they would be: they are removed again. */
  readonly rehearsal?: boolean;
}

/** Makes images at an LSN where the policy wants them. */
export async function addImages(
  store: TimelineStore,
  options: ImageOptions,
  run: RunCompaction,
): Promise<WrittenOutput[]> {
  const { lsn } = options;
  using held = store.holdLevels(lsn);
  if (held === undefined) return [];
  using output = store.beginOutput();
  const { directory, prefix } = output;
  const written = await run({
    kind: "images",
    levels: held.levels.map(({ map, upTo }) => ({ layers: placed(map.layers, upTo), upTo })),
    lsn,
    within: options.imagesWithin,
    policy: options.images,
    fileBytesMax: options.fileBytesMax,
    output: { directory, prefix },
  });
  if (options.rehearsal) await store.discard(written.map((layer) => layer.temporaryPath));
  else await store.replaceLayers(written, new Set());
  return written;
}

function placed(layers: readonly LayerFile[], upTo: Lsn): PlacedLayer[] {
  return layers
    .filter(({ descriptor }) =>
      descriptor.kind === LayerKind.Image ? descriptor.endLsn <= upTo : descriptor.startLsn <= upTo,
    )
    .map(({ path, descriptor }) => ({ path, descriptor }));
}

function sumBytes(layers: readonly { readonly sizeBytes: number }[]): number {
  return layers.reduce((total, layer) => total + layer.sizeBytes, 0);
}
