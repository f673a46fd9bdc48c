/**
 * The workload generator on a server of each major version whose WAL is followed: each record is compared with the images
 * of wal_consistency_checking as it is taken in, and in the end the server's directory, file by file, with a base backup
 * at its end. Segments of the SLRUs are removed on the way, and transactions stay prepared.
 */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { parseControlFile } from "../../src/postgres/control-file.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { checkpointEndLsn } from "../../src/postgres/wal/start-point.ts";
import { SHORTLY_BEFORE_SEGMENTS, touchOldPages } from "../postgres/redo-rare-workload.ts";
import { moveCounters } from "../support/counters.ts";
import { GENERATOR_SETTINGS, generate } from "../support/generator.ts";
import type { TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { Lab } from "./branch-harness.ts";

const SETTINGS = {
  ...GENERATOR_SETTINGS,
  wal_consistency_checking: "all",
  max_wal_size: "20GB",
  synchronous_commit: "off",
  shared_buffers: "64MB",
};

/** Directory by directory: what was there in the beginning is gone, and something else has come. */
function assertSegmentsRemoved(base: TestPostgres, compute: TestPostgres): void {
  for (const directory of ["pg_xact", "pg_multixact/offsets", "pg_multixact/members"]) {
    const first = readdirSync(join(base.dataDir, directory)).sort()[0];
    const now = readdirSync(join(compute.dataDir, directory));
    assert.ok(
      first !== undefined && now.length > 0 && !now.includes(first),
      `${directory}: ${now.join(" ")}`,
    );
  }
  // Times of commits begin in segment 40; there may be more than one after it.
  const times = readdirSync(join(compute.dataDir, "pg_commit_ts"));
  assert.ok(times.length > 0 && !times.includes("0028"), `pg_commit_ts: ${times.join(" ")}`);
}

/** Runs a server of the version and throws at the first difference. */
export async function followGenerator(t: TestContext, major: number): Promise<void> {
  const random = SeededRandom.forTest(t);
  await using lab = new Lab({ checkpointDistanceBytes: 16 << 20, verifyRedo: true });
  const main = await lab.init(versionByMajor(major).initdbArguments, major, (server) => {
    moveCounters(server, SHORTLY_BEFORE_SEGMENTS);
  });
  const compute = await lab.compute(main, SETTINGS);
  await generate(compute, random, { clients: 2 });
  await main.syncWithWriter(240_000);
  await compute.stop();
  // Beginning with what hints on old pages do, and images in place of records.
  compute.configure({ ...SETTINGS, full_page_writes: "on", wal_log_hints: "on", max_connections: 37 });
  await lab.startWriter(main, compute);
  await touchOldPages(compute);
  await compute.stop();

  const control = parseControlFile(readFileSync(join(compute.dataDir, "global/pg_control")));
  const end = checkpointEndLsn(control);
  await main.waitForLsn(end, 60_000);
  assert.equal(main.error, undefined);
  assertSegmentsRemoved(lab.base, compute);
  assert.equal(readdirSync(join(compute.dataDir, "pg_twophase")).length, 2);
  const { signal } = new AbortController();
  const options = { signal, progress: () => undefined };
  const { differences, pages } = await main.verifyDirectory(
    { directory: compute.dataDir, lsn: end },
    options,
  );
  t.diagnostic(`${main.verifiedPages} pages compared record by record, ${pages} with the server's files`);
  assert.deepEqual(differences, []);
  assert.ok((main.verifiedPages ?? 0) > 10_000 && pages > 2000);
}
