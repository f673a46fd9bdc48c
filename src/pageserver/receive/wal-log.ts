/**
 * The raw WAL of one timeline on disk, byte for byte as the compute sent it, in segment files named as Postgres
 * names them (docs/formats/wal-log.md).
 *
 * `append` copies bytes into memory and returns at once; `sync` writes and makes durable what was appended so far.
 * One write-and-sync is under way at a time, and everybody who asks meanwhile shares the next one (group commit).
 * Everything after the end of the log in its segment is zero on disk, always: leftovers of an earlier writer must
 * never look like the continuation of a later one.
 */
import { ErrorCode, NeonError, assert, messageOf } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnMax } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { WalSegments } from "./wal-segments.ts";
import { WalWriter } from "./wal-writer.ts";

/** Bytes waiting to be written above which `append` asks its caller to wait. */
const PENDING_BYTES_HIGH = 2 ** 20;
const PENDING_BYTES_INITIAL = 2 ** 16;

/** The sizes that Postgres accepts: 1 MiB to 1 GiB. */
const SEGMENT_SIZES: readonly number[] = Array.from({ length: 11 }, (_, i) => 2 ** (20 + i));

export interface WalLogOptions {
  /** Absolute; created when missing. Nothing else may live in it. */
  readonly directory: string;
  /** As in the cluster's control file. */
  readonly segmentSize: number;
  /** Postgres' timeline number, part of the file names; 1 unless said otherwise. */
  readonly timelineNumber?: number;
  /** WAL from here on is wanted: the log begins here when it is new, and `locateEnd` searches from here. */
  readonly startLsn: Lsn;
}

/** What `locateEnd` may read: the allocated range; bytes after the true end are zeros or torn. */
export interface WalReader {
  /** The log's wanted start. */
  readonly startLsn: Lsn;
  /** End of the last segment file; how far reads may go. */
  readonly endLsn: Lsn;
  /** A copy of `[from, to)`. */
  read(from: Lsn, to: Lsn): Promise<Uint8Array>;
}

export interface WalLogDependencies {
  readonly files: Files;
  /**
   * Says where valid WAL ends, from the bytes themselves: at `startLsn` if there is none. Called once by `open`; what
   * lies beyond the answer is erased. May well replay what it reads.
   */
  readonly locateEnd: (reader: WalReader) => Promise<Lsn>;
  /** Called when a sync failed: what is on disk is unknown, the process must end. */
  readonly onFatal: (error: Error) => void;
}

interface SyncWaiter {
  readonly lsn: Lsn;
  readonly resolve: (durableLsn: Lsn) => void;
  readonly reject: (error: Error) => void;
}

export class WalLog implements AsyncDisposable {
  private readonly segments: WalSegments;
  private readonly writer: WalWriter;
  /** Where it was begun when it was opened; what is before that in its segment may never have been written. */
  private readonly startLsn: Lsn;
  /** Appended, not yet handed to the writer; its last byte is the one before `end`. */
  private pending = new Uint8Array(PENDING_BYTES_INITIAL);
  private pendingLength = 0;
  /** The other half of the double buffer. */
  private spare = new Uint8Array(PENDING_BYTES_INITIAL);
  private end: Lsn;
  private readonly syncWaiters: SyncWaiter[] = [];
  private readonly writeWaiters: SyncWaiter[] = [];
  private running: Promise<void> | undefined;
  private exclusive = false;
  private closed = false;
  private failure: NeonError | undefined;

  private constructor(segments: WalSegments, writer: WalWriter, startLsn: Lsn) {
    this.segments = segments;
    this.startLsn = startLsn;
    this.writer = writer;
    this.end = writer.writtenLsn;
  }

  /**
   * Opens or creates the log. Finds the end of valid WAL through `locateEnd`, makes everything up to it durable and
   * erases the torn rest. Throws `corrupt` when a segment file is missing.
   */
  static async open(options: WalLogOptions, dependencies: WalLogDependencies): Promise<WalLog> {
    const { directory, segmentSize, startLsn, timelineNumber = 1 } = options;
    assert(SEGMENT_SIZES.includes(segmentSize), `segment size ${segmentSize}`);
    const segments = await WalSegments.open(
      { directory, segmentSize, timelineNumber },
      dependencies.files,
      startLsn,
    );
    const reader: WalReader = {
      startLsn,
      endLsn: segments.lastLsn > startLsn ? segments.lastLsn : startLsn,
      read: (from, to) => segments.read(from, to),
    };
    const end = reader.endLsn === startLsn ? startLsn : await dependencies.locateEnd(reader);
    assert(end >= startLsn && end <= reader.endLsn, `end of WAL ${formatLsn(end)} lies within the log`);
    await segments.clearAfter(end);
    await segments.syncFrom(startLsn, end);
    return new WalLog(
      segments,
      new WalWriter(segments, { segmentSize, end }, dependencies.onFatal),
      startLsn,
    );
  }

  /** End of what was appended: where the next `append` continues. */
  get endLsn(): Lsn {
    return this.end;
  }

  /** Everything below is on disk. */
  get durableLsn(): Lsn {
    return this.writer.durableLsn;
  }

  /** Why it does not get on just now: it waits for space on the disk. */
  get shortage(): Error | undefined {
    return this.writer.shortage;
  }

  /** Waits for space no longer: what cannot be written at once fails, and with it the log. */
  giveUp(): void {
    this.writer.giveUp();
  }

  /** From here on up to `durableLsn` its bytes can be read; undefined if it is closed or broken. */
  get readableFrom(): Lsn | undefined {
    return this.closed || this.failure ? undefined : lsnMax(this.startLsn, this.oldestLsn);
  }

  /** Start of the oldest segment that is still there. */
  get oldestLsn(): Lsn {
    return this.segments.firstLsn;
  }

  /**
   * Adds bytes at the end; copies them. Must continue exactly at `endLsn`. A returned promise asks the caller to wait
   * before it appends more, because the disk is slower than the source. Throws what broke the log earlier, if anything.
   */
  append(lsn: Lsn, bytes: Uint8Array): Promise<void> | void {
    this.check();
    assert(!this.exclusive, "no append while the log is being truncated");
    assert(lsn === this.end, `append at ${formatLsn(lsn)} continues the log's end ${formatLsn(this.end)}`);
    const needed = this.pendingLength + bytes.length;
    if (needed > this.pending.length) this.growPending(needed);
    this.pending.set(bytes, this.pendingLength);
    this.pendingLength = needed;
    this.end = lsnAdd(lsn, bytes.length);
    if (needed <= PENDING_BYTES_HIGH) return undefined;
    const waiting = this.writeOut();
    // Nobody has to wait: the next call reports the failure as well.
    waiting.catch(() => undefined);
    return waiting;
  }

  private growPending(needed: number): void {
    const grown = new Uint8Array(Math.max(needed, this.pending.length * 2));
    grown.set(this.pending.subarray(0, this.pendingLength));
    this.pending = grown;
  }

  /** Makes everything appended so far durable; resolves to an LSN at or after the end at the time of the call. */
  sync(): Promise<Lsn> {
    if (this.failure) return Promise.reject(this.failure);
    if (this.durableLsn >= this.end) return Promise.resolve(this.durableLsn);
    return this.wait(this.syncWaiters);
  }

  /** Hands everything appended so far to the file system, without making it durable. */
  private async writeOut(): Promise<void> {
    if (this.writer.writtenLsn < this.end) await this.wait(this.writeWaiters);
  }

  private wait(waiters: SyncWaiter[]): Promise<Lsn> {
    const { promise, resolve, reject } = Promise.withResolvers<Lsn>();
    waiters.push({ lsn: this.end, resolve, reject });
    this.running ??= this.run();
    return promise;
  }

  /** Works until nobody waits. Starts a microtask late, so that all that one socket read brought is one batch. */
  private async run(): Promise<void> {
    await Promise.resolve();
    try {
      while (this.syncWaiters.length > 0 || this.writeWaiters.length > 0) {
        await this.writeBatch();
        settle(this.writeWaiters, this.writer.writtenLsn);
        if (this.syncWaiters.length > 0) {
          await this.writer.sync();
          settle(this.syncWaiters, this.writer.durableLsn);
          await this.writer.prepare();
        }
      }
    } catch (error) {
      this.fail(error);
    }
    this.running = undefined;
  }

  /** Hands over what is pending; meanwhile `append` fills the other buffer. */
  private async writeBatch(): Promise<void> {
    const batch = this.pending;
    const length = this.pendingLength;
    this.pending = this.spare;
    this.pendingLength = 0;
    this.spare = batch;
    await this.writer.write(batch.subarray(0, length));
  }

  /** After an error the log takes nothing more; the bytes on disk are sorted out by the next `open`. */
  private fail(error: unknown): void {
    const failure =
      error instanceof NeonError
        ? error
        : new NeonError(
            ErrorCode.Resource,
            `write WAL at ${formatLsn(this.writer.writtenLsn)}: ${messageOf(error)}`,
            {
              data: { lsn: formatLsn(this.writer.writtenLsn) },
              cause: error,
            },
          );
    this.failure = failure;
    for (const waiter of [...this.syncWaiters, ...this.writeWaiters]) waiter.reject(failure);
    this.syncWaiters.length = this.writeWaiters.length = 0;
  }

  /** A copy of `[from, to)`, which must lie between `oldestLsn` and `endLsn`. The caller bounds the size. */
  async read(from: Lsn, to: Lsn): Promise<Uint8Array> {
    this.check();
    assert(to <= this.end, `read up to ${formatLsn(to)} ends by ${formatLsn(this.end)}`);
    if (to > this.writer.writtenLsn) await this.writeOut();
    return this.segments.read(from, to);
  }

  /** Forgets everything from `lsn` on, durably: the next `append` continues there. */
  async truncateAfter(lsn: Lsn): Promise<void> {
    this.check();
    assert(lsn <= this.end && lsn >= this.oldestLsn, `truncation to ${formatLsn(lsn)} lies within the log`);
    if (lsn === this.end) return;
    this.exclusive = true;
    try {
      await this.sync();
      await this.running;
      await this.writer.truncateAfter(lsn);
      this.end = lsn;
    } finally {
      this.exclusive = false;
    }
  }

  /** Removes segment files whose WAL lies wholly below `lsn`. */
  async removeBelow(lsn: Lsn): Promise<void> {
    this.check();
    await this.segments.removeBelow(lsn);
  }

  private check(): void {
    if (this.failure) throw this.failure;
    assert(!this.closed, "the WAL log is open");
  }

  /** Makes what was appended durable, if it still can, and closes the files. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.giveUp();
    if (!this.failure) await this.sync().catch(() => undefined);
    await this.running;
    await this.segments.closeCurrent();
  }
}

/** Resolves those at the head of the queue whose LSN has been reached. */
function settle(waiters: SyncWaiter[], reached: Lsn): void {
  let count = 0;
  for (const waiter of waiters) {
    if (waiter.lsn > reached) break;
    waiter.resolve(reached);
    count++;
  }
  waiters.splice(0, count);
}
