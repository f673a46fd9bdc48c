/**
 * Twenty branches at random points of a running workload: each has the rows of all transactions that were committed at
 * its branch point, and no others; its indexes agree with its tables. In the end the compute's own directory is
 * compared with a base backup, page by page.
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { type TestContext, test } from "node:test";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import { readCommits } from "../support/commit-log.ts";
import type { TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { Workload, prepareWorkload } from "../support/workload.ts";
import { Lab } from "./branch-harness.ts";
import { compareDirectories } from "./compare-directories.ts";

const BRANCHES = 20;
const ACCOUNT_SUM = "select coalesce(sum(balance), 0)::int from account";

async function journal(server: TestPostgres): Promise<number[]> {
  const rows = await server.query("select xid::int as xid from journal order by xid");
  return rows.map((row) => Number(row["xid"]));
}

/** Every B-tree with its table, by Postgres' own check. */
async function checkIndexes(server: TestPostgres): Promise<void> {
  await server.query("create extension if not exists amcheck");
  await server.query(
    `select bt_index_check(c.oid, true) from pg_class c join pg_am a on a.oid = c.relam
     where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence <> 't'`,
  );
}

async function checkHeaps(server: TestPostgres): Promise<void> {
  const rows = await server.query(
    `select c.relname, v.* from pg_class c, lateral verify_heapam(c.oid) v
     where c.relkind in ('r', 't') and c.relpersistence = 'p'`,
  );
  assert.deepEqual(rows, []);
}

async function checkBranch(server: TestPostgres, expected: number[], lsn: Lsn): Promise<void> {
  assert.deepEqual(await journal(server), expected, `journal at ${formatLsn(lsn)}`);
  assert.equal(await server.value(ACCOUNT_SUM), "0", `sum of balances at ${formatLsn(lsn)}`);
  assert.equal(await server.value("select count(*)::int from scratch"), "0", "unlogged tables begin empty");
  await checkIndexes(server);
  await checkHeaps(server);
  await server.query("insert into journal (note) values ('on the branch')");
}

async function runBranches(t: TestContext, random: SeededRandom): Promise<void> {
  await using lab = new Lab({ checkpointDistanceBytes: 2 << 20 });
  const main = await lab.init();
  const settings = { wal_keep_size: "10GB", max_wal_size: "64MB", checkpoint_timeout: "30s" };
  const compute = await lab.compute(main, settings);
  await prepareWorkload(compute);
  await main.syncWithWriter(30_000);
  const from = main.lastRecordLsn;
  const before = await journal(compute);
  const workload = new Workload(compute, { seed: random.u32(), clients: 4 });
  const points: Lsn[] = [];
  for (let i = 0; i < BRANCHES; i++) {
    await sleep(random.between(20, 250));
    if (i === 5) await compute.query("create database copied strategy wal_log");
    if (i === 9) await compute.query("create database copied_files strategy file_copy");
    if (i === 13) await compute.query("checkpoint");
    if (i === 16) await compute.query("drop database copied");
    if (random.chance(0.5)) await main.syncWithWriter(30_000);
    points.push(main.lastRecordLsn);
  }
  await workload.stop();
  await main.syncWithWriter(30_000);
  t.diagnostic(`${workload.steps} steps, WAL ${formatLsn(from)} to ${formatLsn(main.lastRecordLsn)}`);
  assert(workload.steps > 100, "the workload has worked");
  const end = main.lastRecordLsn;
  const { pgVersion: version, segmentSize } = main.cluster;
  const commits = readCommits(compute.dataDir, { version, segmentSize, from, to: end });
  const written = new Set(await journal(compute));
  for (const lsn of points) {
    const expected = [
      ...before,
      ...commits.filter((c) => c.lsn <= lsn && written.has(c.xid)).map((c) => c.xid),
    ];
    const branch = await lab.branch(main, lsn);
    const server = await lab.compute(branch);
    await checkBranch(
      server,
      expected.sort((a, b) => a - b),
      lsn,
    );
    await server.stop();
    await lab.release(server);
  }
  assert.deepEqual(
    await journal(compute),
    [...written].sort((a, b) => a - b),
    "main saw nothing of its branches",
  );
  await compute.stop();
  await main.waitForLsn(end, 10_000);
  const copy = await lab.extract(main);
  const { pages, differences } = compareDirectories(compute.dataDir, copy.dataDir, main.cluster.pgVersion);
  t.diagnostic(`${pages} pages compared with the compute's own directory`);
  assert.deepEqual(differences, []);
  assert(pages > 2000);
}

test("branches at random points of a running workload", { timeout: 300_000 }, async (t) => {
  await runBranches(t, SeededRandom.forTest(t));
});
