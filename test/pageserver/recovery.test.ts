/** The WAL of a branch put together again from its layers, and what stock recovery makes of it. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import { extractDataDirectory } from "../../src/compute/data-directory.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { type RecoveryStep, planRecovery, recoveryBackup } from "../../src/pageserver/verify/recovery.ts";
import { segmentName, segmentStart } from "../../src/postgres/wal/layout.ts";
import { EMBEDDED_MAJORS, TestPostgres, embeddedBinDir } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { Workload, prepareWorkload } from "../support/workload.ts";
import { until } from "../receive/harness.ts";
import { Lab } from "./branch-harness.ts";

const PAGE = 8192;
/** A flag of WAL pages that says whether a backup was running. */
const BACKUP_REMOVABLE = 0x04;

/** Stock Postgres, brought to the end of the WAL in a directory for recovery. */
async function recover(
  timeline: Timeline,
  step: RecoveryStep,
  major: number,
  check: (extracted: TestPostgres) => void,
): Promise<TestPostgres> {
  const server = await TestPostgres.create({ empty: true, binDir: embeddedBinDir(major) });
  rmSync(server.dataDir, { recursive: true });
  const source = await timeline.recoverySource();
  await extractDataDirectory(Readable.from(recoveryBackup(source, step, Date.now())), server.dataDir);
  check(server);
  server.configure({
    restore_command: "false",
    hot_standby: "off",
    max_prepared_transactions: 10,
    max_logical_replication_workers: 0,
    autovacuum: "off",
    fsync: "off",
    min_wal_size: "5MB",
  });
  writeFileSync(join(server.dataDir, "pg_hba.conf"), "local all all reject\n");
  server.ownDataDir();
  await server.start();
  // It counts as started as soon as it recovers.
  while (!server.log().includes("ready to accept connections")) {
    assert.ok(server.running, server.log());
    await sleep(20);
  }
  await server.stop();
  return server;
}

/** The WAL from the start of replay on must be what the compute wrote, up to where it ends. */
function compareWal(
  recovered: TestPostgres,
  compute: TestPostgres,
  step: RecoveryStep,
  size: number,
): number {
  let compared = 0;
  for (let start = segmentStart(step.redoLsn, size); start < step.lsn; start = (start + size) as Lsn) {
    const name = segmentName(1, start, size);
    const [ours, theirs] = [recovered, compute].map(({ dataDir }) =>
      readFileSync(join(dataDir, "pg_wal", name)),
    );
    assert.ok(ours && theirs && ours.length === size);
    for (let at = 0; at < size; at += PAGE) {
      const from = Math.max(0, step.redoLsn - start - at);
      const to = Math.min(PAGE, step.lsn - start - at);
      if (from >= PAGE || to <= 0) continue;
      for (const wal of [ours, theirs]) wal[at + 2] = (wal[at + 2] ?? 0) & ~BACKUP_REMOVABLE;
      const where = `page at ${formatLsn((start + at) as Lsn)}`;
      assert.ok(ours.subarray(at + from, at + to).equals(theirs.subarray(at + from, at + to)), where);
      compared += to - from;
    }
  }
  return compared;
}

async function notChecked(running: Promise<unknown>, pattern: RegExp): Promise<void> {
  await assert.rejects(running, (error) => {
    assert.ok(error instanceof NeonError && error.code === ErrorCode.NotChecked, String(error));
    assert.match(error.message, pattern);
    return true;
  });
}

const MAJORS = [14, 18].filter((major) => EMBEDDED_MAJORS.includes(major));

for (const major of MAJORS) {
  test(`stock recovery of a branch's own history, Postgres ${major}`, { timeout: 300_000 }, async (t) => {
    const random = SeededRandom.forTest(t);
    await using lab = new Lab({ checkpointDistanceBytes: 1 << 20 });
    const main = await lab.init(["--wal-segsize=1"], major);
    const compute = await lab.compute(main, {
      wal_keep_size: "10GB",
      min_wal_size: "5MB",
      max_wal_size: "10MB",
      autovacuum: "on",
    });
    await prepareWorkload(compute);
    const workload = new Workload(compute, { seed: random.u32(), clients: 3 });
    for (let i = 0; i < 4; i++) {
      await compute.query(`select pg_sleep(0.3)`);
      await compute.query(i === 2 ? "select pg_switch_wal()" : "checkpoint");
    }
    await compute.query("select pg_logical_emit_message(false, 'nothing', repeat('x', 20000))");
    await compute.query("create database other");
    await workload.stop();
    await compute.query("begin; insert into queue (payload) values ('left'); prepare transaction 'left'");
    await main.syncWithWriter(60_000);

    const last = main.lastRecordLsn;
    const first = main.startLsn;
    const lsns = [0.4, 0.7, 1].map((part) => Math.floor(first + (last - first) * part) as Lsn);
    const source = await main.recoverySource();
    const { steps, records } = await planRecovery(source, { fromLsn: first, lsns });
    // Two of them may lie in the void behind the switch, and be the same.
    assert.ok(steps.length >= 2, `${steps.length} steps`);
    assert.ok(records > 500, `${records} records`);
    assert.equal(steps.at(-1)?.lsn, last);
    assert.ok(steps.every((step, i) => i === 0 || step.redoLsn <= (steps[i - 1]?.lsn ?? 0)));
    for (const step of steps) {
      await using server = await recover(main, step, major, (extracted) => {
        const compared = compareWal(extracted, compute, step, main.cluster.segmentSize);
        assert.ok(compared >= step.lsn - step.redoLsn, `${compared} bytes of WAL`);
      });
      const history = readdirSync(join(server.dataDir, "pg_wal")).find((name) => name.endsWith(".history"));
      assert.ok(history !== undefined, server.log());
      const text = readFileSync(join(server.dataDir, "pg_wal", history), "utf8");
      assert.match(text, new RegExp(`^1\t${formatLsn(step.lsn)}\t`), server.log());
      const found = await main.verifyDirectory(
        { directory: server.dataDir, lsn: step.lsn, madeBy: "recovery" },
        { signal: new AbortController().signal, progress: () => undefined },
      );
      assert.deepEqual(found.differences, [], formatLsn(step.lsn));
    }

    const branch = await lab.branch(main, last);
    const ofBranch = await branch.recoverySource();
    await notChecked(planRecovery(ofBranch, { fromLsn: first, lsns: [last] }), /own WAL begins at/);
    await notChecked(planRecovery(ofBranch, { fromLsn: last, lsns: [last] }), /no checkpoint between/);
  });
}

for (const major of MAJORS) {
  test(`transactions prepared while the checkpoint was made, Postgres ${major}`, async () => {
    await using lab = new Lab();
    const main = await lab.init(["--wal-segsize=1"], major);
    const compute = await lab.compute(main, {
      checkpoint_timeout: "1h",
      min_wal_size: "5MB",
      max_wal_size: "1GB",
    });
    await compute.query("create table t as select i from generate_series(1, 20000) i");
    await compute.query("begin; insert into t values (-1); prepare transaction 'before'");
    await main.syncWithWriter(60_000);
    const fromLsn = main.lastRecordLsn;

    // A checkpoint that takes its time, until somebody is in a hurry.
    const slow = await compute.connect();
    const start = major < 15 ? "pg_start_backup('slow', false, false)" : "pg_backup_start('slow')";
    const begun = slow.query(`select ${start}`);
    await until("the checkpoint to have begun", async () => {
      const events = await compute.query(
        "select wait_event as event from pg_stat_activity where backend_type = 'checkpointer'",
      );
      return events[0]?.["event"] === "CheckpointWriteDelay";
    });
    for (const name of ["left", "committed", "rolled_back"]) {
      await compute.query(`begin; insert into t values (0); prepare transaction '${name}'`);
    }
    await compute.query("checkpoint");
    await begun;
    await slow.end();
    await compute.query("commit prepared 'committed'");
    await compute.query("rollback prepared 'rolled_back'");
    await main.syncWithWriter(60_000);

    const lsn = main.lastRecordLsn;
    const { steps } = await planRecovery(await main.recoverySource(), { fromLsn, lsns: [lsn] });
    const [step] = steps;
    assert.ok(step);
    await using server = await recover(main, step, major, () => undefined);
    assert.equal(readdirSync(join(server.dataDir, "pg_twophase")).length, 2, server.log());
    const found = await main.verifyDirectory(
      { directory: server.dataDir, lsn: step.lsn, madeBy: "recovery" },
      { signal: new AbortController().signal, progress: () => undefined },
    );
    assert.deepEqual(found.differences, []);
  });
}
