/**
 * Pageservers without processes and without Postgres: tenants with real timelines in a temporary directory, written to
 * directly, and connections between them in memory.
 */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32c } from "../../src/base/crc32c.ts";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type TenantId, newTimelineId, newWriterEpoch, parseTenantId } from "../../src/base/ids.ts";
import { type Lsn, lsnAdd, toLsn } from "../../src/base/lsn.ts";
import type { Files, Random } from "../../src/base/seams.ts";
import { CheckpointState } from "../../src/pageserver/ingest/checkpoint-state.ts";
import {
  CHECKPOINT_STATE_KEY,
  CONTROL_FILE_KEY,
  FULL_RANGE,
  Kind,
  recordWindowKey,
  windowOfLsn,
} from "../../src/pageserver/ingest/keyspace.ts";
import { OpenRecordWindow } from "../../src/pageserver/ingest/record-index.ts";
import { JsonFields } from "../../src/pageserver/json-fields.ts";
import { PageCache } from "../../src/pageserver/read/page-cache.ts";
import { writeTimelineMetadata } from "../../src/pageserver/timeline/metadata.ts";
import { storedWindow } from "../../src/pageserver/timeline/stored-windows.ts";
import { Tenants } from "../../src/pageserver/timeline/tenants.ts";
import { timelineFactory } from "../../src/pageserver/timeline/timeline-factory.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { TransferService } from "../../src/pageserver/transfer/service.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { nextRecordLsn } from "../../src/postgres/wal/layout.ts";
import { ValueFlag, compareKeys } from "../../src/storage/key.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { NO_BLOB, TimelineStore } from "../../src/storage/store.ts";
import { controlFileOf } from "../support/control-file.ts";
import { type MemoryChannelOptions, memoryChannelPair } from "../support/memory-channel.ts";
import type { SeededRandom } from "../support/random.ts";

export const TENANT = parseTenantId("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
export const SEGMENT_SIZE = 1024 * 1024;
export const SYSTEM_ID = 7_412_345_678_901_234_567n;
const START = toLsn(0x1000028);
const PAGE = 8192;
const random: Random = { bytes: (count) => new Uint8Array(randomBytes(count)) };

/** How much a write writes. */
export interface WriteSpec {
  readonly records?: number;
  /** Layers that it is spread over. */
  readonly layers?: number;
  /** Pages of the relation. */
  readonly pages?: number;
  /** Size of a page image in bytes, which need not be true. */
  readonly pageBytes?: number;
  /** Whole pages only, no records: so that pages can be made of them. */
  readonly images?: boolean;
  /** Continues the epoch of the last write instead of beginning a new one. */
  readonly sameEpoch?: boolean;
}

export interface SiteOptions {
  readonly files?: Files;
  readonly directory?: string;
  /** What its clock says; the present unless given. */
  readonly now?: () => number;
  readonly checkpointDistanceBytes?: number;
}

export class Site implements AsyncDisposable {
  readonly directory: string;
  readonly files: Files;
  readonly tenants: Tenants<Timeline>;
  readonly service: TransferService;
  readonly log: string[] = [];
  private readonly cache: StoreCache;
  private readonly ownsDirectory: boolean;
  /** Set while a transfer is made. */
  private other: Site | undefined;
  private channelOptions: MemoryChannelOptions = {};
  /** Bytes of the last connection, both directions. */
  lastBytes = 0;
  cutLast: (() => void) | undefined;
  /** Where the records of the last write start. */
  lastStarts: readonly Lsn[] = [];
  /** What the other side threw last. */
  otherError: unknown;

  private constructor(options: SiteOptions) {
    this.ownsDirectory = options.directory === undefined;
    this.directory = options.directory ?? mkdtempSync(join(tmpdir(), "neon-site-"));
    this.files = options.files ?? new RealFiles();
    this.cache = new StoreCache({ capacityBytes: 8 << 20 }, { files: this.files });
    const { files, cache } = this;
    const note = (_: object, message: string): void => void this.log.push(message);
    const log = { info: note, warn: note, error: note };
    const clock = { now: options.now ?? (() => Date.now()) };
    const timelines = timelineFactory({
      files,
      clock,
      random,
      cache,
      pages: new PageCache({ capacityBytes: 1 << 20 }),
      verifyRedo: false,
      log,
      onFatal: (error) => {
        throw error;
      },
      checkpointDistanceBytes: options.checkpointDistanceBytes ?? 64 << 20,
      checkpointTimeoutMs: 600_000,
    });
    this.tenants = new Tenants<Timeline>(join(this.directory, "tenants"), {
      files,
      clock,
      random,
      log,
      timelines,
    });
    this.service = new TransferService({
      tenants: this.tenants,
      tenantsDirectory: join(this.directory, "tenants"),
      files,
      clock,
      random,
      log,
      connect: async () => this.connect(),
    });
  }

  static async open(options: SiteOptions = {}): Promise<Site> {
    const site = new Site(options);
    await site.tenants.open();
    return site;
  }

  /** As after a restart of the process, over the same files. */
  async reopen(): Promise<Site> {
    await this.tenants[Symbol.asyncDispose]();
    await this.cache[Symbol.asyncDispose]();
    const site = new Site({ directory: this.directory, files: this.files });
    await site.tenants.open();
    return site;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tenants[Symbol.asyncDispose]();
    await this.cache[Symbol.asyncDispose]();
    if (this.ownsDirectory) this.remove();
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  timeline(branch: string): Timeline {
    const { ref } = this.tenants.get(TENANT).branch(branch);
    return this.tenants.get(TENANT).timeline(ref.timelineId);
  }

  branches(): string[] {
    if (!this.hasTenant) return [];
    return this.tenants
      .get(TENANT)
      .branches()
      .map(({ ref }) => ref.name);
  }

  get hasTenant(): boolean {
    return this.tenants.list().some((entry) => entry.kind === "open" && entry.tenant.id === TENANT);
  }

  /** The tenant with a root timeline, as after an import, named `main`. */
  async init(
    options: { pages?: number; systemId?: bigint; segmentSize?: number; tenant?: TenantId } = {},
  ): Promise<void> {
    const segmentSize = options.segmentSize ?? SEGMENT_SIZE;
    const systemId = options.systemId ?? SYSTEM_ID;
    const tenant = await this.tenants.create({ id: options.tenant ?? TENANT, pgVersion: POSTGRES_17 });
    const cluster = { pgVersion: POSTGRES_17, systemId, segmentSize };
    const id = newTimelineId(random);
    const values = importedValues(segmentSize, systemId, options.pages ?? 20);
    await tenant.publishTimelines(async (publication) => {
      await publication.place({
        id,
        cluster,
        ancestor: undefined,
        fill: async (directory) => {
          const store = await TimelineStore.create(
            { directory: join(directory, "layers"), startLsn: START },
            { files: this.files, cache: this.cache },
          );
          await store.addImageLayer(FULL_RANGE, START, values);
          await store[Symbol.asyncDispose]();
          const metadata = { id, ancestor: undefined, history: [], writer: undefined, createdAt: Date.now() };
          await writeTimelineMetadata(this.files, directory, metadata);
        },
      });
      await publication.name("main", id);
    });
  }

  async branch(name: string, from: string, lsn?: Lsn): Promise<void> {
    const tenant = this.tenants.get(TENANT);
    const timeline = this.timeline(from);
    await tenant.createBranch(name, timeline.id, lsn ?? timeline.lastRecordLsn);
  }

  /** Writes to a branch what a compute would have written, into layers. Returns the ends of all records. */
  async write(branch: string, seeded: SeededRandom, spec: WriteSpec = {}): Promise<Lsn[]> {
    const timeline = this.timeline(branch);
    const directory = join(this.directory, `write-${seeded.u32()}`);
    const from = timeline.lastRecordLsn;
    const store = await TimelineStore.create(
      { directory, startLsn: from },
      { files: this.files, cache: this.cache },
    );
    const writer = new Writer(store, seeded, spec);
    await writer.resume(timeline);
    const { records = 40, layers = 2 } = spec;
    for (let layer = 1; layer <= layers; layer++) {
      while (writer.ends.length < (records * layer) / layers) writer.record();
      writer.freeze();
    }
    await store.flush();
    const adopted = store
      .layers()
      .map((descriptor) => ({ temporaryPath: store.pathOf(descriptor), descriptor }));
    const epoch = newWriterEpoch({ bytes: (count) => seeded.bytes(count) });
    await timeline.extend({
      history: spec.sameEpoch ? [] : [{ startLsn: from, epoch }],
      layers: adopted,
      endLsn: store.durableLsn,
    });
    await store[Symbol.asyncDispose]();
    await this.files.removeTree(directory);
    this.lastStarts = writer.starts;
    return writer.ends;
  }

  /** Pushes a branch; what the other side has thrown is in `otherError`. */
  push(other: Site, branch: string, to = branch, options: TransferOptions = {}): Promise<Done> {
    return this.perform("push", other, branch, to, options);
  }

  pull(other: Site, branch: string, from = branch, options: TransferOptions = {}): Promise<Done> {
    return this.perform("pull", other, branch, from, options);
  }

  private async perform(
    kind: "push" | "pull",
    other: Site,
    branch: string,
    there: string,
    options: TransferOptions,
  ): Promise<Done> {
    this.other = other;
    this.channelOptions = options.channel ?? {};
    const request = fields({
      tenant_id: options.tenant ?? TENANT,
      branch,
      other: there,
      dry_run: options.dryRun ?? false,
      origin: {},
    });
    const signal = options.signal ?? new AbortController().signal;
    const emit = async (event: object): Promise<void> => {
      options.onEvent?.(event);
    };
    const done =
      kind === "push"
        ? await this.service.performPush(request, emit, signal)
        : await this.service.performPull(request, emit, signal);
    return done as Done;
  }

  private async connect(): ReturnType<ConstructorParameters<typeof TransferService>[0]["connect"]> {
    const { other } = this;
    assert(other, "there is another site");
    const { channelOptions } = this;
    let serving: Promise<void> = Promise.resolve();
    let pair: ReturnType<typeof memoryChannelPair> | undefined;
    return {
      copyBoth: async (command) => {
        const [name, ...rest] = command.split(" ");
        const request = fields(JSON.parse(rest.join(" ")));
        pair = memoryChannelPair(channelOptions);
        const { cut } = pair;
        this.cutLast = () => {
          cut();
        };
        const { service } = other;
        const { signal } = new AbortController();
        const identity = undefined;
        this.otherError = undefined;
        serving = (
          name === "branch_push"
            ? service.serveBranchPush(pair.ends[1], request, identity, signal)
            : service.serveBranchPull(pair.ends[1], request, identity, signal)
        ).catch((error: unknown) => {
          this.otherError = error;
        });
        return pair.ends[0];
      },
      query: async () => ({ rows: [] }),
      [Symbol.asyncDispose]: async () => {
        this.lastBytes = pair?.bytes() ?? 0;
        pair?.cut("the connection was closed");
        await serving;
      },
    };
  }
}

export interface TransferOptions {
  readonly channel?: MemoryChannelOptions;
  readonly dryRun?: boolean;
  readonly signal?: AbortSignal;
  readonly tenant?: TenantId;
  readonly onEvent?: (event: object) => void;
}

export interface Done {
  readonly result: "created" | "updated" | "unchanged";
  readonly bytes_sent: number;
  readonly bytes_received: number;
  readonly from_lsn: string | null;
  readonly to_lsn: string | null;
  readonly layers: number;
  readonly total_bytes: number;
  readonly dry_run: boolean;
}

function fields(value: unknown): JsonFields {
  return new JsonFields(value, "", (message) => new NeonError(ErrorCode.Usage, message));
}

/** Puts records, each of a few pages; keeps the index of record starts as ingest does. */
class Writer {
  readonly starts: Lsn[] = [];
  readonly ends: Lsn[] = [];
  private readonly store: TimelineStore;
  private readonly random: SeededRandom;
  private readonly spec: WriteSpec;
  private readonly window = new OpenRecordWindow();
  private readonly checkpoint = new CheckpointState();
  private end: Lsn;
  private layerIsNew = true;

  constructor(store: TimelineStore, seeded: SeededRandom, spec: WriteSpec) {
    this.store = store;
    this.random = seeded;
    this.spec = spec;
    this.end = store.startLsn;
  }

  async resume(timeline: Timeline): Promise<void> {
    const { store, startLsn, lastRecordLsn } = timeline;
    if (lastRecordLsn === startLsn) return;
    const { previousLsn } = await timeline.recordBoundary(lastRecordLsn);
    const number = windowOfLsn(previousLsn);
    const stored = await storedWindow(store, number, lastRecordLsn);
    const own = stored.filter((start) => start >= startLsn);
    if (own.length > 0) this.window.resume(number, own);
  }

  record(): void {
    const { random: seeded, spec } = this;
    const start = this.end % PAGE === 0 ? nextRecordLsn(this.end, SEGMENT_SIZE) : this.end;
    const room = PAGE - (start % PAGE);
    const size = Math.min(room, 8 * seeded.between(3, 60));
    const end = lsnAdd(start, size);
    if (this.window.unsaved && windowOfLsn(start) !== this.window.window) this.saveWindow(end);
    const { pages = 30, pageBytes = 600 } = spec;
    const shared = spec.images ? NO_BLOB : this.store.append(seeded.bytes(pageBytes), 0, pageBytes);
    for (let count = spec.images ? 1 : 0; count > 0; count--) {
      const handle = this.store.intern(Kind.RelationBlock, 1663, 5, 16384, 0);
      const page = new Uint8Array(PAGE);
      page.set(seeded.bytes(32), 32);
      this.store.put(handle, seeded.below(pages), end, ValueFlag.Image, this.store.append(page, 0, PAGE));
    }
    for (let count = spec.images ? 0 : seeded.between(1, 3); count > 0; count--) {
      const handle = this.store.intern(Kind.RelationBlock, 1663, 5, 16384, 0);
      const block = seeded.below(pages);
      const kind = seeded.below(10);
      if (kind === 0) this.store.put(handle, block, end, ValueFlag.Tombstone, NO_BLOB);
      else if (kind < 4) {
        const own = seeded.bytes(seeded.between(8, pageBytes));
        this.store.put(handle, block, end, ValueFlag.Image, this.store.append(own, 0, own.length));
      } else this.store.put(handle, block, end, ValueFlag.Record, shared);
    }
    if (this.layerIsNew || seeded.chance(0.1)) {
      this.checkpoint.nextXid++;
      this.put(CHECKPOINT_STATE_KEY, end, this.checkpoint.encode());
      this.layerIsNew = false;
    }
    this.window.add(start);
    this.starts.push(start);
    this.end = end;
    this.ends.push(end);
  }

  freeze(): void {
    if (this.window.unsaved) this.saveWindow(this.end);
    this.store.freeze(this.end);
    this.layerIsNew = true;
  }

  private saveWindow(lsn: Lsn): void {
    this.put(recordWindowKey(this.window.window), lsn, this.window.save());
  }

  private put(key: Parameters<typeof compareKeys>[0], lsn: Lsn, bytes: Uint8Array): void {
    const handle = this.store.intern(key.kind, key.spcOid, key.dbOid, key.relNumber, key.fork);
    this.store.put(handle, key.block, lsn, ValueFlag.Image, this.store.append(bytes, 0, bytes.length));
  }
}

async function* importedValues(
  segmentSize: number,
  systemId: bigint,
  pages: number,
): AsyncGenerator<{ key: Parameters<typeof compareKeys>[0]; bytes: Uint8Array }[]> {
  const control = controlFileOf(segmentSize);
  const view = new DataView(control.buffer);
  view.setBigUint64(0, systemId, true);
  view.setUint32(POSTGRES_17.controlCrcOffset, crc32c(control, 0, POSTGRES_17.controlCrcOffset), true);
  const relation = { spcOid: 1663, dbOid: 5, relNumber: 16384, fork: 0 };
  const values = [
    { key: CONTROL_FILE_KEY, bytes: control },
    { key: CHECKPOINT_STATE_KEY, bytes: new CheckpointState().encode() },
    { key: { kind: Kind.RelationSize, ...relation, block: 0 }, bytes: new Uint8Array([200, 0, 0, 0]) },
  ];
  for (let block = 0; block < pages; block++) {
    const bytes = new Uint8Array(PAGE);
    for (let i = 0; i < PAGE; i += 16) bytes[i] = (block * 7 + i * 13) & 0xff;
    values.push({ key: { kind: Kind.RelationBlock, ...relation, block }, bytes });
  }
  yield values.sort((a, b) => compareKeys(a.key, b.key));
}

/** Everything that can be read at an LSN, as one digest; without the index of records, which is compared by its use. */
export async function contentAt(timeline: Timeline, lsn: Lsn, newestOnly = false): Promise<string> {
  const hash = createHash("sha256");
  for await (const batch of timeline.store.scan(FULL_RANGE, lsn)) {
    for (const { key, values } of batch) {
      if (key.kind === Kind.RecordIndex) continue;
      hash.update(JSON.stringify(key));
      if (newestOnly) {
        hash.update(values[0]?.bytes ?? "");
        continue;
      }
      for (const value of values)
        hash.update(`${value.lsn} ${value.flags} ${value.bytes.length} `).update(value.bytes);
    }
  }
  return hash.digest("hex");
}

/** Fails unless both can be read alike at LSNs of their common history. */
export async function assertSame(
  ours: Timeline,
  theirs: Timeline,
  lsns: readonly Lsn[],
  message = "",
): Promise<void> {
  assert.equal(theirs.lastRecordLsn, ours.lastRecordLsn, `${message} end`);
  for (const lsn of lsns) {
    assert.equal(await contentAt(theirs, lsn), await contentAt(ours, lsn), `${message} content at ${lsn}`);
    for (const at of [lsn, lsn + 8, lsn - 8]) {
      const wanted = await ours.recordBoundary(toLsn(at));
      assert.deepEqual(await theirs.recordBoundary(toLsn(at)), wanted, `${message} record boundary at ${at}`);
    }
  }
}

/** A few of the LSNs, the first and the last among them. */
export function sample(lsns: readonly Lsn[], seeded: SeededRandom, count = 8): Lsn[] {
  const chosen = new Set<Lsn>();
  const last = lsns.at(-1);
  if (lsns[0] !== undefined) chosen.add(lsns[0]);
  if (last !== undefined) chosen.add(last);
  while (chosen.size < Math.min(count, lsns.length)) chosen.add(seeded.pick(lsns));
  return [...chosen];
}
