/**
 * Timelines without WAL and pages, for tests of the shell around them: they keep their metadata on disk like the real
 * ones, and everything else in memory. Each "commit" moves the end on by 256 bytes and one second.
 */
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type TimelineId, type WriterEpoch, newWriterEpoch } from "../../src/base/ids.ts";
import { type Lsn, formatLsn, lsnAdd, toLsn } from "../../src/base/lsn.ts";
import type { Files } from "../../src/base/seams.ts";
import type { RecoverySource } from "../../src/pageserver/verify/recovery.ts";
import type { Verification } from "../../src/pageserver/verify/verify-directory.ts";
import { systemRandom } from "../../src/pageserver/server.ts";
import {
  type TimelineMetadata,
  readTimelineMetadata,
  writeTimelineMetadata,
  type WriterSource,
} from "../../src/pageserver/timeline/metadata.ts";
import type {
  ClusterIdentity,
  ServedTimeline,
  TimelineFactory,
  TimelineWork,
} from "../../src/pageserver/timeline/served-timeline.ts";

export const FAKE_START = toLsn(0x1500000);
export const FAKE_SYSTEM_ID = 7_412_345_678_901_234_567n;
const COMMIT_BYTES = 256;
const COMMIT_MS = 1000;

export class FakeTimeline implements ServedTimeline {
  readonly cluster: ClusterIdentity;
  readonly startLsn: Lsn;
  readonly state = "active";
  readonly error = undefined;
  readonly lagBytes = undefined;
  readonly physicalBytes = 0;
  readonly verifiedPages = undefined;
  lastRecordLsn: Lsn;
  closed = false;
  /** Calls of methods that change or wait, for tests to look at. */
  readonly calls: string[] = [];
  /** Thrown by the next call of the method. */
  readonly failures = new Map<string, Error>();
  private metadata: TimelineMetadata;
  private readonly files: Files;
  private readonly directory: string;

  constructor(files: Files, directory: string, metadata: TimelineMetadata, cluster: ClusterIdentity) {
    this.files = files;
    this.directory = directory;
    this.metadata = metadata;
    this.cluster = cluster;
    this.startLsn = metadata.ancestor?.lsn ?? FAKE_START;
    this.lastRecordLsn = this.startLsn;
  }

  get id(): TimelineId {
    return this.metadata.id;
  }
  get ancestor(): TimelineMetadata["ancestor"] {
    return this.metadata.ancestor;
  }
  get history(): TimelineMetadata["history"] {
    return this.metadata.history;
  }
  get createdAt(): number {
    return this.metadata.createdAt;
  }
  get durableWalLsn(): Lsn {
    return this.lastRecordLsn;
  }
  get writer(): ServedTimeline["writer"] {
    const { writer } = this.metadata;
    return writer && { name: writer.name, epoch: writer.epoch, state: "connecting", error: undefined };
  }

  /** As if the compute had committed `count` times. */
  commit(count: number): void {
    this.lastRecordLsn = lsnAdd(this.lastRecordLsn, count * COMMIT_BYTES);
  }

  async openWriter(request: {
    name: string;
    source: WriterSource;
  }): Promise<{ epoch: WriterEpoch; lsn: Lsn }> {
    this.called("openWriter");
    const epoch = newWriterEpoch(systemRandom);
    await this.store({
      ...this.metadata,
      writer: { ...request, epoch },
      history: [...this.metadata.history, { startLsn: this.lastRecordLsn, epoch }],
    });
    return { epoch, lsn: this.lastRecordLsn };
  }

  async closeWriter(epoch: WriterEpoch): Promise<void> {
    this.called(`closeWriter ${epoch}`);
    await this.store({ ...this.metadata, writer: undefined });
  }

  async waitForLsn(lsn: Lsn, timeoutMs: number): Promise<void> {
    this.called("waitForLsn");
    if (lsn <= this.lastRecordLsn) return;
    throw new NeonError(
      ErrorCode.Timeout,
      `waited ${timeoutMs} ms for ${formatLsn(lsn)}, we are at ${formatLsn(this.lastRecordLsn)}`,
    );
  }

  async syncWithWriter(): Promise<void> {
    this.called("syncWithWriter");
  }

  hasCommitAfter(): Promise<boolean> {
    return Promise.resolve(false);
  }

  async resolveTimestamp(unixMs: number): Promise<Lsn> {
    const commits = Math.floor((unixMs - this.createdAt) / COMMIT_MS);
    if (commits < 0) throw new NeonError(ErrorCode.NotFound, "before the history");
    return toLsn(Math.min(this.startLsn + commits * COMMIT_BYTES, this.lastRecordLsn));
  }

  async recordBoundary(lsn: Lsn): Promise<{ previousLsn: Lsn; endLsn: Lsn }> {
    const endLsn = toLsn(lsn - ((lsn - this.startLsn) % COMMIT_BYTES));
    return { previousLsn: toLsn(endLsn - COMMIT_BYTES), endLsn };
  }

  async baseBackup(request: {
    lsn?: Lsn;
    readOnly: boolean;
  }): Promise<{ lsn: Lsn; previousLsn: Lsn; stream: AsyncIterable<Uint8Array> }> {
    this.called(`baseBackup ${request.readOnly ? "read-only" : "read-write"}`);
    const lsn = request.lsn ?? this.lastRecordLsn;
    const failure = this.failures.get("stream");
    async function* stream(): AsyncIterable<Uint8Array> {
      for (let i = 0; i < 64; i++) yield new Uint8Array(64 * 1024).fill(i);
      if (failure) throw failure;
    }
    return { lsn, previousLsn: toLsn(lsn - COMMIT_BYTES), stream: stream() };
  }

  verifyDirectory(): Promise<Verification> {
    this.called("verifyDirectory");
    return Promise.resolve({ pages: 0, differences: [], omitted: 0 });
  }

  recoverySource(): Promise<RecoverySource> {
    throw new Error("a fake timeline has no WAL");
  }

  work(): Promise<TimelineWork> {
    return Promise.resolve({ store: undefined, wal: undefined });
  }

  rewriteFiles(): Promise<void> {
    return this.store(this.metadata);
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  private async store(metadata: TimelineMetadata): Promise<void> {
    await writeTimelineMetadata(this.files, this.directory, metadata);
    this.metadata = metadata;
  }

  private called(what: string): void {
    this.calls.push(what);
    const failure = this.failures.get(what.split(" ")[0] ?? "");
    if (failure) throw failure;
  }
}

/** Makes fake timelines and remembers those that are open. */
export class FakeTimelines implements TimelineFactory<FakeTimeline> {
  readonly opened = new Map<TimelineId, FakeTimeline>();
  /** Thrown by the next creation, after its directory has got its metadata. */
  createFailure: Error | undefined;
  /** Answers for pg_control. */
  systemId = FAKE_SYSTEM_ID;
  importedBytes = 0;
  private readonly files: Files;

  constructor(files: Files) {
    this.files = files;
  }

  async create(options: Parameters<TimelineFactory<FakeTimeline>["create"]>[0]): Promise<FakeTimeline> {
    const { directory, id, cluster, ancestor, createdAt } = options;
    return this.build(directory, cluster, {
      id,
      ancestor: { timelineId: ancestor.timeline.id, lsn: ancestor.lsn },
      history: [],
      writer: undefined,
      createdAt,
    });
  }

  async open(options: Parameters<TimelineFactory<FakeTimeline>["open"]>[0]): Promise<FakeTimeline> {
    const metadata = await readTimelineMetadata(this.files, options.directory, options.id);
    if (!metadata) throw new NeonError(ErrorCode.Corrupt, "no metadata");
    return this.remember(new FakeTimeline(this.files, options.directory, metadata, options.cluster));
  }

  async import(options: Parameters<TimelineFactory<FakeTimeline>["import"]>[0]): Promise<FakeTimeline> {
    for await (const chunk of options.tar) this.importedBytes += chunk.length;
    const cluster: ClusterIdentity = {
      pgVersion: options.expected.pgVersion,
      systemId: this.systemId,
      segmentSize: 16 * 1024 * 1024,
    };
    return this.build(options.directory, cluster, {
      id: options.id,
      ancestor: undefined,
      history: [],
      writer: undefined,
      createdAt: options.createdAt,
    });
  }

  private async build(
    directory: string,
    cluster: ClusterIdentity,
    metadata: TimelineMetadata,
  ): Promise<FakeTimeline> {
    await writeTimelineMetadata(this.files, directory, metadata);
    if (this.createFailure) throw this.createFailure;
    return this.remember(new FakeTimeline(this.files, directory, metadata, cluster));
  }

  private remember(timeline: FakeTimeline): FakeTimeline {
    this.opened.set(timeline.id, timeline);
    return timeline;
  }
}
