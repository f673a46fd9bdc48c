/**
 * Ingest with and without compaction beside it: MB/s, longest time that the event loop stood still, bytes written per byte
 * taken in.
 * Run with `node bench/compaction.bench.ts [megabytes]`.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Lsn, toLsn } from "../src/base/lsn.ts";
import { CompactionThread } from "../src/pageserver/compaction/compaction-thread.ts";
import { DEFAULT_TENANT_SETTINGS } from "../src/pageserver/timeline/tenant-settings.ts";
import { backgroundPolicy } from "../src/pageserver/compaction/policy.ts";
import { compactStore } from "../src/storage/compact.ts";
import { ValueFlag } from "../src/storage/key.ts";
import { RealFiles } from "../src/storage/real-files.ts";
import { StoreCache } from "../src/storage/store-cache.ts";
import { TimelineStore } from "../src/storage/store.ts";
import { Yielder } from "../src/storage/yielder.ts";
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

try {
  const alone = await ingest(false);
  const beside = await ingest(true);
  report("ingest with compaction, of that without", `${((beside / alone) * 100).toFixed(0)} %`);
} finally {
  await rm(directory, { recursive: true, force: true });
}
