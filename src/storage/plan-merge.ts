/**
 * Which delta layers to merge. Layers come as runs: those that share a span of LSNs, first one flushed layer each, later
 * what a merge has made of several. A merge takes flushed layers, and older runs as long as these are not much larger
 * than what comes with them, so that a value is written a logarithmic number of times and few runs are left to ask.
 */
import type { Lsn } from "../base/lsn.ts";
import type { LayerDescriptor } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import { MERGE_INPUTS_MAX } from "./merge-deltas.ts";

export interface MergePolicy {
  /** Flushed layers from which on they are merged. */
  readonly flushedLayersMin: number;
  /** Inputs of one merge in bytes, which bounds how long it takes. */
  readonly mergeBytesMax: number;
}

export interface MergePlan {
  readonly inputs: readonly LayerDescriptor[];
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

interface Run {
  readonly layers: LayerDescriptor[];
  readonly startLsn: Lsn;
  endLsn: Lsn;
  sizeBytes: number;
  merged: boolean;
}

/** An older run is taken along if it is at most this many times as large as what is merged anyway. */
const SIZE_RATIO = 2;

/** The next merge, or undefined if none is worth it. */
export function planMerge(layers: readonly LayerDescriptor[], policy: MergePolicy): MergePlan | undefined {
  const runs = runsOf(layers);
  const firstFlushed = runs.findLastIndex((run) => run.merged) + 1;
  const flushedCount = runs.length - firstFlushed;
  if (flushedCount < Math.max(policy.flushedLayersMin, 1)) return undefined;
  let from = firstFlushed;
  let to = firstFlushed;
  let sizeBytes = 0;
  let inputs = 0;
  const fits = (run: Run): boolean =>
    inputs + run.layers.length <= MERGE_INPUTS_MAX && sizeBytes + run.sizeBytes <= policy.mergeBytesMax;
  for (let run = runs[to]; run !== undefined && (inputs === 0 || fits(run)); run = runs[++to]) {
    sizeBytes += run.sizeBytes;
    inputs += run.layers.length;
  }
  for (let run = runs[from - 1]; run !== undefined && fits(run); run = runs[from - 1]) {
    if (run.sizeBytes > SIZE_RATIO * sizeBytes) break;
    sizeBytes += run.sizeBytes;
    inputs += run.layers.length;
    from--;
  }
  const taken = runs.slice(from, to);
  const [first] = taken;
  const last = taken.at(-1);
  if (first === undefined || last === undefined || taken.length < 2) return undefined;
  return {
    inputs: taken.flatMap((run) => run.layers),
    startLsn: first.startLsn,
    endLsn: last.endLsn,
  };
}

/** How many delta layers were flushed and not merged yet. */
export function countFlushed(layers: readonly LayerDescriptor[]): number {
  return layers.filter((layer) => layer.kind === LayerKind.Delta && !layer.merged).length;
}

/** Oldest first. Layers whose LSNs overlap are in one run. */
function runsOf(layers: readonly LayerDescriptor[]): Run[] {
  const deltas = layers.filter((layer) => layer.kind === LayerKind.Delta);
  deltas.sort((a, b) => a.startLsn - b.startLsn || a.endLsn - b.endLsn);
  const runs: Run[] = [];
  for (const layer of deltas) {
    const last = runs.at(-1);
    if (last === undefined || layer.startLsn >= last.endLsn) {
      const { startLsn, endLsn, sizeBytes } = layer;
      runs.push({ layers: [layer], startLsn, endLsn, sizeBytes, merged: layer.merged ?? false });
    } else {
      last.layers.push(layer);
      last.sizeBytes += layer.sizeBytes;
      last.merged ||= layer.merged ?? false;
      if (layer.endLsn > last.endLsn) last.endLsn = layer.endLsn;
    }
  }
  return runs;
}
