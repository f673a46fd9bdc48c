/**
 * Tablespaces on a real Postgres and on branches: the relations, the databases, and the directories that WAL does not
 * mention. In the end the server's own directory is compared with a base backup.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { Lsn } from "../../src/base/lsn.ts";
import { tablespaceVersionDirectory } from "../../src/postgres/relation.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { EMBEDDED_MAJORS, type TestPostgres } from "../support/postgres.ts";
import { Lab } from "./branch-harness.ts";
import { compareDirectories } from "./compare-directories.ts";

/** An empty directory that Postgres may use as a tablespace. */
function location(server: TestPostgres, name: string): string {
  const path = join(server.root, name);
  mkdirSync(path, { mode: 0o700 });
  server.own(path);
  return path;
}

/** Every directory of every tablespace. */
function layout(server: TestPostgres, version: PgVersion): string[] {
  const root = join(server.dataDir, "pg_tblspc");
  const found: string[] = [];
  for (const oid of readdirSync(root)) {
    const directory = join(oid, tablespaceVersionDirectory(version));
    found.push(directory);
    for (const entry of readdirSync(join(root, directory))) {
      const files = readdirSync(join(root, directory, entry));
      found.push(`${directory}/${entry}${files.includes("PG_VERSION") ? " with PG_VERSION" : ""}`);
    }
  }
  return found.sort();
}

async function inDatabase(server: TestPostgres, database: string, sql: string): Promise<unknown[]> {
  const client = await server.connect(database);
  try {
    const result = await client.query<Record<string, unknown>>(sql);
    return result.rows.flatMap((row) => Object.values(row));
  } finally {
    await client.end();
  }
}

async function createEverything(server: TestPostgres, strategies: boolean): Promise<void> {
  await server.query(`create tablespace fast location '${location(server, "fast")}'`);
  await server.query(`create tablespace slow location '${location(server, "slow")}'`);
  await server.query(`create tablespace third location '${location(server, "third")}'`);
  await server.query("create table direct (i int primary key) tablespace fast");
  await server.query("insert into direct select generate_series(1, 3000)");
  await server.query("create unlogged table lost (i int) tablespace slow; insert into lost values (1)");
  await server.query("create table moved as select generate_series(1, 5000) as i");
  await server.query("alter table moved set tablespace fast");
  await server.query("create index on moved (i) tablespace slow");
  await server.query("update moved set i = i + 1 where i % 10 = 0");
  await server.query("vacuum moved");
  await server.query("create database own tablespace fast");
  await inDatabase(server, "own", "create table t as select generate_series(1, 100) as i");
  await inDatabase(server, "own", "create table s tablespace slow as select generate_series(1, 200) as i");
  const copies = strategies ? ["wal_log", "file_copy"] : [];
  for (const strategy of copies) {
    await server.query(`create database ${strategy} template own tablespace third strategy ${strategy}`);
    await server.query(`create database plain_${strategy} template own strategy ${strategy}`);
  }
  await server.query("create database travels");
  await inDatabase(server, "travels", "create table t as select generate_series(1, 300) as i");
  await server.query("alter database travels set tablespace slow");
}

async function checkEverything(server: TestPostgres, strategies: boolean): Promise<void> {
  assert.equal(await server.value("select sum(i)::int from direct"), "4501500");
  assert.equal(await server.value("select sum(i)::int from moved"), "12503000");
  await server.query("set enable_seqscan = off");
  assert.equal(await server.value("select count(*)::int from moved where i = 4991"), "2", "by the index");
  const copies = strategies ? ["wal_log", "file_copy", "plain_wal_log", "plain_file_copy"] : [];
  for (const name of ["own", ...copies]) {
    assert.deepEqual(await inDatabase(server, name, "select count(*)::int from t"), [100], name);
    if (!name.startsWith("plain")) {
      assert.deepEqual(await inDatabase(server, name, "insert into s values (1) returning i"), [1]);
    }
  }
  assert.deepEqual(await inDatabase(server, "travels", "select count(*)::int from t"), [300]);
}

async function dropEverything(server: TestPostgres): Promise<void> {
  const databases = await server.query("select datname from pg_database where oid >= 16384");
  for (const { datname } of databases) await server.query(`drop database ${String(datname)}`);
  await server.query("drop table direct, lost, moved");
  await server.query("drop tablespace fast");
  await server.query("drop tablespace slow");
  await server.query("drop tablespace third");
  assert.equal(await server.value("select count(*)::int from pg_tablespace"), "2");
}

async function runTablespaces(t: TestContext, major: number): Promise<void> {
  const strategies = major >= 15;
  await using lab = new Lab({ checkpointDistanceBytes: 2 << 20 });
  let main = await lab.init([], major);
  const version = main.cluster.pgVersion;
  const compute = await lab.compute(main, { wal_keep_size: "1GB" });
  const sync = async (): Promise<Lsn> => {
    await main.syncWithWriter(30_000);
    return main.lastRecordLsn;
  };
  const none = await sync();
  await createEverything(compute, strategies);
  const full = await sync();

  await t.test("a branch has everything, in directories of its own", async () => {
    const server = await lab.compute(await lab.branch(main, full));
    assert.deepEqual(layout(server, version), layout(compute, version));
    await checkEverything(server, strategies);
    assert.equal(await server.value("select count(*)::int from lost"), "0", "unlogged tables begin empty");
    await server.query("checkpoint");
    await dropEverything(server);
    await server.query("checkpoint");
    assert.deepEqual(readdirSync(join(server.dataDir, "pg_tblspc")), []);
    await server.stop();
    await lab.release(server);
  });

  await t.test("a read-only compute accepts them", async () => {
    const server = await lab.extract(main, { lsn: full, readOnly: true, settings: { hot_standby: "on" } });
    await server.start();
    assert.equal(await server.value("select sum(i)::int from direct"), "4501500");
    await server.stop();
    await lab.release(server);
  });

  await t.test("dropped on main, gone from base backups", async () => {
    await checkEverything(compute, strategies);
    await dropEverything(compute);
    const empty = await sync();
    await compute.query(`create tablespace last location '${location(compute, "last")}'`);
    await compute.query("create table kept tablespace last as select generate_series(1, 1000) as i");
    const end = await sync();
    await compute.stop();
    await main.waitForLsn(end, 10_000);
    main = await lab.reopen(main);
    for (const lsn of [none, empty]) {
      const backup = await lab.extract(main, { lsn });
      assert.deepEqual(readdirSync(join(backup.dataDir, "pg_tblspc")), []);
      await lab.release(backup);
    }
    const backup = await lab.extract(main);
    assert.deepEqual(layout(backup, version), layout(compute, version));
    assert.equal(existsSync(join(backup.dataDir, "postgresql.auto.conf")), false);
    const { pages, differences } = await compareDirectories(compute.dataDir, backup.dataDir, version);
    assert.deepEqual(differences, []);
    assert(pages > 500);
  });
}

for (const major of EMBEDDED_MAJORS.filter((m) => m === 14 || m === 17)) {
  test(`tablespaces of Postgres ${major}`, { timeout: 300_000 }, async (t) => {
    await runTablespaces(t, major);
  });
}
