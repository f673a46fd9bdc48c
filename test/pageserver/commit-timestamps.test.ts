/**
 * track_commit_timestamp on a real Postgres and on branches: switched on and off, times of transactions and their
 * subtransactions, truncation, import. The files are compared byte by byte.
 */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { Lsn } from "../../src/base/lsn.ts";
import { packDataDirectory } from "../../src/compute/data-directory.ts";
import { readDataDirectory } from "../../src/pageserver/basebackup/import.ts";
import { Spool } from "../../src/pageserver/basebackup/spool.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { Kind } from "../../src/pageserver/ingest/keyspace.ts";
import { PAGE_SIZE } from "../../src/postgres/constants.ts";
import { Slru, slruPath } from "../../src/postgres/slru.ts";
import { EMBEDDED_MAJORS, TestPostgres } from "../support/postgres.ts";
import { Lab, REMOTE_SETTINGS } from "./branch-harness.ts";
import { compareDirectories } from "./compare-directories.ts";

const ON = { track_commit_timestamp: "on", wal_keep_size: "1GB" };
const OFF = { track_commit_timestamp: "off", wal_keep_size: "1GB" };
/** Rows of t with the times of their transactions, null where none is known. */
const TIMES =
  "select i, xmin::text as xid, pg_xact_commit_timestamp(xmin)::text as time from t order by i, xmin::text";

/** Subtransactions, each with a row of its own. */
function subtransactions(count: number, table: string): string {
  return `do $$ begin for i in 1..${count} loop
    begin insert into ${table} values (i); exception when division_by_zero then null; end;
  end loop; end $$`;
}

function segments(server: TestPostgres): string[] {
  return readdirSync(join(server.dataDir, "pg_commit_ts")).sort();
}

async function runCommitTimestamps(t: TestContext, major: number): Promise<void> {
  await using lab = new Lab({ checkpointDistanceBytes: 1 << 20 });
  let main = await lab.init([], major);
  const version = main.cluster.pgVersion;
  const compute = await lab.compute(main, OFF);
  const sync = async (): Promise<Lsn> => {
    await main.syncWithWriter(30_000);
    return main.lastRecordLsn;
  };
  const restart = async (settings: typeof ON): Promise<void> => {
    await compute.stop();
    compute.configure({ ...REMOTE_SETTINGS, ...settings });
    await lab.startWriter(main, compute);
  };
  const compareStopped = async (): Promise<void> => {
    const end = await sync();
    await compute.stop();
    await main.waitForLsn(end, 10_000);
    const backup = await lab.extract(main);
    const { differences } = await compareDirectories(compute.dataDir, backup.dataDir, version);
    assert.deepEqual(differences, []);
    assert.deepEqual(segments(backup), segments(compute));
    await lab.release(backup);
    await lab.startWriter(main, compute);
  };

  await compute.query("create table t (i int); create table u (i int)");
  await compute.query("insert into t values (-1)");
  await restart(ON);
  const before = await sync();
  await compute.query("insert into t values (0)");
  await compute.query(subtransactions(2000, "t"));
  await compute.query("begin; insert into t values (3000); prepare transaction 'p'");
  await compute.query("insert into t values (3001)");
  await compute.query("commit prepared 'p'");
  const point = await sync();
  const expected = (await compute.query(TIMES)).filter((row) => row["time"] !== null);
  assert.ok(expected.length >= 2003, "times were kept");
  await compareStopped();

  await t.test("a branch has the same times, and goes on", async () => {
    const server = await lab.compute(await lab.branch(main, point), ON);
    const times = await server.query(TIMES);
    assert.deepEqual(
      times.filter((row) => row["time"] !== null),
      expected,
    );
    await server.query("insert into t values (5000)");
    const late =
      "select pg_xact_commit_timestamp(xmin) > now() - interval '1 minute' as ok from t where i = 5000";
    assert.equal(await server.value(late), "true");
    await server.stop();
    await lab.release(server);
    const empty = await lab.compute(await lab.branch(main, before), ON);
    assert.equal(await empty.value("select count(pg_xact_commit_timestamp(xmin))::int from t"), "0");
    await empty.stop();
    await lab.release(empty);
  });

  await t.test("segments are truncated", async () => {
    await compute.query(subtransactions(28_000, "u"));
    await compute.query("update pg_database set datallowconn = true");
    for (const name of ["template0", "template1", "postgres"]) {
      const client = await compute.connect(name);
      await client.query("vacuum freeze");
      await client.end();
    }
    assert.deepEqual(segments(compute), ["0001"]);
    await compareStopped();
  });

  await t.test("off and on again", async () => {
    await restart(OFF);
    await compute.query("insert into t values (6000)");
    const backup = await lab.extract(main, { lsn: await sync() });
    assert.deepEqual(segments(backup), []);
    await restart(ON);
    main = await lab.reopen(main);
    await compute.stop();
    await lab.startWriter(main, compute);
    await compute.query("insert into t values (7000)");
    await compareStopped();
    const server = await lab.compute(await lab.branch(main, await sync()), ON);
    assert.deepEqual(await server.query(TIMES), await compute.query(TIMES));
    const timed = (await server.query(TIMES)).filter((row) => row["time"] !== null);
    assert.deepEqual(
      timed.map((row) => row["i"]),
      [7000],
    );
  });
}

test("a directory with times of commits is imported", { timeout: 300_000 }, async () => {
  await using server = await TestPostgres.create({ settings: { track_commit_timestamp: "on" } });
  await server.query("create table t as select 1 as i");
  await server.query("insert into t values (2)");
  const expected = await server.query(TIMES);
  assert.ok(expected.every((row) => row["time"] !== null));
  await server.stop();
  await using spool = new Spool("/nowhere", new RealFiles());
  const tar = packDataDirectory(server.dataDir) as AsyncIterable<Uint8Array>;
  const { values, control } = await readDataDirectory(tar, spool);
  assert.equal(control.parameters.trackCommitTimestamp, true);
  const pages: number[] = [];
  for await (const batch of values) {
    for (const { key, bytes } of batch) {
      if (key.kind !== Kind.SlruPage || key.spcOid !== Slru.CommitTs) continue;
      pages.push(key.block);
      const file = readFileSync(join(server.dataDir, slruPath(Slru.CommitTs, 0)));
      assert.deepEqual(Buffer.from(bytes), file.subarray(key.block * PAGE_SIZE, (key.block + 1) * PAGE_SIZE));
    }
  }
  assert.deepEqual(pages, [0]);
});

for (const major of EMBEDDED_MAJORS.filter((m) => m === 14 || m === 17)) {
  test(`times of commits, Postgres ${major}`, { timeout: 300_000 }, async (t) => {
    await runCommitTimestamps(t, major);
  });
}
