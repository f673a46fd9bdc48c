/** Which layer files a timeline has. Immutable: readers keep the map they began with while others are published. */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import { type Key, compareKeys } from "./key.ts";
import { rangesOverlap, someContains } from "./key-range.ts";
import type { LayerFile } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import { LayerSearch } from "./layer-search.ts";
import { Yielder } from "./yielder.ts";

/** Layers that were added since the search trees were made are looked through one by one, up to this many. */
const RECENT_MAX = 16;

/** The trees, and what is in them; shared by the maps that follow until they are made anew. */
interface Trees {
  readonly deltas: LayerSearch<LayerFile>;
  readonly images: LayerSearch<LayerFile>;
}

export class LayerMap {
  /** In the order in which they were added. */
  readonly layers: readonly LayerFile[];
  /** Newest first. */
  readonly deltas: readonly LayerFile[];
  /** Newest first; among those at one LSN, those that were not derived first. */
  readonly images: readonly LayerFile[];
  private readonly trees: Trees;
  /** Not in the trees; newest first. */
  private readonly recentDeltas: readonly LayerFile[];
  private readonly recentImages: readonly LayerFile[];

  private constructor(layers: Layers, trees: Trees, recent: readonly LayerFile[]) {
    this.layers = layers.layers;
    this.deltas = layers.deltas;
    this.images = layers.images;
    this.trees = trees;
    this.recentDeltas = deltasOf(recent);
    this.recentImages = imagesOf(recent);
  }

  /** Throws `conflict` if two image layers at one LSN overlap, of which either both are derived or none. */
  static async of(layers: readonly LayerFile[]): Promise<LayerMap> {
    const sorted = sortLayers(layers);
    checkImages(sorted.images);
    return new LayerMap(sorted, await makeTrees(sorted), []);
  }

  /** Without the layers of some names, and with others. Throws as `of` does. */
  async changed(added: readonly LayerFile[], removed: ReadonlySet<string>): Promise<LayerMap> {
    const kept =
      removed.size === 0 ? this.layers : this.layers.filter((layer) => !removed.has(layer.descriptor.name));
    const layers = sortLayers([...kept, ...added]);
    if (added.some((layer) => layer.descriptor.kind === LayerKind.Image)) checkImages(layers.images);
    const recent = [...this.recentDeltas, ...this.recentImages, ...added];
    if (removed.size === 0 && recent.length <= RECENT_MAX) return new LayerMap(layers, this.trees, recent);
    return new LayerMap(layers, await makeTrees(layers), []);
  }

  /** The newest image layer at or below `lsn` that covers `key`. */
  imageFor(key: Key, lsn: Lsn): LayerFile | undefined {
    const found = this.trees.images.below(key, lsn + 1);
    const recent = this.recentImages.find((image) => image.endLsn <= lsn && someContains(image.spans, key));
    return recent !== undefined && (found === undefined || isImageBefore(recent, found) < 0) ? recent : found;
  }

  /** The newest delta layer that may hold versions of `key` below an LSN; it starts below that LSN. */
  deltaFor(key: Key, below: number): LayerFile | undefined {
    const found = this.trees.deltas.below(key, below);
    const recent = this.recentDeltas.find(
      (delta) => delta.startLsn < below && someContains(delta.spans, key),
    );
    return recent !== undefined && (found === undefined || recent.startLsn > found.startLsn) ? recent : found;
  }
}

interface Layers {
  readonly layers: readonly LayerFile[];
  readonly deltas: readonly LayerFile[];
  readonly images: readonly LayerFile[];
}

function sortLayers(layers: readonly LayerFile[]): Layers {
  return { layers, deltas: deltasOf(layers), images: imagesOf(layers) };
}

async function makeTrees({ deltas, images }: Layers): Promise<Trees> {
  const yielder = new Yielder();
  return { deltas: await LayerSearch.of(deltas, yielder), images: await LayerSearch.of(images, yielder) };
}

function deltasOf(layers: readonly LayerFile[]): LayerFile[] {
  return layers
    .filter((layer) => layer.descriptor.kind === LayerKind.Delta)
    .reverse()
    .sort((a, b) => b.startLsn - a.startLsn || b.endLsn - a.endLsn);
}

function imagesOf(layers: readonly LayerFile[]): LayerFile[] {
  return layers.filter((layer) => layer.descriptor.kind === LayerKind.Image).sort(isImageBefore);
}

/** Below 0 if `a` has precedence: it is newer, or says at the same LSN what could not be computed. */
function isImageBefore(a: LayerFile, b: LayerFile): number {
  if (a.endLsn !== b.endLsn) return b.endLsn - a.endLsn;
  return Number(a.descriptor.derived ?? false) - Number(b.descriptor.derived ?? false);
}

/** `images` in the order of a map. */
function checkImages(images: readonly LayerFile[]): void {
  for (let start = 0; start < images.length;) {
    const first = images[start] as LayerFile;
    let end = start + 1;
    while (end < images.length && isImageBefore(first, images[end] as LayerFile) === 0) end++;
    const alike = images.slice(start, end).sort((a, b) => compareKeys(a.range.from, b.range.from));
    for (const [i, layer] of alike.entries()) {
      const next = alike[i + 1];
      if (next === undefined || !rangesOverlap(layer.range, next.range)) continue;
      const lsn = formatLsn(layer.endLsn);
      throw new NeonError(ErrorCode.Conflict, `two image layers at LSN ${lsn} overlap`, {
        data: { lsn, first: layer.path, second: next.path },
      });
    }
    start = end;
  }
}
