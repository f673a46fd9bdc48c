/**
 * The way of WAL into a timeline: raw bytes to the WAL log, records to ingest, the open layer to disk when it is full.
 * It is the sink of the receiver and the one writer of the store.
 *
 * Order of durability: raw WAL is on disk before it is reported as flushed; a layer is on disk before WAL below it is
 * removed. After a crash the records behind the last layer are ingested again from the WAL log.
 */
import { setImmediate as yieldToLoop } from "node:timers/promises";
import { ErrorCode, NeonError, assert, messageOf } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { findEndOfWal } from "../../postgres/wal/end-of-wal.ts";
import { WalStream, type WalStreamOptions } from "../../postgres/wal/stream.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import { loadIngestState } from "../ingest/load-state.ts";
import { Ingest } from "../ingest/ingest.ts";
import { type RedoVerifier, ingestVerified, isAboutRecord } from "../ingest/verify-redo.ts";
import type { Reconstructor } from "../read/reconstruct.ts";
import type { WalSink } from "../receive/receiver.ts";
import { WalLog, type WalReader } from "../receive/wal-log.ts";
import { Durability } from "./durability.ts";
import { DURABLE_SUFFIX, DurableMark } from "./durable-mark.ts";
import {
  type FlushedIntake,
  type FlusherDependencies,
  type FlusherOptions,
  LayerFlusher,
} from "./layer-flusher.ts";
import type { RecordBoundary } from "./record-boundary.ts";
import type { ClusterIdentity } from "./served-timeline.ts";

/** Bytes read at a time when WAL is replayed. */
const REPLAY_CHUNK_BYTES = 1 << 20;
/** Records, or kilobytes, ingested between two looks at the clock and at the size of what is in memory. */
const RECORDS_PER_CHECK = 256;
/** A record that had to read counts as this many. */
const SLOW_RECORD_WEIGHT = 16;
/** Longest time that ingest keeps the event loop, in milliseconds. */
const SLICE_MS_MAX = 4;
/** How often it is noted how far WAL is durable, in milliseconds. */
const MARK_INTERVAL_MS = 1000;
/** A zero page, for the void behind a WAL switch. */
const ZEROS = new Uint8Array(8192);

export interface WalIntakeOptions extends FlusherOptions {
  /** Directory of the WAL log. */
  readonly directory: string;
  readonly cluster: ClusterIdentity;
  /** The last record that the store holds for good. */
  readonly durable: RecordBoundary;
  /** Where the timeline's own records begin. */
  readonly startLsn: Lsn;
}

export interface WalIntakeDependencies extends FlusherDependencies {
  readonly files: Files;
  readonly reconstructor: Reconstructor;
  /** Compares each record with what the compute made of it. */
  readonly verifier?: RedoVerifier | undefined;
  readonly onFatal: (error: Error) => void;
  readonly log: {
    info(data: object, message: string): void;
    error(data: object, message: string): void;
  };
}

export class WalIntake implements WalSink {
  private readonly options: WalIntakeOptions;
  private readonly dependencies: WalIntakeDependencies;
  private readonly ingest: Ingest;
  /** Undefined while the log is being opened, which is when stored WAL is replayed. */
  private openedLog: WalLog | undefined;
  private stream: WalStream;
  private recordsUntilCheck = RECORDS_PER_CHECK;
  private sliceStart = 0;
  private readonly durability: Durability;
  private readonly flusher: LayerFlusher;
  /** The rest of a record that could not be ingested at once. */
  private pendingRecord: Promise<void> | undefined;
  private failed: Error | undefined;
  /** What the decoder threw, if it was the decoder. */
  private decodeError: unknown;
  readonly mark: DurableMark;
  private readonly markTimer: NodeJS.Timeout;

  private constructor(options: WalIntakeOptions, dependencies: WalIntakeDependencies, ingest: Ingest) {
    this.options = options;
    this.dependencies = dependencies;
    this.ingest = ingest;
    this.durability = new Durability(options.durable.endLsn, (error) => {
      this.fail(error).catch(() => undefined);
    });
    this.stream = this.streamFrom(options.durable);
    this.flusher = new LayerFlusher(options, this.flushed(), dependencies);
    this.mark = new DurableMark(options.directory + DURABLE_SUFFIX, dependencies.files);
    this.markTimer = setInterval(() => {
      this.noteDurable();
    }, MARK_INTERVAL_MS);
    this.markTimer.unref();
  }

  /** Opens the WAL log and ingests what lies behind the last layer. */
  static async open(options: WalIntakeOptions, dependencies: WalIntakeDependencies): Promise<WalIntake> {
    const { store, cluster, durable, startLsn } = options;
    const { reconstructor } = dependencies;
    const state = await loadIngestState({
      store,
      reconstructor,
      lsn: durable.endLsn,
      previousLsn: durable.previousLsn,
      startLsn,
    });
    const ingest = new Ingest({
      store,
      version: cluster.pgVersion,
      state,
      reconstructor,
      writeOut: () => intake.flusher.writeOut(),
    });
    const intake: WalIntake = new WalIntake(options, dependencies, ingest);
    try {
      intake.openedLog = await WalLog.open(
        {
          directory: options.directory,
          segmentSize: cluster.segmentSize,
          timelineNumber: state.checkpoint.timelineNumber,
          startLsn: durable.endLsn,
        },
        {
          files: dependencies.files,
          locateEnd: (reader) => intake.replay(reader),
          onFatal: dependencies.onFatal,
        },
      );
    } catch (error) {
      intake.stopTimers();
      throw error;
    }
    intake.durability.startAt(ingest.state.lastRecordLsn, intake.failed);
    return intake;
  }

  /** What the flusher sees of it. */
  private flushed(): FlushedIntake {
    const intake = this.self;
    return {
      get resumeLsn() {
        return intake.resumeLsn;
      },
      get failure() {
        return intake.failed;
      },
      get pendingRecord() {
        return intake.pendingRecord;
      },
      beforeFreeze: () => {
        this.ingest.beforeFreeze();
      },
      syncWal: async () => void (await this.openedLog?.sync()),
      removeWalBelow: async (lsn) => {
        await this.openedLog?.removeBelow(lsn);
      },
    };
  }

  private get self(): WalIntake {
    return this;
  }

  get walLog(): WalLog {
    assert(this.openedLog !== undefined, "the WAL log is open");
    return this.openedLog;
  }

  /** The last record that has been ingested. */
  get lastRecord(): RecordBoundary {
    return { previousLsn: this.ingest.state.previousLsn, endLsn: this.ingest.state.lastRecordLsn };
  }

  get resumeLsn(): Lsn {
    return this.ingest.state.lastRecordLsn;
  }

  get durableLsn(): Lsn {
    return this.durability.lsn;
  }

  /** Postgres' own timeline number. */
  get timelineNumber(): number {
    return this.ingest.state.checkpoint.timelineNumber;
  }

  /** Records ingested since it was opened. */
  get recordCount(): number {
    return this.ingest.recordCount;
  }

  /** Why no more WAL is taken in, if so. */
  get failure(): Error | undefined {
    return this.failed;
  }

  /** Why WAL is not taken in just now although nothing is broken: it waits for space on the disk. */
  get shortage(): Error | undefined {
    return this.openedLog?.shortage;
  }

  /** Waits for space no longer; to be called before `close`, for those who wait for it. */
  giveUp(): void {
    this.openedLog?.giveUp();
  }

  /** Record starts in the window that is still being filled. */
  get openWindow(): { window: number; starts: readonly Lsn[] } {
    const { window } = this.ingest.state;
    return { window: window.window, starts: window.list() };
  }

  onDurable(listener: () => void): () => void {
    return this.durability.onDurable(listener);
  }

  accept(lsn: Lsn, bytes: Uint8Array): Promise<void> | void {
    if (this.failed) throw this.failed;
    if (lsn !== this.walLog.endLsn) return this.restart(lsn).then(() => this.accept(lsn, bytes));
    const full = this.walLog.append(lsn, bytes);
    this.stream.feed(lsn, bytes);
    this.recordsUntilCheck -= bytes.length >> 10;
    this.sliceStart = performance.now();
    const drained = this.drain();
    if (drained === undefined && full === undefined) {
      this.taken();
      return undefined;
    }
    return Promise.all([drained, full]).then(() => {
      this.taken();
    });
  }

  /** Resolves when everything up to `lsn` is ingested and on disk; rejects when that cannot come any more. */
  waitForDurable(lsn: Lsn, timeoutMs: number): Promise<void> {
    return this.durability.waitFor(lsn, timeoutMs);
  }

  /** Puts everything ingested so far into layer files. */
  checkpoint(): Promise<void> {
    return this.flusher.checkpoint();
  }

  /** When no layer is being written and no WAL removed; what went wrong with it is told to others. */
  settled(): Promise<void> {
    return this.flusher.settled();
  }

  /** Nothing is accepted afterwards. What is not in layer files yet stays in the WAL log. */
  async close(): Promise<void> {
    this.stopTimers();
    this.failed ??= new NeonError(ErrorCode.Failed, "the timeline is closed");
    this.durability.fail(this.failed);
    await this.flusher.settled();
    await this.openedLog?.[Symbol.asyncDispose]();
  }

  /** The receiver begins anew behind the last record: what came after it is thrown away and will be sent again. */
  private async restart(lsn: Lsn): Promise<void> {
    const { lastRecord } = this;
    assert(
      lsn === lastRecord.endLsn,
      `WAL comes from ${formatLsn(lsn)}, wanted from ${formatLsn(lastRecord.endLsn)}`,
    );
    if (lsn < this.walLog.endLsn) {
      await this.walLog.truncateAfter(lsn);
    } else {
      // Behind a WAL switch the rest of the segment is void and need not have been sent.
      while (this.walLog.endLsn < lsn) {
        await this.walLog.append(
          this.walLog.endLsn,
          ZEROS.subarray(0, Math.min(ZEROS.length, lsn - this.walLog.endLsn)),
        );
      }
    }
    this.durability.forgetTaken();
    this.stream = this.streamFrom(lastRecord);
  }

  private streamFrom(record: RecordBoundary): WalStream {
    return new WalStream(this.streamOptions(record));
  }

  private streamOptions(record: RecordBoundary): WalStreamOptions {
    const { cluster } = this.options;
    return {
      version: cluster.pgVersion,
      segmentSize: cluster.segmentSize,
      systemId: cluster.systemId,
      startLsn: record.endLsn,
      previousLsn: record.previousLsn,
    };
  }

  /** Ingests what the WAL log holds behind the last layer; the answer is where valid WAL ends. */
  private async replay(reader: WalReader): Promise<Lsn> {
    for (let at = reader.startLsn; at < reader.endLsn;) {
      const to = Math.min(at + REPLAY_CHUNK_BYTES, reader.endLsn) as Lsn;
      try {
        this.stream.feed(at, await reader.read(at, to));
        this.sliceStart = performance.now();
        await this.drain();
      } catch (error) {
        // The WAL is kept as far as it is whole: a later version may know what to do with it.
        if (isAboutRecord(error)) return this.endOfWhole(reader);
        if (error !== this.decodeError) throw error;
        await this.checkTornEnd(error);
        this.failed = undefined;
        break;
      }
      at = to;
    }
    if (this.failed === undefined) await this.checkTornEnd("there is no more");
    this.stream = this.streamFrom(this.lastRecord);
    return this.resumeLsn;
  }

  /** Where whole WAL ends, behind a record that cannot be ingested. */
  private async endOfWhole(reader: WalReader): Promise<Lsn> {
    const { endLsn } = await findEndOfWal(this.streamOptions(this.lastRecord), async (lsn) => {
      const to = Math.min(lsn + REPLAY_CHUNK_BYTES, reader.endLsn) as Lsn;
      return lsn < to ? reader.read(lsn, to) : undefined;
    });
    return endLsn;
  }

  /** WAL that does not decode is the end that a crash left, unless it was on disk before. */
  private async checkTornEnd(error: unknown): Promise<void> {
    const marked = await this.mark.read();
    const end = this.resumeLsn;
    if (marked === undefined || marked <= end) {
      this.dependencies.log.info({ reason: messageOf(error), lsn: formatLsn(end) }, "end of stored WAL");
      return;
    }
    const data = { lsn: formatLsn(end), durable: formatLsn(marked) };
    throw new NeonError(
      ErrorCode.Corrupt,
      `stored WAL is damaged at ${data.lsn}; it was on disk up to ${data.durable}: ${messageOf(error)}`,
      {
        hint: "A compute that still runs on the branch has this WAL; otherwise a branch at an earlier point is what is left.",
        data,
        cause: error,
      },
    );
  }

  /** Ingests all complete records. Synchronous unless it takes long, must read, or the disk is behind. */
  private drain(): Promise<void> | undefined {
    const waiting = this.ingestUntilWait();
    return waiting === undefined ? undefined : this.drainAfter(waiting);
  }

  private async drainAfter(first: Promise<void>): Promise<void> {
    for (let waiting: Promise<void> | undefined = first; waiting !== undefined;) {
      await waiting;
      waiting = this.ingestUntilWait();
    }
  }

  /** Ingests until there is no complete record, or something must be waited for. */
  private ingestUntilWait(): Promise<void> | undefined {
    try {
      for (;;) {
        const record = this.nextRecord();
        if (record === undefined) return undefined;
        const pending = ingestVerified(this.ingest, this.dependencies.verifier, record);
        if (pending !== undefined) return this.finishRecord(pending);
        if (--this.recordsUntilCheck > 0) continue;
        const pause = this.pause();
        if (pause !== undefined) return pause;
      }
    } catch (error) {
      return this.failAtRecord(error);
    }
  }

  /** Waits for a record that needs time; until then no layer may end. */
  private async finishRecord(pending: Promise<void>): Promise<void> {
    this.pendingRecord = pending;
    try {
      await pending;
    } catch (error) {
      await this.failAtRecord(error);
    } finally {
      this.pendingRecord = undefined;
    }
    this.recordsUntilCheck -= SLOW_RECORD_WEIGHT;
    if (this.recordsUntilCheck <= 0) await this.pause();
  }

  private nextRecord(): WalRecord | undefined {
    try {
      return this.stream.next();
    } catch (error) {
      this.decodeError = error;
      throw error;
    }
  }

  /** Between records: has layers written out, and lets others run when the slice is over. */
  private pause(): Promise<void> | undefined {
    this.recordsUntilCheck = RECORDS_PER_CHECK;
    const due = this.flusher.due();
    if (due === undefined && performance.now() - this.sliceStart < SLICE_MS_MAX) return undefined;
    return (due ?? yieldToLoop()).then(() => {
      this.sliceStart = performance.now();
    });
  }

  /** Bytes have been appended and their records ingested: make them durable. */
  private taken(): void {
    this.durability.add(this.walLog, this.walLog.endLsn, this.resumeLsn);
  }

  private stopTimers(): void {
    this.flusher[Symbol.dispose]();
    clearInterval(this.markTimer);
  }

  private noteDurable(): void {
    this.mark.write(this.durability.lsn).catch((error: unknown) => {
      // It is only a note, and an older one is as true.
      this.dependencies.log.info({ error: messageOf(error) }, "note how far WAL is durable");
    });
  }

  /** What was ingested before the record still becomes durable. */
  private failAtRecord(error: unknown): Promise<never> {
    if (this.openedLog) this.taken();
    return this.fail(error);
  }

  private fail(error: unknown): Promise<never> {
    this.failed = error instanceof Error ? error : new Error(String(error));
    this.durability.fail(this.failed);
    return Promise.reject(this.failed);
  }
}
