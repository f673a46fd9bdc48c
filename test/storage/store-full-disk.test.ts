import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { SeededRandom } from "../support/random.ts";
import { ModelTimeline, checkGet, checkScan, imagesOf, putBoth } from "./model.ts";

const OPTIONS = { directory: "/line", startLsn: toLsn(1000) };
/** Writes, syncs and renames of one small layer: six for the file, two for its name, five for the index. */
const OPERATIONS_OF_FLUSH = 17;
const key = (block: number): Key => ({ kind: 0, spcOid: 1, dbOid: 5, relNumber: 1, fork: 0, block });

function isFull(error: unknown): boolean {
  assert.ok(error instanceof NeonError, String(error));
  assert.equal(error.code, ErrorCode.Resource);
  assert.equal(error.data["systemCode"], "ENOSPC");
  assert.notEqual(error.hint, undefined);
  return true;
}

interface Scene {
  readonly files: FaultyFiles;
  readonly store: TimelineStore;
  readonly model: ModelTimeline;
  readonly write: (count: number) => number;
}

async function withStore(t: TestContext, work: (scene: Scene) => Promise<void>): Promise<void> {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32() });
  await using cache = new StoreCache({ capacityBytes: 100_000 }, { files });
  await using store = await TimelineStore.create(OPTIONS, { files, cache });
  const model = new ModelTimeline();
  let lsn = 1000;
  let id = 0;
  const write = (count: number) => {
    for (let i = 0; i < count; i++) {
      lsn += 100;
      putBoth(store, model, [key(random.below(50))], {
        lsn,
        flags: ValueFlag.Record,
        id: ++id,
        sizeBytes: 500,
      });
    }
    return lsn;
  };
  await work({ files, store, model, write });
  await store[Symbol.asyncDispose]();
  await using again = await TimelineStore.open(OPTIONS, { files, cache });
  await checkScan(again, model, ALL_KEYS, lsn);
}

test("a flush that finds the disk full can be tried again, wherever it stopped", (t) =>
  withStore(t, async ({ files, store, model, write }) => {
    const first = write(100);
    store.freeze(toLsn(first));
    const second = write(100);
    store.freeze(toLsn(second));
    const before = files.paths();
    let failures = 0;
    for (let room = 0; store.stats.frozenCount > 0; room += 1500) {
      files.capacityBytes = Number.POSITIVE_INFINITY;
      files.capacityBytes = usedBytes(files) + room;
      const { durableLsn } = store;
      try {
        await store.flush();
      } catch (error) {
        failures++;
        isFull(error);
        if (store.durableLsn === durableLsn)
          assert.equal(store.stats.frozenCount, durableLsn === 1000 ? 2 : 1);
        assert.ok(store.durableLsn === 1000 || store.durableLsn === first);
        if (store.durableLsn === 1000) assert.deepEqual(files.paths(), before, "nothing is left behind");
      }
      await checkScan(store, model, ALL_KEYS, second);
      await checkGet(store, model, key(7), { lsn: first });
    }
    assert.ok(failures > 20, `${failures} failures`);
    assert.equal(store.durableLsn, second);
  }));

test("images that do not fit are given up as a whole", (t) =>
  withStore(t, async ({ files, store, model, write }) => {
    const lsn = toLsn(write(300));
    store.freeze(lsn);
    await store.flush();
    const before = files.paths();
    files.capacityBytes = usedBytes(files) + 2000;
    await assert.rejects(store.addImageLayer(ALL_KEYS, lsn, imagesOf(store, ALL_KEYS, lsn)), isFull);
    assert.deepEqual(files.paths(), before);
    await checkScan(store, model, ALL_KEYS, lsn);
    files.capacityBytes = Number.POSITIVE_INFINITY;
    await store.addImageLayer(ALL_KEYS, lsn, imagesOf(store, ALL_KEYS, lsn));
    assert.equal(store.stats.imageCount, 1);
    await checkScan(store, model, ALL_KEYS, lsn);
  }));

test("any operation of a flush may fail once, up to the replacement of the index", (t) =>
  withStore(t, async ({ files, store, model, write }) => {
    for (let nth = 1; nth <= OPERATIONS_OF_FLUSH - 1; nth++) {
      const lsn = write(60);
      store.freeze(toLsn(lsn));
      files.failures.set(files.operations + nth, "ENOSPC");
      await assert.rejects(store.flush(), isFull, `operation ${nth}`);
      await checkScan(store, model, ALL_KEYS, lsn);
      files.failures.clear();
      const { operations } = files;
      await store.flush();
      assert.equal(files.operations - operations, OPERATIONS_OF_FLUSH);
      assert.equal(store.durableLsn, lsn);
    }
  }));

test("a store that does not know what is on the disk writes no more", async (t) => {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32() });
  await using cache = new StoreCache({ capacityBytes: 100_000 }, { files });
  await using store = await TimelineStore.create(OPTIONS, { files, cache });
  const model = new ModelTimeline();
  putBoth(store, model, [key(1)], { lsn: 1100, flags: ValueFlag.Image, id: 1, sizeBytes: 100 });
  store.freeze(toLsn(1100));
  files.failures.set(files.operations + OPERATIONS_OF_FLUSH, "EIO");
  await assert.rejects(store.flush(), /EIO/);
  await assert.rejects(store.flush(), { code: ErrorCode.Failed });
  await checkGet(store, model, key(1), { lsn: 1100 });
  await store[Symbol.asyncDispose]();
  await using again = await TimelineStore.open(OPTIONS, { files, cache });
  await checkGet(again, model, key(1), { lsn: 1100 });
});

function usedBytes(files: FaultyFiles): number {
  return files.paths().reduce((total, path) => total + files.contentOf(path).length, 0);
}
