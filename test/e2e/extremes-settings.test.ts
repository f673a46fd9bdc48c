/**
 * Settings that a standby must know, changed through the command line between restarts and rebuilds: what pg_control
 * says is never undercut, on branches and on read-only computes as little as on the compute itself.
 */
import assert from "node:assert/strict";
import { appendFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Lab, killAndWait } from "./support.ts";

const NAMES = [
  "max_connections",
  "max_prepared_transactions",
  "max_worker_processes",
  "max_locks_per_transaction",
];

async function settingsOf(lab: Lab, uri: string): Promise<string> {
  const names = NAMES.map((name) => `'${name}'`).join(", ");
  const sql = `select string_agg(setting, ' ' order by name) from pg_settings where name in (${names})`;
  return String(await lab.value(uri, sql));
}

test("parameters of the server change between restarts", { timeout: 300_000 }, async () => {
  await using lab = new Lab();
  await lab.ok("init", "--wal-segsize", "1");
  await lab.ok("pg", "create", "main", "--no-start");
  const conf = join(lab.computeDirectory("main"), "neon-user.conf");
  appendFileSync(
    conf,
    "max_connections = 150\nmax_prepared_transactions = 20\nmax_worker_processes = 12\nmax_locks_per_transaction = 100\n" +
      "track_commit_timestamp = on\nwal_log_hints = on\n",
  );
  const uri = await lab.ok("pg", "start", "main");
  const larger = "150 100 20 12";
  assert.equal(await settingsOf(lab, uri), larger);
  await lab.execute(uri, "create table t (i int)", "insert into t values (1)");
  const client = await lab.connect(uri);
  await client.query("begin");
  await client.query("insert into t values (2)");
  await client.query("prepare transaction 'p'");
  await client.end();
  const lsn = String(await lab.value(uri, "select pg_current_wal_flush_lsn()::text"));
  // A branch and a standby have what they need without being told.
  await lab.ok("branch", "dev");
  const dev = await lab.ok("pg", "create", "dev");
  assert.equal(await settingsOf(lab, dev), larger);
  assert.equal(await lab.value(dev, "show track_commit_timestamp"), "on");
  await lab.execute(dev, "commit prepared 'p'");
  const look = await lab.ok("pg", "create", "look", "--branch", "main", "--lsn", lsn);
  assert.equal(await settingsOf(lab, look), larger);
  assert.deepEqual(await lab.column(look, "select i from t"), [1]);
  await lab.ok("pg", "restart", "look");
  await lab.ok("pg", "destroy", "look", "--force");

  // The user takes some of it back; what was prepared stays, and a rebuild changes nothing about that.
  writeFileSync(conf, "max_connections = 40\nmax_prepared_transactions = 5\ntrack_commit_timestamp = off\n");
  await lab.ok("pg", "restart", "main");
  assert.equal(await settingsOf(lab, uri), "40 100 5 12");
  await killAndWait(await lab.computePid("main"));
  await lab.ok("pg", "start", "main");
  assert.equal(await settingsOf(lab, uri), "40 100 5 12");
  assert.equal(await lab.value(uri, "show track_commit_timestamp"), "off");
  assert.deepEqual(await lab.column(uri, "select gid from pg_prepared_xacts"), ["p"]);
  // Fewer than there are is an error of Postgres, and said so.
  writeFileSync(conf, "max_prepared_transactions = 0\n");
  const refused = await lab.run("pg", "restart", "main");
  assert.equal(refused.code, 10, refused.stderr);
  assert.match(refused.stderr, /max_prepared_transactions/);
  writeFileSync(conf, "track_commit_timestamp = on\n");
  await lab.ok("pg", "start", "main");
  await lab.execute(uri, "commit prepared 'p'", "insert into t values (3)");
  assert.deepEqual(await lab.column(uri, "select i from t order by i"), [1, 2, 3]);
  await lab.ok("pg", "stop", "main");
  assert.deepEqual((await lab.json("verify", "main"))["differences"], []);
});
