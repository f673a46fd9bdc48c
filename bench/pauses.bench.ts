/**
 * How long the event loop stands still, at most, in the work that storage does beside reads: puts into the open layer, its
 * flush, a scan of it, and for very many layers the plan of garbage collection, the index, and the search tree. Each piece of
 * work runs several times; of the longest turns the shortest is given, since the others hold what the machine did besides.
 * Usage: node bench/pauses.bench.ts [layers, default 10000]
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { toLsn } from "../src/base/lsn.ts";
import { IndexEncoder } from "../src/storage/index-encoder.ts";
import { ValueFlag } from "../src/storage/key.ts";
import { ALL_KEYS, makeKey } from "../src/storage/key-range.ts";
import { type LayerDescriptor, LayerFile } from "../src/storage/layer-file.ts";
import { LayerKind } from "../src/storage/layer-format.ts";
import { LayerMap } from "../src/storage/layer-map.ts";
import { MemoryLayer } from "../src/storage/memory-layer.ts";
import { planGc } from "../src/storage/plan-gc.ts";
import { PrefixTable } from "../src/storage/prefix-table.ts";
import { RealFiles } from "../src/storage/real-files.ts";
import { TimelineStore } from "../src/storage/store.ts";
import { StoreCache } from "../src/storage/store-cache.ts";
import { watchLoop } from "./watch-loop.ts";

const ROUNDS = 4;
const PUTS = 1_200_000;
/** As many as ingest makes between two looks at the clock. */
const BATCH = 256;
const layerCount = Number(process.argv[2] ?? 10_000);
const files = new RealFiles();
const record = new Uint8Array(70).fill(7);

function report(name: string, value: string): void {
  console.log(`${name.padEnd(58)} ${value}`);
}

/** In CPU time of this thread, so that other programs do not count. */
async function longestTurn(work: () => Promise<unknown>): Promise<number> {
  const longest = watchLoop();
  await nextTurn();
  await work();
  await nextTurn();
  return longest();
}

async function measure(name: string, work: () => Promise<unknown>): Promise<void> {
  let least = Number.POSITIVE_INFINITY;
  let ms = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    least = Math.min(least, await longestTurn(work));
    ms = Math.min(ms, performance.now() - start);
  }
  report(name, `longest turn ${least.toFixed(2)} ms, all of it ${ms.toFixed(0)} ms`);
}

/** The longest batch, where each counts as in the round in which it was quickest. */
function benchPuts(name: string, blockOf: (i: number) => number): void {
  const quickest = new Float64Array(Math.ceil(PUTS / BATCH)).fill(Number.POSITIVE_INFINITY);
  let ms = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const prefixes = new PrefixTable();
    const handles = Array.from({ length: 10 }, (_, i) => prefixes.intern(0, 1663, 5, 16384 + i, 0));
    const layer = new MemoryLayer(toLsn(1000), prefixes);
    const start = performance.now();
    for (let first = 0; first < PUTS; first += BATCH) {
      const began = performance.now();
      for (let i = first; i < first + BATCH; i++) {
        const block = blockOf(i);
        const blob = layer.arena.append(record, 0, record.length);
        layer.put(handles[block % 10] ?? 0, block, 1000 + (i + 1) * 72, ValueFlag.Record, blob);
      }
      const at = first / BATCH;
      quickest[at] = Math.min(quickest[at] ?? 0, performance.now() - began);
    }
    ms = Math.min(ms, performance.now() - start);
  }
  const longest = Math.max(...quickest);
  report(
    `puts, ${name}`,
    `longest ${BATCH} of them ${longest.toFixed(2)} ms, ${((ms * 1e6) / PUTS).toFixed(0)} ns each`,
  );
}

async function benchFlush(directory: string): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 64 << 20 }, { files });
  const options = { directory: join(directory, "store"), startLsn: toLsn(1000) };
  await using store = await TimelineStore.create(options, { files, cache });
  const handle = store.intern(0, 1663, 5, 16384, 0);
  let lsn = 1000;
  const fill = (): void => {
    for (let i = 0; i < 700_000; i++) {
      lsn += 72;
      const blob = store.append(record, 0, record.length);
      store.put(handle, (i * 7919) % 300_000, toLsn(lsn), ValueFlag.Record | ValueFlag.WillInit, blob);
    }
  };
  fill();
  await measure("scan of an open layer of 700,000 values", async () => {
    for await (const batch of store.scan(ALL_KEYS, toLsn(lsn))) void batch;
  });
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    if (round > 0) fill();
    store.freeze(toLsn(lsn));
    least = Math.min(least, await longestTurn(() => store.flush()));
  }
  report("flush of 700,000 values", `longest turn ${least.toFixed(2)} ms`);
}

/** Half of them images; the deltas have as many spans as one may have. */
function makeLayers(): LayerDescriptor[] {
  return Array.from({ length: layerCount }, (_, i) => {
    const isImage = i % 2 === 0;
    const prefix = { kind: 0, spcOid: 1663, dbOid: 5, relNumber: 16384 + ((i * 7) % 500), fork: 0 };
    const range = { from: makeKey(prefix, 0), to: makeKey(prefix, 1000) };
    const endLsn = toLsn(1000 * (1 + Math.floor(i / 2)));
    const common = { range, endLsn, sizeBytes: 128 << 20, valueCount: 1000 };
    if (isImage) return { ...common, name: `${i}.image`, kind: LayerKind.Image, startLsn: endLsn };
    const spans = Array.from({ length: 16 }, (_, k) => ({
      from: makeKey(prefix, k * 60),
      to: makeKey(prefix, k * 60 + 30),
    }));
    return { ...common, name: `${i}.delta`, kind: LayerKind.Delta, startLsn: toLsn(endLsn - 1000), spans };
  });
}

async function benchManyLayers(): Promise<void> {
  const layers = makeLayers();
  const end = layers.at(-1)?.endLsn ?? toLsn(0);
  for (const count of [0, 20]) {
    const points = Array.from({ length: count }, (_, i) => toLsn(Math.floor((end * i) / count)));
    await measure(`plan of gc, ${layerCount} layers, ${count} points below`, () =>
      planGc({ layers, cutoffLsn: end, points, imagesWithin: ALL_KEYS }),
    );
  }
  const index = { startLsn: toLsn(0), durableLsn: end, nextFile: 1, layers };
  await measure(`index of ${layerCount} layers, the first time`, () => new IndexEncoder().encode(index));
  const encoder = new IndexEncoder();
  await encoder.encode(index);
  await measure(`index of ${layerCount} layers, again`, () => encoder.encode(index));
  await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
  const opened = layers.map((descriptor) => new LayerFile(`/none/${descriptor.name}`, descriptor, cache));
  await measure(`map of ${layerCount} layers`, () => LayerMap.of(opened));
  const map = await LayerMap.of(opened);
  const removed = new Set([layers[0]?.name ?? ""]);
  await measure(`map of ${layerCount} layers, without one`, () => map.changed([], removed));
}

const directory = await mkdtemp(join(tmpdir(), "pauses-bench-"));
try {
  benchPuts("each key twice", (i) => i >> 1);
  benchPuts("300,000 keys in no order", (i) => (Math.imul(i, 0x9e3779b1) >>> 0) % 300_000);
  benchPuts("3,000 keys", (i) => (i * 7919) % 3000);
  await benchFlush(directory);
  await benchManyLayers();
} finally {
  await rm(directory, { recursive: true });
}
