/** Garbage collection of a tenant with branches, leases and holds, and where its bytes are: on a disk in memory. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type Lsn, formatLsn, toLsn } from "../../src/base/lsn.ts";
import { type GcOptions, collectGarbage } from "../../src/pageserver/compaction/tenant-gc.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { Scene, TENANTS } from "../faults/scene.ts";
import { TinyWal } from "../faults/tiny-cluster.ts";
import { SeededRandom } from "../support/random.ts";

const ALL: GcOptions = { dryRun: false, thorough: true, pitrIntervalMs: 0, gcHorizonBytes: 0 };
const WAL_BYTES = 60_000;

interface Stage {
  readonly files: FaultyFiles;
  readonly random: SeededRandom;
  readonly scene: Scene;
  readonly wal: TinyWal;
  /** Ends of some records, ascending; the last is the end of main. */
  readonly points: readonly Lsn[];
}

/** A branch `main` with several layers. */
async function setUp(t: TestContext, walBytes = WAL_BYTES): Promise<Stage> {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32() });
  const scene = await Scene.open(files, random);
  await scene.createTenant();
  const main = await scene.import("main");
  const wal = new TinyWal(random, walBytes);
  const ends = wal.recordEnds;
  const points: Lsn[] = [];
  for (let part = 1; part <= 6; part++) {
    const to = ends[Math.floor((ends.length * part) / 6) - 1] ?? 0;
    points.push(await scene.feed(main, wal, to));
    await main.checkpoint();
  }
  return { files, random, scene, wal, points };
}

async function layerBytes({ files, scene }: Stage, branch: string): Promise<number> {
  const directory = `${scene.directoryOf(scene.timeline(branch).id)}/layers`;
  let sum = 0;
  for (const name of await files.list(directory)) {
    const bytes = await files.readWhole(`${directory}/${name}`);
    if (/\.(delta|image)$/.test(name)) sum += bytes?.length ?? 0;
  }
  return sum;
}

test("what branches, leases and backups stand on stays, the rest goes, and reads below say why", async (t) => {
  // Enough changes that images are smaller than they are.
  const stage = await setUp(t, 15 * WAL_BYTES);
  const { scene, wal, points } = stage;
  const [first, branchPoint, leasePoint, heldPoint, , end] = points as [Lsn, Lsn, Lsn, Lsn, Lsn, Lsn];
  const main = scene.timeline("main");
  const { tenant } = scene;
  await tenant.createBranch("dev", main.id, branchPoint);
  await main.leases.renew("report", leasePoint, 60_000);
  const dry = await collectGarbage(tenant, { ...ALL, dryRun: true });
  const before = await layerBytes(stage, "main");
  assert.equal(main.gcCutoffLsn, main.startLsn);
  {
    using _hold = main.leases.hold(heldPoint, "base backup");
    const [planned] = await collectGarbage(tenant, { ...ALL, dryRun: true });
    assert.equal(await layerBytes(stage, "main"), before, "nothing has changed");
    const [report] = await collectGarbage(tenant, ALL);
    assert.deepEqual(report, planned, "a dry run says what is done then");
    assert.ok(report && report.removedBytes > 0 && report.writtenBytes > 0);
    assert.equal(await layerBytes(stage, "main"), before - report.removedBytes + report.writtenBytes);
    assert.equal(report.cutoffLsn, end);
    assert.deepEqual(
      report.roots.map((root) => [root.lsn, root.usedBy]),
      [
        [branchPoint, ['branch "dev"']],
        [leasePoint, ['lease "report"']],
        [heldPoint, ["base backup"]],
      ],
    );
    for (const lsn of [branchPoint, leasePoint, heldPoint, end]) await scene.check(main, wal, lsn);
    assert.equal((await main.recordBoundary(heldPoint)).endLsn, heldPoint);
  }
  assert.equal(dry.length, 2);
  await assert.rejects(main.recordBoundary(first), {
    code: "not_found",
    message: new RegExp(`${formatLsn(first)} lies below the GC cutoff ${formatLsn(end)}`),
  });
  await assert.rejects(tenant.createBranch("late", main.id, first), { code: "not_found" });
  await tenant.createBranch("at the same point".replaceAll(" ", "-"), main.id, branchPoint);
  // What was held goes when it is let go, and what was leased when the lease ends.
  await main.leases.release("report");
  await collectGarbage(tenant, ALL);
  await assert.rejects(main.recordBoundary(heldPoint), { code: "not_found" });
  await assert.rejects(main.recordBoundary(leasePoint), { code: "not_found" });
  await scene.check(scene.timeline("dev"), wal, branchPoint);
  await tenant.deleteBranch("dev");
  await tenant.deleteBranch("at-the-same-point");
  await collectGarbage(tenant, ALL);
  const after = await layerBytes(stage, "main");
  assert.ok(after < before, `${after} of ${before} bytes are left`);
  assert.equal(main.store.layers().filter((layer) => layer.endLsn < end && layer.spans).length, 0);
  await scene.check(main, wal, end);
  assert.equal((await main.recordBoundary(end)).endLsn, end);
  await scene.stop();
  const again = await Scene.open(stage.files, stage.random);
  await again.check(again.timeline("main"), wal, end);
  assert.equal(again.timeline("main").gcCutoffLsn, end);
  const report = await again.tenant.check({ signal: AbortSignal.timeout(60_000), progress: () => undefined });
  assert.equal(report.state, "clean", JSON.stringify(report));
  await again.stop();
});

test("a cutoff by size moves with the end, and merges change nothing that is readable", async (t) => {
  const stage = await setUp(t);
  const { scene, wal, points } = stage;
  const main = scene.timeline("main");
  const end = points.at(-1) ?? toLsn(0);
  await main.maintenance.compact({ thorough: true });
  for (const lsn of wal.recordEnds.filter((at) => at <= end)) await scene.check(main, wal, lsn);
  const half = toLsn(Math.floor((main.startLsn + end) / 2));
  const cutoff = (await main.recordBoundary(half)).endLsn;
  await collectGarbage(scene.tenant, { ...ALL, gcHorizonBytes: end - half });
  assert.equal(main.gcCutoffLsn, cutoff);
  for (const lsn of wal.recordEnds.filter((at) => at >= cutoff && at <= end)) {
    await scene.check(main, wal, lsn);
    assert.equal((await main.recordBoundary(toLsn(lsn))).endLsn, lsn);
  }
  // The cutoff never goes back.
  await collectGarbage(scene.tenant, { ...ALL, gcHorizonBytes: 10 * WAL_BYTES });
  assert.equal(main.gcCutoffLsn, cutoff);
  await scene.stop();
});

test("disk usage counts every file once", async (t) => {
  const stage = await setUp(t);
  const { files, scene, points } = stage;
  const { tenant } = scene;
  const main = scene.timeline("main");
  await tenant.createBranch("dev", main.id, points[2] ?? main.startLsn);
  await tenant.createBranch("end", main.id, main.lastRecordLsn);
  const usage = await tenant.diskUsage();
  let onDisk = 0;
  const pending = [`${TENANTS}/${tenant.id}`];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const bytes = await files.readWhole(path).catch(() => undefined);
    if (bytes !== undefined) onDisk += bytes.length;
    else for (const name of await files.list(path)) pending.push(`${path}/${name}`);
  }
  assert.equal(usage.totalBytes, onDisk);
  const sum = usage.timelines.reduce((total, timeline) => total + timeline.totalBytes, 0);
  assert.equal(sum + usage.otherBytes, onDisk);
  const of = (branch: string) => usage.timelines.find((timeline) => timeline.branches.includes(branch));
  assert.equal((of("main")?.uniqueBytes ?? 0) + (of("main")?.ownSharedBytes ?? 0), of("main")?.totalBytes);
  assert.ok((of("end")?.sharedBytes ?? 0) > (of("dev")?.sharedBytes ?? 0));
  assert.equal(of("dev")?.ownSharedBytes, 0);
  await scene.stop();
});
