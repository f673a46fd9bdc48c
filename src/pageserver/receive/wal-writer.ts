/**
 * The write end of a WAL log: puts batches behind each other into the segment files and makes them durable. One call
 * at a time; `WalLog` sees to that.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError, assert, systemCode } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnMin } from "../../base/lsn.ts";
import { isDirect } from "../../base/seams.ts";
import type { OpenSegment, WalSegments } from "./wal-segments.ts";

/** A batch up to this size is written on the spot. */
const DIRECT_BATCH_SIZE_MAX = 2 ** 16;
/**
 * A sync that takes no longer counts as quick; after a row of quick ones the next small one is done on the spot. The
 * row is long, because on a busy disk one slow sync among quick ones would keep everybody else waiting.
 */
const QUICK_SYNC_MS = 0.4;
const QUICK_SYNCS_NEEDED = 32;
/**
 * So much is filled with zeros ahead of the end, once less than the second figure is left of it. Overwriting what is
 * allocated spares a sync the update of the file system's own books: half its time on common disks.
 */
const PREPARE_SIZE = 2 ** 18;
const PREPARE_LEFT_MIN = 2 ** 16;
/** Pieces of at least this size are not written if they are zero: they are on the disk already, as a hole. */
const ZERO_PIECE_MIN = 2 ** 16;
const ZEROS = new Uint8Array(ZERO_PIECE_MIN);
/** What is missing may come back by itself: space on the disk, or free file descriptors. */
const SHORTAGES: ReadonlySet<string | undefined> = new Set(["ENOSPC", "EDQUOT", "EMFILE", "ENFILE"]);
const SHORTAGE_RETRY_MS = 250;

export class WalWriter {
  private readonly segments: WalSegments;
  private readonly segmentSize: number;
  private readonly onFatal: (error: Error) => void;
  private written: Lsn;
  private durable: Lsn;
  /** Up to here the open segment is known to be allocated. */
  private prepared: Lsn;
  private lastBatchSize = 0;
  private missing: Error | undefined;
  private impatient = false;
  private quickSyncs = 0;

  constructor(
    segments: WalSegments,
    position: { segmentSize: number; end: Lsn },
    onFatal: (error: Error) => void,
  ) {
    this.segments = segments;
    this.segmentSize = position.segmentSize;
    this.written = this.durable = this.prepared = position.end;
    this.onFatal = onFatal;
  }

  /** Everything below has been handed to the file system. */
  get writtenLsn(): Lsn {
    return this.written;
  }

  /** Everything below is on disk. */
  get durableLsn(): Lsn {
    return this.durable;
  }

  /** Why nothing is written just now, while `write` waits for space. */
  get shortage(): Error | undefined {
    return this.missing;
  }

  /** From now on `write` fails where it would have waited. */
  giveUp(): void {
    this.impatient = true;
  }

  /**
   * Puts bytes behind those written before. They must not change until the promise settles. A full disk is waited
   * for: nobody has been told that the bytes are safe, and whoever sends them waits as well.
   */
  async write(batch: Uint8Array): Promise<void> {
    this.lastBatchSize = batch.length;
    for (let done = 0; done < batch.length;) {
      try {
        done += await this.writeSome(batch.subarray(done));
        this.missing = undefined;
      } catch (error) {
        if (this.impatient || !(error instanceof Error) || !SHORTAGES.has(systemCode(error))) throw error;
        this.missing = error;
        await sleep(SHORTAGE_RETRY_MS);
      }
    }
  }

  /** Writes what fits into one segment; returns how much that is. */
  private async writeSome(bytes: Uint8Array): Promise<number> {
    const segment = this.segments.openSegment(this.written) ?? (await this.nextSegment());
    const offset = this.written - segment.start;
    const size = Math.min(bytes.length, this.segmentSize - offset);
    const piece = bytes.subarray(0, size);
    // Behind the end of the log everything is zero. The void behind a WAL switch may be a gigabyte.
    if (size < ZERO_PIECE_MIN || !isZero(piece)) await writePiece(segment, piece, offset);
    this.written = lsnAdd(this.written, size);
    return size;
  }

  /** A segment that is left behind is made durable first: a handle that is closed can no longer be synced. */
  private async nextSegment(): Promise<OpenSegment> {
    await this.sync();
    const segment = await this.segments.switchTo(this.written);
    this.prepared = this.written;
    return segment;
  }

  /** Makes everything written durable. A failure is fatal: what is on disk then is unknown. */
  async sync(): Promise<void> {
    const target = this.written;
    if (target === this.durable) return;
    const segment = this.segments.openSegment(lsnAdd(target, -1));
    assert(segment !== undefined, "what was written last is in the open segment");
    // Real time, not the clock seam: it only chooses between two ways of doing the same.
    const started = performance.now();
    try {
      const small = target - this.durable <= DIRECT_BATCH_SIZE_MAX;
      const direct = small && this.quickSyncs >= QUICK_SYNCS_NEEDED;
      if (direct && isDirect(segment.handle)) segment.handle.syncNow();
      else await segment.handle.sync();
    } catch (error) {
      throw this.fatal(target, error);
    }
    this.quickSyncs = performance.now() - started <= QUICK_SYNC_MS ? this.quickSyncs + 1 : 0;
    this.durable = target;
  }

  private fatal(target: Lsn, cause: unknown): NeonError {
    const failure = new NeonError(ErrorCode.Failed, `sync WAL up to ${formatLsn(target)}`, { cause });
    this.onFatal(failure);
    return failure;
  }

  /**
   * Makes room ahead of the end, for small batches only: large ones gain nothing and would be written twice. To be
   * called when everything is durable and nobody waits. A full disk is no error here; the next write will say so.
   */
  async prepare(): Promise<void> {
    const segment = this.segments.openSegment(this.written);
    if (!segment || this.lastBatchSize > DIRECT_BATCH_SIZE_MAX) return;
    const segmentEnd = lsnAdd(segment.start, this.segmentSize);
    const from = this.prepared > this.written ? this.prepared : this.written;
    if (from >= segmentEnd) {
      if (this.written > segmentEnd - PREPARE_SIZE) await this.segments.createNext().catch(() => undefined);
      return;
    }
    if (from - this.written >= PREPARE_LEFT_MIN) return;
    const to = lsnMin(lsnAdd(from, PREPARE_SIZE), segmentEnd);
    this.prepared = to;
    try {
      await segment.handle.write(new Uint8Array(to - from), from - segment.start);
    } catch {
      return;
    }
    try {
      await segment.handle.sync();
    } catch (error) {
      throw this.fatal(this.written, error);
    }
  }

  /** Forgets what lies at and after `lsn`, durably. Everything written must be durable. */
  async truncateAfter(lsn: Lsn): Promise<void> {
    assert(this.written === this.durable && lsn <= this.written, "truncation within what is durable");
    await this.segments.clearAfter(lsn);
    this.written = this.durable = this.prepared = lsn;
  }
}

function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += ZEROS.length) {
    const end = Math.min(bytes.length, at + ZEROS.length);
    if (Buffer.compare(bytes.subarray(at, end), ZEROS.subarray(0, end - at)) !== 0) return false;
  }
  return true;
}

async function writePiece(segment: OpenSegment, bytes: Uint8Array, offset: number): Promise<void> {
  const { handle } = segment;
  if (bytes.length <= DIRECT_BATCH_SIZE_MAX && isDirect(handle)) handle.writeNow(bytes, offset);
  else await handle.write(bytes, offset);
}
