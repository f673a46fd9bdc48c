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
import { SeededRandom } from "../support/random.ts";
import { Workload, prepareWorkload } from "../support/workload.ts";
import { checkBranch, journal } from "./branch-checks.ts";
import { Lab } from "./branch-harness.ts";
import { compareDirectories } from "./compare-directories.ts";

const BRANCHES = 20;
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
  const { pages, differences } = await compareDirectories(
    compute.dataDir,
    copy.dataDir,
    main.cluster.pgVersion,
  );
  t.diagnostic(`${pages} pages compared with the compute's own directory`);
  assert.deepEqual(differences, []);
  assert(pages > 2000);
}

test("branches at random points of a running workload", { timeout: 300_000 }, async (t) => {
  await runBranches(t, SeededRandom.forTest(t));
});
