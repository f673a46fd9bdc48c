/**
 * Merges delta layers into new ones that are partitioned by key: every version of every key, in key order, read and
 * written once. Inputs whose keys overlap must not overlap in LSNs. Memory is bounded by the number of inputs, not by
 * their size.
 */
import { assert } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import type { ValuePlace } from "./index-writer.ts";
import { type Key, type KeyPrefix, compareKeyPrefixes } from "./key.ts";
import { compareToKey, formatKey, makeKey } from "./key-range.ts";
import type { LayerFile } from "./layer-file.ts";
import { LayerKind, SHARE_MIN_BYTES } from "./layer-format.ts";
import { LayerWriter, type WrittenLayer } from "./layer-writer.ts";
import { type MergedValue, VersionCursor } from "./version-cursor.ts";
import { Yielder } from "./yielder.ts";

/** Memory for reading ahead, shared among the inputs; and the least and most for one of them. */
const READ_AHEAD_TOTAL = 16 * 1024 * 1024;
const READ_AHEAD_MIN = 64 * 1024;
const READ_AHEAD_MAX = 1024 * 1024;
/** Inputs of one merge, because each keeps buffers. */
export const MERGE_INPUTS_MAX = 256;

export interface MergeJob {
  readonly inputs: readonly LayerFile[];
  /** What the outputs cover: above `startLsn`, up to `endLsn`. Versions beyond are left out. */
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  /** Versions at `startLsn` belong to it too: for the first layers of a timeline. */
  readonly startInclusive?: boolean;
  /** A file is closed at the next key when its data has reached this size in bytes. */
  readonly fileBytesMax: number;
  /** Keys at which a file is closed in any case, in order. */
  readonly cuts?: readonly Key[];
  /** Versions to leave out. */
  readonly omit?: (prefix: KeyPrefix, block: number, lsn: number) => boolean;
  /** A fresh path for each file. */
  readonly newPath: () => string;
  /** Called now and then with the bytes that have been written since. Throws to end the merge. */
  readonly progress?: (sizeBytes: number) => void;
}

export interface WrittenDelta extends WrittenLayer {
  readonly path: string;
}

/** The files that were written, synced, in key order. After a failure the caller removes what was begun. */
export async function mergeDeltas(job: MergeJob, files: Files): Promise<WrittenDelta[]> {
  assert(job.inputs.length <= MERGE_INPUTS_MAX, "not too many layers at once");
  const share = Math.floor(READ_AHEAD_TOTAL / Math.max(job.inputs.length, 1));
  const windowBytes = Math.min(Math.max(share, READ_AHEAD_MIN), READ_AHEAD_MAX);
  const oldestFirst = [...job.inputs].sort((a, b) => a.startLsn - b.startLsn || a.endLsn - b.endLsn);
  const sources: Source[] = [];
  for (const layer of oldestFirst) sources.push(new Source(await VersionCursor.create(layer, windowBytes)));
  await using output = new Output(job, files);
  const heap = new SourceHeap(sources);
  const yielder = new Yielder();
  const breathe = (): Promise<void> | undefined =>
    output.drain() ?? (yielder.due() ? yielder.yield() : undefined);
  for (let top = heap.top(); top !== undefined; top = heap.top()) {
    const { prefix, block } = top.cursor;
    if (await output.beginKey(prefix, block)) for (const source of sources) source.shared.clear();
    while (top !== undefined && heap.isAt(prefix, block)) {
      const { shared } = top;
      await top.cursor.takeKey((value) => {
        output.add(value, shared);
      }, breathe);
      heap.fixTop();
      top = heap.top();
    }
  }
  return await output.finish();
}

/** Where long values of an input lie in the file that is being written. */
type SharedPlaces = Map<number, ValuePlace>;

class Source {
  readonly cursor: VersionCursor;
  readonly shared: SharedPlaces = new Map();

  constructor(cursor: VersionCursor) {
    this.cursor = cursor;
  }
}

class Output implements AsyncDisposable {
  private readonly job: MergeJob;
  private readonly files: Files;
  private readonly written: WrittenDelta[] = [];
  private writer: LayerWriter | undefined;
  private path = "";
  private prefix: KeyPrefix | undefined;
  private block = 0;
  private keyBegun = false;
  private nextCut = 0;
  private lastLsn = -1;
  private reportedBytes = 0;

  constructor(job: MergeJob, files: Files) {
    this.job = job;
    this.files = files;
  }

  /** The versions that are added next belong to this key. True if another file begins with it. */
  async beginKey(prefix: KeyPrefix, block: number): Promise<boolean> {
    const { writer, job } = this;
    this.keyBegun = false;
    this.prefix = prefix;
    this.block = block;
    this.lastLsn = -1;
    let cut = false;
    for (let at = job.cuts?.[this.nextCut]; at !== undefined; at = job.cuts?.[this.nextCut]) {
      if (compareToKey(prefix, block, at) < 0) break;
      this.nextCut++;
      cut = true;
    }
    if (writer !== undefined && (cut || writer.dataBytes >= job.fileBytesMax)) await this.finishFile(writer);
    if (this.writer !== undefined) return false;
    await this.openFile();
    return true;
  }

  add(value: MergedValue, shared: SharedPlaces): void {
    const { job, writer, prefix } = this;
    const { lsn, flags, bytes } = value;
    if (lsn > job.endLsn || lsn < job.startLsn || (lsn === job.startLsn && !job.startInclusive)) return;
    assert(writer !== undefined && prefix !== undefined, "a key has begun");
    if (job.omit?.(prefix, this.block, lsn)) return;
    if (lsn <= this.lastLsn) {
      throw new Error(`two layers hold ${formatKey(makeKey(prefix, this.block))} at LSN ${lsn}`);
    }
    this.lastLsn = lsn;
    if (!this.keyBegun) writer.beginKey(prefix, this.block);
    this.keyBegun = true;
    const known = bytes.length >= SHARE_MIN_BYTES ? shared.get(value.place) : undefined;
    if (known !== undefined) {
      writer.addReference(lsn, flags, bytes.length, known);
      return;
    }
    const place = writer.addValue(lsn, flags, bytes, 0, bytes.length);
    if (bytes.length >= SHARE_MIN_BYTES) shared.set(value.place, place);
  }

  drain(): Promise<void> | undefined {
    const { writer } = this;
    if (writer === undefined || !writer.wantsDrain) return undefined;
    this.job.progress?.(writer.dataBytes - this.reportedBytes);
    this.reportedBytes = writer.dataBytes;
    return writer.drain();
  }

  async finish(): Promise<WrittenDelta[]> {
    if (this.writer !== undefined) await this.finishFile(this.writer);
    return this.written;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.writer?.[Symbol.asyncDispose]();
  }

  private async openFile(): Promise<void> {
    const { startLsn, endLsn } = this.job;
    this.path = this.job.newPath();
    this.reportedBytes = 0;
    this.writer = await LayerWriter.create(
      this.path,
      { kind: LayerKind.Delta, startLsn, endLsn },
      this.files,
    );
  }

  /** A file in which nothing was left is removed. */
  private async finishFile(writer: LayerWriter): Promise<void> {
    if (writer.isEmpty) {
      this.writer = undefined;
      await writer[Symbol.asyncDispose]();
      await this.files.remove(this.path);
    } else {
      this.written.push({ ...(await writer.finish()), path: this.path });
      this.writer = undefined;
    }
  }
}

/** Sources by key; among equal keys the older layer first. A binary heap. */
class SourceHeap {
  private readonly heap: { readonly source: Source; readonly rank: number }[] = [];

  /** Takes the sources oldest layer first. */
  constructor(sources: readonly Source[]) {
    for (const [rank, source] of sources.entries()) {
      if (!source.cursor.atEnd) this.heap.push({ source, rank });
    }
    for (let at = (this.heap.length >> 1) - 1; at >= 0; at--) this.sink(at);
  }

  top(): Source | undefined {
    return this.heap[0]?.source;
  }

  isAt(prefix: KeyPrefix, block: number): boolean {
    const cursor = this.heap[0]?.source.cursor;
    return cursor !== undefined && cursor.block === block && compareKeyPrefixes(cursor.prefix, prefix) === 0;
  }

  /** Restores the order after the top source has moved. */
  fixTop(): void {
    const top = this.heap[0];
    if (top === undefined) return;
    if (top.source.cursor.atEnd) {
      const last = this.heap.pop();
      if (last === undefined || this.heap.length === 0) return;
      this.heap[0] = last;
    }
    this.sink(0);
  }

  private sink(start: number): void {
    const { heap } = this;
    const item = heap[start];
    if (item === undefined) return;
    let at = start;
    for (;;) {
      let child = at * 2 + 1;
      const left = heap[child];
      if (left === undefined) break;
      const right = heap[child + 1];
      let least = left;
      if (right !== undefined && isBefore(right, left)) {
        least = right;
        child++;
      }
      if (!isBefore(least, item)) break;
      heap[at] = least;
      at = child;
    }
    heap[at] = item;
  }
}

interface Ranked {
  readonly source: Source;
  readonly rank: number;
}

function isBefore(a: Ranked, b: Ranked): boolean {
  const x = a.source.cursor;
  const y = b.source.cursor;
  const order = compareKeyPrefixes(x.prefix, y.prefix) || x.block - y.block;
  return order === 0 ? a.rank < b.rank : order < 0;
}
