/**
 * Push and pull where garbage collection at the sender has passed the end of the receiver: with real Postgres servers, all
 * that can be read is right, and what cannot be is refused.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Json } from "./cli.ts";
import { CHECKSUM, Labs, assertSameAt, backupDigests, refused, setting, transfer, uriOf } from "./sharing.ts";

test("a branch goes on at others whose end garbage collection has passed", { timeout: 600_000 }, async () => {
  await using labs = new Labs();
  const ada = await labs.init("main");
  const server = await labs.init();
  const tenant = setting(ada, "default_tenant_id");
  const there = ["--tenant-id", tenant];
  const main = await ada.ok("pg", "url", "main");
  const here = async (): Promise<string> =>
    String(await ada.value(main, "select pg_current_wal_flush_lsn()::text"));
  await ada.execute(
    main,
    "create table t (k int primary key, v text)",
    "create table gone as select generate_series(1, 1000) i",
    "insert into t select i, repeat(md5(i::text), 8) from generate_series(1, 4000) i",
  );
  const early = await here();
  const now = "to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
  const earlyTime = String(await ada.value(main, `select ${now}`));
  await ada.execute(main, "update t set v = 'early' where k % 7 = 0");
  await ada.ok("origin", "add", "origin", uriOf(server));
  const created = await transfer(ada, "push", "main", "origin");
  const end = String(created["to_lsn"]);
  const bob = labs.empty();
  await transfer(bob, "clone", uriOf(server), ...there);
  await bob.ok("branch", "work", "main@" + early);
  const work = await bob.ok("pg", "create", "work");
  await bob.execute(work, "delete from t where k > 3000");
  const old = await bob.ok("pg", "create", "old", "--branch", "main", "--lsn", end);
  const oldSum = await bob.value(old, CHECKSUM);
  const ancestorAt = async (name: string, time: string): Promise<unknown> =>
    ((await bob.json("branch", name, `main@${time}`))["ancestor"] as Json)["lsn"];
  const earlyLsn = await ancestorAt("then", earlyTime);
  const before = await backupDigests(bob, tenant, "main", early);

  // Ada's garbage collection gives up what the others do not have yet.
  await ada.execute(main, "update t set v = 'gap ' || k where k % 3 = 0", "drop table gone");
  const inGap = await here();
  const gapTime = String(await ada.value(main, `select ${now}`));
  await ada.execute(
    main,
    "create table t2 as select i, md5(i::text) from generate_series(1, 3000) i",
    "delete from t where k % 5 = 0",
    "vacuum t",
    "checkpoint",
  );
  await ada.ok("compact");
  await ada.ok("gc", "--keep", "0s", "--horizon", "0");
  const cutoff = await here();
  await ada.execute(main, "insert into t select i, 'late' from generate_series(9001, 9100) i");
  const late = await here();
  await ada.execute(main, "update t set v = 'last' where k = 1");
  const sum = await ada.value(main, CHECKSUM);
  await ada.ok("pg", "stop", "main");

  const updated = await transfer(ada, "push", "main");
  assert.deepEqual([updated["result"], updated["from_lsn"]], ["updated", end]);
  assert.ok(Number(updated["bytes_sent"]) < Number(created["bytes_sent"]), JSON.stringify(updated));
  const pulled = await transfer(bob, "pull", "main");
  assert.deepEqual([pulled["result"], pulled["to_lsn"]], ["updated", updated["to_lsn"]]);
  const readable = [cutoff, late, String(updated["to_lsn"])];
  await assertSameAt([ada, server], tenant, ["main", "main"], readable);
  await assertSameAt([ada, bob], tenant, ["main", "main"], readable);
  assert.match(
    await refused(bob, 3, "branch", "x", "main@" + inGap),
    /below the GC cutoff [0-9A-F]+\/[0-9A-F]+/,
  );
  assert.match(await refused(bob, 3, "branch", "x", `main@${gapTime}`), /lies below the GC cutoff/);
  assert.equal(await ancestorAt("then-again", earlyTime), earlyLsn);

  // What Bob had is as it was: moments before, his branch, the compute that shows the old end.
  assert.deepEqual(await backupDigests(bob, tenant, "main", early), before);
  assert.equal(await bob.value(old, CHECKSUM), oldSum);
  await bob.ok("pg", "restart", "old");
  assert.equal(await bob.value(old, CHECKSUM), oldSum);
  await bob.ok("pg", "stop", "work");
  await bob.ok("verify", "work");

  // He works on, and it goes back.
  const bobsMain = await bob.ok("pg", "create", "main");
  assert.equal(await bob.value(bobsMain, CHECKSUM), sum);
  assert.deepEqual(await bob.column(bobsMain, "select count(*)::int from t2"), [3000]);
  await bob.execute(bobsMain, "insert into t values (-1, 'of Bob')");
  await bob.ok("pg", "stop", "main");
  await bob.ok("verify", "main");
  await transfer(bob, "push", "main");
  assert.equal((await transfer(ada, "pull", "main"))["result"], "updated");
  for (const lab of [server, bob]) {
    await lab.ok("fsck");
    await lab.ok("compact", ...(lab === server ? there : []));
    await lab.ok("gc", "--keep", "0s", "--horizon", "0", ...(lab === server ? there : []));
    await lab.ok("fsck");
  }
  assert.equal(await bob.value(old, CHECKSUM), oldSum);
  await bob.ok("pg", "start", "work");
  assert.deepEqual(await bob.column(work, "select count(*)::int from t"), [3000]);
});
