/**
 * One cluster through many lives: settings change between restarts, some of them clean and some by kill -9; records of
 * 20 MB and commits that drop 10,000 relations; unlogged relations with indexes of every kind; prepared transactions
 * that outlive all of it. Moments in between are compared with stock recovery, file by file.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { Lsn } from "../../src/base/lsn.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { type Settings, type TestPostgres, embeddedBinDir } from "../support/postgres.ts";
import { Lab, REMOTE_SETTINGS } from "./branch-harness.ts";
import { WalArchive, compareWithRecovery, complainTo, readControl } from "./extremes-harness.ts";

/** Has what the embedded one lacks: compression with lz4 and zstd. */
const DEBIAN_15 = "/usr/lib/postgresql/15/bin";
const MEGABYTE = 2 ** 20;
const TABLES = 5000;
const MANY = "10,000 relations";

interface Life {
  readonly settings: Settings;
  /** How it ends: the next one goes on with its directory, or builds a new one. */
  readonly end: "stop" | "kill";
}

const LIVES: readonly Life[] = [
  {
    settings: { wal_compression: "pglz", full_page_writes: "on", wal_log_hints: "on", max_connections: 30 },
    end: "stop",
  },
  {
    settings: {
      wal_compression: "lz4",
      full_page_writes: "on",
      track_commit_timestamp: "on",
      max_connections: 200,
      max_prepared_transactions: 30,
      max_locks_per_transaction: 1024,
      max_worker_processes: 16,
      max_wal_senders: 12,
    },
    end: "kill",
  },
  {
    settings: {
      full_page_writes: "off",
      wal_level: "logical",
      max_connections: 25,
      max_locks_per_transaction: 1024,
    },
    end: "stop",
  },
  {
    settings: { wal_compression: "zstd", full_page_writes: "on", track_commit_timestamp: "on" },
    end: "kill",
  },
  { settings: { full_page_writes: "off", wal_log_hints: "on", max_wal_senders: 6 }, end: "stop" },
];
const ALL_LIVES = { wal_keep_size: "10GB", autovacuum: "off", max_prepared_transactions: 12 };
/** A standby needs at least what its primary has had. */
const RECOVERY = {
  max_connections: 200,
  max_prepared_transactions: 30,
  max_locks_per_transaction: 1024,
  max_worker_processes: 16,
  max_wal_senders: 12,
};

const INDEX_KINDS: readonly (readonly [string, string])[] = [
  ["btree", "i"],
  ["hash", "i"],
  ["brin", "i"],
  ["gin", "a"],
  ["gist", "p"],
  ["spgist", "p"],
];

async function makeTables(server: TestPostgres): Promise<void> {
  for (const sql of [
    "create table t (life int, i int, v text)",
    "alter table t alter v set storage external",
    "create index on t (life, i)",
    "create unlogged table u (i int primary key, a int[], p point)",
    ...INDEX_KINDS.map(([kind, column]) => `create index u_${kind} on u using ${kind} (${column})`),
    "create unlogged table later (i int primary key)",
    "create table sooner (i int primary key)",
    "insert into sooner select generate_series(1, 500)",
  ]) {
    await server.query(sql);
  }
}

/** What each life does. `xid` of the prepared transaction says which one it was. */
async function live(server: TestPostgres, life: number): Promise<void> {
  await server.query(
    `insert into t select ${life}, i, repeat(md5(i::text), 30) from generate_series(1, 400) i`,
  );
  await server.query("checkpoint");
  // Whole pages go into the WAL, compressed or not.
  await server.query("update t set v = v || 'x' where i % 7 = 0");
  await server.query("vacuum t");
  await server.query("select count(*) from t where v like '%x'");
  await server.query("truncate u");
  await server.query(
    "insert into u select i, array[i % 10, i], point(i, i % 100) from generate_series(1, 2000) i",
  );
  await server.query(
    `begin; insert into t values (${life}, -1, 'prepared'); prepare transaction 'life ${life}'`,
  );
  await server.query(`select pg_logical_emit_message(true, 'long', repeat('m', ${20 * MEGABYTE}))`);
  if (life === 1) await server.query("alter table later set logged");
  if (life === 2) await server.query("alter table sooner set unlogged");
  if (life === 3) await server.query("commit prepared 'life 0'");
  await server.query("select pg_switch_wal()");
  await server.query(`insert into t values (${life}, 0, 'behind the switch')`);
}

/** Every index of the unlogged relation answers as the relation itself does. */
async function checkUnlogged(server: TestPostgres, rows: number): Promise<void> {
  const conditions = ["i = 77", "i between 70 and 80", "a @> array[7]", "p <@ box '((0,0),(50,50))'"];
  for (const condition of conditions) {
    const counts: string[] = [];
    for (const [seq, index] of [
      ["on", "off"],
      ["off", "on"],
    ]) {
      await server.query(
        `set enable_seqscan = ${seq}; set enable_indexscan = ${index}; set enable_bitmapscan = ${index}`,
      );
      counts.push(await server.value(`select count(*)::int from u where ${condition}`));
    }
    assert.equal(counts[0], counts[1], condition);
  }
  await server.query("reset all");
  assert.equal(await server.value("select count(*)::int from u"), String(rows));
}

interface Point {
  readonly name: string;
  readonly lsn: Lsn;
  /** Whether times of commits are kept. */
  readonly timed: boolean;
  readonly rows: string;
  readonly prepared: string;
}

const ROWS = "select count(*) || ' ' || sum(length(v)) from t";
const PREPARED = "select coalesce(string_agg(gid, ',' order by gid), '') from pg_prepared_xacts";

async function pointOf(main: Timeline, server: TestPostgres, name: string): Promise<Point> {
  await main.syncWithWriter(120_000);
  return {
    name,
    lsn: main.lastRecordLsn,
    timed: (await server.value("show track_commit_timestamp")) === "on",
    rows: await server.value(ROWS),
    prepared: await server.value(PREPARED),
  };
}

/** 10,000 relations, and one commit that drops them all. */
async function manyRelations(main: Timeline, server: TestPostgres): Promise<Point[]> {
  await server.query(`create procedure make_tables() language plpgsql as $$ begin
    for i in 1..${TABLES} loop
      execute format('create table many_%s (i int primary key)', i);
      if i % 200 = 0 then commit; end if;
    end loop; end $$`);
  await server.query("call make_tables()");
  const there = await pointOf(main, server, MANY);
  await server.query(
    `do $$ begin for i in 1..${TABLES} loop execute format('drop table many_%s', i); end loop; end $$`,
  );
  return [there, await pointOf(main, server, "10,000 relations dropped")];
}

/** Lives one after the other; returns moments to look at, and the last compute. */
async function liveAll(
  lab: Lab,
  main: Timeline,
  archive: WalArchive,
): Promise<{ points: Point[]; compute: TestPostgres; startLsn: Lsn }> {
  const points: Point[] = [];
  let startLsn = main.lastRecordLsn;
  let compute: TestPostgres | undefined;
  for (const [number, { settings, end }] of LIVES.entries()) {
    const all = { ...REMOTE_SETTINGS, ...ALL_LIVES, ...settings };
    const isNew = compute === undefined;
    if (compute === undefined) {
      startLsn = main.lastRecordLsn;
      compute = await lab.compute(main, all);
      if (number === 0) await makeTables(compute);
    } else {
      compute.configure(all);
      await lab.startWriter(main, compute);
    }
    await checkUnlogged(compute, isNew ? 0 : 2000);
    await live(compute, number);
    if (number === 2) points.push(...(await manyRelations(main, compute)));
    points.push(await pointOf(main, compute, `life ${number}`));
    const backup = await lab.extract(main);
    const expected = readControl(compute).parameters;
    assert.deepEqual(readControl(backup).parameters, expected, `parameters of life ${number}`);
    await lab.release(backup);
    if (number === LIVES.length - 1) break;
    if (end === "stop") {
      await compute.stop();
    } else {
      archive.add(compute, startLsn);
      await compute.kill();
      await lab.release(compute);
      compute = undefined;
    }
  }
  assert(compute !== undefined, "the last life goes on");
  return { points, compute, startLsn };
}

async function runLives(t: TestContext): Promise<void> {
  await using lab = new Lab({ checkpointDistanceBytes: 8 * MEGABYTE, log: complainTo(t) });
  const hasDebian = existsSync(join(DEBIAN_15, "postgres"));
  if (!hasDebian) t.diagnostic("without lz4 and zstd: there is no Postgres 15 of Debian");
  const main = await lab.init([], 15, undefined, hasDebian ? DEBIAN_15 : embeddedBinDir(15));
  const archive = new WalArchive(lab.base);
  const { points, compute, startLsn } = await liveAll(lab, main, archive);
  await compute.query("insert into t values (9, 9, 'behind the last point')");
  await main.syncWithWriter(60_000);
  archive.add(compute, startLsn);
  assert.equal(main.error, undefined);
  for (const { name, lsn, timed, rows, prepared } of points) {
    // Nothing that the points behind them do not have as well.
    if (name === "life 0" || name === "life 2") continue;
    const settings = { ...RECOVERY, track_commit_timestamp: timed ? "on" : "off" };
    const pages = await compareWithRecovery(lab, main, { archive, lsn, where: name, settings });
    t.diagnostic(`${name}: ${pages} pages as stock recovery has them`);
    if (name === MANY) continue;
    const branch = await lab.compute(await lab.branch(main, lsn), settings);
    assert.equal(await branch.value(ROWS), rows, name);
    assert.equal(await branch.value(PREPARED), prepared, name);
    await checkUnlogged(branch, 0);
    await branch.query("insert into u values (1, '{1}', '(1,1)')");
    if (prepared !== "") await branch.query(`commit prepared '${prepared.split(",")[0]}'`);
    await branch.stop();
    await lab.release(branch);
  }
}

test("settings, long records and many relations over restarts", { timeout: 900_000 }, async (t) => {
  await runLives(t);
});
