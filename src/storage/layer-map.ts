/** Which layer files a timeline has. Immutable: readers keep the map they began with while others are published. */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import { type Key, compareKeys } from "./key.ts";
import { rangeContains, rangesOverlap } from "./key-range.ts";
import type { LayerFile } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";

/** Image layers at one LSN, in key order, without overlap. */
interface ImageSet {
  readonly lsn: Lsn;
  readonly layers: readonly LayerFile[];
}

export class LayerMap {
  /** In the order in which they were added. */
  readonly layers: readonly LayerFile[];
  /** Newest first. */
  readonly deltas: readonly LayerFile[];
  /** Newest first. */
  readonly images: readonly ImageSet[];

  /** Throws `conflict` if two image layers at one LSN overlap. */
  constructor(layers: readonly LayerFile[]) {
    this.layers = layers;
    this.deltas = layers
      .filter((layer) => layer.descriptor.kind === LayerKind.Delta)
      .reverse()
      .sort((a, b) => b.endLsn - a.endLsn);
    this.images = groupImages(layers.filter((layer) => layer.descriptor.kind === LayerKind.Image));
  }

  /** Without the layers of some names, and with others. */
  changed(added: readonly LayerFile[], removed: ReadonlySet<string>): LayerMap {
    const kept =
      removed.size === 0 ? this.layers : this.layers.filter((layer) => !removed.has(layer.descriptor.name));
    return new LayerMap([...kept, ...added]);
  }

  /** The newest image layer at or below `lsn` that covers `key`. */
  imageFor(key: Key, lsn: Lsn): LayerFile | undefined {
    for (const set of this.images) {
      if (set.lsn > lsn) continue;
      const layer = findCovering(set.layers, key);
      if (layer !== undefined) return layer;
    }
    return undefined;
  }
}

function groupImages(images: LayerFile[]): ImageSet[] {
  const byLsn = new Map<Lsn, LayerFile[]>();
  for (const layer of images) {
    const set = byLsn.get(layer.endLsn);
    if (set) set.push(layer);
    else byLsn.set(layer.endLsn, [layer]);
  }
  const sets = [...byLsn].map(([lsn, layers]) => ({ lsn, layers }));
  for (const { lsn, layers } of sets) {
    layers.sort((a, b) => compareKeys(a.range.from, b.range.from));
    for (const [i, layer] of layers.entries()) {
      const next = layers[i + 1];
      if (next && rangesOverlap(layer.range, next.range)) {
        throw new NeonError(ErrorCode.Conflict, `two image layers at LSN ${formatLsn(lsn)} overlap`, {
          data: { lsn: formatLsn(lsn), first: layer.path, second: next.path },
        });
      }
    }
  }
  return sets.sort((a, b) => b.lsn - a.lsn);
}

function findCovering(layers: readonly LayerFile[], key: Key): LayerFile | undefined {
  let low = 0;
  let high = layers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareKeys((layers[middle] as LayerFile).range.from, key) <= 0) low = middle + 1;
    else high = middle;
  }
  const layer = layers[low - 1];
  return layer !== undefined && rangeContains(layer.range, key) ? layer : undefined;
}
