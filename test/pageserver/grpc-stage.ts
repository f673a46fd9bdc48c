/** The gRPC service in this process over one timeline whose store the test fills, and clients of it. */
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pino } from "pino";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { type Lsn, MAX_LSN, toLsn } from "../../src/base/lsn.ts";
import type { GetPageRequest, RelTag } from "../../src/base/page-api/page-model.ts";
import { PageClass } from "../../src/base/page-api/page-model.ts";
import type { ShardId } from "../../src/base/page-api/shard.ts";
import { makeKeyPair, readPrivateKey, signToken } from "../../src/client/jwt.ts";
import { PageApiClient, type PageApiTarget } from "../../src/client/page-api.ts";
import { Kind } from "../../src/pageserver/ingest/keyspace.ts";
import { PageCache } from "../../src/pageserver/read/page-cache.ts";
import { PageReaders } from "../../src/pageserver/read/timeline-pages.ts";
import { Authentication } from "../../src/pageserver/service/authentication.ts";
import { type GrpcLimits, GrpcService } from "../../src/pageserver/service/grpc/grpc-service.ts";
import { JwtKeys } from "../../src/pageserver/service/jwt-keys.ts";
import { Metrics } from "../../src/pageserver/service/metrics.ts";
import type { ServedTimeline } from "../../src/pageserver/timeline/served-timeline.ts";
import type { Tenants } from "../../src/pageserver/timeline/tenants.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { ValueFlag } from "../../src/storage/key.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { SeededRandom } from "../support/random.ts";
import { TempDirectory } from "./harness.ts";

export const STAGE_TENANT = parseTenantId("a".repeat(32));
export const STAGE_TIMELINE = parseTimelineId("c".repeat(32));
export const REL: RelTag = { spcOid: 1663, dbOid: 5, relNumber: 16_384, fork: 0 };
/** Its size has no meaning. */
export const DAMAGED: RelTag = { ...REL, relNumber: 16_385 };
export const START = toLsn(1000);
export const PAGES = 40;

export interface StageOptions {
  readonly pageRateLimit?: number;
  readonly limits?: Partial<GrpcLimits>;
  readonly shard?: ShardId;
  readonly isReady?: boolean;
}

export class Stage implements AsyncDisposable {
  readonly service: GrpcService;
  readonly store: TimelineStore;
  readonly metrics = new Metrics();
  /** Milliseconds since 1970. */
  now = Date.parse("2026-11-30T12:00:00Z");
  lastRecordLsn: Lsn = START;
  isGone = false;
  /** What waiting for WAL does. */
  onWait: (lsn: Lsn) => Promise<void> = () => new Promise(() => undefined);
  private readonly directory = new TempDirectory();
  private readonly privatePem: string;

  private constructor(store: TimelineStore, options: StageOptions) {
    this.store = store;
    const { publicPem, privatePem } = makeKeyPair();
    this.privatePem = privatePem;
    const keyPath = join(this.directory.path, "key.pem");
    writeFileSync(keyPath, publicPem);
    const clock = { now: (): number => this.now };
    const authentication = new Authentication(
      { token: undefined },
      {
        users: { find: () => undefined },
        keys: JwtKeys.open(keyPath, () => undefined),
        clock,
        random: { bytes: (count) => new Uint8Array(randomBytes(count)) },
      },
    );
    const { shard } = options;
    this.service = new GrpcService(
      {
        host: "127.0.0.1",
        port: 0,
        insecure: false,
        pageRateLimit: options.pageRateLimit ?? 0,
        ...(options.limits ? { limits: options.limits } : {}),
      },
      {
        tenants: this.tenants(),
        readers: new PageReaders(new PageCache({ capacityBytes: 1 << 22 })),
        metrics: this.metrics,
        log: pino({ level: "silent" }),
        authentication,
        tls: () => undefined,
        now: () => this.now,
        ...(shard ? { shardOf: () => shard } : {}),
      },
    );
  }

  static async start(options: StageOptions = {}): Promise<Stage> {
    const random = new SeededRandom(1);
    const files = new FaultyFiles({ random: () => random.u32() });
    const cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
    const store = await TimelineStore.create({ directory: "/line", startLsn: START }, { files, cache });
    const stage = new Stage(store, options);
    stage.fill();
    await stage.service.listen();
    if (options.isReady !== false) stage.service.ready();
    return stage;
  }

  private fill(): void {
    this.lastRecordLsn = toLsn(START + 100);
    this.put(Kind.RelationSize, REL, 0, new Uint8Array([PAGES, 0, 0, 0]));
    this.put(Kind.RelationSize, DAMAGED, 0, new Uint8Array([PAGES, 0, 0]));
    for (let block = 0; block < PAGES; block++) {
      this.put(Kind.RelationBlock, REL, block, new Uint8Array(8192).fill(block + 1));
    }
  }

  private put(kind: number, rel: RelTag, block: number, bytes: Uint8Array): void {
    const handle = this.store.intern(kind, rel.spcOid, rel.dbOid, rel.relNumber, rel.fork);
    const blob = this.store.append(bytes, 0, bytes.length);
    this.store.put(handle, block, this.lastRecordLsn, ValueFlag.Image, blob);
  }

  /** As much of tenants and timelines as the service asks for. */
  private tenants(): Tenants<ServedTimeline> {
    const last = (): Lsn => this.lastRecordLsn;
    const timeline = {
      id: STAGE_TIMELINE,
      cluster: { pgVersion: versionByMajor(17), systemId: 1n, segmentSize: 1 << 24 },
      exchange: { store: this.store },
      get lastRecordLsn() {
        return last();
      },
      waitForLsn: (lsn: Lsn) => this.onWait(lsn),
    };
    const notThere = (what: string): never => {
      throw new NeonError(ErrorCode.NotFound, `there is no ${what}`);
    };
    const tenant = {
      timeline: (id: string) => (id === STAGE_TIMELINE && !this.isGone ? timeline : notThere("timeline")),
    };
    const tenants = { get: (id: string) => (id === STAGE_TENANT ? tenant : notThere("tenant")) };
    return tenants as unknown as Tenants<ServedTimeline>;
  }

  /** A token for a tenant that holds for so long. */
  token(tenantId = STAGE_TENANT, lifetimeMs = 3_600_000): Promise<string> {
    const { now } = this;
    const request = { scope: "tenant", tenantId, now, expiresAt: now + lifetimeMs } as const;
    return signToken(readPrivateKey(this.privatePem, "key"), request);
  }

  async client(more: Partial<PageApiTarget> = {}): Promise<PageApiClient> {
    return new PageApiClient({
      address: `127.0.0.1:${this.service.port}`,
      tenantId: STAGE_TENANT,
      timelineId: STAGE_TIMELINE,
      token: await this.token(),
      ...more,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service.stop(0);
    await this.store[Symbol.asyncDispose]();
    this.directory[Symbol.dispose]();
  }
}

let nextId = 1n;

export function pageRequest(blocks: readonly number[], more: Partial<GetPageRequest> = {}): GetPageRequest {
  return {
    requestId: { id: nextId++, attempt: 0 },
    requestClass: PageClass.Normal,
    read: { lsn: MAX_LSN, notModifiedSince: START },
    rel: REL,
    blocks,
    ...more,
  };
}
