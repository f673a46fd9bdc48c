/**
 * Speed of the store. Workloads: put (70-byte records into the open layer), flush (a 64 MiB layer; with the longest
 * time for which the event loop stood still), get (cold, cached, a page with thousands of records), image-write and
 * image-scan (8 KiB pages), and GetPage hot, warm and cold. Run with `node bench/storage.bench.ts [pages]`; 131072 pages are 1 GiB.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { type Lsn, toLsn } from "../src/base/lsn.ts";
import { type Key, ValueFlag } from "../src/storage/key.ts";
import { ALL_KEYS } from "../src/storage/key-range.ts";
import { RealFiles } from "../src/storage/real-files.ts";
import { TimelineStore } from "../src/storage/store.ts";
import { StoreCache } from "../src/storage/store-cache.ts";
import { benchGetPages } from "./get-page.ts";
import { watchLoop } from "./watch-loop.ts";

const RECORDS = 700_000;
const RECORD_SIZE = 70;
const RELATIONS = 10;
const PAGES_PER_RELATION = 30_000;
const PAGE_SIZE = 8192;

const pageCount = Number(process.argv[2] ?? 32768);
const directory = await mkdtemp(join(tmpdir(), "storage-bench-"));
const files = new RealFiles();

function report(name: string, value: string): void {
  console.log(`${name.padEnd(34)} ${value}`);
}

function pageKey(i: number): Key {
  return {
    kind: 0,
    spcOid: 1663,
    dbOid: 5,
    relNumber: 16384 + (i % RELATIONS),
    fork: 0,
    block: (i * 7919) % PAGES_PER_RELATION,
  };
}

async function timed<T>(work: () => Promise<T>): Promise<{ ms: number; cpuMs: number; result: T }> {
  const cpu = process.cpuUsage();
  const start = performance.now();
  const result = await work();
  const { user, system } = process.cpuUsage(cpu);
  return { ms: performance.now() - start, cpuMs: (user + system) / 1000, result };
}

function putRecords(store: TimelineStore, lsnStart: number): Lsn {
  const record = new Uint8Array(RECORD_SIZE).fill(7);
  const handles = Array.from({ length: RELATIONS }, (_, i) => store.intern(0, 1663, 5, 16384 + i, 0));
  let lsn = lsnStart;
  for (let i = 0; i < RECORDS; i++) {
    lsn += 72;
    const handle = handles[i % RELATIONS];
    if (handle === undefined) break;
    const flags = ValueFlag.Record | (i % 20 === 0 ? ValueFlag.WillInit : 0);
    store.put(
      handle,
      (i * 7919) % PAGES_PER_RELATION,
      toLsn(lsn),
      flags,
      store.append(record, 0, RECORD_SIZE),
    );
  }
  return toLsn(lsn);
}

async function benchDeltas(): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 256 << 20 }, { files });
  const options = { directory: join(directory, "deltas"), startLsn: toLsn(1000) };
  const store = await TimelineStore.create(options, { files, cache });
  let lsn = options.startLsn;
  for (let round = 0; round < 3; round++) {
    const start = performance.now();
    lsn = putRecords(store, lsn);
    report("put+append of 70 bytes", `${(RECORDS / (performance.now() - start) / 1000).toFixed(2)} M/s`);
    store.freeze(lsn);
    const longest = watchLoop();
    const { ms, cpuMs } = await timed(() => store.flush());
    const stoodMs = longest();
    report(
      "flush of 700k entries",
      `${ms.toFixed(0)} ms, CPU ${cpuMs.toFixed(0)} ms, loop stood ${stoodMs.toFixed(1)} ms`,
    );
  }
  const perEntry = store.stats.deltaBytes / store.stats.deltaCount / RECORDS;
  report("delta bytes per entry", perEntry.toFixed(1));
  await benchGets(store, lsn, "three layers, cold");
  await benchGets(store, lsn, "three layers, cached");
  const scan = await timed(async () => {
    let count = 0;
    for await (const batch of store.scan(ALL_KEYS, lsn))
      for (const entry of batch) count += entry.values.length;
    return count;
  });
  report(
    "scan of three deltas",
    `${scan.ms.toFixed(0)} ms, ${(scan.result / scan.ms / 1000).toFixed(2)} M values/s`,
  );
  await store[Symbol.asyncDispose]();
}

async function benchGets(store: TimelineStore, lsn: Lsn, name: string): Promise<void> {
  const count = 5000;
  const { ms, result } = await timed(async () => {
    let values = 0;
    for (let i = 0; i < count; i++) values += (await store.get(pageKey(i * 31), lsn)).values.length;
    return values;
  });
  report(
    `get, ${name}`,
    `${((ms * 1000) / count).toFixed(1)} us, ${(result / count).toFixed(1)} values each`,
  );
}

/** One page changed ten thousand times among other changes. */
async function benchHotPage(): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 64 << 20 }, { files });
  const options = { directory: join(directory, "hot"), startLsn: toLsn(1000) };
  const store = await TimelineStore.create(options, { files, cache });
  const record = new Uint8Array(RECORD_SIZE);
  const handle = store.intern(0, 1663, 5, 16384, 0);
  let lsn = 1000;
  for (let i = 0; i < 100_000; i++) {
    lsn += 72;
    const block = i % 10 === 0 ? 77 : i % 5000;
    const flags = ValueFlag.Record | (i === 0 ? ValueFlag.WillInit : 0);
    store.put(handle, block, toLsn(lsn), flags, store.append(record, 0, RECORD_SIZE));
  }
  const key: Key = { kind: 0, spcOid: 1663, dbOid: 5, relNumber: 16384, fork: 0, block: 77 };
  for (const state of ["in memory", "in a file, cold", "in a file, cached"]) {
    const { ms, result } = await timed(() => store.get(key, toLsn(lsn)));
    report(`get of a hot page ${state}`, `${ms.toFixed(2)} ms, ${result.values.length} values`);
    if (state !== "in memory") continue;
    store.freeze(toLsn(lsn));
    await store.flush();
  }
  const handles = store.intern(0, 1663, 5, 99, 0);
  store.put(handles, 1, toLsn(lsn + 8), ValueFlag.Image, store.append(record, 0, RECORD_SIZE));
  const small: Key = { kind: 0, spcOid: 1663, dbOid: 5, relNumber: 99, fork: 0, block: 1 };
  const gets = 200_000;
  const { ms } = await timed(async () => {
    for (let i = 0; i < gets; i++) await store.get(small, toLsn(lsn + 8));
  });
  report("get of one image in memory", `${((ms * 1e6) / gets).toFixed(0)} ns`);
  await store[Symbol.asyncDispose]();
}

async function* pages(): AsyncGenerator<{ key: Key; bytes: Uint8Array }[]> {
  for (let i = 0; i < pageCount;) {
    const batch: { key: Key; bytes: Uint8Array }[] = [];
    for (; batch.length < 64 && i < pageCount; i++) {
      const bytes = new Uint8Array(PAGE_SIZE).fill(i);
      batch.push({ key: { kind: 0, spcOid: 1663, dbOid: 5, relNumber: 16384, fork: 0, block: i }, bytes });
    }
    yield batch;
  }
}

async function benchImages(): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 64 << 20 }, { files });
  const options = { directory: join(directory, "images"), startLsn: toLsn(1000) };
  const store = await TimelineStore.create(options, { files, cache });
  const megabytes = (pageCount * PAGE_SIZE) / 1e6;
  const write = await timed(() => store.addImageLayer(ALL_KEYS, options.startLsn, pages()));
  report("image-write", `${(megabytes / (write.ms / 1000)).toFixed(0)} MB/s`);
  for (let round = 0; round < 4; round++) {
    const scan = await timed(async () => {
      let count = 0;
      for await (const batch of store.scan(ALL_KEYS, options.startLsn)) count += batch.length;
      return count;
    });
    report(
      "image-scan",
      `${(megabytes / (scan.ms / 1000)).toFixed(0)} MB/s, CPU ${scan.cpuMs.toFixed(0)} ms, ${scan.result} pages`,
    );
  }
  const count = 5000;
  const gets = await timed(async () => {
    for (let i = 0; i < count; i++) {
      const block = (i * 7919) % pageCount;
      await store.get(
        { kind: 0, spcOid: 1663, dbOid: 5, relNumber: 16384, fork: 0, block },
        options.startLsn,
      );
    }
  });
  report("get of a page, mostly cold", `${((gets.ms * 1000) / count).toFixed(1)} us`);
  await store[Symbol.asyncDispose]();
}

try {
  report("machine", `${cpus()[0]?.model ?? "?"}, ${availableParallelism()} threads, Node ${process.version}`);
  await benchDeltas();
  await benchHotPage();
  await benchImages();
  await benchGetPages(directory, report);
} finally {
  await rm(directory, { recursive: true });
}
