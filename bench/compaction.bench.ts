/**
 * Ingest with and without compaction beside it (MB/s, longest time that the event loop stood still, bytes written per byte
 * taken in), and GetPage by the number of records to replay: hot (the page is cached), warm (its layers' blocks are), cold.
 * Run with `node bench/compaction.bench.ts [megabytes]`.
 */
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { newTenantId } from "../src/base/ids.ts";
import { type Lsn, toLsn } from "../src/base/lsn.ts";
import { CompactionThread } from "../src/pageserver/compaction/compaction-thread.ts";
import { DEFAULT_TENANT_SETTINGS } from "../src/pageserver/timeline/tenant-settings.ts";
import { backgroundPolicy } from "../src/pageserver/compaction/policy.ts";
import { PageCache } from "../src/pageserver/read/page-cache.ts";
import { PageReader } from "../src/pageserver/read/page-reader.ts";
import { Reconstructor } from "../src/pageserver/read/reconstruct.ts";
import { Tenants } from "../src/pageserver/timeline/tenants.ts";
import { timelineFactory } from "../src/pageserver/timeline/timeline-factory.ts";
import { POSTGRES_17 } from "../src/postgres/versions/postgres-17.ts";
import { compactStore } from "../src/storage/compact.ts";
import { type Key, ValueFlag } from "../src/storage/key.ts";
import { RealFiles } from "../src/storage/real-files.ts";
import { StoreCache } from "../src/storage/store-cache.ts";
import { TimelineStore } from "../src/storage/store.ts";
import { Yielder } from "../src/storage/yielder.ts";
import { CHECKPOINT_LSN, SEGMENT_SIZE, SYSTEM_ID, TINY_START, tinyTar } from "../test/faults/tiny-cluster.ts";
import { WalBuilder } from "../test/support/wal-builder.ts";
import { watchLoop } from "./watch-loop.ts";

const MIB = 1024 * 1024;
const megabytes = Number(process.argv[2] ?? 1024);
const VALUE_SIZE = 100;
const KEYS = 500_000;
const directory = await mkdtemp(join(tmpdir(), "compaction-bench-"));
const files = new RealFiles();

function report(name: string, value: string): void {
  console.log(`${name.padEnd(44)} ${value}`);
}

/** Small values of random keys: what is written is known without redo, so that only the store is measured. */
async function ingest(withCompaction: boolean): Promise<number> {
  await using cache = new StoreCache({ capacityBytes: 64 * MIB }, { files });
  await using thread = new CompactionThread(files);
  const path = join(directory, withCompaction ? "with" : "without");
  const store = await TimelineStore.create({ directory: path, startLsn: toLsn(1000) }, { files, cache });
  const handle = store.intern(0x13, 0, 0, 0, 0);
  const value = new Uint8Array(VALUE_SIZE).fill(7);
  const abort = new AbortController();
  let compacting: Promise<void> | undefined;
  const sums = { writtenBytes: 0, merges: 0 };
  const compact = async (): Promise<void> => {
    const policy = backgroundPolicy({ ...DEFAULT_TENANT_SETTINGS, flushedLayersMin: 4 });
    const result = await compactStore(store, policy, (request) => thread.run(request, 17, abort.signal));
    sums.writtenBytes += result.deltaBytes + result.imageBytes;
    sums.merges += result.merges;
  };
  const longest = watchLoop();
  const yielder = new Yielder();
  const start = performance.now();
  const count = (megabytes * MIB) / VALUE_SIZE;
  let lsn = 1000;
  for (let i = 0; i < count; i++) {
    lsn += 104;
    store.put(handle, (i * 7919) % KEYS, toLsn(lsn), ValueFlag.Image, store.append(value, 0, VALUE_SIZE));
    if (i % 256 !== 0) continue;
    if (store.openBytes >= 64 * MIB) {
      await store.flush();
      store.freeze(lsn as Lsn);
      void store.flush();
      if (withCompaction) compacting ??= compact().finally(() => (compacting = undefined));
    }
    if (yielder.due()) await yielder.yield();
  }
  store.freeze(lsn as Lsn);
  await store.flush();
  const seconds = (performance.now() - start) / 1000;
  await compacting;
  const rate = megabytes / seconds;
  const stood = longest();
  const amplification = (store.physicalBytes * 0 + megabytes * MIB + sums.writtenBytes) / (megabytes * MIB);
  report(
    withCompaction ? "ingest with compaction" : "ingest without compaction",
    `${rate.toFixed(0)} MB/s, loop stood ${stood.toFixed(1)} ms of CPU, ${sums.merges} merges, written ${amplification.toFixed(1)} times`,
  );
  await store[Symbol.asyncDispose]();
  await rm(path, { recursive: true });
  return rate;
}

/** A page with an image and so many changes behind it, for each of some numbers. */
const RECORDS = [0, 1, 10, 100, 1000] as const;

function changedPages(): Buffer {
  const builder = new WalBuilder({
    start: TINY_START,
    previous: CHECKPOINT_LSN,
    segmentSize: SEGMENT_SIZE,
    systemId: SYSTEM_ID,
  });
  const head = Buffer.alloc(24);
  head.writeUInt16LE(24, 12);
  head.writeUInt16LE(8192 - 48, 14);
  head.writeUInt16LE(8192, 16);
  head.writeUInt16LE(0x2004, 18);
  const relation = [1663, 5, 16384] as const;
  const stored = Buffer.concat([head, Buffer.alloc(48)]);
  for (const [block] of RECORDS.entries()) {
    const image = { stored, info: 0x03, holeOffset: 24 };
    builder.add({ rmgr: 0, info: 0xb0, blocks: [{ id: 0, relation, block, image }] });
  }
  for (const [block, records] of RECORDS.entries()) {
    for (let i = 0; i < records; i++) {
      const data = Buffer.alloc(12, i);
      data.writeUInt16LE(8192 - 48 + (i % 40), 0);
      data.writeUInt16LE(8, 2);
      builder.add({ rmgr: 20, info: 0, blocks: [{ id: 0, relation, block, data }] });
    }
  }
  return Buffer.from(builder.bytes);
}

async function getPages(): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 64 * MIB }, { files });
  const quiet = (): void => undefined;
  const shared = {
    files,
    random: { bytes: (count: number) => new Uint8Array(randomBytes(count)) },
    log: { info: quiet, warn: quiet, error: quiet },
    clock: { now: () => Date.now() },
  };
  const timelines = timelineFactory({
    ...shared,
    cache,
    pages: new PageCache({ capacityBytes: MIB }),
    verifyRedo: false,
    onFatal: (error) => {
      throw error;
    },
    checkpointDistanceBytes: 64 * MIB,
    checkpointTimeoutMs: 600_000,
  });
  const tenants = new Tenants(join(directory, "tenants"), { ...shared, timelines });
  await tenants.open();
  const tenant = await tenants.create({ id: newTenantId(shared.random), pgVersion: POSTGRES_17 });
  const { timeline } = await tenant.import({ branch: "main", timelineId: undefined, tar: tinyTar() });
  const intake = await timeline.openIntake();
  await intake.accept(TINY_START, changedPages());
  await timeline.checkpoint();
  const lsn = timeline.lastRecordLsn;
  const reconstructor = new Reconstructor({ version: POSTGRES_17, hintBitsLogged: false });
  const keyOf = (block: number): Key => ({
    kind: 0,
    spcOid: 1663,
    dbOid: 5,
    relNumber: 16384,
    fork: 0,
    block,
  });
  const readerOf = (cacheBytes: number): PageReader =>
    new PageReader({
      store: timeline.store,
      reconstructor,
      pages: new PageCache({ capacityBytes: cacheBytes }),
    });
  for (const [block, records] of RECORDS.entries()) {
    const measure = async (reader: PageReader, count: number): Promise<string> => {
      const times: number[] = [];
      for (let i = 0; i < count; i++) {
        const start = performance.now();
        await reader.value(keyOf(block), lsn);
        times.push((performance.now() - start) * 1000);
      }
      times.sort((a, b) => a - b);
      const of = (share: number): string => (times[Math.floor(times.length * share)] ?? 0).toFixed(1);
      return `p50 ${of(0.5)} us, p99 ${of(0.99)} us`;
    };
    const warm = readerOf(0);
    await measure(warm, 500);
    report(`GetPage, ${records} records, warm`, await measure(warm, 2000));
    if (records !== 100) continue;
    const hot = readerOf(MIB);
    const start = performance.now();
    const count = 200_000;
    for (let i = 0; i < count; i++) await hot.value(keyOf(block), lsn);
    report("GetPage, hot", `${((count / (performance.now() - start)) * 1000).toFixed(0)}/s`);
  }
  await tenants[Symbol.asyncDispose]();
}

try {
  await getPages();
  const alone = await ingest(false);
  const beside = await ingest(true);
  report("ingest with compaction, of that without", `${((beside / alone) * 100).toFixed(0)} %`);
} finally {
  await rm(directory, { recursive: true, force: true });
}
