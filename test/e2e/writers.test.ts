/** One writer per branch: computes that are lost and rebuilt, and one that comes back from the dead. */
import assert from "node:assert/strict";
import { mkdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Lab, isAlive, isPending, killAndWait, processesBelow, send, until } from "./support.ts";

test(
  "three generations: killed and destroyed without being stopped, and written to again",
  { timeout: 300_000 },
  async () => {
    await using lab = await Lab.init();
    const expected: number[] = [];
    for (let generation = 1; generation <= 3; generation++) {
      const uri = await lab.ok("pg", "create", "main");
      if (generation === 1) await lab.execute(uri, "create table t (v int primary key, filler text)");
      assert.deepEqual(
        await lab.column(uri, "select v from t order by v"),
        expected,
        `generation ${generation}`,
      );
      const client = await lab.connect(uri);
      for (let v = generation * 1000; v < generation * 1000 + 200; v++) {
        await client.query("insert into t values ($1, repeat('x', 500))", [v]);
        expected.push(v);
      }
      // Not committed: gone with this compute.
      await client.query("begin");
      await client.query("insert into t select i, '' from generate_series(100000, 101000) i");
      await killAndWait(await lab.computePid("main"));
      await client.end().catch(() => undefined);
      await lab.ok("pg", "destroy", "main", "--force");
    }
    const last = await lab.ok("pg", "create", "main");
    assert.deepEqual(await lab.column(last, "select v from t order by v"), expected);
    await lab.execute(last, "create extension amcheck", "select bt_index_check('t_pkey', true)");
  },
);

test("a backend that outlived its postmaster commits nothing any more", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(uri, "create table t (v int)", "insert into t values (1)");
  const client = await lab.connect(uri);
  await client.query("begin");
  await client.query("insert into t values (66)");
  const { rows } = await client.query<{ pid: number }>("select pg_backend_pid() as pid");
  const backend = rows[0]?.pid ?? 0;
  send(backend, "SIGSTOP");
  const commit = client.query("commit").then(
    () => "acknowledged",
    () => "failed",
  );
  await killAndWait(await lab.computePid("main"));
  // Takes over: what is left of the old one is ended first, stopped or not.
  await lab.ok("pg", "start", "main");
  assert(!isAlive(backend));
  assert.equal(await commit, "failed");
  await client.end().catch(() => undefined);
  assert.deepEqual(await lab.column(uri, "select v from t"), [1]);
  await lab.ok("branch", "dev");
  assert.deepEqual(await lab.column(await lab.ok("pg", "create", "dev"), "select v from t"), [1]);
});

test(
  "a late writer of an earlier epoch: nothing of it is acknowledged or appears anywhere",
  { timeout: 300_000 },
  async () => {
    await using lab = await Lab.init("main");
    const old = await lab.ok("pg", "url", "main");
    await lab.execute(old, "create table t (v int)", "insert into t values (1)");
    const client = await lab.connect(old);
    await client.query("begin");
    await client.query("insert into t values (66)");
    // As if its machine hung, and the repository's idea of it were lost.
    const hung = processesBelow(join(lab.computeDirectory("main"), "pgdata"));
    assert(hung.length > 3, "a postmaster and its children");
    for (const pid of hung) send(pid, "SIGSTOP");
    const commit = client.query("commit");
    mkdirSync(join(lab.directory, "away"));
    renameSync(lab.computeDirectory("main"), join(lab.directory, "away", "main"));

    const uri = await lab.ok("pg", "create", "main");
    assert.notEqual(new URL(uri).port, new URL(old).port, "the old one still has its port");
    await lab.execute(uri, "insert into t values (2)");

    for (const pid of hung) send(pid, "SIGCONT");
    const late = await lab.connect(old);
    assert.deepEqual(
      (await late.query<{ v: number }>("select v from t")).rows.map((row) => row.v),
      [1],
    );
    const writes = [commit, late.query("insert into t select 67 from generate_series(1, 1000)")];
    for (const write of writes) write.catch(() => undefined);
    assert(await isPending(Promise.race(writes), 2500), "its commits wait for ever");

    await lab.execute(uri, "insert into t values (3)");
    assert.deepEqual(await lab.column(uri, "select v from t order by v"), [1, 2, 3]);
    await lab.ok("branch", "dev");
    const dev = await lab.ok("pg", "create", "dev");
    assert.deepEqual(await lab.column(dev, "select v from t order by v"), [1, 2, 3]);
    // Nor does a restart of the pageserver, which connects to computes anew, let it in.
    await killAndWait(await lab.pageserverPid());
    await lab.ok("start");
    await lab.execute(uri, "insert into t values (4)");
    assert(await isPending(Promise.race(writes), 1000));
    await lab.ok("pg", "restart", "main");
    assert.deepEqual(await lab.column(uri, "select v from t order by v"), [1, 2, 3, 4]);

    for (const pid of hung) if (isAlive(pid)) send(pid, "SIGQUIT");
    await until("the late writer to end", () => hung.every((pid) => !isAlive(pid)));
    const ends = await Promise.allSettled([commit, ...writes]);
    assert(
      ends.every((end) => end.status === "rejected"),
      "nothing was acknowledged at its end either",
    );
    await late.end().catch(() => undefined);
    await client.end().catch(() => undefined);
  },
);
