/**
 * Branches of a database with indexes of all kinds: hash, GIN, GiST, SP-GiST and BRIN find on a branch what a
 * sequential scan finds, and go on working there. In the end the compute's own directory is compared with a base backup.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import { runIndexWorkload } from "../postgres/redo-index-workload.ts";
import type { TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { Lab } from "./branch-harness.ts";
import { compareDirectories } from "./compare-directories.ts";
import { QUERIED_INDEXES, checkIndexQueries } from "./index-queries.ts";

const BRANCHES = 3;
const POINT_INTERVAL_MS = 50;

/** The branch's own work on the same indexes. */
async function goOn(server: TestPostgres): Promise<void> {
  for (const statement of [
    "insert into h select i, i % 9 from generate_series(1, 800) i",
    "insert into g select i, array[i, i % 40], null from generate_series(1, 300) i",
    "delete from p where id % 2 = 0",
    "insert into s select i, point(i % 17, i % 13), null, int4range(i, i + 3), null from generate_series(1, 500) i",
    "insert into q select i, point(i % 61, i % 41), md5(i::text), '::1', null from generate_series(1, 300) i",
    "delete from nodes where t > 'a'",
    "insert into n select i, 'new' from generate_series(1, 50) i",
    "update c set p = point(n, n), t = 'x' || t, n = n + 1 where id % 3 = 0",
    "vacuum",
  ]) {
    await server.query(statement);
  }
  await checkIndexQueries(server);
}

test("branches of a database with indexes of all kinds", { timeout: 300_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using lab = new Lab({ checkpointDistanceBytes: 4 << 20 });
  const main = await lab.init();
  const compute = await lab.compute(main, { max_wal_size: "64MB", shared_buffers: "64MB" });
  const points: Lsn[] = [];
  const watch = setInterval(() => points.push(main.lastRecordLsn), POINT_INTERVAL_MS);
  try {
    await runIndexWorkload(compute, random);
  } finally {
    clearInterval(watch);
  }
  await main.syncWithWriter(30_000);
  const end = main.lastRecordLsn;
  t.diagnostic(`WAL ${formatLsn(main.startLsn)} to ${formatLsn(end)}, ${points.length} points`);

  const chosen = Array.from({ length: BRANCHES - 1 }, () => random.pick(points));
  for (const lsn of [...chosen, end]) {
    const server = await lab.compute(await lab.branch(main, lsn));
    const found = await checkIndexQueries(server);
    t.diagnostic(`at ${formatLsn(lsn)}: ${found.size} indexes`);
    if (lsn === end) {
      const asked = QUERIED_INDEXES.filter((index) => (found.get(index) ?? 0) === 0);
      assert.deepEqual(asked, [], "each index has found rows");
      await goOn(server);
    }
    await server.stop();
    await lab.release(server);
  }

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
});
