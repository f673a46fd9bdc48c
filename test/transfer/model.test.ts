/**
 * Random branching, writing, pushing, pulling, deleting and restarting on three pageservers, against a model in which a
 * branch is a list of numbered records: what a transfer must do follows from comparing two lists. Once more with garbage
 * collection, each time with another window: what is readable is right, and what was readable stays so through a transfer.
 */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type Lsn, lsnMax, parseLsn } from "../../src/base/lsn.ts";
import { collectGarbage } from "../../src/pageserver/compaction/tenant-gc.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import { Site, TENANT, contentAt } from "./site.ts";

const OPERATIONS = 2000;
const OPERATIONS_WITH_GC = 700;
const NAMES = ["main", "dev", "test", "stage", "feature/a", "feature/b", "v1", "v2", "Ünïcode"];
/** Branches of one pageserver, and records of one branch. */
const BRANCHES_MAX = 6;
const RECORDS_MAX = 600;

interface ModelRecord {
  readonly id: number;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

/** Oldest first; never changed. */
type History = readonly ModelRecord[];

class ModelSite {
  site: Site;
  readonly branches = new Map<string, History>();

  constructor(site: Site) {
    this.site = site;
  }
}

class Model implements AsyncDisposable {
  readonly sites: ModelSite[] = [];
  readonly counts = new Map<string, number>();
  private readonly random: SeededRandom;
  private readonly digests = new Map<number, string>();
  /** Then only whole values are written, of which compaction can make images, and only the newest are compared. */
  private readonly collects: boolean;
  private nextId = 0;

  constructor(random: SeededRandom, collects: boolean) {
    this.random = random;
    this.collects = collects;
  }

  static async create(random: SeededRandom, { collects }: { collects: boolean }): Promise<Model> {
    const model = new Model(random, collects);
    for (let number = 0; number < 3; number++) {
      const files = new FaultyFiles({ random: () => random.u32() });
      await files.makeDirectory("/site");
      model.sites.push(new ModelSite(await Site.open({ files, directory: "/site" })));
    }
    const [first] = model.sites;
    assert(first);
    await first.site.init({ pages: 3 });
    first.branches.set("main", []);
    return model;
  }

  async step(): Promise<void> {
    const { random } = this;
    const at = random.pick(this.sites);
    if (at.branches.size === 0) return this.transfer(at);
    if (this.collects && random.chance(0.15)) return this.collect(at);
    const dice = random.below(100);
    if (dice < 32) return this.write(at);
    if (dice < 42) return this.branch(at);
    if (dice < 56) return this.delete(at);
    if (dice < 59) return this.restart(at);
    return this.transfer(at);
  }

  get operations(): number {
    return [...this.counts.values()].reduce((sum, count) => sum + count, 0);
  }

  private count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  private pickBranch(at: ModelSite): [string, History] {
    return this.random.pick([...at.branches]);
  }

  private async write(at: ModelSite): Promise<void> {
    const { random } = this;
    const [name, history] = this.pickBranch(at);
    if (history.length > RECORDS_MAX) return;
    // Mostly one of the three writes to a branch: otherwise nearly all of them would have diverged soon.
    if (NAMES.indexOf(name) % 3 !== this.sites.indexOf(at) && !random.chance(0.06)) return;
    const records = random.chance(0.2) ? random.between(30, 80) : random.between(1, 12);
    const layers = random.between(1, Math.min(2, records));
    const images = this.collects;
    const ends = await at.site.write(name, random, { records, layers, images, pages: 12, pageBytes: 520 });
    const starts = at.site.lastStarts;
    const added = ends.map((endLsn, index) => ({
      id: this.nextId++,
      startLsn: starts[index] as Lsn,
      endLsn,
    }));
    at.branches.set(name, [...history, ...added]);
    const timeline = at.site.timeline(name);
    for (const record of [random.pick(added), added.at(-1)]) {
      if (record) this.digests.set(record.id, await contentAt(timeline, record.endLsn, this.collects));
    }
    this.count("write");
  }

  /** Garbage collection keeps some WAL, much or little of it, and thoroughly or not. */
  private async collect(at: ModelSite): Promise<void> {
    const { random } = this;
    const tenant = at.site.tenants.get(TENANT);
    for (const [, entry] of tenant.timelineEntries()) {
      if (entry.kind !== "open" || random.chance(0.5)) continue;
      await entry.timeline.maintenance.compact({ thorough: random.chance(0.5) });
    }
    const gcHorizonBytes = random.below(random.chance(0.3) ? 100 : 20_000);
    const thorough = random.chance(0.7);
    await collectGarbage(tenant, { pitrIntervalMs: 0, gcHorizonBytes, dryRun: false, thorough });
    await this.check(at, this.pickBranch(at)[0]);
    this.count("gc");
  }

  private async branch(at: ModelSite): Promise<void> {
    const { random } = this;
    const [from, history] = this.pickBranch(at);
    const name = random.pick(NAMES);
    if (at.branches.has(name) || at.branches.size >= BRANCHES_MAX) return;
    const length = random.chance(0.3) ? history.length : random.below(history.length + 1);
    const lsn = history[length - 1]?.endLsn ?? rootStart(at.site, from);
    const timeline = at.site.timeline(from);
    if (!(await isReadable(timeline, lsn))) return;
    await at.site.tenants.get(TENANT).createBranch(name, timeline.id, lsn);
    at.branches.set(name, history.slice(0, length));
    this.count("branch");
  }

  private async delete(at: ModelSite): Promise<void> {
    const [name] = this.pickBranch(at);
    // Something has to be left somewhere.
    if (this.sites.reduce((sum, site) => sum + site.branches.size, 0) <= 3) return;
    try {
      await at.site.tenants.get(TENANT).deleteBranch(name);
      at.branches.delete(name);
      this.count("delete");
    } catch (error) {
      assert(error instanceof NeonError && error.code === ErrorCode.Conflict, String(error));
    }
  }

  private async restart(at: ModelSite): Promise<void> {
    at.site = await at.site.reopen();
    assert.deepEqual(at.site.branches(), [...at.branches.keys()].sort());
    for (const name of at.branches.keys()) await this.check(at, name);
    this.count("restart");
  }

  private async transfer(at: ModelSite): Promise<void> {
    const { random } = this;
    const other = random.pick(this.sites.filter((site) => site !== at));
    const isPush = random.chance(0.5);
    const [from, to] = isPush ? [at, other] : [other, at];
    if (from.branches.size === 0) return;
    const [source, history] = this.pickBranch(from);
    const target = random.chance(0.7) ? source : random.pick(NAMES);
    const before = to.branches.get(target);
    if (before === undefined && to.branches.size >= BRANCHES_MAX) return;
    const expected = before === undefined ? "created" : compare(history, before);
    const readable = before && (await this.readable(to, target, before));
    let result: string;
    let commonLsn: string | null = null;
    try {
      const done = isPush
        ? await at.site.push(other.site, source, target)
        : await at.site.pull(other.site, target, source);
      result = done.result;
      commonLsn = done.from_lsn;
    } catch (error) {
      if (!(error instanceof NeonError) || error.code !== ErrorCode.Conflict) throw error;
      result = String(error.data["relation"]);
    }
    assert.equal(result, expected, `${isPush ? "push" : "pull"} of ${source} to ${target}`);
    if (result === "created" || result === "updated") {
      to.branches.set(target, history);
      await this.check(to, target);
      if (to.site.timeline(target).store.retention?.stretches) this.count("gap");
      const { gcCutoffLsn } = from.site.timeline(source);
      const fromLsn = lsnMax(gcCutoffLsn, parseLsn(commonLsn ?? "") ?? gcCutoffLsn);
      const sent = (await this.readable(from, source, history)).filter(({ endLsn }) => endLsn > fromLsn);
      await this.checkReadable(from.site.timeline(source), [to, target], [...(readable ?? []), ...sent]);
    }
    this.count(result);
  }

  /** Some records of a branch whose ends can be read. */
  private async readable(at: ModelSite, name: string, history: History): Promise<ModelRecord[]> {
    const found: ModelRecord[] = [];
    for (let count = 0; count < 8 && history.length > 0; count++) {
      const record = count === 0 ? history.at(-1) : this.random.pick(history);
      if (record && (await isReadable(at.site.timeline(name), record.endLsn))) found.push(record);
    }
    return found;
  }

  /** After a transfer the receiver can read what it could, and what was sent and lies above the sender's cutoff. */
  private async checkReadable(
    sender: Timeline,
    [to, target]: [ModelSite, string],
    records: readonly ModelRecord[],
  ): Promise<void> {
    const timeline = to.site.timeline(target);
    for (const { id, endLsn } of records) {
      assert.ok(await isReadable(timeline, endLsn), `${target} at ${endLsn}, record ${id}`);
      const content = await contentAt(timeline, endLsn, this.collects);
      const known = this.digests.get(id);
      if (known !== undefined) assert.equal(content, known, `${target} at ${endLsn}`);
      // The sender may have it, too.
      if (!(await isReadable(sender, endLsn))) continue;
      assert.equal(await contentAt(sender, endLsn, this.collects), content, `${target} at ${endLsn}`);
    }
  }

  /** A few moments of a branch. */
  private async check(at: ModelSite, name: string): Promise<void> {
    const history = at.branches.get(name) ?? [];
    const timeline = at.site.timeline(name);
    assert.equal(
      timeline.lastRecordLsn,
      history.at(-1)?.endLsn ?? rootStart(at.site, name),
      `end of ${name}`,
    );
    const known = history
      .map((record, index) => ({ record, index }))
      .filter(({ record }) => this.digests.has(record.id));
    const moments =
      known.length === 0 ? [] : [this.random.pick(known), this.random.pick(known), known.at(-1)];
    for (const moment of moments) {
      if (!moment) continue;
      const { record } = moment;
      if (!(await isReadable(timeline, record.endLsn))) continue;
      assert.equal(
        await contentAt(timeline, record.endLsn, this.collects),
        this.digests.get(record.id),
        `${name} at ${record.endLsn}`,
      );
    }
    for (let count = 0; count < 4 && history.length > 0; count++) {
      const { startLsn, endLsn } = this.random.pick(history);
      if (!(await isReadable(timeline, endLsn))) continue;
      assert.deepEqual(
        await timeline.recordBoundary(endLsn),
        { previousLsn: startLsn, endLsn },
        `${name}: the record that ends at ${endLsn}`,
      );
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { site } of this.sites) await site[Symbol.asyncDispose]();
  }
}

/** What garbage collection has given up is refused, and nothing else is. */
async function isReadable(timeline: Timeline, lsn: Lsn): Promise<boolean> {
  try {
    await timeline.recordBoundary(lsn);
    return true;
  } catch (error) {
    assert(error instanceof NeonError && error.code === ErrorCode.NotFound, String(error));
    let holder = timeline;
    while (lsn < holder.startLsn && holder.parent) holder = holder.parent.timeline;
    assert.ok(lsn < holder.gcCutoffLsn, `${lsn} is refused, the cutoff is ${holder.gcCutoffLsn}`);
    return false;
  }
}

function rootStart(site: Site, branch: string): Lsn {
  const tenant = site.tenants.get(TENANT);
  let timeline = site.timeline(branch);
  while (timeline.ancestor) timeline = tenant.timeline(timeline.ancestor.timelineId);
  return timeline.startLsn;
}

/** What a transfer of `ours` to a branch that has `theirs` comes to. */
function compare(ours: History, theirs: History): string {
  let common = 0;
  while (common < ours.length && common < theirs.length && ours[common]?.id === theirs[common]?.id) common++;
  if (common === theirs.length) return common === ours.length ? "unchanged" : "updated";
  return common === ours.length ? "ahead" : "diverged";
}

async function play(
  t: TestContext,
  options: { collects: boolean; operations: number; occur: readonly string[]; least: number },
): Promise<void> {
  const random = SeededRandom.forTest(t);
  await using model = await Model.create(random, options);
  for (let operation = 0; model.operations < options.operations; operation++) {
    try {
      await model.step();
    } catch (error) {
      throw new Error(`operation ${operation}: ${String(error)}`, { cause: error });
    }
  }
  t.diagnostic(JSON.stringify(Object.fromEntries(model.counts)));
  for (const what of options.occur)
    assert.ok((model.counts.get(what) ?? 0) > options.least, `${what} occurs`);
  for (const { site } of model.sites) {
    if (!site.hasTenant) continue;
    const signal = AbortSignal.timeout(60_000);
    const report = await site.tenants.get(TENANT).check({ signal, progress: () => undefined });
    assert.equal(report.state, "clean", JSON.stringify(report));
  }
}

const OCCUR = ["created", "updated", "unchanged", "ahead", "diverged", "delete", "restart"];

void test(`${OPERATIONS} random operations on three pageservers`, { timeout: 600_000 }, async (t) => {
  await play(t, { collects: false, operations: OPERATIONS, occur: OCCUR, least: 10 });
});

void test(`${OPERATIONS_WITH_GC} of them, with garbage collection`, { timeout: 600_000 }, async (t) => {
  const occur = ["created", "updated", "gc", "gap"];
  await play(t, { collects: true, operations: OPERATIONS_WITH_GC, occur, least: 2 });
});
