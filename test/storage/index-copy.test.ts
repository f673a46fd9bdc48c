/** An index that is lost after compaction and garbage collection is made again from its copy, if that is not behind. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { compactStore } from "../../src/storage/compact.ts";
import { runCompaction } from "../../src/storage/compaction-job.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { INDEX_COPY_NAME } from "../../src/storage/index-copy.ts";
import { encodeIndex } from "../../src/storage/index-encoder.ts";
import { INDEX_FILE_NAME, readIndex } from "../../src/storage/index-file.ts";
import { ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { planGc } from "../../src/storage/plan-gc.ts";
import { rebuildIndex, replaceIndex } from "../../src/storage/rebuild-index.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { POLICY, toolsFor } from "../faults/compaction-story.ts";
import { SeededRandom } from "../support/random.ts";
import { ModelTimeline, checkScan, putBoth } from "./model.ts";

const DIRECTORY = "/line";
const INDEX = `${DIRECTORY}/${INDEX_FILE_NAME}`;
const COPY = `${DIRECTORY}/${INDEX_COPY_NAME}`;
const OPTIONS = { directory: DIRECTORY, startLsn: toLsn(1000) };
const key = (block: number) => ({ kind: 0, spcOid: 1663, dbOid: 5, relNumber: 1, fork: 0, block });

interface Disk {
  readonly files: FaultyFiles;
  readonly model: ModelTimeline;
  readonly end: Lsn;
  readonly cutoff: Lsn;
}

/** A store whose layers were merged, covered by images, and in part given up; closed. */
async function makeDisk(t: TestContext): Promise<Disk> {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32() });
  await using cache = new StoreCache({ capacityBytes: 100_000 }, { files });
  await using store = await TimelineStore.create(OPTIONS, { files, cache });
  const model = new ModelTimeline();
  let end = 1000;
  const flush = async (): Promise<void> => {
    for (let i = 0; i < 40; i++) {
      end += 8;
      const flags = random.pick([ValueFlag.Record, ValueFlag.Image]);
      putBoth(store, model, [key(random.below(12))], { lsn: end, flags, id: end, sizeBytes: 300 });
    }
    store.freeze(toLsn(end));
    await store.flush();
  };
  const run = (request: Parameters<typeof runCompaction>[0]) => runCompaction(request, toolsFor(files));
  for (let i = 0; i < 4; i++) await flush();
  await compactStore(store, POLICY, run);
  const cutoff = store.durableLsn;
  await store.retain({
    cutoff: { lsn: cutoff, previousLsn: toLsn(cutoff - 8), commitMs: null },
    points: [],
  });
  const { removable } = await planGc({
    layers: store.layers(),
    cutoffLsn: cutoff,
    points: [],
    imagesWithin: ALL_KEYS,
  });
  assert.ok(removable.length > 0, "something is given up");
  await store.replaceLayers([], new Set(removable.map((layer) => layer.name)));
  await flush();
  return { files, model, end: toLsn(end), cutoff };
}

const damage = (files: FaultyFiles, path: string): void => {
  const bytes = files.contentOf(path);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
  files.replaceContent(path, bytes);
};

test("after compaction and garbage collection, the copy says it all", async (t) => {
  const { files, model, end, cutoff } = await makeDisk(t);
  const before = await readIndex(INDEX, files);
  damage(files, INDEX);
  await assert.rejects(readIndex(INDEX, files), /checksum|JSON|begin/);
  const rebuilt = await rebuildIndex(DIRECTORY, OPTIONS, files);
  assert.ok(rebuilt.kind === "index");
  assert.equal(rebuilt.from, "copy");
  assert.deepEqual(rebuilt.index, before);
  await replaceIndex(DIRECTORY, rebuilt.index, files);
  await using cache = new StoreCache({ capacityBytes: 100_000 }, { files });
  await using store = await TimelineStore.open(OPTIONS, { files, cache });
  assert.equal(store.gcCutoffLsn, cutoff);
  for (const lsn of [end, cutoff, cutoff + 8]) await checkScan(store, model, ALL_KEYS, lsn);
});

test("a copy that leaves a doubt is not believed", async (t) => {
  const disk = await makeDisk(t);
  const index = await readIndex(INDEX, disk.files);
  const [first] = index.layers;
  const last = index.layers.at(-1);
  assert.ok(first && last && last.startLsn > index.startLsn);
  const trials: [RegExp, (files: FaultyFiles) => void][] = [
    [
      /its copy is missing/,
      (files) => {
        files.removeNow(COPY);
      },
    ],
    [
      /its copy cannot be read/,
      (files) => {
        damage(files, COPY);
      },
    ],
    [
      /its copy names .*, which is missing/,
      (files) => {
        files.removeNow(`${DIRECTORY}/${first.name}`);
      },
    ],
    [
      /its copy names .*, which is damaged/,
      (files) => {
        damage(files, `${DIRECTORY}/${first.name}`);
      },
    ],
    [
      // As a version of the program leaves it that knows of no copy.
      /its copy does not know of/,
      (files) => {
        const older = { ...index, durableLsn: last.startLsn, layers: index.layers.slice(0, -1) };
        files.replaceContent(COPY, encodeIndex(older));
      },
    ],
    [
      /its copy has no layer from/,
      (files) => {
        files.removeNow(`${DIRECTORY}/${last.name}`);
        files.replaceContent(COPY, encodeIndex({ ...index, layers: index.layers.slice(0, -1) }));
      },
    ],
    [
      /its copy begins at/,
      (files) => {
        files.replaceContent(COPY, encodeIndex({ ...index, startLsn: toLsn(1008) }));
      },
    ],
  ];
  for (const [why, spoil] of trials) {
    const files = disk.files.copy();
    damage(files, INDEX);
    spoil(files);
    const rebuilt = await rebuildIndex(DIRECTORY, OPTIONS, files);
    assert.ok(rebuilt.kind === "impossible");
    assert.match(rebuilt.why, why);
  }
});

test("a start has the copy say what the index says", async (t) => {
  const { files } = await makeDisk(t);
  for (const isDamaged of [false, true]) {
    if (isDamaged) damage(files, COPY);
    else files.removeNow(COPY);
    await using cache = new StoreCache({ capacityBytes: 1 }, { files });
    await (await TimelineStore.open(OPTIONS, { files, cache }))[Symbol.asyncDispose]();
    assert.deepEqual(files.contentOf(COPY), files.contentOf(INDEX));
  }
});
