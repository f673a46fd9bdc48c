import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { SeededRandom } from "../support/random.ts";
import { ModelTimeline, blobBytes, checkGet, checkScan, putBoth } from "./model.ts";

const START = 1000;
const ROUNDS = 6;
const VERSIONS_PER_ROUND = 400;

const key = (relNumber: number, block: number): Key => ({
  kind: 0,
  spcOid: 1663,
  dbOid: 5,
  relNumber,
  fork: 0,
  block,
});

/** A store with several delta layers, a model of it, and the LSNs at which layers end. */
async function fill(files: FaultyFiles, cache: StoreCache, directory: string, seed: number) {
  const random = new SeededRandom(seed);
  const model = new ModelTimeline();
  const store = await TimelineStore.create({ directory, startLsn: toLsn(START) }, { files, cache });
  const ends: number[] = [START];
  let lsn = START;
  let id = 0;
  for (let round = 0; round < ROUNDS; round++) {
    for (let i = 0; i < VERSIONS_PER_ROUND; i++) {
      lsn += 1 + random.below(3);
      const keys = [key(1 + random.below(3), random.below(20))];
      const sizeBytes = random.below(20) === 0 ? 5000 : 10 + random.below(100);
      if (random.below(10) === 0) keys.push(key(9, random.below(5)));
      const flags = [ValueFlag.Record, ValueFlag.Record, ValueFlag.Image, ValueFlag.Tombstone][
        random.below(4)
      ];
      putBoth(store, model, keys, { lsn, flags: flags ?? ValueFlag.Image, id: id++, sizeBytes });
    }
    store.freeze(toLsn(lsn));
    await store.flush();
    ends.push(lsn);
  }
  return { store, model, ends, random };
}

async function checkAll(
  store: TimelineStore,
  model: ModelTimeline,
  end: number,
  from = START,
): Promise<void> {
  for (let lsn = from; lsn <= end; lsn += 17) await checkScan(store, model, ALL_KEYS, lsn);
  for (const k of model.keys()) {
    for (let lsn = from; lsn <= end; lsn += 29) await checkGet(store, model, k, { lsn });
  }
}

test("what is exported in spans and adopted elsewhere reads the same at every LSN", async () => {
  const seed = 20_261_121;
  const files = new FaultyFiles({ random: () => 0 });
  await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
  const { store, model, ends, random } = await fill(files, cache, "/source", seed);
  await using source = store;
  await using target = await TimelineStore.create(
    { directory: "/target", startLsn: toLsn(START) },
    { files, cache },
  );
  await files.makeDirectory("/staging");
  const end = ends.at(-1) ?? START;
  for (let from = START; from < end;) {
    const to = Math.min(end, from + 1 + random.below(1500));
    const layers = await source.exportDelta({
      fromLsn: toLsn(from),
      toLsn: toLsn(to),
      directory: "/staging",
    });
    assert.ok(layers.every((layer) => layer.startLsn >= from && layer.endLsn <= to));
    await target.adopt(
      layers.map((descriptor) => ({ temporaryPath: `/staging/${descriptor.name}`, descriptor })),
      toLsn(to),
    );
    assert.equal(target.durableLsn, to);
    await checkScan(target, model, ALL_KEYS, to);
    from = to;
  }
  await checkAll(target, model, end);
  // Writing goes on behind what was adopted.
  const handle = target.intern(0, 1663, 5, 1, 0);
  const bytes = blobBytes(999_999, 40);
  target.put(handle, 3, toLsn(end + 8), ValueFlag.Image, target.append(bytes, 0, bytes.length));
  model.put(key(1, 3), { lsn: end + 8, flags: ValueFlag.Image, id: 999_999, sizeBytes: 40 });
  await checkScan(target, model, ALL_KEYS, end + 8);
});

test("layers that do not continue the timeline are refused and stay where they are", async () => {
  const files = new FaultyFiles({ random: () => 0 });
  await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
  const { store, ends } = await fill(files, cache, "/source", 7);
  await using source = store;
  await files.makeDirectory("/staging");
  const [, first = 0, second = 0, third = 0] = ends;
  const layers = await source.exportDelta({
    fromLsn: toLsn(first),
    toLsn: toLsn(second),
    directory: "/staging",
  });
  await using target = await TimelineStore.create(
    { directory: "/target", startLsn: toLsn(second) },
    { files, cache },
  );
  const adopted = layers.map((descriptor) => ({ temporaryPath: `/staging/${descriptor.name}`, descriptor }));
  await assert.rejects(target.adopt(adopted, toLsn(third)), { code: "conflict" });
  assert.equal(target.layers().length, 0);
  assert.deepEqual(
    await files.list("/staging"),
    layers.map((layer) => layer.name),
  );
});

test("a pin keeps the layers of its moment", async () => {
  const files = new FaultyFiles({ random: () => 0 });
  await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
  const { store, ends } = await fill(files, cache, "/source", 8);
  await using source = store;
  using pin = source.pin();
  assert.equal(pin.layers.length, ROUNDS);
  assert.equal(pin.layers.at(-1)?.endLsn, (ends.at(-1) ?? 0) as Lsn);
});
