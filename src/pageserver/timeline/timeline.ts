/**
 * A line of history: its store on top of its ancestor's, the WAL that flows into it, and the compute that may write.
 *
 *     timelines/<id>/metadata.json     where it comes from, who writes (metadata.ts)
 *     timelines/<id>/layers/           the store's files
 *     timelines/<id>/wal/              raw WAL that is not in layer files yet; there while a compute may write
 *
 * A timeline that nobody writes to is idle: no WAL log, nothing in memory but its index, and opened without a look at
 * its layers.
 */
import { join } from "node:path";
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import { type TimelineId, type WriterEpoch, newWriterEpoch } from "../../base/ids.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import { withoutPageHeader } from "../../postgres/wal/layout.ts";
import type { TimelineStore } from "../../storage/store.ts";
import type { BackupTurns } from "../basebackup/backup-turns.ts";
import { type BaseBackupSource, baseBackup } from "../basebackup/basebackup.ts";
import { RedoVerifier } from "../ingest/verify-redo.ts";
import { makeReconstructor, readTimelineNumber } from "../read/make-reconstructor.ts";
import { PageReader } from "../read/page-reader.ts";
import type { Reconstructor } from "../read/reconstruct.ts";
import { Receiver } from "../receive/receiver.ts";
import type { RecoverySource } from "../verify/recovery.ts";
import type { MadeBy } from "../verify/compare-pages.ts";
import { type Verification, type VerifyOptions, verifyDirectory } from "../verify/verify-directory.ts";
import { hasCommitAfter } from "./commit-times.ts";
import {
  type AncestorPoint,
  type HistoryEntry,
  type StoredWriter,
  type TimelineMetadata,
  type WriterSource,
  writeTimelineMetadata,
} from "./metadata.ts";
import { InlineRunner } from "../compaction/inline-runner.ts";
import { Maintenance } from "../compaction/maintenance.ts";
import { Boundaries, type LiveEnd } from "./boundaries.ts";
import { Leases, releasing } from "./leases.ts";
import type { RecordBoundary } from "./record-boundary.ts";
import type {
  ClusterIdentity,
  ServedTimeline,
  TimelineExchange,
  TimelineWork,
  WriterStatus,
} from "./served-timeline.ts";
import { commitTimeAt, resolveTime } from "./resolve-time.ts";
import {
  beforeHistory,
  beingWritten,
  liesInTheFuture,
  neverComes,
  waitsForSpace,
} from "./timeline-errors.ts";
import type { TimelineDependencies, TimelineParts } from "./timeline-parts.ts";
import { TimelineLimits } from "./timeline-limits.ts";
import { TimelineWal } from "./timeline-wal.ts";
import { hasStoredWal, removeWalLog } from "./wal-directory.ts";
import { WalIntake } from "./wal-intake.ts";

const SLOT_NAME = "neon";
/** How long a new writer waits until the WAL of the one before is on disk, in milliseconds. */
const DURABLE_TIMEOUT_MS = 2000;

export type { TimelineDependencies, TimelineParts } from "./timeline-parts.ts";

export class Timeline implements ServedTimeline {
  readonly id: TimelineId;
  readonly ancestor: AncestorPoint | undefined;
  readonly importId: TimelineId | undefined;
  readonly cluster: ClusterIdentity;
  readonly createdAt: number;
  private readonly directory: string;
  readonly store: TimelineStore;
  readonly parent: { readonly timeline: Timeline; readonly lsn: Lsn } | undefined;
  readonly maintenance: Maintenance;
  readonly leases: Leases;
  readonly wal = new TimelineWal(this, () => this.intake);
  private readonly limits: TimelineLimits;
  private readonly boundaries: Boundaries;
  private readonly dependencies: TimelineDependencies;
  private metadata: TimelineMetadata;
  private intake: WalIntake | undefined;
  private receiver: Receiver | undefined;
  private verifier: RedoVerifier | undefined;
  private closed = false;

  constructor(parts: TimelineParts, dependencies: TimelineDependencies) {
    this.id = parts.metadata.id;
    this.ancestor = parts.metadata.ancestor;
    this.importId = parts.metadata.importId;
    this.createdAt = parts.metadata.createdAt;
    this.cluster = parts.cluster;
    this.directory = parts.directory;
    this.metadata = parts.metadata;
    this.store = parts.store;
    this.parent = parts.ancestor;
    const { segmentSize } = parts.cluster;
    this.boundaries = new Boundaries({ store: parts.store, segmentSize, findStart: parts.findStart });
    this.dependencies = dependencies;
    const { clock, files, compaction } = dependencies;
    this.leases = new Leases(this.directory, { files, clock });
    this.limits = new TimelineLimits(dependencies);
    const runner = compaction ?? new InlineRunner(files);
    this.maintenance = new Maintenance(this, this.limits, { runner, clock });
  }

  get startLsn(): Lsn {
    return this.store.startLsn;
  }

  get history(): readonly HistoryEntry[] {
    return this.metadata.history;
  }

  get gcCutoffLsn(): Lsn {
    return this.store.gcCutoffLsn;
  }

  get lastRecordLsn(): Lsn {
    return this.intake?.resumeLsn ?? this.store.durableLsn;
  }

  get durableWalLsn(): Lsn {
    return this.intake?.durableLsn ?? this.store.durableLsn;
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
    const { kind = "stopped", error = this.error, heard } = this.receiver?.state ?? {};
    return { ...stored, state: kind, error, heard };
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

  /** What intake knows about the end; undefined while the timeline is idle. */
  private get live(): LiveEnd | undefined {
    const { intake } = this;
    return intake && { last: intake.lastRecord, openWindow: intake.openWindow };
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
    await this.rest();
  }

  async waitForLsn(lsn: Lsn, timeoutMs: number): Promise<void> {
    const wanted = withoutPageHeader(lsn, this.cluster.segmentSize);
    if (wanted <= this.store.durableLsn) return;
    if (this.intake === undefined) throw neverComes(wanted, this.store.durableLsn);
    await this.intake.waitForDurable(wanted, timeoutMs);
  }

  async syncWithWriter(timeoutMs: number, options?: { checkpoint?: boolean }): Promise<void> {
    const { receiver, intake } = this;
    if (intake === undefined) return;
    if (receiver === undefined || receiver.state.kind === "stopped") {
      if (intake.failure) throw intake.failure;
      return;
    }
    let position: Lsn;
    try {
      position = await receiver.flushPosition(options);
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
    const { pgVersion: version } = this.cluster;
    return resolveTime(this, unixMs, { version, endLsn: this.lastRecordLsn });
  }

  commitTimeAt(lsn: Lsn): Promise<number | null> {
    const { pgVersion: version } = this.cluster;
    this.store.checkReadable(lsn);
    return commitTimeAt(this, { version, endLsn: lsn, nowMs: this.dependencies.clock.now() });
  }

  hasCommitAfter(unixMs: number): Promise<boolean> {
    return hasCommitAfter(this.store, this.cluster.pgVersion, { unixMs, endLsn: this.lastRecordLsn });
  }

  async recordBoundary(lsn: Lsn): Promise<RecordBoundary> {
    if (lsn < this.startLsn) {
      if (this.parent) return this.parent.timeline.recordBoundary(lsn);
      throw beforeHistory(lsn, this.startLsn);
    }
    this.store.checkReadable(lsn);
    return this.boundaries.find(lsn, this.live);
  }

  get backups(): BackupTurns | undefined {
    return this.dependencies.backups;
  }

  async baseBackup(request: {
    lsn?: Lsn;
    readOnly: boolean;
  }): Promise<{ lsn: Lsn; previousLsn: Lsn; stream: AsyncIterable<Uint8Array> }> {
    this.checkOpen();
    const end = this.lastRecordLsn;
    if (request.lsn !== undefined && withoutPageHeader(request.lsn, this.cluster.segmentSize) > end) {
      throw liesInTheFuture(request.lsn, end);
    }
    const hold = this.hold(request.lsn ?? end, "base backup");
    try {
      const at = await this.recordBoundary(request.lsn ?? end);
      const tar = baseBackup(await this.backupSource(at, request.readOnly));
      const stream = this.backups?.inTurn(tar) ?? tar;
      return { lsn: at.endLsn, previousLsn: at.previousLsn, stream: releasing(stream, hold) };
    } catch (error) {
      hold[Symbol.dispose]();
      throw error;
    }
  }

  /** Keeps the end of the record at or below an LSN readable, on whichever timeline it is, until disposed of. */
  private hold(lsn: Lsn, reason: string): Disposable {
    if (lsn < this.startLsn && this.parent) return this.parent.timeline.hold(lsn, reason);
    return this.leases.hold(lsn, reason);
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
    const end = this.lastRecordLsn;
    if (withoutPageHeader(lsn, this.cluster.segmentSize) > end) {
      throw new NeonError(
        ErrorCode.NotChecked,
        `the compute was stopped at ${formatLsn(lsn)}, but the pageserver has its WAL up to ${formatLsn(end)} only`,
      );
    }
    const source = await this.backupSource(await this.recordBoundary(lsn), false);
    const compared = { directory, systemId: this.cluster.systemId, madeBy };
    return verifyDirectory(source, compared, this.dependencies.files, options);
  }

  async recoverySource(): Promise<RecoverySource> {
    this.checkOpen();
    const { intake, store } = this;
    await intake?.checkpoint();
    return {
      ...this.cluster,
      store,
      startLsn: this.startLsn,
      timelineNumber: intake?.timelineNumber ?? (await readTimelineNumber(store, this.cluster.pgVersion)),
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
    const boundary = await this.boundaries.durable().catch(() => undefined);
    const previousLsn = boundary?.endLsn === from ? boundary.previousLsn : undefined;
    return {
      store,
      wal: { from, previousLsn, to: intake.durableLsn, timelineNumber: intake.timelineNumber },
    };
  }

  async rewriteFiles(): Promise<void> {
    await this.saveMetadata(this.metadata);
    await this.store.rewriteIndex();
    await this.intake?.mark.rewrite(this.intake.durableLsn);
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
    await this.rest();
    if (this.metadata.writer || this.intake) throw beingWritten(this.id, this.metadata.writer?.name);
    const history = [...this.historyBelow(this.store.durableLsn), ...change.history];
    await this.saveMetadata({ history, writer: undefined });
    await this.store.adopt(change.layers, change.endLsn, change.retention);
  }

  async takeWal(feed: (intake: WalIntake) => Promise<void>): Promise<void> {
    this.checkOpen();
    if (this.metadata.writer) throw beingWritten(this.id, this.metadata.writer.name);
    const startLsn = this.lastRecordLsn;
    const entry = { startLsn, epoch: newWriterEpoch(this.dependencies.random) };
    await this.saveMetadata({ history: [...this.historyBelow(startLsn), entry], writer: undefined });
    const fed = feed(await this.openIntake());
    await Promise.allSettled([fed]);
    await this.rest();
    await fed;
  }

  /** Entries at or above the end of the timeline say nothing: no WAL was written under them. */
  private historyBelow(lsn: Lsn): readonly HistoryEntry[] {
    return this.metadata.history.filter((entry) => entry.startLsn < lsn);
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.maintenance.close();
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

  /**
   * Puts everything into layers and gives up the WAL log, when nobody writes. WAL that cannot be ingested stays; so does
   * all of it if the layers cannot be written now.
   */
  private async rest(): Promise<void> {
    const { intake } = this;
    if (intake === undefined || intake.failure || this.metadata.writer) return;
    try {
      await intake.checkpoint();
      if (intake.failure || intake.resumeLsn > this.store.durableLsn) return;
      await intake.close();
      this.intake = undefined;
      await removeWalLog(this.walDirectory, this.dependencies.files);
      this.store.relax();
    } catch (error) {
      this.dependencies.log.warn({ timeline: this.id, error: messageOf(error) }, "give up the WAL log");
    }
  }

  private get walDirectory(): string {
    return join(this.directory, "wal");
  }

  /** After opening: replays stored WAL and goes on following the writer. */
  async resume(): Promise<void> {
    const { writer } = this.metadata;
    if (
      writer === undefined &&
      !(await hasStoredWal(this.walDirectory, this.store.durableLsn, this.dependencies.files))
    )
      return;
    const intake = await this.openIntake();
    if (writer === undefined) await this.rest();
    else if (!intake.failure) this.receive(writer, intake);
  }

  /** Where WAL comes in: from the receiver, or from whoever has it otherwise. */
  async openIntake(): Promise<WalIntake> {
    if (this.intake) return this.intake;
    const { files, onFatal, log } = this.dependencies;
    const durable = await this.boundaries.durable();
    const reconstructor = await makeReconstructor(this.store, this.cluster.pgVersion, durable.endLsn);
    this.verifier = this.newVerifier(reconstructor);
    this.intake = await WalIntake.open(
      {
        directory: this.walDirectory,
        cluster: this.cluster,
        store: this.store,
        durable,
        startLsn: this.startLsn,
        limits: this.limits,
      },
      {
        files,
        onFatal,
        log,
        reconstructor,
        verifier: this.verifier,
        memory: this.dependencies.layerMemory,
        beforeLayer: () => this.maintenance.keepPace(),
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

  private checkOpen(): void {
    if (this.closed) throw new NeonError(ErrorCode.Unreachable, "the pageserver is shutting down");
  }
}
