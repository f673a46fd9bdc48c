/** Compaction of much more than it may have in memory: it stays within its bound, and every version is read as before. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { type CompactionPolicy, compactStore } from "../../src/storage/compact.ts";
import { COMPACTION_BYTES_MAX } from "../../src/storage/compaction-job.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { SeededRandom } from "../support/random.ts";
import type { MeasuredAnswer } from "./compaction-memory-worker.ts";

const MIB = 2 ** 20;
const LAYERS = 8;
const VALUES_PER_LAYER = 9000;
const VALUE_SIZE = 4096;
const KEYS = 15_000;
const READS = 3000;
const POLICY: CompactionPolicy = {
  merge: { flushedLayersMin: 2, mergeBytesMax: 1024 * MIB },
  images: { changesPerImage: 0.5, changesBytesMin: 1, layersMax: 2 },
  fileBytesMax: 128 * MIB,
  imagesWithin: ALL_KEYS,
  cuts: [],
};

const keyOf = (block: number): Key => ({
  kind: 0,
  spcOid: 1663,
  dbOid: 5,
  relNumber: 16384,
  fork: 0,
  block,
});

/** Its first bytes tell which key and which LSN it is of. */
function valueOf(block: number, lsn: number): Uint8Array {
  const bytes = new Uint8Array(VALUE_SIZE).fill(block + lsn);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, block);
  view.setFloat64(4, lsn);
  return bytes;
}

/** LSNs of each key, ascending. */
type Model = Map<number, number[]>;

async function fill(store: TimelineStore, random: SeededRandom): Promise<Model> {
  const model: Model = new Map();
  const handle = store.intern(0, 1663, 5, 16384, 0);
  let lsn = store.durableLsn as number;
  for (let layer = 0; layer < LAYERS; layer++) {
    for (let i = 0; i < VALUES_PER_LAYER; i++) {
      lsn += random.between(1, 9000);
      const block = random.below(KEYS);
      store.put(handle, block, toLsn(lsn), ValueFlag.Image, store.append(valueOf(block, lsn), 0, VALUE_SIZE));
      model.set(block, [...(model.get(block) ?? []), lsn]);
    }
    store.freeze(toLsn(lsn));
    await store.flush();
  }
  return model;
}

function newestAt(model: Model, block: number, lsn: number): number | undefined {
  return model.get(block)?.findLast((each) => each <= lsn);
}

function check(model: Model, at: { block: number; lsn: number }, bytes: Uint8Array | undefined): void {
  const newest = newestAt(model, at.block, at.lsn);
  if (newest === undefined) assert.equal(bytes, undefined);
  else assert.deepEqual(bytes, valueOf(at.block, newest));
}

/** Single reads at LSNs of all of the history, and all keys at some of them. */
async function checkReads(store: TimelineStore, model: Model, random: SeededRandom): Promise<void> {
  for (let i = 0; i < READS; i++) {
    const at = { block: random.below(KEYS), lsn: random.between(store.startLsn, store.durableLsn) };
    const { values } = await store.get(keyOf(at.block), toLsn(at.lsn));
    check(model, at, values[0]?.bytes);
  }
  for (const share of [0, random.below(100) / 100, 1]) {
    const lsn = Math.floor(store.startLsn + (store.durableLsn - store.startLsn) * share);
    const expected = new Set([...model.keys()].filter((block) => newestAt(model, block, lsn) !== undefined));
    for await (const batch of store.scan(ALL_KEYS, lsn as Lsn)) {
      for (const { key, values } of batch) {
        assert.ok(expected.delete(key.block), `block ${key.block} at ${lsn}`);
        check(model, { block: key.block, lsn }, values[0]?.bytes);
      }
    }
    assert.equal(expected.size, 0);
  }
}

test("compaction of several times its memory stays within its bound, and reads are the same after it", async (t) => {
  const random = SeededRandom.forTest(t);
  const files = new RealFiles();
  const directory = await mkdtemp(join(tmpdir(), "compaction-memory-"));
  const worker = new Worker(new URL("./compaction-memory-worker.ts", import.meta.url));
  try {
    await using cache = new StoreCache({ capacityBytes: 16 * MIB }, { files });
    const options = { directory: join(directory, "store"), startLsn: toLsn(1000) };
    await using store = await TimelineStore.create(options, { files, cache });
    const model = await fill(store, random);
    const inputBytes = store.physicalBytes;
    assert.ok(inputBytes > 4 * COMPACTION_BYTES_MAX, `${inputBytes} bytes are enough`);
    let peakBytes = 0;
    let samples = 0;
    const result = await compactStore(store, POLICY, async (request) => {
      worker.postMessage(request);
      const [answer] = (await once(worker, "message")) as [MeasuredAnswer];
      peakBytes = Math.max(peakBytes, answer.peakBytes);
      samples += answer.samples;
      return answer.outputs;
    });
    t.diagnostic(`${(inputBytes / MIB).toFixed(0)} MiB with ${(peakBytes / MIB).toFixed(1)} MiB of memory`);
    assert.ok(result.merges > 0 && result.imageLayers > 0, "it merges and makes images");
    assert.ok(result.inputBytes > 4 * COMPACTION_BYTES_MAX);
    assert.ok(samples > 20, `looked at the memory ${samples} times`);
    assert.ok(peakBytes > MIB, "something was measured");
    assert.ok(peakBytes <= COMPACTION_BYTES_MAX, `${peakBytes} bytes were live`);
    await checkReads(store, model, random);
  } finally {
    await worker.terminate();
    await rm(directory, { recursive: true });
  }
});
