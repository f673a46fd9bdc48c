/**
 * Push, pull and clone between three repositories, with real Postgres servers: the five cases of a destination (missing,
 * behind, equal, ahead, diverged), the same bytes on all sides, and that each side goes on by itself.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { Json } from "./cli.ts";
import {
  CHECKSUM,
  Labs,
  assertSameAt,
  branchOf,
  refused,
  setting,
  standing,
  transfer,
  uriOf,
} from "./sharing.ts";

test("a branch goes to a server and on to a second machine", { timeout: 600_000 }, async () => {
  await using labs = new Labs();
  const ada = await labs.init("main");
  const server = await labs.init();
  const tenant = setting(ada, "default_tenant_id");
  const there = ["--tenant-id", tenant];
  const main = await ada.ok("pg", "url", "main");
  await ada.execute(
    main,
    "create table t (k int primary key, v text)",
    "insert into t select i, repeat(md5(i::text), 8) from generate_series(1, 4000) i",
    "create index on t (v)",
  );
  const firstLsn = String(await ada.value(main, "select pg_current_wal_insert_lsn()::text"));
  await ada.execute(main, "update t set v = 'second' where k % 7 = 0", "vacuum t");

  // Missing there: created, with every commit that has returned. Once nobody writes, nothing is left to send.
  await ada.ok("origin", "add", "origin", uriOf(server));
  const dry = await transfer(ada, "push", "main", "origin", "--dry-run");
  assert.equal(dry["result"], "created");
  assert.equal((await server.json("branch", ...there))["ok"], false, "a dry run makes no tenant");
  const created = await transfer(ada, "push", "main", "origin");
  assert.deepEqual([created["result"], created["from_lsn"]], ["created", null]);
  assert.equal(created["to_lsn"], (await branchOf(server, "main", ...there))["last_record_lsn"]);
  await ada.ok("pg", "stop", "main");
  assert.equal(await standing(ada, "main"), "origin:main ahead");
  const updated = await transfer(ada, "push", "main");
  assert.deepEqual([updated["result"], updated["from_lsn"]], ["updated", created["to_lsn"]]);
  assert.ok(Number(updated["bytes_sent"]) < Number(created["bytes_sent"]) / 4, JSON.stringify(updated));
  assert.equal(await standing(ada, "main"), "origin:main equal");
  const unchanged = await transfer(ada, "push", "main");
  assert.equal(unchanged["result"], "unchanged");
  assert.ok(Number(unchanged["bytes_sent"]) + Number(unchanged["bytes_received"]) <= 10_240);
  assert.match((await ada.run("push", "main")).stdout, /^main -> origin:main {2}up to date at /);

  // A second machine. Bob's clone has the same bytes, at the end and at moments before. He works on a branch of main.
  // The server has its own tenant beside Ada's, so which one is meant has to be said.
  const bob = labs.empty();
  assert.match(await refused(bob, 2, "clone", uriOf(server)), /several tenants/);
  const cloned = await transfer(bob, "clone", uriOf(server), ...there);
  assert.deepEqual([cloned["result"], cloned["tenant_id"], cloned["origin"]], ["created", tenant, "origin"]);
  assert.equal(await standing(bob, "main"), "origin:main equal");
  const end = String(updated["to_lsn"]);
  await assertSameAt([ada, bob], tenant, ["main", "main"], [firstLsn, end]);
  await bob.ok("branch", "work");
  const work = await bob.ok("pg", "create", "work");
  await ada.ok("pg", "start", "main");
  assert.equal(await bob.value(work, CHECKSUM), await ada.value(main, CHECKSUM));
  assert.deepEqual(await bob.column(work, "select count(*)::int from t where v = 'second'"), [571]);
  await bob.execute(work, "delete from t where k > 10");

  // Behind there, and then behind at Bob's: what is new goes over, and nothing else.
  await ada.execute(main, "insert into t select i, 'third' from generate_series(5001, 5100) i");
  await ada.ok("pg", "stop", "main");
  const more = await transfer(ada, "push", "main");
  const fetched = (await transfer(bob, "fetch", "origin"))["branches"] as Json[];
  assert.deepEqual(
    fetched.map((branch) => [branch["name"], branch["local_branch"], branch["state"]]),
    [["main", "main", "behind"]],
  );
  assert.equal(await standing(bob, "main"), "origin:main behind");
  const pulled = await transfer(bob, "pull", "main");
  assert.deepEqual(
    [pulled["result"], pulled["from_lsn"], pulled["to_lsn"]],
    ["updated", end, more["to_lsn"]],
  );
  assert.ok(Number(pulled["bytes_received"]) < Number(created["bytes_sent"]) / 4, JSON.stringify(pulled));
  await assertSameAt([ada, bob], tenant, ["main", "main"], [firstLsn, end, String(more["to_lsn"])]);

  // Bob writes to his main as well: it has diverged, and both stay as they are. His goes there under another name.
  const bobsMain = await bob.ok("pg", "create", "main");
  assert.equal(await bob.value(bobsMain, "select count(*)::int from t"), 4100);
  await bob.execute(bobsMain, "insert into t values (-1, 'of Bob')");
  await bob.ok("pg", "stop", "main");
  await bob.ok("verify", "main");
  await ada.ok("pg", "start", "main");
  await ada.execute(main, "insert into t values (-2, 'of Ada')");
  await transfer(ada, "push", "main");
  assert.match(await refused(bob, 5, "pull", "main"), /diverged.*histories part at/);
  assert.match(await refused(bob, 5, "push", "main"), /diverged/);
  assert.equal((await transfer(bob, "push", "main", "origin:bob"))["result"], "created");
  await transfer(bob, "fetch", "origin");
  assert.equal(await standing(bob, "main"), "origin:main diverged");
  assert.equal((await transfer(ada, "pull", "bob", "origin"))["result"], "created");
  assert.equal((await transfer(bob, "pull", "ada", "origin:main"))["result"], "created");

  // Everybody goes on, on all sides.
  const ofBob = await ada.ok("pg", "create", "bob");
  const ofAda = await bob.ok("pg", "create", "ada");
  await bob.ok("pg", "start", "main");
  await ada.execute(ofBob, "insert into t values (-3, 'at Ada')");
  const below = "select k from t where k < 0 order by k";
  assert.deepEqual(await ada.column(ofBob, below), [-3, -1]);
  assert.deepEqual(await bob.column(ofAda, below), [-2]);
  assert.deepEqual(await bob.column(bobsMain, below), [-1]);
  assert.deepEqual(await ada.column(main, below), [-2]);
  assert.equal(await bob.value(work, "select count(*)::int from t"), 10);
  for (const lab of [ada, bob, server]) await lab.ok("fsck", ...there);
});

test("a branch that is ahead, in use, or shares its history", { timeout: 600_000 }, async () => {
  await using labs = new Labs();
  const ada = await labs.init("main");
  const tenant = setting(ada, "default_tenant_id");
  const main = await ada.ok("pg", "url", "main");
  await ada.execute(main, "create table t (k int)", "insert into t select generate_series(1, 20000)");
  await ada.ok("branch", "dev");
  await ada.ok("branch", "leaf", "dev");
  await ada.ok("pg", "stop", "main");

  // Straight from Ada's own pageserver, one branch of three: its ancestors come along without names.
  const bob = labs.empty();
  const cloned = await transfer(bob, "clone", uriOf(ada), "shop", "--branch", "leaf", "--name", "ada");
  assert.deepEqual(
    (cloned["branches"] as Json[]).map((branch) => branch["name"]),
    ["leaf"],
  );
  const repo = ["--repo", "shop"];
  assert.equal(await standing(bob, "leaf", ...repo), "ada:leaf equal");
  const dev = await transfer(bob, "pull", "dev", "ada", ...repo);
  assert.equal(dev["result"], "created");
  assert.ok(Number(dev["bytes_received"]) < 20_000, JSON.stringify(dev));
  const bobsDev = await bob.ok("pg", "create", "dev", ...repo);
  await bob.execute(bobsDev, "insert into t values (0)");

  // Ada's is behind. While a compute of hers writes to it, it is not touched.
  assert.match(await refused(ada, 2, "push", "dev"), /no upstream/);
  const adasDev = await ada.ok("pg", "create", "dev");
  assert.match(await refused(bob, 5, "push", "dev", ...repo), /compute|diverged/);
  await ada.ok("pg", "destroy", "dev", "--force");
  assert.equal(typeof adasDev, "string");

  await ada.ok("branch", "shared", "main");
  await transfer(bob, "pull", "shared", "ada", ...repo);
  const shared = await bob.ok("pg", "create", "shared", ...repo);
  await bob.execute(shared, "insert into t values (-1)");
  assert.equal(await standing(bob, "shared", ...repo), "ada:shared ahead");
  // Ahead here: a pull has nothing to give.
  assert.match(await refused(bob, 5, "pull", "shared", ...repo), /ahead.*neon push/s);
  const pushed = await transfer(bob, "push", "shared", ...repo);
  assert.equal(pushed["result"], "updated");
  assert.equal(await standing(bob, "shared", ...repo), "ada:shared equal");
  await bob.ok("pg", "stop", "shared", ...repo);
  await transfer(bob, "push", "shared", ...repo);

  // Bob's server as Ada's origin: hers is equal, then behind, and a push of hers has nothing to give.
  await ada.ok("origin", "add", "bob", uriOf({ neonDirectory: join(bob.directory, "shop", ".neon") }));
  assert.equal((await transfer(ada, "push", "shared", "bob"))["result"], "unchanged");
  await bob.ok("pg", "start", "shared", ...repo);
  await bob.execute(shared, "insert into t values (-2)");
  assert.match(await refused(ada, 5, "push", "shared"), /ahead.*neon pull/s);
  // A compute may write at the source while it is pulled from.
  assert.equal((await transfer(ada, "pull", "shared"))["result"], "updated");
  const adasShared = await ada.ok("pg", "create", "shared");
  assert.deepEqual(await ada.column(adasShared, "select k from t where k < 1 order by k"), [-2, -1]);
  // A compute writes at either side: neither copy is touched, whether it is noticed as such or by what was written.
  await ada.execute(adasShared, "insert into t values (-3)");
  assert.match(await refused(ada, 5, "pull", "shared"), /compute|diverged|ahead/);
  assert.match(await refused(ada, 5, "push", "shared", "bob:shared"), /compute|diverged/);
  for (const [lab, flags] of [
    [ada, []],
    [bob, repo],
  ] as const) {
    await lab.ok("fsck", "--tenant-id", tenant, ...flags);
  }
});
