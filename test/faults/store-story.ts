/** The life of a store and of a branch of it: layers written, images added, restarts. */
import assert from "node:assert/strict";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import type { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { SeededRandom } from "../support/random.ts";
import { ModelTimeline, checkGet, checkScan, imagesOf, putBoth } from "../storage/model.ts";
import type { Point, Run, Story } from "./everywhere.ts";

const START = 1000;
const ROOT = "/tenant/root";
const BRANCH = "/tenant/branch";
const KEYS: Key[] = Array.from({ length: 18 }, (_, i) => ({
  kind: 0,
  spcOid: 1,
  dbOid: 5,
  relNumber: 1 + (i % 3),
  fork: 0,
  block: i,
}));

/** One timeline beside its model, and how much of it was acknowledged. */
class Line {
  readonly directory: string;
  readonly startLsn: number;
  readonly model: ModelTimeline;
  acknowledged = 0;
  created = false;
  lsn: number;

  constructor(directory: string, startLsn: number, parent?: { model: ModelTimeline; lsn: number }) {
    this.directory = directory;
    this.startLsn = startLsn;
    this.lsn = startLsn;
    this.model = new ModelTimeline(parent);
  }
}

class StoreLedger {
  readonly root = new Line(ROOT, START);
  branch: Line | undefined;
  private readonly random = new SeededRandom(3);
  private lastBlob = 0;

  write(line: Line, store: TimelineStore): void {
    for (let i = 0; i < 20; i++) {
      line.lsn += 72;
      const { Record, Image, Tombstone, WillInit } = ValueFlag;
      const flags = this.random.pick([Record, Record, Image, Record | WillInit, Tombstone]);
      const keys = [this.random.pick(KEYS), this.random.pick(KEYS)];
      const sizeBytes = this.random.pick([40, 70, 600, 9000]);
      putBoth(store, line.model, keys, { lsn: line.lsn, flags, id: ++this.lastBlob, sizeBytes });
    }
  }

  async flush(line: Line, store: TimelineStore): Promise<void> {
    store.freeze(toLsn(line.lsn));
    await again(() => store.flush());
    line.acknowledged = store.durableLsn;
    assert.equal(store.durableLsn, line.lsn);
  }
}

/** What the disk did not let happen is done once more. */
async function again(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof NeonError && error.code === ErrorCode.Resource)) throw error;
    await work();
  }
}

async function live({ files }: Run, ledger: StoreLedger): Promise<void> {
  files.addDirectory("/tenant");
  const cache = new StoreCache({ capacityBytes: 0, handlesMax: 2 }, { files });
  const { root } = ledger;
  const dependencies = { files, cache };
  const rootOptions = { directory: ROOT, startLsn: toLsn(START), imageFileBytes: 3000 };
  const stores: TimelineStore[] = [];
  try {
    let store = await TimelineStore.create(rootOptions, dependencies);
    stores.push(store);
    root.created = true;
    for (let round = 0; round < 2; round++) {
      ledger.write(root, store);
      await ledger.flush(root, store);
    }
    const imagesAt = store.durableLsn;
    await again(() => store.addImageLayer(ALL_KEYS, imagesAt, imagesOf(store, ALL_KEYS, imagesAt)));
    // Two layers at a time.
    ledger.write(root, store);
    store.freeze(toLsn(root.lsn));
    ledger.write(root, store);
    await ledger.flush(root, store);
    const lsn = root.acknowledged;
    const branch = new Line(BRANCH, lsn, { model: root.model, lsn });
    ledger.branch = branch;
    const branchOptions = { directory: BRANCH, startLsn: toLsn(lsn), ancestor: { store, lsn: toLsn(lsn) } };
    const child = await TimelineStore.create(branchOptions, dependencies);
    stores.push(child);
    branch.created = true;
    branch.acknowledged = child.durableLsn;
    ledger.write(branch, child);
    ledger.write(root, store);
    await Promise.all([ledger.flush(branch, child), ledger.flush(root, store)]);
    for (const each of stores.splice(0).reverse()) await each[Symbol.asyncDispose]();
    store = await TimelineStore.open(rootOptions, dependencies);
    stores.push(store);
    ledger.write(root, store);
    await ledger.flush(root, store);
    await checkScan(store, root.model, ALL_KEYS, root.lsn);
  } finally {
    for (const each of stores.reverse()) await each[Symbol.asyncDispose]().catch(() => undefined);
    await cache[Symbol.asyncDispose]().catch(() => undefined);
  }
}

async function look(run: Run, ledger: StoreLedger, point: Point): Promise<void> {
  const { files } = run;
  const cache = new StoreCache({ capacityBytes: 10_000 }, { files });
  try {
    const root = await lookAt(run, ledger, ledger.root, cache, point);
    const { branch } = ledger;
    if (root === undefined || branch === undefined) return;
    const child = await lookAt(run, ledger, branch, cache, point, {
      store: root,
      lsn: toLsn(branch.startLsn),
    });
    await child?.[Symbol.asyncDispose]();
    await root[Symbol.asyncDispose]();
  } finally {
    await cache[Symbol.asyncDispose]();
  }
}

/** What the disk must hold is the history up to its durable LSN, with nothing acknowledged missing. */
async function lookAt(
  { files, random }: Run,
  ledger: StoreLedger,
  line: Line,
  cache: StoreCache,
  point: Point,
  ancestor?: { store: TimelineStore; lsn: ReturnType<typeof toLsn> },
): Promise<TimelineStore | undefined> {
  const { directory, startLsn, model } = line;
  let store: TimelineStore;
  try {
    store = await TimelineStore.open({ directory, startLsn: toLsn(startLsn), ancestor }, { files, cache });
  } catch (error) {
    if (point.diskLied && error instanceof NeonError) return undefined;
    if (!line.created && error instanceof NeonError && error.code === ErrorCode.NotFound) return undefined;
    if (!line.created && !files.paths().some((path) => path.startsWith(directory))) return undefined;
    throw error;
  }
  const { durableLsn } = store;
  try {
    if (!point.diskLied) assert.ok(durableLsn >= line.acknowledged, `${line.acknowledged} was acknowledged`);
    model.truncate(durableLsn);
    for (const key of KEYS) await checkGet(store, model, key, { lsn: random.between(startLsn, durableLsn) });
    await checkScan(store, model, ALL_KEYS, durableLsn);
    checkFiles(files, directory, store);
    line.lsn = durableLsn;
    ledger.write(line, store);
    await ledger.flush(line, store);
    await checkScan(store, model, ALL_KEYS, line.lsn);
  } catch (error) {
    if (!(point.diskLied && error instanceof NeonError && error.code === ErrorCode.Corrupt)) throw error;
  }
  return store;
}

function checkFiles(files: FaultyFiles, directory: string, store: TimelineStore): void {
  const named = new Set(store.layers().map((layer) => `${directory}/${layer.name}`));
  const found = files.paths().filter((path) => path.startsWith(directory) && !path.endsWith("index.json"));
  assert.deepEqual(found, [...named].sort(), "files that the index does not name are gone");
}

export const storeStory: Story<StoreLedger> = { begin: () => new StoreLedger(), run: live, check: look };
