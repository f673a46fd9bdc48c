import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../src/base/lsn.ts";
import { type CompactionPolicy, compactStore } from "../../src/storage/compact.ts";
import { type CompactionTools, type ImagesOf, runCompaction } from "../../src/storage/compaction-job.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { Findings } from "../../src/storage/findings.ts";
import { checkStore, openToCheck } from "../../src/storage/fsck.ts";
import { type Key, ValueFlag, compareKeys } from "../../src/storage/key.ts";
import { ALL_KEYS, type KeyRange, makeKey } from "../../src/storage/key-range.ts";
import { LayerKind } from "../../src/storage/layer-format.ts";
import { LayerSearch } from "../../src/storage/layer-search.ts";
import { Yielder } from "../../src/storage/yielder.ts";
import { planMerge } from "../../src/storage/plan-merge.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { SeededRandom } from "../support/random.ts";
import { ModelTimeline, checkGet, checkScan, imageBytes, putBoth, stateOf } from "./model.ts";

const START = 1000;

const key = (relNumber: number, block: number): Key => ({
  kind: 0,
  spcOid: 1663,
  dbOid: 5,
  relNumber,
  fork: 0,
  block,
});

const POLICY: CompactionPolicy = {
  merge: { flushedLayersMin: 3, mergeBytesMax: 1 << 20 },
  images: { changesPerImage: 1, changesBytesMin: 1, layersMax: 3 },
  fileBytesMax: 20_000,
  imagesWithin: ALL_KEYS,
  cuts: [key(3, 0)],
};

function toolsOf(files: FaultyFiles): CompactionTools {
  const prepareImages: CompactionTools["prepareImages"] = async (scan) => {
    const imagesOf: ImagesOf = async function* (range) {
      for await (const batch of scan(range)) {
        yield batch.map((entry) => ({ key: entry.key, bytes: imageBytes(stateOf(entry.values) ?? []) }));
      }
    };
    return { imagesOf, liveBytes: () => 0 };
  };
  return { files, prepareImages };
}

async function checkEverywhere(
  store: TimelineStore,
  model: ModelTimeline,
  { from, to, step }: { from: number; to: number; step: number },
): Promise<void> {
  for (let lsn = from; lsn <= to; lsn += step) {
    await checkScan(store, model, ALL_KEYS, lsn);
    for (const k of model.keys()) await checkGet(store, model, k, { lsn });
  }
}

/** Random versions up to a new end, which is returned; some in memory, some flushed. */
async function write(
  target: { store: TimelineStore; model: ModelTimeline },
  random: SeededRandom,
  end: number,
  versions: number,
): Promise<number> {
  let lsn = end;
  for (let i = 0; i < versions; i++) {
    lsn += 1 + random.below(2);
    const keys = [key(1 + random.below(4), random.below(8) * 50)];
    if (random.below(5) === 0) keys.push(key(9, random.below(3)));
    const flags = [
      ValueFlag.Record,
      ValueFlag.Record,
      ValueFlag.Record,
      ValueFlag.Image,
      ValueFlag.Tombstone,
    ];
    const sizeBytes = random.below(12) === 0 ? 1500 : 10 + random.below(60);
    putBoth(target.store, target.model, keys, {
      lsn,
      flags: flags[random.below(flags.length)] ?? ValueFlag.Record,
      id: lsn,
      sizeBytes,
    });
    if (random.below(60) === 0) {
      target.store.freeze(toLsn(lsn));
      await target.store.flush();
    }
  }
  return lsn;
}

test("after merges and images every key reads the same at every LSN, on branches too", async (t) => {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32() });
  await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
  const run = (request: Parameters<typeof runCompaction>[0]) => runCompaction(request, toolsOf(files));
  const model = new ModelTimeline();
  const options = { directory: "/main", startLsn: toLsn(START) };
  let store = await TimelineStore.create(options, { files, cache });
  let end = await write({ store, model }, random, START, 300);
  store.freeze(toLsn(end));
  await store.flush();
  const branchLsn = end - random.below(200);
  const childModel = new ModelTimeline({ model, lsn: branchLsn });
  const child = await TimelineStore.create(
    {
      directory: "/child",
      startLsn: toLsn(branchLsn),
      ancestor: { store, lsn: toLsn(branchLsn) },
    },
    { files, cache },
  );
  let childEnd = branchLsn;
  let sums = { merges: 0, images: 0 };
  for (let round = 0; round < 4; round++) {
    end = await write({ store, model }, random, end, 200);
    childEnd = await write({ store: child, model: childModel }, random, childEnd, 100);
    const before = store.scan(ALL_KEYS, toLsn(end));
    const result = await compactStore(store, POLICY, run);
    const ofChild = await compactStore(child, POLICY, run);
    sums = {
      merges: sums.merges + result.merges + ofChild.merges,
      images: sums.images + result.imageLayers + ofChild.imageLayers,
    };
    // A scan that began before reads files that are gone from the index.
    let count = 0;
    for await (const batch of before) count += batch.length;
    assert.ok(count > 0);
    await checkEverywhere(store, model, { from: START, to: end, step: 31 });
    await checkEverywhere(child, childModel, { from: START, to: childEnd, step: 37 });
  }
  assert.ok(sums.merges > 1 && sums.images > 1, JSON.stringify(sums));
  assert.ok(store.layers().filter((layer) => layer.merged).length > 0);
  for (const s of [store, child]) {
    const findings = new Findings();
    const toCheck = await openToCheck(s === store ? "/main" : "/child", { open: s }, findings, files);
    await checkStore(toCheck, s, findings, files);
    assert.deepEqual(findings.list, []);
  }
  const durable = store.durableLsn;
  await child[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
  const names = new Set(store.layers().map((layer) => layer.name));
  assert.deepEqual((await files.list("/main")).filter((name) => !names.has(name)).sort(), [
    "copy.index.json",
    "index.json",
  ]);
  store = await TimelineStore.open(options, { files, cache });
  model.truncate(durable);
  for (let lsn = START; lsn <= durable; lsn += 3) {
    for (const k of model.keys()) await checkGet(store, model, k, { lsn });
  }
  await store[Symbol.asyncDispose]();
});

test("a search finds the newest layer over a key, as looking at all of them does", async (t) => {
  const random = SeededRandom.forTest(t);
  for (let round = 0; round < 30; round++) {
    const layers = Array.from({ length: 1 + random.below(60) }, (_, i) => {
      const spans: KeyRange[] = [];
      for (let at = random.below(20); at < 100 && spans.length < 4;) {
        const to = at + 1 + random.below(30);
        spans.push({ from: makeKey(key(1, 0), at), to: makeKey(key(1, 0), to) });
        at = to + random.below(20);
      }
      return { id: i, startLsn: toLsn(random.below(40)), spans };
    }).sort((a, b) => b.startLsn - a.startLsn);
    const search = await LayerSearch.of(layers, new Yielder());
    for (let i = 0; i < 200; i++) {
      const wanted = key(1, random.below(140));
      const below = random.below(45);
      const expected = layers.find(
        (layer) =>
          layer.startLsn < below &&
          layer.spans.some((s) => compareKeys(s.from, wanted) <= 0 && compareKeys(wanted, s.to) < 0),
      );
      assert.equal(search.below(wanted, below), expected, `block ${wanted.block} below ${below}`);
    }
  }
});

test("values are merged a logarithmic number of times", () => {
  const policy = { flushedLayersMin: 4, mergeBytesMax: 1000 };
  let layers: Parameters<typeof planMerge>[0] = [];
  let written = 0;
  const LAYERS = 400;
  for (let i = 0; i < LAYERS; i++) {
    const layer = {
      name: `${i}.delta`,
      kind: LayerKind.Delta,
      startLsn: toLsn(i),
      endLsn: toLsn(i + 1),
      range: ALL_KEYS,
      sizeBytes: 1,
      valueCount: 1,
    };
    layers = [...layers, layer];
    const plan = planMerge(layers, policy);
    if (!plan) continue;
    const sizeBytes = plan.inputs.reduce((sum, input) => sum + input.sizeBytes, 0);
    written += sizeBytes;
    const { startLsn, endLsn } = plan;
    layers = layers.filter((other) => !plan.inputs.includes(other));
    layers = [
      ...layers,
      { ...layer, name: `m${i}.delta`, startLsn, endLsn, sizeBytes, merged: true as const },
    ];
  }
  assert.ok(layers.length <= 12, `${layers.length} layers are left`);
  assert.ok(written / LAYERS <= 8, `each value was written ${written / LAYERS} times`);
});
