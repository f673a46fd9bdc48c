/**
 * A line of history: its store on top of its ancestor's, the WAL that flows into it, and the compute that may write.
 *
 *     timelines/<id>/metadata.json     where it comes from, who writes (metadata.ts)
 *     timelines/<id>/layers/           the store's files
 *     timelines/<id>/wal/              raw WAL that is not in layer files yet; made when the first compute writes
 */
import { join } from "node:path";
import { ErrorCode, NeonError, assert, messageOf } from "../../base/errors.ts";
import { type TimelineId, type WriterEpoch, newWriterEpoch } from "../../base/ids.ts";
import { type Lsn, formatLsn, lsnAlignDown } from "../../base/lsn.ts";
import type { Clock, Files, Random } from "../../base/seams.ts";
import { PAGE_SIZE } from "../../postgres/constants.ts";
import { nextRecordLsn } from "../../postgres/wal/layout.ts";
import type { StoreCache } from "../../storage/store-cache.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { type BaseBackupSource, baseBackup } from "../basebackup/basebackup.ts";
import { windowOfLsn } from "../ingest/keyspace.ts";
import { RedoVerifier } from "../ingest/verify-redo.ts";
import { makeReconstructor } from "../read/make-reconstructor.ts";
import type { PageCache } from "../read/page-cache.ts";
import { PageReader } from "../read/page-reader.ts";
import type { Reconstructor } from "../read/reconstruct.ts";
import { Receiver, type ReceiverLog } from "../receive/receiver.ts";
import type { RecoverySource } from "../verify/recovery.ts";
import type { MadeBy } from "../verify/compare-pages.ts";
import { type Verification, type VerifyOptions, verifyDirectory } from "../verify/verify-directory.ts";
import { findCommitAtOrBefore, hasCommitAfter } from "./commit-times.ts";
import {
  type AncestorPoint,
  type HistoryEntry,
  type StoredWriter,
  type TimelineMetadata,
  type WriterSource,
  writeTimelineMetadata,
} from "./metadata.ts";
import { type BoundaryIndex, type RecordBoundary, findRecordBoundary } from "./record-boundary.ts";
import type {
  ClusterIdentity,
  ServedTimeline,
  TimelineExchange,
  TimelineWork,
  WriterStatus,
} from "./served-timeline.ts";
import { lastStoredStart, storedWindow } from "./stored-windows.ts";
import { liesInTheFuture, neverComes, waitsForSpace } from "./timeline-errors.ts";
import { WalIntake } from "./wal-intake.ts";

const SLOT_NAME = "neon";
/** How long a new writer waits until the WAL of the one before is on disk, in milliseconds. */
const DURABLE_TIMEOUT_MS = 2000;

export interface TimelineDependencies {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly cache: StoreCache;
  readonly pages: PageCache;
  /** Compare redo with the images that computes put into their WAL under `wal_consistency_checking`. */
  readonly verifyRedo: boolean;
  readonly log: ReceiverLog;
  /** A sync failed: the process must end. */
  readonly onFatal: (error: Error) => void;
  readonly checkpointDistanceBytes: number;
  readonly checkpointTimeoutMs: number;
}

/** What a timeline consists of, made or opened by `timeline-factory.ts`. */
export interface TimelineParts {
  readonly directory: string;
  readonly metadata: TimelineMetadata;
  readonly cluster: ClusterIdentity;
  readonly store: TimelineStore;
  readonly ancestor: { timeline: Timeline; lsn: Lsn } | undefined;
  /** Where its own records begin, and the record before. */
  readonly start: RecordBoundary;
}

export class Timeline implements ServedTimeline {
  readonly id: TimelineId;
  readonly ancestor: AncestorPoint | undefined;
  readonly cluster: ClusterIdentity;
  readonly createdAt: number;
  private readonly directory: string;
  readonly store: TimelineStore;
  private readonly ancestorTimeline: Timeline | undefined;
  private readonly start: RecordBoundary;
  private readonly dependencies: TimelineDependencies;
  private metadata: TimelineMetadata;
  private intake: WalIntake | undefined;
  private receiver: Receiver | undefined;
  private verifier: RedoVerifier | undefined;
  private closed = false;

  constructor(parts: TimelineParts, dependencies: TimelineDependencies) {
    this.id = parts.metadata.id;
    this.ancestor = parts.metadata.ancestor;
    this.createdAt = parts.metadata.createdAt;
    this.cluster = parts.cluster;
    this.directory = parts.directory;
    this.metadata = parts.metadata;
    this.store = parts.store;
    this.ancestorTimeline = parts.ancestor?.timeline;
    this.start = parts.start;
    this.dependencies = dependencies;
  }

  get startLsn(): Lsn {
    return this.start.endLsn;
  }

  get history(): readonly HistoryEntry[] {
    return this.metadata.history;
  }

  get lastRecordLsn(): Lsn {
    return this.last.endLsn;
  }

  get durableWalLsn(): Lsn {
    return this.intake?.durableLsn ?? this.start.endLsn;
  }

  get state(): "active" | "stopped" | "broken" {
    return this.intake?.failure ? "stopped" : "active";
  }

  get error(): string | undefined {
    const { intake } = this;
    if (intake?.shortage) return waitsForSpace(intake.shortage).message;
    return intake?.failure?.message;
  }

  get writer(): WriterStatus | undefined {
    const stored = this.metadata.writer;
    if (stored === undefined) return undefined;
    const state = this.receiver?.state;
    return {
      name: stored.name,
      epoch: stored.epoch,
      state: state?.kind ?? "stopped",
      error: state?.error ?? this.error,
    };
  }

  get lagBytes(): number | undefined {
    const remote = this.receiver?.state.remoteFlushLsn;
    return remote === undefined ? undefined : Math.max(0, remote - this.lastRecordLsn);
  }

  get verifiedPages(): number | undefined {
    return this.verifier?.pageCount;
  }

  get physicalBytes(): number {
    return this.store.physicalBytes;
  }

  /** The last record, whoever's it is: of the ancestor where the timeline has none of its own. */
  private get last(): RecordBoundary {
    return this.intake?.lastRecord ?? this.start;
  }

  async openWriter(request: {
    name: string;
    source: WriterSource;
  }): Promise<{ epoch: WriterEpoch; lsn: Lsn }> {
    this.checkOpen();
    await this.stopReceiving();
    const intake = await this.openIntake();
    if (intake.failure) throw intake.failure;
    await intake.waitForDurable(intake.resumeLsn, DURABLE_TIMEOUT_MS);
    const epoch = newWriterEpoch(this.dependencies.random);
    const lsn = intake.resumeLsn;
    const writer: StoredWriter = { name: request.name, epoch, source: request.source };
    await this.saveMetadata({ history: [...this.historyBelow(lsn), { startLsn: lsn, epoch }], writer });
    this.receive(writer, intake);
    return { epoch, lsn };
  }

  async closeWriter(epoch: WriterEpoch, reason: string): Promise<void> {
    const { writer } = this.metadata;
    if (writer?.epoch !== epoch) return;
    await this.stopReceiving();
    await this.saveMetadata({ history: this.metadata.history, writer: undefined });
    this.dependencies.log.info({ timeline: this.id, epoch, reason }, "closed a writer");
  }

  async waitForLsn(lsn: Lsn, timeoutMs: number): Promise<void> {
    const wanted = this.withoutPageHeader(lsn);
    if (wanted <= this.start.endLsn) return;
    if (this.intake === undefined) throw neverComes(wanted, this.start.endLsn);
    await this.intake.waitForDurable(wanted, timeoutMs);
  }

  async syncWithWriter(timeoutMs: number): Promise<void> {
    const { receiver, intake } = this;
    if (intake === undefined) return;
    if (receiver === undefined || receiver.state.kind === "stopped") {
      if (intake.failure) throw intake.failure;
      return;
    }
    let position: Lsn;
    try {
      position = await receiver.flushPosition();
    } catch (error) {
      if (!(error instanceof NeonError && error.code === ErrorCode.Unreachable)) throw error;
      // A compute that does not run has no commits that we lack, or cannot give them to us now.
      this.dependencies.log.info(
        { timeline: this.id, error: messageOf(error) },
        "the compute does not answer",
      );
      return;
    }
    await this.waitForLsn(position, timeoutMs);
  }

  async resolveTimestamp(unixMs: number): Promise<Lsn> {
    if (unixMs > this.dependencies.clock.now()) {
      throw new NeonError(ErrorCode.NotFound, `${new Date(unixMs).toISOString()} lies in the future`, {
        hint: "Give a time that has passed, such as 10m for ten minutes ago.",
      });
    }
    const found = await findCommitAtOrBefore(this.store, this.cluster.pgVersion, {
      unixMs,
      endLsn: this.lastRecordLsn,
    });
    if (found !== undefined) return found;
    const root = this.root();
    if (unixMs < root.createdAt) {
      const began = new Date(root.createdAt).toISOString();
      throw new NeonError(
        ErrorCode.NotFound,
        `${new Date(unixMs).toISOString()} lies before the history, which begins at ${began}`,
        {
          hint: `Choose a time from ${began} on.`,
          data: { history_begins: began },
        },
      );
    }
    return root.startLsn;
  }

  hasCommitAfter(unixMs: number): Promise<boolean> {
    const { pgVersion } = this.cluster;
    return hasCommitAfter(this.store, pgVersion, { unixMs, endLsn: this.lastRecordLsn });
  }

  async recordBoundary(lsn: Lsn): Promise<RecordBoundary> {
    if (lsn < this.start.endLsn) {
      if (this.ancestorTimeline) return this.ancestorTimeline.recordBoundary(lsn);
      throw new NeonError(
        ErrorCode.NotFound,
        `${formatLsn(lsn)} lies before the history, which begins at ${formatLsn(this.start.endLsn)}`,
        {
          hint: `Choose an LSN from ${formatLsn(this.start.endLsn)} on.`,
          data: { lsn: formatLsn(lsn), history_begins: formatLsn(this.start.endLsn) },
        },
      );
    }
    return findRecordBoundary(this.boundaryIndex(), lsn);
  }

  async baseBackup(request: {
    lsn?: Lsn;
    readOnly: boolean;
  }): Promise<{ lsn: Lsn; previousLsn: Lsn; stream: AsyncIterable<Uint8Array> }> {
    this.checkOpen();
    const end = this.last;
    if (request.lsn !== undefined && this.withoutPageHeader(request.lsn) > end.endLsn) {
      throw liesInTheFuture(request.lsn, end.endLsn);
    }
    const at = request.lsn === undefined ? end : await this.recordBoundary(request.lsn);
    const stream = baseBackup(await this.backupSource(at, request.readOnly));
    return { lsn: at.endLsn, previousLsn: at.previousLsn, stream };
  }

  private async backupSource(at: RecordBoundary, readOnly: boolean): Promise<BaseBackupSource> {
    return {
      store: this.store,
      reconstructor: await makeReconstructor(this.store, this.cluster.pgVersion, at.endLsn),
      version: this.cluster.pgVersion,
      lsn: at.endLsn,
      previousLsn: at.previousLsn,
      readOnly,
      nowMs: this.dependencies.clock.now(),
    };
  }

  async verifyDirectory(
    request: { directory: string; lsn: Lsn; madeBy?: MadeBy },
    options: VerifyOptions,
  ): Promise<Verification> {
    this.checkOpen();
    const { directory, lsn, madeBy = "primary" } = request;
    const end = this.last.endLsn;
    if (this.withoutPageHeader(lsn) > end) {
      throw new NeonError(
        ErrorCode.NotChecked,
        `the compute was stopped at ${formatLsn(lsn)}, but the pageserver has its WAL up to ${formatLsn(end)} only`,
      );
    }
    const source = await this.backupSource(await this.recordBoundary(lsn), false);
    const { systemId } = this.cluster;
    return verifyDirectory(source, { directory, systemId, madeBy }, this.dependencies.files, options);
  }

  async recoverySource(): Promise<RecoverySource> {
    this.checkOpen();
    const { intake, store } = this;
    await intake?.checkpoint();
    return {
      ...this.cluster,
      store,
      startLsn: this.start.endLsn,
      timelineNumber: intake?.timelineNumber ?? 1,
      recordBoundary: (lsn) => this.recordBoundary(lsn),
      backupSource: (at) => this.backupSource(at, false),
    };
  }

  async work(): Promise<TimelineWork> {
    const { intake, store } = this;
    if (intake === undefined) return { store, wal: undefined };
    await intake.settled();
    const from = store.durableLsn;
    // Damage to the index of records is for the check of the layers to report; WAL can be decoded without it.
    const boundary = await this.durableBoundary().catch(() => undefined);
    const previousLsn = boundary?.endLsn === from ? boundary.previousLsn : undefined;
    return {
      store,
      wal: { from, previousLsn, to: intake.durableLsn, timelineNumber: intake.timelineNumber },
    };
  }

  /** Puts what is in memory into layer files. */
  async checkpoint(): Promise<void> {
    await this.intake?.checkpoint();
  }

  get exchange(): TimelineExchange {
    return this;
  }

  async extend(change: Parameters<TimelineExchange["extend"]>[0]): Promise<void> {
    this.checkOpen();
    assert(this.metadata.writer === undefined, "a timeline that is written to is not extended");
    const endLsn = this.store.durableLsn;
    assert(endLsn === this.lastRecordLsn, "a timeline is extended when it is in layer files");
    // All WAL is in layers, and what follows does not continue it.
    await this.intake?.close();
    this.intake = undefined;
    const { files } = this.dependencies;
    await files.removeTree(join(this.directory, "wal"));
    await files.syncDirectory(this.directory);
    try {
      await this.saveMetadata({
        history: [...this.historyBelow(endLsn), ...change.history],
        writer: undefined,
      });
      await this.store.adopt(change.layers, change.endLsn);
    } finally {
      if (this.hasWal) await this.openIntake();
    }
  }

  /** Whether there is anything to be taken in: WAL of a writer of its own, or what was received from elsewhere. */
  private get hasWal(): boolean {
    return this.metadata.history.length > 0 || this.store.durableLsn > this.start.endLsn;
  }

  /** Entries at or above the end of the timeline say nothing: no WAL was written under them. */
  private historyBelow(lsn: Lsn): readonly HistoryEntry[] {
    return this.metadata.history.filter((entry) => entry.startLsn < lsn);
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.intake?.giveUp();
    await this.stopReceiving();
    try {
      await this.intake?.checkpoint();
    } catch (error) {
      // The WAL log still has everything.
      this.dependencies.log.warn(
        { timeline: this.id, error: messageOf(error) },
        "write layers before closing",
      );
    }
    await this.intake?.close();
    await this.store[Symbol.asyncDispose]();
  }

  /** After opening: replays stored WAL and goes on following the writer. */
  async resume(): Promise<void> {
    const { writer } = this.metadata;
    if (!this.hasWal) return;
    const intake = await this.openIntake();
    if (writer && !intake.failure) this.receive(writer, intake);
  }

  /** Where WAL comes in: from the receiver, or from whoever has it otherwise. */
  async openIntake(): Promise<WalIntake> {
    if (this.intake) return this.intake;
    const { files, onFatal, log } = this.dependencies;
    const durable = await this.durableBoundary();
    const reconstructor = await makeReconstructor(this.store, this.cluster.pgVersion, durable.endLsn);
    this.verifier = this.newVerifier(reconstructor);
    this.intake = await WalIntake.open(
      {
        directory: join(this.directory, "wal"),
        cluster: this.cluster,
        store: this.store,
        durable,
        startLsn: this.start.endLsn,
        checkpointDistanceBytes: this.dependencies.checkpointDistanceBytes,
        checkpointTimeoutMs: this.dependencies.checkpointTimeoutMs,
      },
      {
        files,
        onFatal,
        log,
        reconstructor,
        verifier: this.verifier,
      },
    );
    return this.intake;
  }

  private newVerifier(reconstructor: Reconstructor): RedoVerifier | undefined {
    const { verifyRedo, pages } = this.dependencies;
    if (!verifyRedo) return undefined;
    const reader = new PageReader({ store: this.store, reconstructor, pages });
    return new RedoVerifier({ reader, version: this.cluster.pgVersion });
  }

  /** The last record that is in layer files. */
  private async durableBoundary(): Promise<RecordBoundary> {
    const lsn = this.store.durableLsn;
    if (lsn <= this.start.endLsn) return this.start;
    // The record before the end of the layers is the last of its window, so the index need not know what follows.
    const starts = await lastStoredStart(this.store, { belowLsn: lsn, fromLsn: this.start.endLsn });
    assert(starts !== undefined, `the record index knows the record that ends at ${formatLsn(lsn)}`);
    return { previousLsn: starts, endLsn: lsn };
  }

  private boundaryIndex(): BoundaryIndex {
    return {
      start: this.start,
      last: this.last,
      segmentSize: this.cluster.segmentSize,
      windowOf: windowOfLsn,
      windowStarts: async (window) => {
        const open = this.intake?.openWindow;
        if (open?.window === window) return open.starts;
        return storedWindow(this.store, window, this.lastRecordLsn);
      },
    };
  }

  private receive(writer: StoredWriter, intake: WalIntake): void {
    const { clock, log } = this.dependencies;
    const { systemId, pgVersion } = this.cluster;
    const { source, epoch } = writer;
    this.receiver = new Receiver(
      { source, systemId, epoch, slotName: SLOT_NAME, canReadSlot: pgVersion.readReplicationSlot },
      { sink: intake, clock, log },
    );
    this.receiver.start();
  }

  private async stopReceiving(): Promise<void> {
    // The receiver would end only after there is space again.
    if (this.intake?.shortage && !this.closed) throw waitsForSpace(this.intake.shortage);
    await this.receiver?.[Symbol.asyncDispose]();
    this.receiver = undefined;
  }

  private async saveMetadata(changes: Pick<TimelineMetadata, "history" | "writer">): Promise<void> {
    const metadata = { ...this.metadata, ...changes };
    await writeTimelineMetadata(this.dependencies.files, this.directory, metadata);
    this.metadata = metadata;
  }

  private root(): Timeline {
    return this.ancestorTimeline?.root() ?? this;
  }

  /** Postgres names the place behind a page header where we name the page's start. */
  private withoutPageHeader(lsn: Lsn): Lsn {
    const pageStart = lsnAlignDown(lsn, PAGE_SIZE);
    return lsn <= nextRecordLsn(pageStart, this.cluster.segmentSize) ? pageStart : lsn;
  }

  private checkOpen(): void {
    if (this.closed) throw new NeonError(ErrorCode.Unreachable, "the pageserver is shutting down");
  }
}
