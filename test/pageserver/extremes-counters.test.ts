/**
 * Counters at their limits, on one cluster: xids, multixact ids, their members and OIDs all go over 2^32, with
 * subtransactions and prepared transactions on both sides; then everything old is frozen and the SLRUs are truncated.
 * Branches at every step are compared with stock recovery, file by file, and used.
 */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { Lsn } from "../../src/base/lsn.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { Slru } from "../../src/postgres/slru.ts";
import { EMBEDDED_MAJORS, type TestPostgres } from "../support/postgres.ts";
import { Lab } from "./branch-harness.ts";
import { compareDirectories } from "./compare-directories.ts";
import {
  WalArchive,
  complainTo,
  compareWithRecovery,
  freezeAll,
  readControl,
  segmentsOf,
  setCounters,
  subtransactions,
} from "./extremes-harness.ts";

const LIMIT = 2 ** 32;
/** Stations on the way to the limit, each less than 2^31 behind the next. */
const STATIONS = [1_500_000_000, 3_000_000_000];
const SETTINGS = {
  wal_keep_size: "10GB",
  track_commit_timestamp: "on",
  max_prepared_transactions: 20,
  wal_log_hints: "on",
  wal_level: "logical",
};
/** How far before their limits the counters are set. */
const XIDS_LEFT = 6000;
const MULTIS_LEFT = 1500;
const MEMBERS_LEFT = 4000;
const OIDS_LEFT = 60;

/** Brings a new cluster near all limits, with everything frozen on the way: ids are compared modulo 2^32. */
async function age(server: TestPostgres): Promise<void> {
  for (const nextXid of [...STATIONS, LIMIT - XIDS_LEFT - 1000]) {
    setCounters(server, {
      nextXid: BigInt(nextXid),
      nextMulti: nextXid,
      oldestMulti: nextXid,
      nextMultiOffset: nextXid,
    });
    await server.start();
    await freezeAll(server);
    await server.stop();
  }
  const { checkpoint } = readControl(server);
  assert(Number(checkpoint.nextXid) < LIMIT - XIDS_LEFT, "freezing took few xids");
  assert(checkpoint.oldestXid > LIMIT / 2, `the oldest xid is ${checkpoint.oldestXid}`);
  setCounters(server, {
    nextXid: BigInt(LIMIT - XIDS_LEFT),
    nextOid: LIMIT - OIDS_LEFT,
    nextMulti: LIMIT - MULTIS_LEFT,
    oldestMulti: LIMIT - MULTIS_LEFT,
    nextMultiOffset: LIMIT - MEMBERS_LEFT,
  });
}

/** Rows that two transactions lock together, each row with a multixact of its own. */
async function lockTogether(server: TestPostgres, rows: number): Promise<void> {
  const [one, two] = [await server.connect(), await server.connect()];
  await one.query("begin");
  await one.query(`do $$ begin for k in 1..${rows} loop
    begin perform 1 from m where i = k for key share; exception when division_by_zero then null; end;
  end loop; end $$`);
  await two.query("begin");
  await two.query(`select from m where i <= ${rows} for key share`);
  // Both locks are still held on branches that begin here, as far as these know.
  await one.query("commit");
  await two.query("commit");
  await one.end();
  await two.end();
}

class Steps {
  private readonly lab: Lab;
  private readonly main: Timeline;
  readonly points: { name: string; lsn: Lsn; rows: string }[] = [];
  compute: TestPostgres;

  constructor(lab: Lab, main: Timeline, compute: TestPostgres) {
    this.lab = lab;
    this.main = main;
    this.compute = compute;
  }

  async reached(name: string): Promise<void> {
    await this.main.syncWithWriter(60_000);
    this.points.push({ name, lsn: this.main.lastRecordLsn, rows: await contents(this.compute) });
  }

  /** Kills the compute and builds it anew, as after a crash of the machine. */
  async rebuild(archive: WalArchive, startLsn: Lsn): Promise<Lsn> {
    await this.main.syncWithWriter(60_000);
    archive.add(this.compute, startLsn);
    await this.compute.kill();
    await this.lab.release(this.compute);
    const from = this.main.lastRecordLsn;
    this.compute = await this.lab.compute(this.main, SETTINGS);
    return from;
  }
}

function contents(server: TestPostgres): Promise<string> {
  return server.value(
    "select count(*) || ' ' || coalesce(sum(i), 0) from (select i from t union all select i from m) x",
  );
}

async function runCounters(t: TestContext, major: number): Promise<void> {
  await using lab = new Lab({
    checkpointDistanceBytes: 2 << 20,
    log: complainTo(t),
  });
  const main = await lab.init([], major, age);
  const archive = new WalArchive(lab.base);
  let startLsn = main.lastRecordLsn;
  const steps = new Steps(lab, main, await lab.compute(main, SETTINGS));
  const run = (sql: string): Promise<unknown> => steps.compute.query(sql);
  await run("create table t (i int)");
  await run("create table m (i int primary key)");
  await run("insert into m select generate_series(1, 3000)");
  await run("begin; insert into t values (-1); prepare transaction 'before the wrap'");
  await lockTogether(steps.compute, 700);
  await steps.reached("before");

  await run("create table o (v text)");
  for (let i = 0; i < 40; i++) await run(`create table o${i} (v text)`);
  assert(
    Number(
      await steps.compute.value("select count(*)::int from pg_class where oid between 16384 and 16500"),
    ) > 0,
  );
  assert(
    Number(await steps.compute.value(`select count(*)::int from pg_class where oid > ${LIMIT - 100}`)) > 0,
  );
  if (major >= 15) await run(`create database last oid = ${LIMIT - 1} strategy file_copy`);
  await steps.reached("OIDs over");
  startLsn = await steps.rebuild(archive, startLsn);

  await lockTogether(steps.compute, 1200);
  await steps.reached("multixacts over");
  await run(subtransactions("t", XIDS_LEFT));
  await run("begin; insert into t values (-2); prepare transaction 'after the wrap'");
  await steps.reached("xids over");
  assert.equal(await steps.compute.value("select pg_current_xact_id()::text::bigint >> 32"), "1");
  startLsn = await steps.rebuild(archive, startLsn);

  await run("commit prepared 'before the wrap'");
  await lockTogether(steps.compute, 900);
  await steps.reached("after");
  await run("commit prepared 'after the wrap'");
  await freezeAll(steps.compute);
  await steps.reached("frozen");
  await run("checkpoint");
  await run(subtransactions("t", 100));
  await steps.reached("end");
  // Recovery stops before the first record behind its target, so there has to be one.
  await run("insert into t values (0)");
  await main.syncWithWriter(60_000);
  archive.add(steps.compute, startLsn);
  assert.equal(main.error, undefined);

  // The steps are the same on each version; what differs is in the last ones.
  const compared = major === 17 ? steps.points : steps.points.slice(-3);
  for (const { name, lsn, rows } of compared) {
    const pages = await compareWithRecovery(lab, main, { archive, lsn, where: name, settings: SETTINGS });
    t.diagnostic(`${name}: ${pages} pages as stock recovery has them`);
    const branch = await lab.compute(await lab.branch(main, lsn), SETTINGS);
    assert.equal(await contents(branch), rows, name);
    await branch.query("insert into t values (7)");
    await branch.query("select from m for update");
    await branch.stop();
    await lab.release(branch);
  }
  await steps.compute.stop();
  await main.waitForLsn(main.lastRecordLsn, 60_000);
  const copy = await lab.extract(main);
  const { differences } = await compareDirectories(
    steps.compute.dataDir,
    copy.dataDir,
    main.cluster.pgVersion,
  );
  assert.deepEqual(differences, []);
  assert.deepEqual(segmentsOf(steps.compute, Slru.Xact), ["0000"]);
  assert.deepEqual(segmentsOf(copy, Slru.Xact), ["0000"], "pg_xact was truncated");
  assert.deepEqual(segmentsOf(copy, Slru.CommitTs), segmentsOf(steps.compute, Slru.CommitTs));
  assert.deepEqual(segmentsOf(copy, Slru.MultixactMembers), segmentsOf(steps.compute, Slru.MultixactMembers));
}

for (const major of EMBEDDED_MAJORS.filter((m) => m === 14 || m === 17)) {
  test(`counters over their limits, Postgres ${major}`, { timeout: 600_000 }, async (t) => {
    await runCounters(t, major);
  });
}
