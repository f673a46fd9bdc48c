import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { toLsn } from "../../src/base/lsn.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { type Key, ValueFlag, compareKeys } from "../../src/storage/key.ts";
import { ALL_KEYS, type KeyRange, rangeContains } from "../../src/storage/key-range.ts";
import { type StoreOptions, TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { SeededRandom } from "../support/random.ts";
import { ModelTimeline, checkGet, checkScan, checkScanned, imagesOf, putBoth } from "./model.ts";

const STEPS = 250;
const TIMELINES_MAX = 5;
const START_LSN = 1000;

interface Line {
  readonly options: StoreOptions;
  store: TimelineStore;
  readonly model: ModelTimeline;
  readonly parent: Line | undefined;
  lastLsn: number;
}

/** A family of timelines on a disk in memory, each beside its model. */
class World implements AsyncDisposable {
  readonly random: SeededRandom;
  readonly files: FaultyFiles;
  readonly cache: StoreCache;
  readonly lines: Line[] = [];
  readonly keys: readonly Key[];
  private readonly flushes = new Set<Promise<void>>();
  private lastBlob = 0;

  constructor(random: SeededRandom) {
    this.random = random;
    this.files = new FaultyFiles({ random: () => random.u32(), shortReads: true, interleave: true });
    const capacityBytes = random.pick([0, 20_000, 1 << 20]);
    this.cache = new StoreCache({ capacityBytes, handlesMax: random.between(1, 4) }, { files: this.files });
    this.keys = makeKeys(random);
  }

  async addLine(): Promise<void> {
    const parent = this.lines.length === 0 ? undefined : this.random.pick(this.lines);
    const lsn = parent ? this.lsnUpTo(parent, parent.store.durableLsn) : START_LSN;
    const options: StoreOptions = {
      directory: `/tenant/${this.lines.length}`,
      startLsn: toLsn(lsn),
      imageFileBytes: this.random.pick([1, 2000, 1 << 30]),
      ancestor: parent && { store: parent.store, lsn: toLsn(lsn) },
    };
    const { files, cache } = this;
    const store = await TimelineStore.create(options, { files, cache });
    const model = new ModelTimeline(parent && { model: parent.model, lsn });
    this.lines.push({ options, store, model, parent, lastLsn: lsn });
  }

  put(line: Line): void {
    const { random } = this;
    for (let i = random.between(1, 30); i > 0; i--) {
      line.lastLsn += random.pick([1, 8, 72, 8192, 0x1_0000_0000]);
      const sizeBytes = random.pick([0, 30, 70, 70, 600, 9000, 40_000, 200_000]);
      const flags = random.pick(FLAGS);
      const keys = Array.from({ length: random.between(1, 4) }, () => random.pick(this.keys));
      putBoth(line.store, line.model, keys, { lsn: line.lastLsn, flags, id: this.newBlob(), sizeBytes });
    }
  }

  /** So many versions of one key that its index entries fill several blocks. */
  putOften(line: Line): void {
    const key = this.random.pick(this.keys);
    for (let i = this.random.pick([500, 3000]); i > 0; i--) {
      line.lastLsn += 8;
      const flags = this.random.chance(0.0005) ? ValueFlag.Image : ValueFlag.Record;
      putBoth(line.store, line.model, [key], { lsn: line.lastLsn, flags, id: this.newBlob(), sizeBytes: 8 });
    }
  }

  flush(line: Line): Promise<void> {
    line.lastLsn += this.random.below(2) * 16;
    line.store.freeze(toLsn(line.lastLsn));
    const flush = line.store.flush().finally(() => this.flushes.delete(flush));
    this.flushes.add(flush);
    return flush;
  }

  async addImages(line: Line): Promise<void> {
    const lsn = toLsn(this.lsnUpTo(line, line.store.durableLsn));
    if (lsn < line.store.startLsn) return;
    const range = this.random.chance(0.5) ? ALL_KEYS : this.range();
    const taken = line.store.layers().some((layer) => layer.name.endsWith(".image") && layer.endLsn === lsn);
    if (!taken) await line.store.addImageLayer(range, lsn, imagesOf(line.store, range, lsn));
  }

  /** Ends all stores and opens them again, with what was durable. */
  async reopen(): Promise<void> {
    await Promise.all(this.flushes);
    const { files, cache } = this;
    const stores = new Map<TimelineStore, TimelineStore>();
    for (const line of this.lines) {
      const { durableLsn } = line.store;
      await line.store[Symbol.asyncDispose]();
      const ancestor = line.options.ancestor;
      const store = line.parent && stores.get(line.parent.store);
      const old = line.store;
      line.store = await TimelineStore.open(
        { ...line.options, ancestor: ancestor && store && { store, lsn: ancestor.lsn } },
        { files, cache },
      );
      stores.set(line.store, line.store);
      assert.equal(line.store.durableLsn, durableLsn);
      assert.notEqual(line.store, old);
      line.lastLsn = durableLsn;
      line.model.truncate(durableLsn);
    }
  }

  async check(line: Line): Promise<void> {
    const { random } = this;
    const end = Math.max(line.lastLsn, START_LSN);
    const gets: Promise<void>[] = [];
    for (let i = 0; i < 8; i++) {
      const lsn = random.between(START_LSN, end + 1);
      const floor = random.chance(0.4) ? random.between(START_LSN - 1, lsn) : undefined;
      gets.push(checkGet(line.store, line.model, random.pick(this.keys), { lsn, floor }));
    }
    await Promise.all(gets);
    const lsn = random.chance(0.5) ? line.lastLsn : random.between(START_LSN, end);
    await checkScan(line.store, line.model, random.chance(0.3) ? ALL_KEYS : this.range(), lsn);
  }

  /** A scan must not notice what happens while it runs. */
  async scanDuringWrites(line: Line): Promise<void> {
    const lsn = line.lastLsn;
    const expected = line.model.keys().filter((key) => {
      return rangeContains(ALL_KEYS, key) && line.model.state(key, lsn) !== undefined;
    });
    const scan = line.store.scan(ALL_KEYS, toLsn(lsn));
    const checked = checkScanned(scan, line.model, expected, lsn);
    this.put(line);
    const flushed = this.flush(line);
    this.put(line);
    await Promise.all([checked, flushed]);
  }

  range(): KeyRange {
    const [from, to] = [this.random.pick(this.keys), this.random.pick(this.keys)].sort(compareKeys);
    assert.ok(from && to);
    return compareKeys(from, to) === 0 ? ALL_KEYS : { from, to };
  }

  private newBlob(): number {
    this.lastBlob++;
    return this.lastBlob;
  }

  private lsnUpTo(line: Line, limit: number): number {
    return this.random.chance(0.5) ? limit : this.random.between(line.options.startLsn, limit);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.flushes);
    for (const line of this.lines) await line.store[Symbol.asyncDispose]();
    await this.cache[Symbol.asyncDispose]();
    assert.equal(this.files.openHandles, 0);
  }
}

const FLAGS = [
  ValueFlag.Record,
  ValueFlag.Record,
  ValueFlag.Record,
  ValueFlag.Image,
  ValueFlag.Record | ValueFlag.WillInit,
  ValueFlag.Tombstone,
];

function makeKeys(random: SeededRandom): Key[] {
  const keys: Key[] = [];
  for (const kind of [0, 3, 0xfe]) {
    for (const relNumber of [1, 16384, 0xfffffffe]) {
      for (const fork of [0, 2]) {
        const dbOid = random.pick([0, 5, 0x80000001]);
        for (const block of [0, 1, 2, 130, 131_071, 0xffffffff]) {
          keys.push({ kind, spcOid: 1663, dbOid, relNumber, fork, block });
        }
      }
    }
  }
  return keys;
}

async function step(world: World): Promise<void> {
  const { random } = world;
  const line = random.pick(world.lines);
  const dice = random.below(100);
  if (dice < 45) world.put(line);
  else if (dice < 48) world.putOften(line);
  else if (dice < 60) await world.flush(line);
  else if (dice < 65) void world.flush(line);
  else if (dice < 72) await world.addImages(line);
  else if (dice < 76) await world.scanDuringWrites(line);
  else if (dice < 79 && world.lines.length < TIMELINES_MAX) await world.addLine();
  else if (dice < 82) await world.reopen();
  else await world.check(line);
}

async function run(t: TestContext): Promise<void> {
  const random = SeededRandom.forTest(t);
  await using world = new World(random);
  await world.addLine();
  for (let i = 0; i < STEPS; i++) await step(world);
  for (const line of world.lines) {
    for (let i = 0; i < 5; i++) await world.check(line);
    for (const key of world.keys) await checkGet(line.store, line.model, key, { lsn: line.lastLsn });
  }
}

for (let round = 1; round <= 3; round++) {
  test(`random operations agree with the model, round ${round}`, run);
}
