/**
 * The pageserver as a process, fed with WAL over a socket, killed at random moments, start-up included, and started
 * again. What it has acknowledged (WAL through replication feedback, branches through HTTP) must be there each time.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { formatLsn, parseLsn, toLsn } from "../../src/base/lsn.ts";
import { PAGE_SIZE } from "../../src/postgres/constants.ts";
import { SeededRandom } from "../support/random.ts";
import { FakeCompute } from "./fake-compute.ts";
import { CutOff, PageserverChild, TENANT } from "./pageserver-child.ts";
import { TINY_PAGES, TINY_START, TinyWal, tinyTarBytes } from "./tiny-cluster.ts";

/** WAL of one branch; then the next branch begins where this one did. */
const WAL_BYTES = 5 << 20;
const BRANCHES_MAX = 6;
/** Pages are read and all files verified after so many rounds. */
const ROUNDS_PER_LOOK = 12;

export interface CrashOptions {
  readonly seed: number;
  readonly rounds: number;
  readonly note?: (text: string) => void;
}

export interface CrashSummary {
  /** Kills before the pageserver was ready. */
  readonly early: number;
  readonly acknowledgedBytes: number;
  readonly branches: number;
}

/** Throws at the first thing that was lost. */
export async function crashRounds(options: CrashOptions): Promise<CrashSummary> {
  await using site = await CrashSite.create(options.seed);
  await site.setUp().catch((error: unknown) => {
    throw new Error(`the pageserver's log:\n${site.log}`, { cause: error });
  });
  for (let round = 1; round <= options.rounds; round++) {
    try {
      await site.round(round % ROUNDS_PER_LOOK === 0);
    } catch (error) {
      throw new Error(`round ${round}, seed ${options.seed}; the pageserver's log:\n${site.log}`, {
        cause: error,
      });
    }
    if (round % 100 === 0) options.note?.(`${round} rounds`);
  }
  await site.server.start();
  await site.look();
  return site.summary;
}

class CrashSite implements AsyncDisposable {
  private readonly random: SeededRandom;
  private readonly wal: TinyWal;
  private readonly directory: string;
  readonly server: PageserverChild;
  private readonly compute: FakeCompute;
  private generation = "";
  private count = 0;
  /** Branches that were acknowledged, with the LSN that they had by then. */
  private readonly branches = new Map<string, number>();
  /** A change under way when the process died. */
  private readonly uncertain = new Set<string>();
  private early = 0;
  private acknowledgedBytes = 0;

  private constructor(random: SeededRandom, wal: TinyWal, directory: string, compute: FakeCompute) {
    this.random = random;
    this.wal = wal;
    this.directory = directory;
    this.server = new PageserverChild(directory, 'checkpoint_distance = "4MB"\n');
    this.compute = compute;
  }

  static async create(seed: number): Promise<CrashSite> {
    const random = new SeededRandom(seed);
    const directory = mkdtempSync(join(tmpdir(), "neon-crash-"));
    const wal = new TinyWal(random, WAL_BYTES);
    const compute = await FakeCompute.listen(wal, random, directory);
    return new CrashSite(random, wal, directory, compute);
  }

  /** The end of the log of the process that runs or ran last. */
  get log(): string {
    return this.server.log;
  }

  get summary(): CrashSummary {
    const { early, acknowledgedBytes, count } = this;
    const now = this.compute.acknowledged - TINY_START;
    return { early, acknowledgedBytes: acknowledgedBytes + now, branches: count };
  }

  async setUp(): Promise<void> {
    await this.server.start();
    await this.server.ok("POST", "/v1/tenant", { tenant_id: TENANT, pg_version: 17 });
    await this.server.ok("POST", `${this.server.tenant}/import?branch=main`, tinyTarBytes());
    this.branches.set("main", TINY_START);
    await this.newGeneration();
    await this.server.kill();
  }

  /** From a start to the kill. */
  async round(withLook: boolean): Promise<void> {
    const { random, compute } = this;
    this.server.launch();
    if (!withLook && random.chance(0.3)) {
      await sleep(random.below(500));
      if (!this.server.isReady) this.early++;
      await this.server.kill();
      return;
    }
    await this.server.ready();
    await this.checkBranches();
    if (withLook) await this.look();
    if (compute.acknowledged >= this.wal.endLsn - 4096) await this.newGeneration();
    // Enough for a while, but not for all of the branch.
    compute.limit = Math.min(this.wal.endLsn, compute.limit + random.below(900_000));
    const changes = this.changeBranches();
    // It is waited for below.
    changes.catch(() => undefined);
    await sleep(random.pick([0, 3, 10, 30, 80]) + random.below(20));
    const [, changed] = await Promise.allSettled([this.server.kill(), changes]);
    if (changed.status === "rejected") throw changed.reason;
    assert.ok(!this.server.isRunning, `it ran until it was killed; its log:\n${this.log}`);
    assert.deepEqual(compute.violations, []);
  }

  /** Makes, renames and deletes branches until the process dies. */
  private async changeBranches(): Promise<void> {
    const { random } = this;
    try {
      for (let i = random.below(4); i > 0; i--) {
        const others = [...this.branches.keys()].filter(
          (name) => name !== "main" && name !== this.generation,
        );
        const dice = random.below(10);
        if (dice < 3 && others.length > 0) await this.rename(random.pick(others));
        else if (others.length >= BRANCHES_MAX) await this.remove(random.pick(others));
        else await this.branch(this.generation, random.between(TINY_START, this.compute.acknowledged));
      }
    } catch (error) {
      // The connection was cut; what was under way may have happened or not.
      if (!(error instanceof CutOff)) throw error;
    }
  }

  private async branch(from: string, lsn: number): Promise<string> {
    const name = `branch-${++this.count}`;
    this.uncertain.add(name);
    await this.server.ok("POST", `${this.server.tenant}/branch`, {
      name,
      point: { branch: from, lsn: formatLsn(toLsn(lsn)) },
    });
    this.uncertain.delete(name);
    this.branches.set(name, TINY_START);
    return name;
  }

  private async rename(name: string): Promise<void> {
    const next = `branch-${++this.count}`;
    const lsn = this.branches.get(name) ?? 0;
    this.uncertain.add(next).add(name);
    this.branches.delete(name);
    await this.server.ok("POST", `${this.server.tenant}/branch/${name}/rename`, { new_name: next });
    this.uncertain.delete(next);
    this.uncertain.delete(name);
    this.branches.set(next, lsn);
  }

  /** Refused while it has children. */
  private async remove(name: string): Promise<void> {
    const lsn = this.branches.get(name) ?? 0;
    this.uncertain.add(name);
    this.branches.delete(name);
    const response = await this.server.fetch("DELETE", `${this.server.tenant}/branch/${name}`);
    assert.ok(response.ok || response.status === 409, `delete ${name}: ${response.status}`);
    this.uncertain.delete(name);
    if (!response.ok) this.branches.set(name, lsn);
  }

  /** A branch at the very beginning that takes in the same WAL from there. */
  private async newGeneration(): Promise<void> {
    const { compute } = this;
    if (this.generation !== "") {
      this.branches.set(this.generation, compute.acknowledged);
      this.acknowledgedBytes += compute.acknowledged - TINY_START;
      const { timeline_id: id, writer } = await this.server.ok(
        "GET",
        `${this.server.tenant}/branch/${this.generation}`,
      );
      const { epoch } = writer as { epoch: string };
      await this.server.ok("DELETE", `${this.server.tenant}/timeline/${String(id)}/writer/${epoch}`);
    }
    this.generation = await this.branch("main", TINY_START);
    const { timeline_id: id } = await this.server.ok(
      "GET",
      `${this.server.tenant}/branch/${this.generation}`,
    );
    const body = { name: "w", source: compute.source };
    const { epoch, lsn } = await this.server.ok(
      "POST",
      `${this.server.tenant}/timeline/${String(id)}/writer`,
      body,
    );
    compute.begin(String(epoch), parseLsn(String(lsn)) ?? 0);
  }

  /** Branches that were acknowledged are there, none that was not, and none has lost WAL. */
  private async checkBranches(): Promise<void> {
    // Before the question: WAL goes on coming in while it is answered.
    const { acknowledged } = this.compute;
    const { branches } = await this.server.ok("GET", `${this.server.tenant}/branch`);
    const found = new Map(
      (branches as Record<string, unknown>[]).map((branch) => [String(branch["name"]), branch]),
    );
    for (const [name, lsn] of this.branches) {
      const branch = found.get(name);
      assert.ok(branch, `branch ${name} is there`);
      assert.equal(branch["state"], "active", `${name}: ${String(branch["error"])}`);
      const wanted = name === this.generation ? acknowledged : lsn;
      const end = parseLsn(String(branch["last_record_lsn"])) ?? 0;
      assert.ok(end >= wanted, `${name} was acknowledged up to ${wanted}, ends at ${end}`);
    }
    for (const name of found.keys()) {
      if (this.branches.has(name)) continue;
      assert.ok(this.uncertain.has(name), `nobody made ${name}`);
      this.branches.set(name, TINY_START);
    }
    this.uncertain.clear();
  }

  /** Every file is whole, and pages of some branches are what they must be. */
  async look(): Promise<void> {
    await this.checkBranches();
    const lines = (await this.server.text("GET", `${this.server.tenant}/fsck`)).trim().split("\n");
    const { result } = JSON.parse(lines.at(-1) ?? "{}") as { result?: { state: string } };
    assert.ok(result?.state === "clean" || result?.state === "garbage", lines.at(-1));
    const names = new Set([this.generation, this.random.pick([...this.branches.keys()])]);
    for (const name of names) {
      const { timeline_id: id, last_record_lsn: end } = await this.server.ok(
        "GET",
        `${this.server.tenant}/branch/${name}`,
      );
      const last = parseLsn(String(end)) ?? 0;
      await this.lookAt(String(id), last);
      if (last > TINY_START) await this.lookAt(String(id), this.random.between(TINY_START, last));
    }
  }

  private async lookAt(timeline: string, lsn: number): Promise<void> {
    const query = `lsn=${formatLsn(toLsn(lsn))}&read_only=true`;
    const response = await this.server.fetch(
      "GET",
      `${this.server.tenant}/timeline/${timeline}/basebackup?${query}`,
    );
    const files = readTar(Buffer.from(await response.arrayBuffer()));
    for (const page of TINY_PAGES) {
      const file = files.get(`base/5/${page.relation}`);
      const at = page.block * PAGE_SIZE;
      const found = file && file.length > at ? file.subarray(at, at + PAGE_SIZE) : undefined;
      this.wal.check(page, lsn, found);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
    await this.compute[Symbol.asyncDispose]();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Files of a plain tar archive. */
function readTar(bytes: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  for (let at = 0; at + 512 <= bytes.length && bytes[at] !== 0;) {
    const text = (from: number, to: number): string =>
      bytes.toString("latin1", at + from, at + to).split("\0")[0] ?? "";
    const size = Number.parseInt(text(124, 136).trim() || "0", 8);
    files.set(text(0, 100), bytes.subarray(at + 512, at + 512 + size));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return files;
}
