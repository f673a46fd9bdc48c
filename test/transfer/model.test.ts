/**
 * Random branching, writing, pushing, pulling, deleting and restarting on three pageservers, against a model in which a
 * branch is a list of numbered records: what a transfer must do follows from comparing two lists.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import type { Lsn } from "../../src/base/lsn.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import { Site, TENANT, contentAt } from "./site.ts";

const OPERATIONS = 2000;
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
  private nextId = 0;

  constructor(random: SeededRandom) {
    this.random = random;
  }

  static async create(random: SeededRandom): Promise<Model> {
    const model = new Model(random);
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
    const ends = await at.site.write(name, random, { records, layers, pages: 12, pageBytes: 520 });
    const starts = at.site.lastStarts;
    const added = ends.map((endLsn, index) => ({
      id: this.nextId++,
      startLsn: starts[index] as Lsn,
      endLsn,
    }));
    at.branches.set(name, [...history, ...added]);
    const timeline = at.site.timeline(name);
    for (const record of [random.pick(added), added.at(-1)]) {
      if (record) this.digests.set(record.id, await contentAt(timeline, record.endLsn));
    }
    this.count("write");
  }

  private async branch(at: ModelSite): Promise<void> {
    const { random } = this;
    const [from, history] = this.pickBranch(at);
    const name = random.pick(NAMES);
    if (at.branches.has(name) || at.branches.size >= BRANCHES_MAX) return;
    const length = random.chance(0.3) ? history.length : random.below(history.length + 1);
    const lsn = history[length - 1]?.endLsn ?? rootStart(at.site, from);
    const timeline = at.site.timeline(from);
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
    let result: string;
    try {
      const done = isPush
        ? await at.site.push(other.site, source, target)
        : await at.site.pull(other.site, target, source);
      result = done.result;
    } catch (error) {
      if (!(error instanceof NeonError) || error.code !== ErrorCode.Conflict) throw error;
      result = String(error.data["relation"]);
    }
    assert.equal(result, expected, `${isPush ? "push" : "pull"} of ${source} to ${target}`);
    if (result === "created" || result === "updated") {
      to.branches.set(target, history);
      await this.check(to, target);
    }
    this.count(result);
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
      assert.equal(
        await contentAt(timeline, record.endLsn),
        this.digests.get(record.id),
        `${name} at ${record.endLsn}`,
      );
    }
    for (let count = 0; count < 4 && history.length > 0; count++) {
      const { startLsn, endLsn } = this.random.pick(history);
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

void test(`${OPERATIONS} random operations on three pageservers`, { timeout: 600_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using model = await Model.create(random);
  for (let operation = 0; model.operations < OPERATIONS; operation++) {
    try {
      await model.step();
    } catch (error) {
      throw new Error(`operation ${operation}: ${String(error)}`, { cause: error });
    }
  }
  t.diagnostic(JSON.stringify(Object.fromEntries(model.counts)));
  for (const what of ["created", "updated", "unchanged", "ahead", "diverged", "delete", "restart"]) {
    assert.ok((model.counts.get(what) ?? 0) > 10, `${what} occurs`);
  }
});
