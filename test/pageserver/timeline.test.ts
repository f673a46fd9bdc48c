/** Timelines with real Postgres: what is committed before a branch point is in the branch, and nothing else. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Lsn } from "../../src/base/lsn.ts";
import { Lab } from "./branch-harness.ts";

test("a compute starts on the imported data directory, writes, and a branch has exactly what it wrote", async () => {
  await using lab = new Lab();
  const main = await lab.init();
  const compute = await lab.compute(main);
  await compute.query("create table t (id int primary key, v text)");
  await compute.query("insert into t select i, 'row ' || i from generate_series(1, 1000) i");
  await main.syncWithWriter(10_000);
  const fork: Lsn = main.lastRecordLsn;
  await compute.query("insert into t values (1001, 'after the fork')");
  const dev = await lab.branch(main, fork);
  const other = await lab.compute(dev);
  assert.equal(await other.value("select count(*)::int from t"), "1000");
  await other.query("delete from t where id <= 10");
  assert.equal(await compute.value("select count(*)::int from t"), "1001");
  assert.equal(await other.value("select count(*)::int from t"), "990");
});
