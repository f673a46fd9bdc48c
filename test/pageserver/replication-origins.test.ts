/** Progress of replication origins on a real Postgres and on branches. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { Lsn } from "../../src/base/lsn.ts";
import { packDataDirectory } from "../../src/compute/data-directory.ts";
import { readDataDirectory } from "../../src/pageserver/basebackup/import.ts";
import { Spool } from "../../src/pageserver/basebackup/spool.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { Kind, decodeOriginProgress } from "../../src/pageserver/ingest/keyspace.ts";
import { REPLICATION_ORIGINS_PATH, decodeOrigins } from "../../src/postgres/replication-origins.ts";
import { EMBEDDED_MAJORS, type Row, type TestPostgres } from "../support/postgres.ts";
import { Lab } from "./branch-harness.ts";

const SETTINGS = { track_commit_timestamp: "on", wal_keep_size: "1GB" };
const PROGRESS =
  "select external_id as name, remote_lsn::text as lsn from pg_replication_origin_status order by 1";
/** Time and origin of the transactions that wrote the rows. */
const COMMITS = `select i, o.timestamp::text as time, o.roident::int as origin
  from t, lateral pg_xact_commit_timestamp_origin(t.xmin) o order by i`;

async function progress(server: TestPostgres): Promise<Row[]> {
  return server.query(PROGRESS);
}

/** A transaction of another server. */
function replicated(remote: string, value: number, end = "commit"): string {
  return `begin; select pg_replication_origin_xact_setup('${remote}', '2020-02-0${(value % 9) + 1} 01:02:03.456789+00');
    insert into t values (${value}); ${end}`;
}

/** What a stopped server's directory says, entries without progress left out. */
function stored(dataDir: string): Map<number, bigint> {
  const path = join(dataDir, REPLICATION_ORIGINS_PATH);
  const origins = existsSync(path) ? decodeOrigins(readFileSync(path)) : [];
  return new Map(
    origins
      .filter(({ remoteLsn }) => remoteLsn !== 0n)
      .sort((a, b) => a.origin - b.origin)
      .map(({ origin, remoteLsn }) => [origin, remoteLsn]),
  );
}

async function runOrigins(t: TestContext, major: number): Promise<void> {
  await using lab = new Lab({ checkpointDistanceBytes: 1 << 20 });
  let main = await lab.init([], major);
  const compute = await lab.compute(main, SETTINGS);
  const sync = async (): Promise<Lsn> => {
    await main.syncWithWriter(30_000);
    return main.lastRecordLsn;
  };
  await compute.query("create table t (i int)");
  for (const name of ["a", "b", "c"]) await compute.query(`select pg_replication_origin_create('${name}')`);
  const none = await sync();
  await compute.query("select pg_replication_origin_session_setup('a')");
  await compute.query("insert into t values (0)");
  await compute.query(replicated("0/AAAA", 1));
  await compute.query(replicated("2/BBBB", 2));
  await compute.query(replicated("1/CCCC", 3));
  const first = { lsn: await sync(), progress: await progress(compute) };
  assert.deepEqual(first.progress, [{ name: "a", lsn: "2/BBBB" }]);
  await compute.query(replicated("3/0", 4, "prepare transaction 'p'"));
  await compute.query("select pg_replication_origin_session_reset()");
  await compute.query("select pg_replication_origin_advance('b', 'FFFFFFFF/FFFFFFF0')");
  await compute.query("select pg_replication_origin_advance('c', '5/5')");
  await compute.query("select pg_replication_origin_advance('c', '4/4')");
  const second = { lsn: await sync(), progress: await progress(compute) };
  assert.deepEqual(
    second.progress.map((row) => row["lsn"]),
    ["3/0", "FFFFFFFF/FFFFFFF0", "4/4"],
  );
  await compute.query("select pg_replication_origin_session_setup('a')");
  await compute.query("begin; select pg_replication_origin_xact_setup('3/77', now()); commit");
  await compute.query("commit prepared 'p'");
  await compute.query("select pg_replication_origin_session_reset()");
  await compute.query("select pg_replication_origin_drop('b')");
  const third = { lsn: await sync(), progress: await progress(compute) };

  await t.test("branches have the progress of their moment", async () => {
    for (const { lsn, progress: expected } of [{ lsn: none, progress: [] }, first, second, third]) {
      const server = await lab.compute(await lab.branch(main, lsn), SETTINGS);
      assert.deepEqual(await progress(server), expected);
      if (lsn === third.lsn) assert.deepEqual(await server.query(COMMITS), await compute.query(COMMITS));
      await server.stop();
      await lab.release(server);
    }
  });

  await t.test("the file is that of the stopped server, and goes on from there", async () => {
    await compute.stop();
    await main.waitForLsn(third.lsn, 10_000);
    main = await lab.reopen(main);
    const backup = await lab.extract(main);
    assert.deepEqual(stored(backup.dataDir), stored(compute.dataDir));
    assert.equal(stored(backup.dataDir).size, 2);
    await lab.startWriter(main, compute);
    await compute.query("select pg_replication_origin_session_setup('a')");
    await compute.query(replicated("0/1", 5));
    await compute.query(replicated("8/8", 6));
    const server = await lab.compute(await lab.branch(main, await sync()), SETTINGS);
    assert.deepEqual(await progress(server), await progress(compute));
    assert.equal((await progress(server))[0]?.["lsn"], "8/8");
  });

  await t.test("they are imported", async () => {
    await compute.query("select pg_replication_origin_session_reset()");
    await compute.stop();
    const tar = packDataDirectory(compute.dataDir) as AsyncIterable<Uint8Array>;
    const imported = new Map<number, bigint>();
    await using spool = new Spool("/nowhere", new RealFiles());
    for await (const batch of (await readDataDirectory(tar, spool)).values) {
      for (const { key, bytes } of batch) {
        if (key.kind === Kind.ReplicationOrigin && decodeOriginProgress(bytes) !== 0n)
          imported.set(key.block, decodeOriginProgress(bytes));
      }
    }
    assert.deepEqual(imported, stored(compute.dataDir));
    assert.equal(imported.size, 2);
  });
}

for (const major of EMBEDDED_MAJORS.filter((m) => m === 14 || m === 17)) {
  test(`replication origins, Postgres ${major}`, { timeout: 300_000 }, async (t) => {
    await runOrigins(t, major);
  });
}
