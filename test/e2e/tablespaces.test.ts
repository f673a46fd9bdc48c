/** Tablespaces through the command line: on a branch, on a read-only compute, after `ALTER SYSTEM RESET ALL`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Lab } from "./support.ts";

const IN_PLACE = "set allow_in_place_tablespaces = on; create tablespace fast location ''";

test("tablespaces are on branches and on read-only computes", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  const client = await lab.connect(uri);
  for (const sql of IN_PLACE.split("; ")) await client.query(sql);
  await client.end();
  await lab.execute(uri, "create table t tablespace fast as select 1 as v");
  await lab.ok("branch", "dev");
  const dev = await lab.ok("pg", "create", "dev");
  await lab.execute(dev, "insert into t values (2)");
  assert.deepEqual(await lab.column(dev, "select v from t order by v"), [1, 2]);

  const lsn = String(await lab.value(uri, "select pg_current_wal_flush_lsn()::text"));
  const look = await lab.ok("pg", "create", "look", "--branch", "main", "--lsn", lsn);
  assert.deepEqual(await lab.column(look, "select v from t"), [1]);
  // What tells the standby that such directories are meant is not for users to take away.
  await lab.execute(look, "alter system reset all");
  await lab.ok("pg", "restart", "look");
  assert.deepEqual(await lab.column(await lab.ok("pg", "url", "look"), "select v from t"), [1]);

  await lab.execute(dev, "drop table t", "drop tablespace fast");
  assert.deepEqual(await lab.column(uri, "select v from t"), [1]);
});
