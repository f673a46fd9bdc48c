/** Time travel against stock recovery, generations of computes on one chain of WAL, and writers of an earlier epoch. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../support/random.ts";
import { Workload, prepareWorkload } from "../support/workload.ts";
import { Lab } from "./branch-harness.ts";
import { archiveWal, digest, recoverTo } from "./stock-recovery.ts";

const POINTS = 5;

test("a branch is what stock recovery makes of the same WAL", { timeout: 300_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using lab = new Lab({ checkpointDistanceBytes: 1 << 20 });
  const main = await lab.init();
  const startLsn = main.startLsn;
  const compute = await lab.compute(main, { wal_keep_size: "10GB" });
  await prepareWorkload(compute);
  const workload = new Workload(compute, { seed: random.u32(), clients: 3 });
  await sleep(2500);
  await compute.query("create database copied_files strategy file_copy");
  await sleep(1000);
  await workload.stop();
  await compute.query(
    "begin; insert into queue (payload) values ('left prepared'); prepare transaction 'left'",
  );
  await main.syncWithWriter(30_000);
  const first = main.startLsn;
  const last = main.lastRecordLsn;
  // Recovery stops before the first record that starts at its target, so there has to be one.
  await compute.query("insert into queue (payload) values ('behind the last point')");
  const archive = archiveWal(lab.base, compute, { startLsn, segmentSize: main.cluster.segmentSize });
  const points: Lsn[] = [last];
  while (points.length < POINTS) {
    const at = first + Math.floor((last - first) * (0.2 + 0.8 * (random.below(1000) / 1000)));
    points.push((await main.recordBoundary(at as Lsn)).endLsn);
  }
  for (const lsn of points) {
    const ours = await lab.compute(await lab.branch(main, lsn));
    const theirs = await recoverTo(lab.base, archive, lsn);
    try {
      assert.deepEqual(await digest(ours), await digest(theirs), `at ${formatLsn(lsn)}`);
    } finally {
      await theirs[Symbol.asyncDispose]();
    }
    await lab.release(ours);
  }
});

test(
  "three generations of computes, none of them stopped, write one chain",
  { timeout: 300_000 },
  async () => {
    await using lab = new Lab();
    const main = await lab.init();
    const expected: number[] = [];
    for (let generation = 1; generation <= 3; generation++) {
      const compute = await lab.compute(main);
      if (generation === 1) await compute.query("create table t (id int primary key)");
      for (let i = 0; i < 50; i++) {
        const id = generation * 1000 + i;
        await compute.query("insert into t values ($1)", [id]);
        expected.push(id);
      }
      const rows = await compute.query("select id from t order by id");
      assert.deepEqual(
        rows.map((row) => row["id"]),
        expected,
      );
      await compute.kill();
      await lab.release(compute);
    }
    assert.equal(main.history.length, 3);
    // Opening replays the whole chain, with every CRC and every link to the record before checked.
    const end = main.lastRecordLsn;
    const again = await lab.reopen(main);
    assert.equal(again.lastRecordLsn, end);
    assert.equal(again.error, undefined);
    const compute = await lab.compute(again);
    assert.equal(await compute.value("select count(*)::int from t"), String(expected.length));
  },
);

test("a writer of an earlier epoch is not followed any more", { timeout: 300_000 }, async () => {
  await using lab = new Lab();
  const main = await lab.init();
  const early = await lab.compute(main);
  await early.query("create table t (v text)");
  await early.query("insert into t values ('early')");
  const late = await lab.compute(main);
  await late.query("insert into t values ('late')");
  // The early compute still runs; its commits wait for ever, and nothing of them arrives.
  const client = await early.connect();
  let returned = false;
  const tooLate = client.query("insert into t values ('too late')").then(
    () => {
      returned = true;
    },
    () => undefined,
  );
  await sleep(1000);
  assert.equal(returned, false, "a commit of the early compute does not return");
  await late.query("insert into t values ('later')");
  await main.syncWithWriter(10_000);
  const look = await lab.compute(await lab.branch(main));
  const rows = await look.query("select v from t order by v");
  assert.deepEqual(
    rows.map((row) => row["v"]),
    ["early", "late", "later"],
  );
  await early.kill();
  await tooLate;
  assert.equal(returned, false);
});
