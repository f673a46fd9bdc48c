/**
 * Random operations on a family of stores beside a model: branch, write, read at an LSN, delete, merge, make images,
 * collect garbage, restart, lose power. Whatever may be read must be what the model says.
 */
import assert from "node:assert/strict";
import { ErrorCode } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { type CompactionPolicy, compactStore } from "../../src/storage/compact.ts";
import { runCompaction } from "../../src/storage/compaction-job.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { Findings } from "../../src/storage/findings.ts";
import { checkStore, openToCheck } from "../../src/storage/fsck.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { planGc } from "../../src/storage/plan-gc.ts";
import { type StoreOptions, TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { SeededRandom } from "../support/random.ts";
import { ModelTimeline, checkGet, checkScan, imagesOf, putBoth } from "../storage/model.ts";
import { toolsFor } from "./compaction-story.ts";
import { type Share, type ShareResult, described } from "./threads.ts";

const OPERATIONS_PER_WORLD = 2500;
const LINES_MAX = 5;
const START = 1000;

interface Line {
  readonly name: string;
  readonly options: Omit<StoreOptions, "ancestor">;
  readonly parent: Line | undefined;
  readonly model: ModelTimeline;
  store: TimelineStore;
  end: number;
  /** Below it only `points` may be read. */
  cutoff: number;
  points: number[];
}

const makeKey = (relNumber: number, block: number): Key => ({
  kind: 0,
  spcOid: 1663,
  dbOid: 5,
  relNumber,
  fork: 0,
  block,
});

const KEYS: readonly Key[] = Array.from({ length: 40 }, (_, i) =>
  makeKey(1 + (i % 4), Math.floor(i / 4) * 30),
);

const POLICY: CompactionPolicy = {
  merge: { flushedLayersMin: 3, mergeBytesMax: 1 << 20 },
  images: { changesPerImage: 1, changesBytesMin: 1, layersMax: 3 },
  fileBytesMax: 8000,
  imagesWithin: ALL_KEYS,
  cuts: [makeKey(3, 0)],
};

class World {
  readonly random: SeededRandom;
  readonly counts: Record<string, number> = {};
  private files: FaultyFiles;
  private cache: StoreCache;
  private lines: Line[] = [];
  private lastName = 0;
  private lastBlob = 0;

  constructor(seed: number) {
    this.random = new SeededRandom(seed);
    this.files = new FaultyFiles({ random: () => this.random.u32(), shortReads: true, interleave: true });
    this.files.addDirectory("/tenant");
    this.cache = this.newCache();
  }

  private newCache(): StoreCache {
    const capacityBytes = this.random.pick([0, 20_000, 1 << 20]);
    return new StoreCache({ capacityBytes, handlesMax: this.random.between(1, 4) }, { files: this.files });
  }

  private count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  async run(operations: number): Promise<void> {
    await this.branch();
    for (let i = 0; i < operations; i++) {
      await this.step().catch((error: unknown) => {
        throw new Error(`operation ${i}`, { cause: error });
      });
    }
    for (const line of this.lines) await this.checkLine(line);
    await this.close();
  }

  private async step(): Promise<void> {
    const { random } = this;
    const line = random.pick(this.lines);
    const dice = random.below(1000);
    if (dice < 560) this.put(line);
    else if (dice < 900) await this.get(line);
    else if (dice < 915) await this.scan(line);
    else if (dice < 950) await this.flush(line);
    else if (dice < 957) await this.images(line);
    else if (dice < 968) await this.branch();
    else if (dice < 973) await this.delete(line);
    else if (dice < 983) await this.compact(line);
    else if (dice < 991) await this.collectGarbage(line);
    else if (dice < 995) await this.restart();
    else if (dice < 998) await this.losePower();
    else await this.fsck(line);
  }

  private put(line: Line): void {
    this.count("put");
    const { random } = this;
    line.end += random.pick([1, 8, 8, 72, 8192]);
    const { Record, Image, WillInit, Tombstone } = ValueFlag;
    const flags = random.pick([Record, Record, Record, Record, Image, Record | WillInit, Tombstone]);
    const keys = Array.from({ length: random.between(1, 3) }, () => random.pick(KEYS));
    const sizeBytes = random.pick([0, 30, 70, 70, 600, 3000]);
    putBoth(line.store, line.model, keys, { lsn: line.end, flags, id: ++this.lastBlob, sizeBytes });
  }

  /** An LSN at which a timeline may be read. */
  private readable(line: Line): number {
    const { random } = this;
    if (line.points.length > 0 && random.chance(0.2)) return random.pick(line.points);
    return random.between(line.cutoff, line.end + 1);
  }

  private async get(line: Line): Promise<void> {
    this.count("get");
    const { random } = this;
    const lsn = this.readable(line);
    const floor = lsn >= line.cutoff && random.chance(0.3) ? random.between(line.cutoff, lsn) : undefined;
    await checkGet(line.store, line.model, random.pick(KEYS), { lsn, floor });
    if (line.cutoff > line.options.startLsn && random.chance(0.1)) {
      const below = random.between(line.options.startLsn, line.cutoff - 1);
      if (line.points.includes(below)) return;
      assert.throws(
        () => {
          line.store.checkReadable(toLsn(below));
        },
        { code: ErrorCode.NotFound },
      );
    }
  }

  private async scan(line: Line): Promise<void> {
    this.count("scan");
    await checkScan(line.store, line.model, ALL_KEYS, Math.min(this.readable(line), line.end));
  }

  private async flush(line: Line): Promise<void> {
    this.count("flush");
    line.store.freeze(toLsn(line.end));
    if (this.random.chance(0.2)) this.put(line);
    await line.store.flush();
  }

  private async images(line: Line): Promise<void> {
    this.count("images");
    const { store } = line;
    const lsn = toLsn(this.random.between(line.cutoff, store.durableLsn));
    const taken = store.layers().some((layer) => layer.name.endsWith(".image") && layer.endLsn === lsn);
    if (!taken) await store.addImageLayer(ALL_KEYS, lsn, imagesOf(store, ALL_KEYS, lsn));
  }

  private async branch(): Promise<void> {
    if (this.lines.length >= LINES_MAX) return;
    this.count("branch");
    const parent = this.lines.length === 0 ? undefined : this.random.pick(this.lines);
    const lsn = parent ? this.random.between(parent.cutoff, parent.store.durableLsn) : START;
    const name = `line-${++this.lastName}`;
    const imageFileBytes = this.random.pick([1, 2000, 1 << 30]);
    const options = { directory: `/tenant/${name}`, startLsn: toLsn(lsn), imageFileBytes };
    const model = new ModelTimeline(parent && { model: parent.model, lsn });
    const ancestor = parent && { store: parent.store, lsn: toLsn(lsn) };
    const { files, cache } = this;
    const store = await TimelineStore.create({ ...options, ancestor }, { files, cache });
    this.lines.push({ name, options, parent, model, store, end: lsn, cutoff: lsn, points: [] });
  }

  private childrenOf(line: Line): Line[] {
    return this.lines.filter((other) => other.parent === line);
  }

  private async delete(line: Line): Promise<void> {
    if (this.lines.length < 2 || this.childrenOf(line).length > 0) return;
    this.count("delete");
    this.lines = this.lines.filter((other) => other !== line);
    await line.store[Symbol.asyncDispose]();
    await this.files.removeTree(line.options.directory);
    await this.files.syncDirectory("/tenant");
  }

  private async compact(line: Line): Promise<void> {
    this.count("compact");
    const { files } = this;
    await compactStore(line.store, POLICY, (request) => runCompaction(request, toolsFor(files)));
  }

  private async collectGarbage(line: Line): Promise<void> {
    this.count("gc");
    const { random } = this;
    const { store } = line;
    const cutoff = random.between(line.cutoff, store.durableLsn);
    const roots = this.childrenOf(line).map((child) => Number(child.options.startLsn));
    const kept = [...line.points, ...roots].filter((lsn) => lsn < cutoff && roots.includes(lsn));
    const points = [...new Set(kept)].sort((a, b) => a - b);
    const pointAt = (lsn: number) => ({ lsn: toLsn(lsn), previousLsn: toLsn(lsn - 1), commitMs: null });
    await store.retain({ cutoff: pointAt(cutoff), points: points.map(pointAt) });
    line.cutoff = cutoff;
    line.points = points;
    const lsns = points.map((lsn) => toLsn(lsn));
    const input = { cutoffLsn: toLsn(cutoff), points: lsns, imagesWithin: ALL_KEYS };
    const { removable } = await planGc({ layers: store.layers(), ...input });
    await store.replaceLayers([], new Set(removable.map((layer) => layer.name)));
    if (removable.length > 0) this.count("gc that removed something");
  }

  private async fsck(line: Line): Promise<void> {
    this.count("fsck");
    const findings = new Findings();
    const toCheck = await openToCheck(line.options.directory, { open: line.store }, findings, this.files);
    await checkStore(toCheck, line.store, findings, this.files);
    assert.equal(findings.state, "clean", JSON.stringify(findings.list));
  }

  private async restart(): Promise<void> {
    this.count("restart");
    await this.close();
    await this.reopen(this.random.chance(0.5) ? this.files.afterKill() : this.files);
  }

  private async losePower(): Promise<void> {
    this.count("power loss");
    const after = this.files.afterPowerLoss();
    const durable = this.lines.map((line) => Number(line.store.durableLsn));
    for (const line of this.lines) await line.store[Symbol.asyncDispose]();
    await this.cache[Symbol.asyncDispose]();
    await this.reopen(after);
    for (const [i, line] of this.lines.entries())
      assert.ok(line.store.durableLsn >= (durable[i] ?? 0), line.name);
  }

  /** Parents come before their children in the list. */
  private async reopen(files: FaultyFiles): Promise<void> {
    this.files = files;
    this.cache = this.newCache();
    const { cache } = this;
    for (const line of this.lines) {
      const { parent, options } = line;
      const ancestor = parent && { store: parent.store, lsn: options.startLsn };
      line.store = await TimelineStore.open({ ...options, ancestor }, { files, cache });
      line.end = line.store.durableLsn;
      line.model.truncate(line.end);
      assert.equal(line.store.gcCutoffLsn, line.cutoff, "the cutoff survives");
    }
  }

  private async close(): Promise<void> {
    for (const line of this.lines) await line.store[Symbol.asyncDispose]();
    await this.cache[Symbol.asyncDispose]();
    assert.equal(this.files.openHandles, 0);
  }

  private async checkLine(line: Line): Promise<void> {
    for (const key of KEYS) {
      await checkGet(line.store, line.model, key, { lsn: line.end });
      await checkGet(line.store, line.model, key, { lsn: this.readable(line) });
    }
    for (const lsn of [line.end, line.cutoff, ...line.points]) {
      await checkScan(line.store, line.model, ALL_KEYS, lsn);
    }
  }
}

export async function runModel({ seed, size, share, shares }: Share): Promise<ShareResult> {
  const counts: Record<string, number> = {};
  const worlds = Math.ceil(size / OPERATIONS_PER_WORLD);
  for (let world = share; world < worlds; world += shares) {
    const one = new World(seed + world);
    try {
      await one.run(OPERATIONS_PER_WORLD);
    } catch (error) {
      return {
        counts,
        failure: `world ${world} (one thread with size 1 and this seed plus ${world}): ${described(error)}`,
      };
    }
    for (const [name, count] of Object.entries(one.counts)) counts[name] = (counts[name] ?? 0) + count;
  }
  return { counts, failure: undefined };
}
