/**
 * Finds the layers that cover a key, newest first, without looking at the others: a segment tree over the places at
 * which spans of layers begin and end. A layer is at O(log n) nodes per span; all layers that cover a key are at the
 * nodes between its leaf and the root, at each node sorted by LSN. Immutable.
 */
import type { Lsn } from "../base/lsn.ts";
import { type Key, compareKeys } from "./key.ts";
import type { KeyRange } from "./key-range.ts";
import { sortSlowly } from "./sort-slowly.ts";
import type { Yielder } from "./yielder.ts";

/** What is searched for. */
export interface Searchable {
  readonly startLsn: Lsn;
  /** Sorted, without overlap. */
  readonly spans: readonly KeyRange[];
}

export class LayerSearch<T extends Searchable> {
  /** Sorted; leaf `i` is what lies from `ends[i - 1]` to `ends[i]`. */
  private readonly ends: readonly Key[];
  private readonly leafCount: number;
  private readonly layers: readonly T[];
  /** Positions of layers at each node, ascending; the root is 1, the children of `i` are `2i` and `2i + 1`. */
  private readonly nodes: (number[] | undefined)[] = [];

  private constructor(layers: readonly T[], ends: readonly Key[]) {
    this.layers = layers;
    this.ends = ends;
    let leafCount = 1;
    while (leafCount < ends.length + 1) leafCount *= 2;
    this.leafCount = leafCount;
  }

  /** Layers sorted by descending start LSN; among equal ones those that count more come first. */
  static async of<T extends Searchable>(layers: readonly T[], yielder: Yielder): Promise<LayerSearch<T>> {
    const search = new LayerSearch(layers, await uniqueEnds(layers, yielder));
    for (const [at, layer] of layers.entries()) {
      for (const span of layer.spans) search.insert(span, at);
      if (yielder.due()) await yielder.yield();
    }
    return search;
  }

  /** The newest layer over `key` that starts below an LSN. */
  below(key: Key, lsn: number): T | undefined {
    // Positions are in the order of LSNs, so that one search finds where those below the LSN begin.
    const first = this.firstBelow(lsn);
    let best = this.layers.length;
    for (let node = this.leafCount + this.leafOf(key); node >= 1; node >>= 1) {
      const at = this.nodes[node];
      if (at !== undefined) best = Math.min(best, firstFrom(at, first) ?? best);
    }
    return this.layers[best];
  }

  private insert(span: KeyRange, layer: number): void {
    let low = this.leafOf(span.from) + this.leafCount;
    let high = this.leafOf(span.to) + this.leafCount;
    for (; low < high; low >>= 1, high >>= 1) {
      if (low & 1) this.addTo(low++, layer);
      if (high & 1) this.addTo(--high, layer);
    }
  }

  private addTo(node: number, layer: number): void {
    const layers = this.nodes[node];
    if (layers === undefined) this.nodes[node] = [layer];
    else layers.push(layer);
  }

  /** Position of the first layer that starts below an LSN. */
  private firstBelow(lsn: number): number {
    let low = 0;
    let high = this.layers.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.layers[middle] as T).startLsn >= lsn) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The number of ends at or below a key. */
  private leafOf(key: Key): number {
    let low = 0;
    let high = this.ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compareKeys(this.ends[middle] as Key, key) <= 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

async function uniqueEnds(layers: readonly Searchable[], yielder: Yielder): Promise<Key[]> {
  const keys: Key[] = [];
  for (const layer of layers) for (const { from, to } of layer.spans) keys.push(from, to);
  const sorted = await sortSlowly(keys, compareKeys, yielder);
  return sorted.filter((key, i) => i === 0 || compareKeys(sorted[i - 1] as Key, key) !== 0);
}

/** The first of some ascending positions that is at or behind another. */
function firstFrom(positions: readonly number[], wanted: number): number | undefined {
  let low = 0;
  let high = positions.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((positions[middle] as number) < wanted) low = middle + 1;
    else high = middle;
  }
  return positions[low];
}
