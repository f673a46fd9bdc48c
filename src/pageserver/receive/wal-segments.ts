/**
 * The segment files of one timeline's WAL log: finding, creating, reading, writing, zeroing and removing them.
 * Which bytes count is the business of `WalLog`; here are only files.
 *
 * A segment file always has its full length, is sparse until it is written to, and exists under its name only when
 * that length is durable. Segments are created upwards and removed from either end: a gap above what is wanted means
 * that a file was lost.
 */
import { dirname } from "node:path";
import { ErrorCode, NeonError, assert, corrupt, systemCode } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnAlignDown } from "../../base/lsn.ts";
import type { FileHandle, Files } from "../../base/seams.ts";
import { parseSegmentName, segmentName } from "../../postgres/wal/layout.ts";

const TEMPORARY_SUFFIX = ".tmp";
/** Bytes handled at once when a tail is checked for zeros or overwritten with them. */
const ZERO_CHUNK_SIZE = 2 ** 18;

export interface SegmentsOptions {
  /** Absolute. Created when missing. */
  readonly directory: string;
  readonly segmentSize: number;
  readonly timelineNumber: number;
}

/** The write end of one segment. */
export interface OpenSegment {
  readonly start: Lsn;
  readonly handle: FileHandle;
}

export class WalSegments {
  private readonly options: SegmentsOptions;
  private readonly files: Files;
  /** First segment's start and the end of the last; equal when there is none. */
  private first: Lsn;
  private last: Lsn;
  private current: OpenSegment | undefined;

  private constructor(options: SegmentsOptions, files: Files, range: { first: Lsn; last: Lsn }) {
    this.options = options;
    this.files = files;
    this.first = range.first;
    this.last = range.last;
  }

  /**
   * Finds the segments around `wantedLsn`, and removes what a crash left: files half made, and old ones that were
   * being removed. Throws `corrupt` if there are segments but not the one of `wantedLsn`, or one behind it is missing.
   */
  static async open(options: SegmentsOptions, files: Files, wantedLsn: Lsn): Promise<WalSegments> {
    const { directory, segmentSize, timelineNumber } = options;
    await files.makeDirectory(directory);
    // Segments in a directory that a loss of power takes away would be lost with it.
    await files.syncDirectory(dirname(directory));
    await files.syncDirectory(directory);
    const starts: Lsn[] = [];
    for (const name of await files.list(directory)) {
      if (name.endsWith(TEMPORARY_SUFFIX)) await files.remove(`${directory}/${name}`);
      const parsed = parseSegmentName(name, segmentSize);
      if (parsed?.timeline === timelineNumber) starts.push(parsed.startLsn);
    }
    starts.sort((a, b) => a - b);
    const { run, detached } = runAround(starts, wantedLsn, options);
    const segments = new WalSegments(options, files, run);
    for (const start of detached) await files.remove(segments.path(start));
    return segments;
  }

  /** Start of the oldest segment there is. */
  get firstLsn(): Lsn {
    return this.first;
  }

  /** End of the newest segment there is. */
  get lastLsn(): Lsn {
    return this.last;
  }

  private path(segmentStart: Lsn): string {
    const { directory, segmentSize, timelineNumber } = this.options;
    return `${directory}/${segmentName(timelineNumber, segmentStart, segmentSize)}`;
  }

  /** The segment that holds `lsn` if it is the one open for writing. */
  openSegment(lsn: Lsn): OpenSegment | undefined {
    const open = this.current;
    return open && lsn >= open.start && lsn < open.start + this.options.segmentSize ? open : undefined;
  }

  /** Opens the segment of `lsn` for writing, makes it when it is the next one; closes the one open before. */
  async switchTo(lsn: Lsn): Promise<OpenSegment> {
    const open = this.openSegment(lsn);
    if (open) return open;
    const start = lsnAlignDown(lsn, this.options.segmentSize);
    assert(start >= this.first && start <= this.last, "a segment to write to follows those that exist");
    if (start === this.last) await this.createNext();
    const handle = await this.files.open(this.path(start), "r+");
    await this.closeCurrent();
    this.current = { start, handle };
    return this.current;
  }

  /** Makes the segment after the last one, unless the one open for writing has a successor already. */
  async createNext(): Promise<void> {
    const start = this.last;
    if (this.current && this.current.start + this.options.segmentSize < start) return;
    const path = this.path(start);
    const handle = await this.files.open(path + TEMPORARY_SUFFIX, "w");
    try {
      await handle.truncate(this.options.segmentSize);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await this.files.rename(path + TEMPORARY_SUFFIX, path);
    await this.files.syncDirectory(this.options.directory);
    this.last = lsnAdd(start, this.options.segmentSize);
  }

  /** A copy of the bytes from `from` to `to`, which must lie within the segments. */
  async read(from: Lsn, to: Lsn): Promise<Uint8Array> {
    // The end of the log may be in a segment that does not exist yet.
    if (from === to) return new Uint8Array(0);
    assert(from >= this.first && from < to && to <= this.last, "a read lies within the segments");
    const target = new Uint8Array(to - from);
    for (let at = from; at < to;) {
      const start = lsnAlignDown(at, this.options.segmentSize);
      const end = Math.min(to, start + this.options.segmentSize);
      await this.readPiece({ start, at, end }, target, at - from);
      at = lsnAdd(at, end - at);
    }
    return target;
  }

  private async readPiece(
    piece: { start: Lsn; at: Lsn; end: number },
    target: Uint8Array,
    offset: number,
  ): Promise<void> {
    const { start, at, end } = piece;
    const handle = await this.openToRead(start);
    try {
      let done = 0;
      while (at + done < end) {
        const count = await handle.read(target, offset + done, end - at - done, at - start + done);
        if (count === 0) {
          throw corrupt(`WAL segment ${this.path(start)} is shorter than it was made`, {
            file: this.path(start),
            offset: at - start + done,
          });
        }
        done += count;
      }
    } finally {
      await handle.close();
    }
  }

  private async openToRead(start: Lsn): Promise<FileHandle> {
    try {
      return await this.files.open(this.path(start), "r");
    } catch (error) {
      if (systemCode(error) !== "ENOENT") throw error;
      throw missingSegment(this.options.directory, start);
    }
  }

  /**
   * Makes every segment from that of `lsn` on durable: what a crashed process wrote may still be in memory only. If it
   * ended because a sync failed, the kernel may take what it holds for written and never write it again: so what lies
   * before `end` in the last segment, which alone can have been left unsynced, is written once more.
   */
  async syncFrom(lsn: Lsn, end: Lsn): Promise<void> {
    const size = this.options.segmentSize;
    const lastStart = lsnAlignDown(lsnAdd(end, -1), size);
    for (let at = lsnAlignDown(lsn, size); at < this.last; at = lsnAdd(at, size)) {
      const handle = await this.files.open(this.path(at), "r+");
      try {
        if (at === lastStart && lsn < end) await writeAgain(handle, Math.max(lsn - at, 0), end - at);
        await handle.sync();
      } finally {
        await handle.close();
      }
    }
  }

  /**
   * Removes the segments that begin at or after `lsn`, newest first, and makes everything after `lsn` in its own
   * segment zero, durably. Old bytes there could otherwise pass for the continuation of WAL that is written later.
   */
  async clearAfter(lsn: Lsn): Promise<void> {
    const size = this.options.segmentSize;
    while (this.last > this.first && this.last - size >= lsn) {
      const start = lsnAdd(this.last, -size);
      if (this.current?.start === start) await this.closeCurrent();
      await this.files.remove(this.path(start));
      // One by one: a removal that overtook that of a newer segment would leave a gap after a crash.
      await this.files.syncDirectory(this.options.directory);
      this.last = start;
    }
    if (lsn < this.last) {
      const { start, handle } = await this.switchTo(lsn);
      if (await zeroWhatIsNot(handle, lsn - start, size)) await handle.sync();
    } else if (this.last === this.first) {
      this.first = this.last = lsnAlignDown(lsn, size);
    }
  }

  /** Removes segments that end at or below `lsn`, oldest first. The one open for writing stays. */
  async removeBelow(lsn: Lsn): Promise<void> {
    const size = this.options.segmentSize;
    const before = this.first;
    while (this.first + size <= lsn && this.first + size <= this.last && this.current?.start !== this.first) {
      await this.files.remove(this.path(this.first));
      this.first = lsnAdd(this.first, size);
    }
    if (this.first !== before) await this.files.syncDirectory(this.options.directory);
  }

  async closeCurrent(): Promise<void> {
    const open = this.current;
    this.current = undefined;
    await open?.handle.close();
  }
}

/**
 * The unbroken run of segments that holds `wantedLsn`, or ends there: a next segment need not have been begun. With it
 * older segments, cut off from the run because a crash interrupted their removal.
 */
function runAround(
  starts: readonly Lsn[],
  wantedLsn: Lsn,
  options: SegmentsOptions,
): { run: { first: Lsn; last: Lsn }; detached: Lsn[] } {
  const size = options.segmentSize;
  const wanted = lsnAlignDown(wantedLsn, size);
  const known = new Set(starts);
  if (starts.length === 0) return { run: { first: wanted, last: wanted }, detached: [] };
  let first = wanted;
  while (first >= size && known.has(lsnAdd(first, -size))) first = lsnAdd(first, -size);
  let last = wanted;
  while (known.has(last)) last = lsnAdd(last, size);
  const endsAtWanted = last === wanted && first < wanted && wantedLsn === wanted;
  if (last === wanted && !endsAtWanted) throw missingSegment(options.directory, wanted);
  const newest = starts.at(-1);
  if (newest !== undefined && newest > last) throw missingSegment(options.directory, last);
  return { run: { first, last }, detached: starts.filter((start) => start < first) };
}

/** Overwrites with zeros what is not zero in `[from, to)`; true if anything was written. */
async function zeroWhatIsNot(handle: FileHandle, from: number, to: number): Promise<boolean> {
  const chunk = new Uint8Array(ZERO_CHUNK_SIZE);
  const zeros = new Uint8Array(ZERO_CHUNK_SIZE);
  let written = false;
  for (let at = from; at < to;) {
    const count = await handle.read(chunk, 0, Math.min(ZERO_CHUNK_SIZE, to - at), at);
    if (count === 0) throw corrupt("WAL segment is shorter than it was made", { offset: at });
    if (Buffer.compare(chunk.subarray(0, count), zeros.subarray(0, count)) !== 0) {
      await handle.write(zeros.subarray(0, count), at);
      written = true;
    }
    at += count;
  }
  return written;
}

/** Writes what is in `[from, to)` over itself. */
async function writeAgain(handle: FileHandle, from: number, to: number): Promise<void> {
  const chunk = new Uint8Array(Math.min(ZERO_CHUNK_SIZE, to - from));
  for (let at = from; at < to;) {
    const count = await handle.read(chunk, 0, Math.min(chunk.length, to - at), at);
    if (count === 0) throw corrupt("WAL segment is shorter than it was made", { offset: at });
    await handle.write(chunk.subarray(0, count), at);
    at += count;
  }
}

function missingSegment(directory: string, start: Lsn): NeonError {
  return new NeonError(ErrorCode.Corrupt, `WAL segment at ${formatLsn(start)} is missing`, {
    hint: "A file was removed from outside. The WAL from there on is not used.",
    data: { directory, lsn: formatLsn(start) },
  });
}
