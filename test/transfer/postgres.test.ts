/** Push and pull with real Postgres servers on both sides: every moment is the same, and both go on by themselves. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { ErrorCode } from "../../src/base/errors.ts";
import type { Lsn } from "../../src/base/lsn.ts";
import { packDataDirectory } from "../../src/compute/data-directory.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { Lab } from "../pageserver/branch-harness.ts";
import { TestPostgres } from "../support/postgres.ts";
import { Site, TENANT } from "./site.ts";

const TIMEOUT = { timeout: 600_000 };
const SYNC_TIMEOUT_MS = 60_000;
const NOW = Date.UTC(2040, 0, 1);

/** A data directory as of an LSN, as one digest. The clocks of both sides stand still, so that equal is equal. */
async function directoryAt(timeline: Timeline, lsn: Lsn): Promise<string> {
  const { stream } = await timeline.baseBackup({ lsn, readOnly: false });
  const hash = createHash("sha256");
  for await (const bytes of stream) hash.update(bytes);
  return hash.digest("hex");
}

async function assertSameDirectories(ours: Timeline, theirs: Timeline, lsns: readonly Lsn[]): Promise<void> {
  assert.ok(lsns.length > 0);
  for (const lsn of lsns)
    assert.equal(await directoryAt(theirs, lsn), await directoryAt(ours, lsn), `at ${lsn}`);
}

/** Runs statements, and notes where the branch was after each. */
async function run(server: TestPostgres, timeline: Timeline, statements: readonly string[]): Promise<Lsn[]> {
  const lsns: Lsn[] = [];
  for (const statement of statements) {
    await server.query(statement);
    await timeline.syncWithWriter(SYNC_TIMEOUT_MS);
    lsns.push(timeline.lastRecordLsn);
  }
  return lsns;
}

async function sum(server: TestPostgres): Promise<unknown> {
  return server.value("select count(*)::text || ' ' || coalesce(sum(v), 0)::text from t");
}

void test("two pageservers, a Postgres on each", TIMEOUT, async () => {
  const options = { now: () => NOW, checkpointDistanceBytes: 1 << 20 };
  await using lab = new Lab();
  await using ours = await Site.open(options);
  await using theirs = await Site.open(options);
  await using initial = await TestPostgres.create({ start: false });
  const tenant = await ours.tenants.create({ id: TENANT, pgVersion: POSTGRES_17 });
  const tar = packDataDirectory(initial.dataDir) as AsyncIterable<Uint8Array>;
  await tenant.import({ branch: "main", timelineId: undefined, tar });
  const main = ours.timeline("main");
  const server = await lab.compute(main);
  const lsns = await run(server, main, [
    "create table t (id serial primary key, v int, pad text)",
    "insert into t (v, pad) select i, repeat(md5(i::text), 8) from generate_series(1, 20000) i",
    "create database copied strategy file_copy",
    "update t set v = v + 1 where id % 3 = 0",
    "delete from t where id % 7 = 0",
    "vacuum t",
  ]);
  // The compute runs and writes while its branch is pushed.
  const first = await ours.push(theirs, "main");
  assert.equal(first.result, "created");
  assert.equal(theirs.timeline("main").writer, undefined);
  await assertSameDirectories(main, theirs.timeline("main"), lsns.slice(3));

  // What was changed meanwhile follows; a branch of the same tree needs its own part only.
  lsns.push(...(await run(server, main, ["insert into t (v) select generate_series(1, 500)", "checkpoint"])));
  const second = await ours.push(theirs, "main");
  assert.equal(second.result, "updated");
  assert.ok(second.total_bytes * 4 < first.total_bytes, `${second.total_bytes} of ${first.total_bytes}`);
  await ours.branch("dev", "main", lsns[3]);
  const dev = ours.timeline("dev");
  const devServer = await lab.compute(dev);
  const devLsns = await run(devServer, dev, ["update t set v = 0 where id < 100"]);
  const third = await ours.push(theirs, "dev");
  assert.ok(third.total_bytes * 4 < first.total_bytes, `${third.total_bytes} of ${first.total_bytes}`);
  await assertSameDirectories(dev, theirs.timeline("dev"), [...devLsns, ...lsns.slice(2, 4)]);

  // Both sides go on: on the same branch they part, and stay as they are.
  const theirServer = await lab.compute(theirs.timeline("dev"));
  assert.equal(await sum(theirServer), await sum(devServer));
  await run(theirServer, theirs.timeline("dev"), ["insert into t (v) values (1000000)"]);
  await run(devServer, dev, ["insert into t (v) values (2000000)"]);
  await assert.rejects(ours.push(theirs, "dev"), { code: ErrorCode.Conflict, message: /diverged/ });
  assert.equal((await ours.push(theirs, "dev", "dev-ours")).result, "created");
  await assertSameDirectories(dev, theirs.timeline("dev-ours"), [dev.lastRecordLsn]);

  // And back: a pull brings what a Postgres over there has written to main.
  await server.stop();
  await main.closeWriter(main.writer?.epoch ?? assert.fail("main has a writer"), "test");
  await ours.push(theirs, "main");
  const remote = await lab.compute(theirs.timeline("main"));
  const more = await run(remote, theirs.timeline("main"), [
    "insert into t (v) select generate_series(1, 300)",
  ]);
  assert.equal((await ours.pull(theirs, "main")).result, "updated");
  await assertSameDirectories(theirs.timeline("main"), main, [...more, ...lsns.slice(-2)]);
  const resumed = await lab.compute(main);
  assert.equal(await sum(resumed), await sum(remote));
  await resumed.query("insert into t (v) values (1)");
});
