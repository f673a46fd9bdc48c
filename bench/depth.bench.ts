/**
 * What depth and number of branches cost: making a branch at depths 1 to 1,000 and 1,000 side by side (time, files), opening
 * a tenant with them, memory of an idle timeline, and reads through chains of branches before and after compaction.
 * Run with `node --expose-gc bench/depth.bench.ts`.
 */
import { randomBytes } from "node:crypto";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toLsn } from "../src/base/lsn.ts";
import { newTenantId } from "../src/base/ids.ts";
import { PageCache } from "../src/pageserver/read/page-cache.ts";
import { Tenants } from "../src/pageserver/timeline/tenants.ts";
import { timelineFactory } from "../src/pageserver/timeline/timeline-factory.ts";
import type { Timeline } from "../src/pageserver/timeline/timeline.ts";
import { POSTGRES_17 } from "../src/postgres/versions/postgres-17.ts";
import { type CompactionPolicy, compactStore } from "../src/storage/compact.ts";
import { type ImagesOf, runCompaction } from "../src/storage/compaction-job.ts";
import { type Key, ValueFlag } from "../src/storage/key.ts";
import { ALL_KEYS } from "../src/storage/key-range.ts";
import { RealFiles } from "../src/storage/real-files.ts";
import { StoreCache } from "../src/storage/store-cache.ts";
import { TimelineStore } from "../src/storage/store.ts";
import { tinyTar } from "../test/faults/tiny-cluster.ts";

const DEPTH = 1000;
const PAGES = 2000;
const CHANGES = 40;
const READS = 4000;
const quiet = (): void => undefined;
const log = { info: quiet, warn: quiet, error: quiet };
const files = new RealFiles();
const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };
const directory = await mkdtemp(join(tmpdir(), "depth-bench-"));

function report(name: string, value: string): void {
  console.log(`${name.padEnd(52)} ${value}`);
}

function makeTenants(cache: StoreCache): Tenants<Timeline> {
  const shared = { files, random, log, clock: { now: () => Date.now() } };
  const timelines = timelineFactory({
    ...shared,
    cache,
    pages: new PageCache({ capacityBytes: 1 << 20 }),
    verifyRedo: false,
    onFatal: (error) => {
      throw error;
    },
    checkpointDistanceBytes: 64 << 20,
    checkpointTimeoutMs: 600_000,
  });
  return new Tenants(join(directory, "tenants"), { ...shared, timelines });
}

async function benchBranches(): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 8 << 20 }, { files });
  const id = newTenantId(random);
  const first = makeTenants(cache);
  await first.open();
  const tenant = await first.create({ id, pgVersion: POSTGRES_17 });
  const { timeline: main } = await tenant.import({ branch: "main", timelineId: undefined, tar: tinyTar() });
  let parent = main.id;
  const chain: number[] = [];
  for (let depth = 1; depth <= DEPTH; depth++) {
    const start = performance.now();
    const { ref } = await tenant.createBranch(`chain-${depth}`, parent, main.lastRecordLsn);
    chain.push(performance.now() - start);
    parent = ref.timelineId;
  }
  for (const depth of [1, 10, 100, DEPTH]) {
    const near = chain.slice(Math.max(0, depth - 10), depth).sort((a, b) => a - b);
    report(`branch at depth ${depth}`, `${(near[near.length >> 1] ?? 0).toFixed(2)} ms`);
  }
  const start = performance.now();
  for (let i = 0; i < DEPTH; i++) await tenant.createBranch(`side-${i}`, main.id, main.lastRecordLsn);
  report(`branch beside ${DEPTH} others`, `${((performance.now() - start) / DEPTH).toFixed(2)} ms`);
  const paths = await readdir(join(directory, "tenants", id, "timelines", parent), { recursive: true });
  report("files and directories of a branch", String(paths.length));
  await first[Symbol.asyncDispose]();
  await benchOpen(cache);
}

async function benchOpen(cache: StoreCache): Promise<void> {
  globalThis.gc?.();
  const before = process.memoryUsage();
  const again = makeTenants(cache);
  const start = performance.now();
  await again.open();
  const ms = performance.now() - start;
  globalThis.gc?.();
  const after = process.memoryUsage();
  const bytes = after.heapUsed + after.external - before.heapUsed - before.external;
  report(`opening ${2 * DEPTH + 1} timelines`, `${ms.toFixed(0)} ms`);
  report("memory of an idle timeline", `${(bytes / (2 * DEPTH + 1) / 1024).toFixed(1)} KB`);
  await again[Symbol.asyncDispose]();
}

const pageKey = (block: number): Key => ({
  kind: 0,
  spcOid: 1663,
  dbOid: 5,
  relNumber: 16384,
  fork: 0,
  block,
});

const POLICY: CompactionPolicy = {
  merge: { flushedLayersMin: 1, mergeBytesMax: 1 << 30 },
  images: { changesPerImage: 0.05, changesBytesMin: 1, layersMax: 3 },
  fileBytesMax: 128 << 20,
  imagesWithin: ALL_KEYS,
  cuts: [],
};

/** Images of values whose newest record is all of them. */
const newest: ImagesOf = (range) => scanNewest(range);
let scanNewest: ImagesOf;

async function compact(store: TimelineStore): Promise<void> {
  await compactStore(store, POLICY, (request) =>
    runCompaction(request, {
      files,
      prepareImages: async (scan) => {
        scanNewest = async function* (range) {
          for await (const batch of scan(range)) {
            yield batch.map(({ key, values }) => ({ key, bytes: values[0]?.bytes ?? new Uint8Array(0) }));
          }
        };
        return { imagesOf: newest, liveBytes: () => undefined };
      },
    }),
  );
}

async function benchReads(): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 256 << 20 }, { files });
  const page = new Uint8Array(8192).fill(7);
  async function* pages() {
    for (let block = 0; block < PAGES; block++) yield [{ key: pageKey(block), bytes: page }];
  }
  let lsn = toLsn(1000);
  let store = await TimelineStore.create(
    { directory: join(directory, "store-0"), startLsn: lsn },
    { files, cache },
  );
  await store.addImageLayer(ALL_KEYS, lsn, pages());
  const stores = [store];
  for (let depth = 1; depth <= 100; depth++) {
    const ancestor = { store, lsn };
    store = await TimelineStore.create(
      { directory: join(directory, `store-${depth}`), startLsn: lsn, ancestor },
      { files, cache },
    );
    const handle = store.intern(0, 1663, 5, 16384, 0);
    for (let i = 0; i < CHANGES; i++) {
      lsn = toLsn(lsn + 80);
      const block = (depth * 977 + i * 7919) % PAGES;
      store.put(handle, block, lsn, ValueFlag.Record, store.append(page, 0, 80));
    }
    store.freeze(lsn);
    await store.flush();
    stores.push(store);
  }
  const measure = async (what: string): Promise<void> => {
    for (const depth of [1, 10, 100]) {
      const at = stores[depth] as TimelineStore;
      for (let i = 0; i < PAGES; i++) await at.get(pageKey(i), at.durableLsn);
      const times: number[] = [];
      for (let i = 0; i < READS; i++) {
        const start = performance.now();
        await at.get(pageKey((i * 7919) % PAGES), at.durableLsn);
        times.push((performance.now() - start) * 1000);
      }
      times.sort((a, b) => a - b);
      const of = (share: number) => (times[Math.floor(times.length * share)] ?? 0).toFixed(1);
      report(`get at depth ${depth}, ${what}`, `p50 ${of(0.5)} us, p99 ${of(0.99)} us`);
    }
  };
  await measure("before compaction");
  const start = performance.now();
  for (const one of stores) await compact(one);
  report("compaction of the chain of 100", `${(performance.now() - start).toFixed(0)} ms`);
  await measure("after compaction");
  for (const one of stores.reverse()) await one[Symbol.asyncDispose]();
}

try {
  await benchBranches();
  await benchReads();
} finally {
  await rm(directory, { recursive: true });
}
