/** Compaction and garbage collection of what a real server has written, in the thread in which they run for users. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import { CompactionThread } from "../../src/pageserver/compaction/compaction-thread.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { SeededRandom } from "../support/random.ts";
import { Workload, prepareWorkload } from "../support/workload.ts";
import { Lab } from "./branch-harness.ts";

const POINTS = 12;

/** A checksum of the base backup at an LSN; `nowMs` is in it, so the clock of the lab stands still. */
async function backupHash(timeline: Timeline, lsn: Lsn): Promise<string> {
  const hash = createHash("sha256");
  const { stream } = await timeline.baseBackup({ lsn, readOnly: false });
  for await (const chunk of stream) hash.update(chunk);
  return hash.digest("hex");
}

test("base backups at every retained point stay the same", { timeout: 600_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using compaction = new CompactionThread(new RealFiles());
  let nowMs = Date.now();
  const clock = { now: () => nowMs };
  await using lab = new Lab({ checkpointDistanceBytes: 1 << 20, compaction, flushedLayersMin: 3, clock });
  const main = await lab.init();
  const compute = await lab.compute(main);
  await prepareWorkload(compute);
  const workload = new Workload(compute, { seed: random.u32(), clients: 2 });
  await sleep(1500);
  await compute.query("create database copied_files strategy file_copy");
  await compute.query(
    "create table big as select i, repeat('x', 200) as filler from generate_series(1, 60000) i",
  );
  await sleep(500);
  await workload.stop();
  await compute.query("drop table big");
  await main.syncWithWriter(60_000);
  await main.checkpoint();
  const end = main.lastRecordLsn;
  const points: Lsn[] = [end];
  while (points.length < POINTS) {
    const at = main.startLsn + random.below(end - main.startLsn);
    points.push((await main.recordBoundary(at as Lsn)).endLsn);
  }
  const branchLsn = points[1] ?? end;
  const child = await lab.branch(main, branchLsn);
  const before = new Map<Lsn, string>();
  for (const lsn of points) before.set(lsn, await backupHash(main, lsn));
  const childHash = await backupHash(child, branchLsn);
  assert.equal(childHash, before.get(branchLsn));

  const small = await main.maintenance.compact({ thorough: false });
  assert.ok(small.merges > 0, JSON.stringify(small));
  const result = await main.maintenance.compact({ thorough: true });
  assert.ok(small.imageLayers + result.imageLayers > 0, JSON.stringify(result));
  for (const lsn of points) assert.equal(await backupHash(main, lsn), before.get(lsn), formatLsn(lsn));

  // Everything below the end is given up, but for the branch.
  nowMs += 1000;
  const cutoff = await main.maintenance.planCutoff({ pitrIntervalMs: 0, gcHorizonBytes: 0 });
  assert.ok(cutoff !== undefined && cutoff.cutoff.endLsn >= end);
  const described = await main.maintenance.describe([branchLsn, end]);
  const last = described.at(-1);
  assert.ok(last !== undefined);
  nowMs -= 1000;
  await main.maintenance.retain({ cutoff: last, points: described.slice(0, -1).filter((p) => p.lsn < end) });
  const sizeBefore = main.physicalBytes;
  const collected = await main.maintenance.collect({ thorough: true });
  assert.ok(collected.removable.length > 0);
  assert.ok(main.physicalBytes < sizeBefore, `${main.physicalBytes} of ${sizeBefore}`);
  assert.equal(await backupHash(main, end), before.get(end));
  assert.equal(await backupHash(child, branchLsn), childHash);
  for (const lsn of points) {
    if (lsn === end || lsn === branchLsn) continue;
    await assert.rejects(main.baseBackup({ lsn, readOnly: true }), {
      code: "not_found",
      message: /GC cutoff/,
    });
  }
  nowMs = Date.now();
  assert.equal(await main.resolveTimestamp(nowMs), end);
  await assert.rejects(main.resolveTimestamp(main.createdAt), { message: /GC cutoff/ });
  await child.close();
  // The writer goes on, and a restart finds all of it.
  await compute.query("create table after_gc as select 1 as one");
  await main.syncWithWriter(60_000);
  await lab.release(compute);
  const again = await lab.reopen(main);
  assert.equal(again.gcCutoffLsn, end);
  const second = await lab.compute(again);
  assert.deepEqual(await second.query("select one from after_gc"), [{ one: 1 }]);
  await lab.release(second);
});
