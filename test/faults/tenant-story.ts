/** The life of a tenant: import, WAL, layers, branches that come, are renamed and go, restarts. */
import assert from "node:assert/strict";
import { ErrorCode, NeonError, systemCode } from "../../src/base/errors.ts";
import { PowerLossError } from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import type { Point, Run, Story } from "./everywhere.ts";
import { Scene } from "./scene.ts";
import { TINY_START, TinyWal } from "./tiny-cluster.ts";

/** The same for all runs: only the disk differs. */
const WAL = new TinyWal(new SeededRandom(7), 90_000);

/** What was acknowledged, and what is under way and may be there or not. */
export class Ledger {
  tenant = false;
  /** Branches with the LSN up to which their WAL was acknowledged. */
  readonly branches = new Map<string, number>();
  /** May be there, may be missing. */
  readonly uncertain = new Map<string, number>();

  /** Something that may or may not have happened until it returns. */
  async change(
    gone: string | undefined,
    come: string | undefined,
    lsn: number,
    work: () => Promise<unknown>,
  ): Promise<void> {
    const before = gone === undefined ? undefined : this.branches.get(gone);
    if (gone !== undefined && before !== undefined) {
      this.branches.delete(gone);
      this.uncertain.set(gone, before);
    }
    if (come !== undefined) this.uncertain.set(come, lsn);
    await work();
    if (gone !== undefined) this.uncertain.delete(gone);
    if (come !== undefined) {
      this.uncertain.delete(come);
      this.branches.set(come, lsn);
    }
  }
}

/** Does it again once if the disk did not let it, unless the process would have ended. */
async function attempt<T>(scene: Scene, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof PowerLossError || scene.fatal !== undefined) throw error;
    const resource =
      error instanceof NeonError ? error.code === ErrorCode.Resource : systemCode(error) !== undefined;
    if (!resource) throw error;
    return work();
  }
}

async function feed(scene: Scene, ledger: Ledger, branch: string, to: number): Promise<void> {
  const lsn = await attempt(scene, () => scene.feed(scene.timeline(branch), WAL, to));
  ledger.branches.set(branch, lsn);
  // The process would have ended.
  if (scene.fatal) throw scene.fatal;
}

async function live({ files, random }: Run, ledger: Ledger): Promise<void> {
  files.addDirectory("/work");
  let scene = await Scene.open(files, random);
  const step = <T>(work: () => Promise<T>): Promise<T> => attempt(scene, work);
  try {
    await step(() => scene.createTenant());
    ledger.tenant = true;
    await ledger.change(undefined, "main", TINY_START, () => step(() => scene.import("main")));
    const main = scene.timeline("main");
    await step(() => scene.noteWriter(main));
    await feed(scene, ledger, "main", TINY_START + 12_000);
    await step(() => main.checkpoint());
    // Into the next segment, with a record that is not complete.
    await feed(scene, ledger, "main", TINY_START + 40_000);
    const point = main.lastRecordLsn;
    await ledger.change(undefined, "dev", point, () =>
      step(() => scene.tenant.createBranch("dev", main.id, point)),
    );
    await feed(scene, ledger, "main", TINY_START + 52_000);
    await step(() => main.checkpoint());
    await ledger.change("dev", "test", point, () => step(() => scene.tenant.renameBranch("dev", "test")));
    const test = scene.timeline("test");
    await step(() => scene.noteWriter(test));
    await feed(scene, ledger, "test", TINY_START + 48_000);
    await scene.stop();
    scene = await Scene.open(files, random);
    await feed(scene, ledger, "main", TINY_START + 60_000);
    await feed(scene, ledger, "test", TINY_START + 60_000);
    await ledger.change("test", undefined, 0, () => step(() => scene.tenant.deleteBranch("test")));
    await step(() => scene.timeline("main").checkpoint());
  } finally {
    await scene.stop();
  }
}

/** Everything acknowledged is there and right, nothing is damaged, nothing lies about, and work goes on. */
async function look({ files, random }: Run, ledger: Ledger, point: Point): Promise<void> {
  let scene: Scene;
  try {
    scene = await Scene.open(files, random);
  } catch (error) {
    // Not even the working directory had been made.
    if (ledger.tenant || systemCode(error) !== "ENOENT") throw error;
    return;
  }
  try {
    if (point.diskLied) await lookAtLies(scene, ledger);
    else await lookAt(scene, ledger, random);
  } finally {
    await scene.stop();
  }
}

async function lookAt(scene: Scene, ledger: Ledger, random: SeededRandom): Promise<void> {
  const known = scene.tenants.list();
  assert.ok(known.every((entry) => entry.kind === "open"));
  assert.ok(known.length === 1 || !ledger.tenant, "the tenant is there");
  if (known.length === 0) {
    await scene.createTenant();
    await scene.import("main");
    ledger.tenant = true;
    ledger.branches.set("main", TINY_START);
    return;
  }
  assert.equal(scene.tenant.damagedRefs.size, 0);
  const names = scene.tenant.branches().map(({ ref }) => ref.name);
  for (const name of ledger.branches.keys()) assert.ok(names.includes(name), `branch ${name} is there`);
  for (const name of names) {
    const acknowledged = ledger.branches.get(name) ?? ledger.uncertain.get(name);
    assert.ok(acknowledged !== undefined, `nobody made branch ${name}`);
    const timeline = scene.timeline(name);
    const end = timeline.lastRecordLsn;
    assert.ok(end >= acknowledged, `${name} was acknowledged up to ${acknowledged}, ends at ${end}`);
    await scene.check(timeline, WAL, end);
    if (end > TINY_START) await scene.check(timeline, WAL, random.between(TINY_START, end));
  }
  const report = await scene.tenant.check({
    signal: new AbortController().signal,
    progress: () => undefined,
  });
  // The next layer that is written takes away WAL whose removal was interrupted.
  const found = [report.tenant, ...report.timelines].flatMap((part) => part.details);
  const wrong = found.filter(
    ({ kind, what }) => kind !== "garbage" || !what.startsWith("its WAL is in layers"),
  );
  assert.deepEqual(wrong, []);
  if (!names.includes("main")) await scene.import("main");
  ledger.branches.set("main", TINY_START);
  const main = scene.timeline("main");
  if (main.history.length === 0) await scene.noteWriter(main);
  const end = await scene.feed(main, WAL, WAL.endLsn);
  await main.checkpoint();
  await scene.check(main, WAL, end);
  if (!names.includes("after")) await scene.tenant.createBranch("after", main.id, end);
  await scene.check(scene.timeline("after"), WAL, end);
  ledger.branches.set("main", end);
  ledger.branches.set("after", end);
}

/** A disk that said that it had synced: what is served must be right, or be called damaged. */
async function lookAtLies(scene: Scene, ledger: Ledger): Promise<void> {
  for (const entry of scene.tenants.list()) {
    if (entry.kind === "broken") continue;
    for (const { ref, entry: found } of scene.tenant.branches()) {
      if (found.kind === "broken") continue;
      assert.ok(ledger.branches.has(ref.name) || ref.name === "dev" || ref.name === "test");
      const timeline = scene.timeline(ref.name);
      try {
        await scene.check(timeline, WAL, timeline.lastRecordLsn);
      } catch (error) {
        if (!(error instanceof NeonError && error.code === ErrorCode.Corrupt)) throw error;
      }
    }
  }
}

export const tenantStory: Story<Ledger> = { begin: () => new Ledger(), run: live, check: look };
