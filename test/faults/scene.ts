/**
 * A pageserver's tenants over any file system, with WAL put in by hand: what the tests of faults run on the disk in
 * memory. What it was told is durable is kept in a ledger, and held against what a restart finds.
 */
import assert from "node:assert/strict";
import { NeonError } from "../../src/base/errors.ts";
import { type TimelineId, newWriterEpoch, parseTenantId } from "../../src/base/ids.ts";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import type { Clock, Files, Random } from "../../src/base/seams.ts";
import { PageCache } from "../../src/pageserver/read/page-cache.ts";
import { Reconstructor } from "../../src/pageserver/read/reconstruct.ts";
import { DurableMark } from "../../src/pageserver/timeline/durable-mark.ts";
import type { LayerMemory } from "../../src/pageserver/timeline/layer-memory.ts";
import { timelineFactory } from "../../src/pageserver/timeline/timeline-factory.ts";
import {
  type WriterSource,
  readTimelineMetadata,
  writeTimelineMetadata,
} from "../../src/pageserver/timeline/metadata.ts";
import type { Tenant } from "../../src/pageserver/timeline/tenant.ts";
import { Tenants } from "../../src/pageserver/timeline/tenants.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import type { SeededRandom } from "../support/random.ts";
import { TINY_PAGES, type TinyWal, tinyKey, tinyTar } from "./tiny-cluster.ts";

export const TENANT = parseTenantId("a".repeat(32));
export const TENANTS = "/work/tenants";

/** Ids and epochs that are the same each time. */
export function randomOf(seeded: SeededRandom): Random {
  return { bytes: (count) => seeded.bytes(count) };
}

/** A pageserver that runs: until `stop`, or until its disk dies under it. */
export interface SceneOptions {
  readonly checkpointDistanceBytes?: number;
  readonly layerMemory?: LayerMemory;
  readonly clock?: Clock;
  /** Layers that wait to be merged, above which WAL is taken in more slowly. */
  readonly flushedLayersMax?: number;
  /** Of the tenants. */
  readonly directory?: string;
}

export class Scene {
  readonly files: Files;
  readonly tenants: Tenants<Timeline>;
  readonly cache: StoreCache;
  /** Set when a sync has failed: the process would have ended. */
  fatal: Error | undefined;
  private readonly random: Random;
  private readonly root: string;

  constructor(files: Files, random: SeededRandom, options: SceneOptions = {}) {
    this.files = files;
    this.root = options.directory ?? TENANTS;
    this.random = randomOf(random);
    this.cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
    const quiet = (): void => undefined;
    const log = { info: quiet, warn: quiet, error: quiet };
    const clock = options.clock ?? { now: () => 1_700_000_000_000 };
    const shared = { files, clock, random: this.random, log };
    this.tenants = new Tenants(this.root, {
      ...shared,
      timelines: timelineFactory({
        ...shared,
        cache: this.cache,
        pages: new PageCache({ capacityBytes: 1 << 20 }),
        verifyRedo: false,
        onFatal: (error) => {
          this.fatal = error;
        },
        checkpointDistanceBytes: options.checkpointDistanceBytes ?? 1 << 30,
        checkpointTimeoutMs: 600_000,
        layerMemory: options.layerMemory,
        flushedLayersMax: options.flushedLayersMax,
      }),
    });
  }

  static async open(files: Files, random: SeededRandom, options: SceneOptions = {}): Promise<Scene> {
    const scene = new Scene(files, random, options);
    await scene.tenants.open();
    return scene;
  }

  get tenant(): Tenant<Timeline> {
    return this.tenants.get(TENANT);
  }

  async createTenant(): Promise<Tenant<Timeline>> {
    return this.tenants.create({ id: TENANT, pgVersion: POSTGRES_17 });
  }

  async import(branch: string): Promise<Timeline> {
    return (await this.tenant.import({ branch, timelineId: undefined, tar: tinyTar() })).timeline;
  }

  /** The timeline of a branch, which must be open. */
  timeline(branch: string): Timeline {
    const { entry, ref } = this.tenant.branch(branch);
    if (entry.kind === "broken") throw entry.error;
    return this.tenant.timeline(ref.timelineId);
  }

  /**
   * Notes a writer that will never come back, so that WAL is replayed at the next start. With `source`, the right to
   * write stays with it, and it is looked for.
   */
  async noteWriter(timeline: Timeline, source?: WriterSource): Promise<void> {
    const directory = this.directoryOf(timeline.id);
    const metadata = await readTimelineMetadata(this.files, directory, timeline.id);
    assert.ok(metadata);
    const entry = { startLsn: timeline.lastRecordLsn, epoch: newWriterEpoch(this.random) };
    await writeTimelineMetadata(this.files, directory, {
      ...metadata,
      history: [...metadata.history, entry],
      ...(source ? { writer: { name: "w", epoch: entry.epoch, source } } : {}),
    });
  }

  directoryOf(id: TimelineId): string {
    return `${this.root}/${TENANT}/timelines/${id}`;
  }

  /** Takes in WAL up to `to` and waits until it is durable. */
  async feed(timeline: Timeline, wal: TinyWal, to: number, pieceBytes = 5000): Promise<Lsn> {
    const intake = await timeline.openIntake();
    for (let at: number = intake.resumeLsn; at < to;) {
      const end = Math.min(to, at + pieceBytes);
      await intake.accept(toLsn(at), wal.bytes(at, end));
      at = end;
    }
    const lsn = intake.resumeLsn;
    await intake.waitForDurable(lsn, 60_000);
    // As a timer does once a second.
    await new DurableMark(`${this.directoryOf(timeline.id)}/wal.durable`, this.files).write(
      intake.durableLsn,
    );
    return lsn;
  }

  /** Reads all pages of a timeline at an LSN and compares them. */
  async check(timeline: Timeline, wal: TinyWal, lsn: number): Promise<void> {
    const reconstructor = new Reconstructor({ version: POSTGRES_17, hintBitsLogged: false });
    for (const page of TINY_PAGES) {
      const pageKey = tinyKey(page);
      const { values } = await timeline.store.get(pageKey, toLsn(lsn));
      wal.check(page, lsn, reconstructor.value(pageKey, values));
    }
  }

  /** Ends it; what fails then (a disk that has died) is not asked about. */
  async stop(): Promise<void> {
    await this.tenants[Symbol.asyncDispose]().catch((error: unknown) => {
      if (error instanceof NeonError || error instanceof Error) return;
      throw error;
    });
    await this.cache[Symbol.asyncDispose]().catch(() => undefined);
  }
}
