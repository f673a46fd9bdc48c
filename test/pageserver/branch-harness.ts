/**
 * Timelines in this process with real Postgres on top, without command line and HTTP: for tests that want to look
 * inside. One `Lab` is one tenant in a temporary directory.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { newTimelineId } from "../../src/base/ids.ts";
import type { Lsn } from "../../src/base/lsn.ts";
import type { Random } from "../../src/base/seams.ts";
import { extractDataDirectory, packDataDirectory } from "../../src/compute/data-directory.ts";
import { PageCache } from "../../src/pageserver/read/page-cache.ts";
import { timelineFactory } from "../../src/pageserver/timeline/timeline-factory.ts";
import type { Timeline, TimelineDependencies } from "../../src/pageserver/timeline/timeline.ts";
import type { TimelineFactory } from "../../src/pageserver/timeline/served-timeline.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import {
  type Settings,
  TestPostgres,
  embeddedBinDir,
  freePort,
  temporaryDirectory,
} from "../support/postgres.ts";

const random: Random = { bytes: (count) => new Uint8Array(randomBytes(count)) };

/** Settings of a compute whose commits wait for the pageserver. */
export const REMOTE_SETTINGS: Settings = {
  fsync: "off",
  full_page_writes: "off",
  synchronous_standby_names: "pageserver",
  restart_after_crash: "off",
  wal_level: "replica",
  max_wal_senders: 5,
  max_replication_slots: 5,
  max_prepared_transactions: 10,
  shared_buffers: "16MB",
  autovacuum: "off",
};

export class Lab implements AsyncDisposable {
  readonly directory = mkdtempSync(`${temporaryDirectory()}/neonlab-`);
  readonly files = new RealFiles();
  readonly cache = new StoreCache({ capacityBytes: 32 << 20 }, { files: this.files });
  readonly dependencies: TimelineDependencies;
  private initial: TestPostgres | undefined;
  private binDir = embeddedBinDir();
  private readonly timelines: Timeline[] = [];
  private readonly computes: TestPostgres[] = [];

  constructor(options: Partial<TimelineDependencies> = {}) {
    const quiet = (): void => undefined;
    this.dependencies = {
      files: this.files,
      clock: { now: () => Date.now() },
      random,
      cache: this.cache,
      pages: new PageCache({ capacityBytes: 32 << 20 }),
      verifyRedo: false,
      log: { info: quiet, warn: quiet, error: quiet },
      onFatal: (error) => {
        throw error;
      },
      checkpointDistanceBytes: 64 << 20,
      checkpointTimeoutMs: 600_000,
      ...options,
    };
  }

  get factory(): TimelineFactory<Timeline> {
    return timelineFactory(this.dependencies);
  }

  /** The data directory that was imported, never started. */
  get base(): TestPostgres {
    if (this.initial === undefined) throw new Error("nothing was imported");
    return this.initial;
  }

  /**
   * A root timeline from a fresh initdb. Everything in the lab is of this major version. `prepare` may work on the
   * directory before it is imported, and leaves it stopped.
   */
  async init(
    initdb: readonly string[] = [],
    major = 17,
    prepare?: (server: TestPostgres) => Promise<void> | void,
    binDir = embeddedBinDir(major),
  ): Promise<Timeline> {
    this.binDir = binDir;
    const server = await TestPostgres.create({ start: false, initdb, binDir: this.binDir });
    this.computes.push(server);
    this.initial = server;
    await prepare?.(server);
    const id = newTimelineId(random);
    const timeline = await this.factory.import({
      directory: this.timelineDirectory(id),
      id,
      expected: { pgVersion: versionByMajor(major), systemId: undefined },
      tar: packDataDirectory(server.dataDir) as AsyncIterable<Uint8Array>,
      createdAt: Date.now(),
    });
    this.timelines.push(timeline);
    return timeline;
  }

  async branch(ancestor: Timeline, lsn: Lsn = ancestor.lastRecordLsn): Promise<Timeline> {
    const id = newTimelineId(random);
    const timeline = await this.factory.create({
      directory: this.timelineDirectory(id),
      id,
      cluster: ancestor.cluster,
      ancestor: { timeline: ancestor, lsn },
      createdAt: Date.now(),
    });
    this.timelines.push(timeline);
    return timeline;
  }

  /** Closes a timeline (or forgets it, as a killed process does) and opens it again from its files. */
  async reopen(timeline: Timeline, ancestor?: { timeline: Timeline; lsn: Lsn }): Promise<Timeline> {
    await timeline.close();
    this.timelines.splice(this.timelines.indexOf(timeline), 1);
    const { id, cluster } = timeline;
    const opened = await this.factory.open({ directory: this.timelineDirectory(id), id, cluster, ancestor });
    this.timelines.push(opened);
    return opened;
  }

  /** A compute on a base backup, not started. */
  async extract(
    timeline: Timeline,
    options: { lsn?: Lsn; readOnly?: boolean; settings?: Settings } = {},
  ): Promise<TestPostgres> {
    const server = await TestPostgres.create({ empty: true, binDir: this.binDir });
    this.computes.push(server);
    const { stream } = await timeline.baseBackup({
      ...(options.lsn === undefined ? {} : { lsn: options.lsn }),
      readOnly: options.readOnly ?? false,
    });
    rmSync(server.dataDir, { recursive: true });
    await extractDataDirectory(Readable.from(stream), server.dataDir);
    writeFileSync(
      join(server.dataDir, "pg_hba.conf"),
      "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n",
    );
    server.configure({ ...REMOTE_SETTINGS, ...options.settings });
    server.ownDataDir();
    return server;
  }

  /** A read-write compute whose WAL the timeline follows. */
  async compute(timeline: Timeline, settings: Settings = {}): Promise<TestPostgres> {
    const server = await this.extract(timeline, { settings });
    await this.startWriter(timeline, server);
    return server;
  }

  /** Starts a compute under a new writer epoch. */
  async startWriter(timeline: Timeline, server: TestPostgres): Promise<void> {
    const port = await freePort();
    const source = { socketDirectory: server.socketDir, port, user: "postgres" };
    const { epoch } = await timeline.openWriter({ name: "test", source });
    await server.start({ "neon.writer_epoch": epoch, port });
  }

  /** Removes a stopped compute's files. */
  async release(server: TestPostgres): Promise<void> {
    this.computes.splice(this.computes.indexOf(server), 1);
    await server[Symbol.asyncDispose]();
  }

  private timelineDirectory(id: string): string {
    const directory = join(this.directory, id);
    mkdirSync(directory, { recursive: true });
    return directory;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const compute of this.computes) await compute[Symbol.asyncDispose]();
    for (const timeline of this.timelines.reverse()) await timeline.close();
    await this.cache[Symbol.asyncDispose]();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
