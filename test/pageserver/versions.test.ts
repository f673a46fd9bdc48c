/**
 * The major versions other than 17 from import to compute: a workload on a real server whose WAL is followed, branches in
 * the middle of it, and in the end the server's own directory against a base backup, page by page.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type TestContext, test } from "node:test";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import { parseTwoPhasePath } from "../../src/postgres/slru.ts";
import { readCommits } from "../support/commit-log.ts";
import { EMBEDDED_MAJORS, type TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { Workload, prepareWorkload } from "../support/workload.ts";
import { checkBranch, journal } from "./branch-checks.ts";
import { Lab } from "./branch-harness.ts";
import { compareDirectories } from "./compare-directories.ts";

const MAJORS = EMBEDDED_MAJORS.filter((major) => major !== 17);
/** 18 has page checksums unless initdb is told otherwise. */
const INITDB: Readonly<Record<number, readonly string[]>> = { 14: ["--data-checksums"] };
const PREPARED = "begin; create table left_over as select 1 as i; prepare transaction 'left over'";

/** Names of all directories outside of databases. */
function directoriesOf(dataDir: string): string[] {
  const entries = readdirSync(dataDir, { recursive: true, withFileTypes: true });
  const paths = entries
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
  return paths
    .map((path) => path.slice(dataDir.length))
    .filter((path) => !path.startsWith("/base/"))
    .sort();
}

async function createDatabases(server: TestPostgres, canLog: boolean): Promise<void> {
  await server.query("create database early");
  if (canLog) await server.query("create database copied strategy file_copy");
  await server.query("drop database early");
}

/** Relations that are found through the relation map files get other files: one of the database, one of all. */
async function rewriteCatalogs(server: TestPostgres): Promise<void> {
  await server.query("vacuum full pg_class");
  await server.query("vacuum full pg_database");
}

/** The LSNs of three branches, while clients are at work. */
async function workAndBranch(
  lab: { compute: TestPostgres; sync: () => Promise<Lsn> },
  random: SeededRandom,
  canLog: boolean,
): Promise<{ points: Lsn[]; steps: number }> {
  const { compute, sync } = lab;
  const workload = new Workload(compute, { seed: random.u32(), clients: 3 });
  const points: Lsn[] = [];
  for (let i = 0; i < 3; i++) {
    await sleep(random.between(200, 500));
    if (i === 1) await createDatabases(compute, canLog);
    if (i === 2) await compute.query("checkpoint");
    points.push(await sync());
  }
  await workload.stop();
  return { points, steps: workload.steps };
}

async function runMajor(t: TestContext, major: number): Promise<void> {
  const random = SeededRandom.forTest(t);
  await using lab = new Lab({ checkpointDistanceBytes: 1 << 20 });
  const main = await lab.init(INITDB[major], major);
  const version = main.cluster.pgVersion;
  assert.equal(version.major, major);
  const compute = await lab.compute(main, { wal_keep_size: "10GB" });
  assert.equal(Math.floor(Number(await compute.value("show server_version_num")) / 10000), major);
  const sync = async (): Promise<Lsn> => {
    await main.syncWithWriter(30_000);
    return main.lastRecordLsn;
  };
  await prepareWorkload(compute);
  const from = await sync();
  const before = await journal(compute);
  const canLog = version.database.createWalLog !== undefined;
  const { points, steps } = await workAndBranch({ compute, sync }, random, canLog);
  await rewriteCatalogs(compute);
  await compute.query(PREPARED);
  const end = await sync();
  t.diagnostic(`${steps} steps, WAL ${formatLsn(from)} to ${formatLsn(end)}`);
  assert(steps > 30, "the workload has worked");

  const { segmentSize } = main.cluster;
  const commits = readCommits(compute.dataDir, { version, segmentSize, from, to: end });
  const written = new Set(await journal(compute));
  for (const lsn of points.slice(1)) {
    const expected = commits.filter((c) => c.lsn <= lsn && written.has(c.xid)).map((c) => c.xid);
    const server = await lab.compute(await lab.branch(main, lsn));
    await checkBranch(
      server,
      [...before, ...expected].sort((a, b) => a - b),
      lsn,
    );
    await server.stop();
    await lab.release(server);
  }

  await compute.stop();
  await main.waitForLsn(end, 10_000);
  const copy = await lab.extract(main);
  const { pages, differences } = await compareDirectories(compute.dataDir, copy.dataDir, version);
  t.diagnostic(`${pages} pages compared with the compute's own directory`);
  assert.deepEqual(differences, []);
  assert(pages > 2000);
  assert.deepEqual(directoriesOf(copy.dataDir), directoriesOf(lab.base.dataDir));

  // What was prepared is found again by its file, and by Postgres.
  const prepared = readdirSync(join(copy.dataDir, "pg_twophase"));
  assert.equal(prepared.length, 1);
  assert.notEqual(parseTwoPhasePath(`pg_twophase/${prepared[0]}`, version), undefined);
  await lab.startWriter(main, copy);
  await copy.query("commit prepared 'left over'");
  assert.equal(await copy.value("select i from left_over"), "1");
  await copy.stop();
}

for (const major of MAJORS) {
  test(`a server of major version ${major}`, { timeout: 300_000 }, (t) => runMajor(t, major));
}
