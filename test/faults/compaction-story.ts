/** The life of a store whose layers are merged, covered by images, exported, adopted elsewhere, and given up. */
import assert from "node:assert/strict";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { type CompactionPolicy, compactStore } from "../../src/storage/compact.ts";
import { type CompactionTools, type ImagesOf, runCompaction } from "../../src/storage/compaction-job.ts";
import type { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { planGc } from "../../src/storage/plan-gc.ts";
import { rebuildIndex, replaceIndex } from "../../src/storage/rebuild-index.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { ModelTimeline, checkGet, checkScan, imageBytes, putBoth, stateOf } from "../storage/model.ts";
import { SeededRandom } from "../support/random.ts";
import type { Point, Run, Story } from "./everywhere.ts";

const START = 1000;
const SOURCE = "/tenant/source";
const COPY = "/tenant/copy";
const STAGING = "/tenant/staging";

const makeKey = (relNumber: number, block: number): Key => ({
  kind: 0,
  spcOid: 1663,
  dbOid: 5,
  relNumber,
  fork: 0,
  block,
});
const KEYS: readonly Key[] = Array.from({ length: 12 }, (_, i) => makeKey(1 + (i % 3), i));

export const POLICY: CompactionPolicy = {
  merge: { flushedLayersMin: 3, mergeBytesMax: 1 << 20 },
  images: { changesPerImage: 1, changesBytesMin: 1, layersMax: 2 },
  fileBytesMax: 4000,
  imagesWithin: ALL_KEYS,
  cuts: [makeKey(2, 0)],
};

export function toolsFor(files: FaultyFiles): CompactionTools {
  const prepareImages: CompactionTools["prepareImages"] = async (scan) => {
    const imagesOf: ImagesOf = async function* (range) {
      for await (const batch of scan(range)) {
        yield batch.map(({ key, values }) => ({ key, bytes: imageBytes(stateOf(values) ?? []) }));
      }
    };
    return { imagesOf, liveBytes: () => 0 };
  };
  return { files, prepareImages };
}

class CompactionLedger {
  readonly model = new ModelTimeline();
  readonly random = new SeededRandom(5);
  created = false;
  end = START;
  acknowledged = START;
  cutoff = START;
  /** Being set. */
  nextCutoff = START;
  copyCreated = false;
  copyEnd = START;
  private lastBlob = 0;

  async write(store: TimelineStore): Promise<void> {
    for (let i = 0; i < 12; i++) {
      this.end += 8;
      const { Record, Image, Tombstone } = ValueFlag;
      const flags = this.random.pick([Record, Record, Record, Image, Tombstone]);
      const keys = [this.random.pick(KEYS), this.random.pick(KEYS)];
      const sizeBytes = this.random.pick([40, 600]);
      putBoth(store, this.model, keys, { lsn: this.end, flags, id: ++this.lastBlob, sizeBytes });
    }
    store.freeze(toLsn(this.end));
    await again(() => store.flush());
    this.acknowledged = this.end;
  }
}

async function again<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof NeonError && error.code === ErrorCode.Resource)) throw error;
    return work();
  }
}

async function live({ files }: Run, ledger: CompactionLedger): Promise<void> {
  files.addDirectory(STAGING);
  const cache = new StoreCache({ capacityBytes: 0, handlesMax: 3 }, { files });
  const dependencies = { files, cache };
  const run = (request: Parameters<typeof runCompaction>[0]) => runCompaction(request, toolsFor(files));
  const stores: TimelineStore[] = [];
  try {
    const store = await TimelineStore.create({ directory: SOURCE, startLsn: toLsn(START) }, dependencies);
    stores.push(store);
    ledger.created = true;
    for (let i = 0; i < 3; i++) await ledger.write(store);
    await again(() => compactStore(store, POLICY, run));
    await ledger.write(store);
    const toLsnOfCopy = store.durableLsn;
    const copy = await TimelineStore.create({ directory: COPY, startLsn: toLsn(START) }, dependencies);
    stores.push(copy);
    ledger.copyCreated = true;
    const span = { fromLsn: toLsn(START), toLsn: toLsnOfCopy, directory: STAGING };
    const exported = await again(() => store.exportDelta(span));
    const layers = exported.map((descriptor) => ({
      temporaryPath: `${STAGING}/${descriptor.name}`,
      descriptor,
    }));
    await files.syncDirectory(STAGING);
    await again(() => copy.adopt(layers, toLsnOfCopy));
    ledger.copyEnd = toLsnOfCopy;
    const cutoff = store.durableLsn;
    const point = { lsn: cutoff, previousLsn: toLsn(cutoff - 8), commitMs: null };
    ledger.nextCutoff = cutoff;
    await again(() => store.retain({ cutoff: point, points: [] }));
    ledger.cutoff = cutoff;
    for (let i = 0; i < 2; i++) await ledger.write(store);
    await again(() => compactStore(store, POLICY, run));
    const input = { cutoffLsn: cutoff, points: [], imagesWithin: ALL_KEYS };
    const { removable } = await planGc({ layers: store.layers(), ...input });
    await again(() => store.replaceLayers([], new Set(removable.map((layer) => layer.name))));
    await checkScan(store, ledger.model, ALL_KEYS, ledger.end);
  } finally {
    for (const each of stores) await each[Symbol.asyncDispose]().catch(() => undefined);
    await cache[Symbol.asyncDispose]().catch(() => undefined);
  }
}

async function look(run: Run, ledger: CompactionLedger, point: Point): Promise<void> {
  // Before an opening makes things equal again.
  const withoutIndex = run.files.copy();
  await lookWithIndex(run, ledger, point);
  await lookWithoutIndex({ ...run, files: withoutIndex }, ledger, point);
}

/** The index is lost on top of it: what is made again from its copy has all that was acknowledged. */
async function lookWithoutIndex(run: Run, ledger: CompactionLedger, point: Point): Promise<void> {
  const { files } = run;
  const path = `${SOURCE}/index.json`;
  if (!files.paths().includes(path)) return;
  files.removeNow(path);
  const rebuilt = await rebuildIndex(SOURCE, { startLsn: toLsn(START) }, files);
  if (rebuilt.kind === "impossible") {
    const isUnderWay = rebuilt.why.includes("does not know of");
    assert.ok(point.diskLied || ledger.acknowledged === START || isUnderWay, rebuilt.why);
    return;
  }
  await replaceIndex(SOURCE, rebuilt.index, files);
  await lookWithIndex(run, ledger, point);
}

async function lookWithIndex({ files, random }: Run, ledger: CompactionLedger, point: Point): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 10_000 }, { files });
  const open = async (directory: string, created: boolean): Promise<TimelineStore | undefined> => {
    try {
      return await TimelineStore.open({ directory, startLsn: toLsn(START) }, { files, cache });
    } catch (error) {
      if (point.diskLied && error instanceof NeonError) return undefined;
      const missing = error instanceof NeonError ? error.code === ErrorCode.NotFound : true;
      if (!created && missing && !files.paths().includes(`${directory}/index.json`)) return undefined;
      throw error;
    }
  };
  const readable = async (store: TimelineStore, from: number): Promise<void> => {
    const end = Number(store.durableLsn);
    try {
      for (const lsn of [end, from, random.between(from, end)]) {
        await checkScan(store, ledger.model, ALL_KEYS, lsn);
        for (const key of KEYS) await checkGet(store, ledger.model, key, { lsn });
      }
    } catch (error) {
      if (!(point.diskLied && error instanceof NeonError && error.code === ErrorCode.Corrupt)) throw error;
    }
    await store[Symbol.asyncDispose]();
  };
  const source = await open(SOURCE, ledger.created);
  if (source) {
    const cutoff = Number(source.gcCutoffLsn);
    if (!point.diskLied) {
      assert.ok(source.durableLsn >= ledger.acknowledged, `${ledger.acknowledged} was acknowledged`);
      assert.ok(
        cutoff === ledger.nextCutoff || (cutoff === START && ledger.cutoff === START),
        `cutoff ${cutoff}`,
      );
    }
    await readable(source, cutoff);
  }
  const copy = await open(COPY, ledger.copyCreated);
  if (copy) {
    if (!point.diskLied) assert.ok(copy.durableLsn >= ledger.copyEnd, `${ledger.copyEnd} was adopted`);
    await readable(copy, START);
  }
}

export const compactionStory: Story<CompactionLedger> = {
  begin: () => new CompactionLedger(),
  run: live,
  check: look,
};
