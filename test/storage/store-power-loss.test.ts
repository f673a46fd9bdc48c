import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { FaultyFiles, PowerLossError } from "../../src/storage/faulty-files.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { type StoreOptions, TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { SeededRandom } from "../support/random.ts";
import { ModelTimeline, checkGet, checkScan, imagesOf, putBoth } from "./model.ts";

const START_LSN = toLsn(1000);
const OPTIONS: StoreOptions = { directory: "/tenant/line", startLsn: START_LSN, imageFileBytes: 3000 };
/** How often each moment is tried: the same crash leaves different things on the disk. */
const VARIANTS = 3;

const KEYS: Key[] = [];
for (let relNumber = 1; relNumber <= 3; relNumber++) {
  for (let block = 0; block < 8; block++)
    KEYS.push({ kind: 0, spcOid: 1, dbOid: 5, relNumber, fork: 0, block });
}

/** A history of writes that is the same each time, and how much of it was acknowledged. */
class History {
  readonly model = new ModelTimeline();
  readonly random = new SeededRandom(1);
  created = false;
  acknowledged = 0;
  lsn: number = START_LSN;
  private lastBlob = 0;

  write(store: TimelineStore): void {
    for (let i = 0; i < 20; i++) {
      this.lsn += 72;
      const flags = this.random.pick([
        ValueFlag.Record,
        ValueFlag.Record,
        ValueFlag.Image,
        ValueFlag.Tombstone,
      ]);
      const keys = [this.random.pick(KEYS), this.random.pick(KEYS)];
      const sizeBytes = this.random.pick([40, 70, 600, 9000]);
      putBoth(store, this.model, keys, { lsn: this.lsn, flags, id: ++this.lastBlob, sizeBytes });
    }
  }

  async flush(store: TimelineStore): Promise<void> {
    store.freeze(toLsn(this.lsn));
    await store.flush();
    this.acknowledged = store.durableLsn;
  }
}

async function writeHistory(history: History, files: FaultyFiles): Promise<void> {
  files.addDirectory("/tenant");
  await using cache = new StoreCache({ capacityBytes: 100_000 }, { files });
  await using store = await TimelineStore.create(OPTIONS, { files, cache });
  history.created = true;
  history.acknowledged = store.durableLsn;
  for (let round = 0; round < 3; round++) {
    history.write(store);
    await history.flush(store);
    if (round === 1) {
      await store.addImageLayer(ALL_KEYS, store.durableLsn, imagesOf(store, ALL_KEYS, store.durableLsn));
    }
  }
  history.write(store);
  store.freeze(toLsn(history.lsn));
  history.write(store);
  await history.flush(store);
}

/** What the disk holds must be the history up to its durable LSN, and nothing acknowledged may be missing. */
async function checkDisk(history: History, files: FaultyFiles): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 100_000 }, { files });
  const store = await TimelineStore.open(OPTIONS, { files, cache });
  try {
    const { durableLsn } = store;
    assert.ok(
      durableLsn >= history.acknowledged,
      `${history.acknowledged} was acknowledged, ${durableLsn} is there`,
    );
    history.model.truncate(durableLsn);
    for (const key of KEYS) {
      await checkGet(store, history.model, key, { lsn: durableLsn + 100_000 });
      await checkGet(store, history.model, key, { lsn: START_LSN + 72 * history.random.below(80) });
    }
    await checkScan(store, history.model, ALL_KEYS, durableLsn);
    const named = new Set(store.layers().map((layer) => `${OPTIONS.directory}/${layer.name}`));
    const found = files.paths().filter((path) => !path.endsWith("index.json"));
    assert.deepEqual(found, [...named].sort(), "files that the index does not name are gone");
    history.lsn = durableLsn;
    history.write(store);
    await history.flush(store);
    await checkScan(store, history.model, ALL_KEYS, history.lsn);
  } finally {
    await store[Symbol.asyncDispose]();
  }
}

async function isPowerLoss(work: () => Promise<void>): Promise<boolean> {
  try {
    await work();
    return false;
  } catch (error) {
    if (error instanceof PowerLossError) return true;
    throw error;
  }
}

/** Opens a disk on which the timeline was perhaps never finished. */
async function checkSurvivors(history: History, files: FaultyFiles): Promise<void> {
  try {
    await checkDisk(history, files);
  } catch (error) {
    const neverCreated = error instanceof NeonError && error.code === ErrorCode.NotFound;
    if (!neverCreated || history.created) throw error;
  }
}

async function crashEverywhere(t: TestContext, survive: (files: FaultyFiles) => FaultyFiles): Promise<void> {
  const random = SeededRandom.forTest(t);
  const options = { random: () => random.u32(), shortReads: true };
  let operations = 1;
  for (let moment = 1; moment <= operations; moment++) {
    for (let variant = 0; variant < VARIANTS; variant++) {
      const files = new FaultyFiles(options);
      files.powerFailsAt = moment;
      const history = new History();
      const crashed = await isPowerLoss(() => writeHistory(history, files));
      if (!crashed) operations = files.operations;
      else operations = Math.max(operations, moment + 1);
      await checkSurvivors(history, survive(files)).catch((error: unknown) => {
        throw new Error(`after a crash in operation ${moment}`, { cause: error });
      });
    }
  }
  assert.ok(operations > 40, `${operations} operations`);
}

test("power may fail in any operation", (t) => crashEverywhere(t, (files) => files.afterPowerLoss()));

test("the process may be killed in any operation", (t) => crashEverywhere(t, (files) => files.afterKill()));

test("power may fail again while the store is opened", async (t) => {
  const random = SeededRandom.forTest(t);
  for (let moment = 5; moment < 60; moment += 3) {
    const files = new FaultyFiles({ random: () => random.u32() });
    files.powerFailsAt = moment;
    const history = new History();
    await isPowerLoss(() => writeHistory(history, files));
    let disk = files.afterPowerLoss();
    for (let again = 1; again <= 4; again++) {
      disk.powerFailsAt = again;
      const crashed = disk;
      await isPowerLoss(() => checkSurvivors(history, crashed));
      disk = disk.afterPowerLoss();
    }
    await checkSurvivors(history, disk);
  }
});
