/**
 * Reading a range of keys at an LSN: a merge of sorted layers, without point look-ups. The range is cut where image
 * layers begin and end; within a piece one image layer (or none) hides everything older, and the layers above it are
 * merged by key, newest first.
 */
import type { Lsn } from "../base/lsn.ts";
import { CursorHeap } from "./cursor-heap.ts";
import { FileCursor } from "./file-cursor.ts";
import { type Key, type KeyPrefix, ValueFlag, compareKeys } from "./key.ts";
import { type KeyRange, makeKey, maxKey, minKey, rangesOverlap, someOverlaps } from "./key-range.ts";
import type { LayerFile } from "./layer-file.ts";
import type { MapVersion } from "./map-versions.ts";
import { MemoryCursor, type SortedMemory } from "./memory-cursor.ts";
import type { MemoryLayer } from "./memory-layer.ts";
import type { PrefixTable } from "./prefix-table.ts";
import { ChainBuilder, type ScanEntry } from "./value.ts";
import { Yielder } from "./yielder.ts";

/** A batch is handed over when it has this many bytes of values, or this many keys. */
const BATCH_BYTES = 256 * 1024;
const BATCH_KEYS = 1024;
/** Memory for reading ahead, shared among the files that are merged; and the least and most for one of them. */
const READ_AHEAD_TOTAL = 16 * 1024 * 1024;
const READ_AHEAD_MIN = 64 * 1024;
const READ_AHEAD_MAX = 1024 * 1024;
/** Keys and values between two looks at the clock. */
const STEPS = 128;

/** A sorted source of keys. */
export interface Cursor {
  /** The current key, unless `atEnd`. */
  readonly prefix: KeyPrefix;
  readonly block: number;
  readonly atEnd: boolean;
  /** Values above this LSN are not visible through this source. */
  readonly upTo: number;
  readonly isImage: boolean;
  /** Goes to the next key; false if it must be called again after `fill`. */
  advance(): boolean;
  fill(): Promise<void>;
  /** Adds the values of the current key that `chain` wants; at once, or when the promise is kept. */
  collect(chain: ChainBuilder): Promise<void> | undefined;
}

/** The layers of one timeline as they were when the scan began. */
export interface ScanLevel {
  /** Held until the scan ends. */
  readonly version: MapVersion;
  readonly release: (version: MapVersion) => void;
  /** Newest first. */
  readonly memory: readonly MemoryLayer[];
  readonly prefixes: PrefixTable;
  /** Values above this LSN are not visible. */
  readonly upTo: Lsn;
}

/** Levels from a timeline to its oldest ancestor. Keys whose newest value is a tombstone are left out. */
export async function* scanLevels(
  range: KeyRange,
  levels: readonly ScanLevel[],
): AsyncGenerator<ScanEntry[]> {
  try {
    const yielder = new Yielder();
    const memory = await sortMemory(range, levels, yielder);
    for (const piece of cutAtImages(range, levels)) {
      yield* scanPiece(piece, levels, memory, yielder);
    }
  } finally {
    for (const { version, release } of levels) release(version);
  }
}

async function sortMemory(
  range: KeyRange,
  levels: readonly ScanLevel[],
  yielder: Yielder,
): Promise<Map<MemoryLayer, SortedMemory>> {
  const sorted = new Map<MemoryLayer, SortedMemory>();
  for (const { memory, prefixes } of levels) {
    for (const layer of memory) {
      sorted.set(layer, { layer, prefixes, slots: await layer.sortedSlots(range, yielder) });
    }
  }
  return sorted;
}

/** A part of the range in which one image layer, or none, has the last word. */
interface Piece {
  readonly range: KeyRange;
  readonly image: LayerFile | undefined;
  /** Levels down to the one that has the image layer. */
  readonly depth: number;
}

function cutAtImages(range: KeyRange, levels: readonly ScanLevel[]): Piece[] {
  const cuts: Key[] = [range.from, range.to];
  for (const { version, upTo } of levels) {
    for (const { endLsn, range: covered } of version.map.images) {
      if (endLsn > upTo || !rangesOverlap(covered, range)) continue;
      cuts.push(maxKey(covered.from, range.from), minKey(covered.to, range.to));
    }
  }
  cuts.sort(compareKeys);
  const pieces: Piece[] = [];
  for (const [i, from] of cuts.entries()) {
    const to = cuts[i + 1];
    if (to === undefined || compareKeys(from, to) >= 0) continue;
    const found = imageFor(from, levels);
    const last = pieces.at(-1);
    if (last !== undefined && last.image === found.image) {
      pieces[pieces.length - 1] = { ...last, range: { from: last.range.from, to } };
    } else {
      pieces.push({ range: { from, to }, ...found });
    }
  }
  return pieces;
}

function imageFor(key: Key, levels: readonly ScanLevel[]): { image: LayerFile | undefined; depth: number } {
  for (const [at, { version, upTo }] of levels.entries()) {
    const image = version.map.imageFor(key, upTo);
    if (image !== undefined) return { image, depth: at + 1 };
  }
  return { image: undefined, depth: levels.length };
}

async function* scanPiece(
  piece: Piece,
  levels: readonly ScanLevel[],
  memory: ReadonlyMap<MemoryLayer, SortedMemory>,
  yielder: Yielder,
): AsyncGenerator<ScanEntry[]> {
  const { cursors, floor } = await openCursors(piece, levels, memory);
  const heap = new CursorHeap(cursors);
  const upTo = levels[0]?.upTo ?? 0;
  let batch: ScanEntry[] = [];
  let batchBytes = 0;
  let steps = 0;
  for (let top = heap.top(); top !== undefined; top = heap.top()) {
    const { prefix, block } = top;
    const chain = new ChainBuilder(upTo, floor);
    while (top !== undefined && heap.isAt(prefix, block)) {
      if (!chain.done) {
        const waiting = collectFrom(top, chain);
        if (waiting !== undefined) await waiting;
      }
      while (!top.advance()) await top.fill();
      heap.fixTop();
      top = heap.top();
    }
    const newest = chain.values[0];
    if (newest !== undefined && (newest.flags & ValueFlag.Tombstone) === 0) {
      batch.push({
        key: makeKey(prefix, block),
        values: chain.values,
        base: chain.done ? "found" : "missing",
      });
      for (const value of chain.values) batchBytes += value.bytes.length;
      if (batchBytes >= BATCH_BYTES || batch.length >= BATCH_KEYS) {
        yield batch;
        batch = [];
        batchBytes = 0;
      }
    }
    steps += 1 + chain.values.length;
    if (steps >= STEPS) {
      steps = 0;
      if (yielder.due()) await yielder.yield();
    }
  }
  if (batch.length > 0) yield batch;
}

function collectFrom(cursor: Cursor, chain: ChainBuilder): Promise<void> | undefined {
  if (chain.below > cursor.upTo + 1) chain.below = cursor.upTo + 1;
  // What lies at the LSN of the image layer is hidden by it, except its own values.
  if (cursor.isImage) chain.floor = -1;
  return cursor.collect(chain);
}

/** Sources for a piece, newest first, and the LSN at and below which the image layer has the last word. */
async function openCursors(
  { range, image, depth }: Piece,
  levels: readonly ScanLevel[],
  memory: ReadonlyMap<MemoryLayer, SortedMemory>,
): Promise<{ cursors: Cursor[]; floor: number }> {
  const floor = image?.endLsn ?? -1;
  const sources: { layer: LayerFile | MemoryLayer; upTo: number }[] = [];
  for (const { version, memory, upTo } of levels.slice(0, depth)) {
    for (const layer of memory) sources.push({ layer, upTo });
    for (const layer of version.map.deltas) {
      if (layer.endLsn > floor && layer.startLsn <= upTo && someOverlaps(layer.spans, range)) {
        sources.push({ layer, upTo });
      }
    }
  }
  if (image) sources.push({ layer: image, upTo: image.endLsn });
  const share = Math.floor(READ_AHEAD_TOTAL / Math.max(sources.length, 1));
  const windowBytes = Math.min(Math.max(share, READ_AHEAD_MIN), READ_AHEAD_MAX);
  const cursors: Cursor[] = [];
  for (const { layer, upTo } of sources) {
    if ("descriptor" in layer) {
      cursors.push(await FileCursor.create(layer, { range, upTo, isImage: layer === image, windowBytes }));
    } else {
      const sorted = memory.get(layer);
      if (sorted) cursors.push(new MemoryCursor(sorted, range, upTo));
    }
  }
  return { cursors, floor };
}
