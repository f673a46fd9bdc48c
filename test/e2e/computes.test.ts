/** The life of computes: started, stopped, killed, rebuilt, destroyed; their settings, ports and process ids. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import type { Json } from "./cli.ts";
import {
  Lab,
  freePort,
  isAlive,
  isPending,
  killAndWait,
  neon,
  processesBelow,
  send,
  until,
} from "./support.ts";

test("start, stop, restart, destroy, list, url, psql", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init();
  const created = await lab.json("pg", "create", "main");
  const uri = String(created["uri"]);
  assert.match(uri, /^postgresql:\/\/postgres@127\.0\.0\.1:\d+\/postgres$/);
  const shown = { ...created };
  assert.deepEqual(await lab.json("pg", "url", "main"), shown);
  assert.equal(await lab.ok("pg", "url", "main"), uri);
  assert.equal(created["mode"], "read-write");
  assert.equal(created["state"], "running");
  assert.match(String(created["lsn"]), /^0\/[0-9A-F]+$/);
  await lab.execute(uri, "create table t (v int)", "insert into t values (1), (2)");
  assert.equal(
    await lab.ok("pg", "psql", "main", "--builtin", "-c", "select sum(v) as total from t"),
    "total\n3\n(1 row)",
  );
  const psql = await lab.json("pg", "psql", "main", "-c", "select v from t order by v; select 'x' as y");
  assert.deepEqual(
    (psql["results"] as Json[]).map((result) => result["rows"]),
    [[["1"], ["2"]], [["x"]]],
  );

  const pid = await lab.computePid("main");
  assert.equal(await lab.ok("pg", "start", "main"), uri, "starting what runs is fine");
  assert.equal(await lab.computePid("main"), pid);
  assert.equal(await lab.ok("pg", "restart", "main"), uri);
  const next = await lab.computePid("main");
  assert.notEqual(next, pid);
  assert(!isAlive(pid) && isAlive(next));

  assert.deepEqual(await lab.json("pg", "stop", "main"), { ok: true, stopped: ["main"] });
  assert.deepEqual(await lab.json("pg", "stop", "main"), { ok: true, stopped: [] });
  assert.match(await lab.ok("pg", "list"), /^main +main +stopped +read-write +remote +0\/\w+ +postgresql:/m);
  assert.equal(await lab.computeField("main", "pid"), null);
  assert.equal((await lab.run("pg", "url", "main")).code, 0, "its address is known although it does not run");
  assert.equal((await lab.branches()).get("main")?.["writer"], null, "nobody writes");
  assert.equal(await lab.ok("pg", "start", "main"), uri, "the port is kept");
  assert.deepEqual(await lab.column(uri, "select v from t order by v"), [1, 2]);

  const moved = await lab.run("pg", "stop", "--all");
  assert.equal(moved.code, 0);
  const other = await lab.json("pg", "start", "main", "--port", String(await freePort()));
  assert.notEqual(other["uri"], uri);
  assert.deepEqual(await lab.column(String(other["uri"]), "select count(*)::int from t"), [2]);
  await lab.ok("pg", "destroy", "main", "--force");
  assert.deepEqual((await lab.json("pg", "list"))["computes"], []);
  assert.equal(
    await lab.value(await lab.ok("pg", "start", "main"), "select count(*)::int from t"),
    2,
    "made again",
  );
  assert.match(await lab.ok("logs", "main"), /database system is ready to accept connections/);
});

test(
  "settings survive; a directory that is unclean, gone or stale is rebuilt",
  { timeout: 300_000 },
  async () => {
    await using lab = await Lab.init("main");
    const uri = await lab.ok("pg", "url", "main");
    const conf = join(lab.computeDirectory("main"), "neon-user.conf");
    appendFileSync(conf, "statement_timeout = '12345s'\nfsync = on\n");
    await lab.execute(
      uri,
      "alter system set work_mem = '7MB'",
      // These two decide whether a COMMIT is safe: they must not win.
      "alter system set full_page_writes = on",
      "alter system set synchronous_standby_names = ''",
      "create table t (v int)",
      "insert into t values (1)",
    );
    const check = async (why: string, rows: number[]): Promise<void> => {
      const settings = [
        "work_mem",
        "statement_timeout",
        "fsync",
        "full_page_writes",
        "synchronous_standby_names",
      ];
      const shown = settings.map((name) => `current_setting('${name}')`).join(", ");
      const [values] = await lab.column(uri, `select array[${shown}]`);
      assert.deepEqual(values, ["7MB", "12345s", "off", "off", "pageserver"], why);
      assert.deepEqual(await lab.column(uri, "select v from t order by v"), rows, why);
    };
    await lab.ok("pg", "restart", "main");
    await check("after a restart", [1]);
    const start = await lab.computeField("main", "lsn");

    await lab.execute(uri, "insert into t values (2)");
    await killAndWait(await lab.computePid("main"));
    assert.equal(await lab.computeField("main", "state"), "crashed");
    assert.match(await lab.ok("status"), /^main +main +crashed/m);
    await lab.ok("pg", "start", "main");
    assert.notEqual(await lab.computeField("main", "lsn"), start, "it was rebuilt at the end of the branch");
    await check("after kill -9", [1, 2]);

    await lab.execute(uri, "insert into t values (3)");
    await lab.ok("pg", "stop", "main", "--immediate");
    assert.equal(await lab.computeField("main", "state"), "stopped");
    await lab.ok("pg", "start", "main");
    await check("after an immediate stop", [1, 2, 3]);

    await lab.ok("pg", "stop", "main");
    const pgdata = join(lab.computeDirectory("main"), "pgdata");
    rmSync(pgdata, { recursive: true });
    await lab.ok("pg", "start", "main");
    await check("without a directory", [1, 2, 3]);

    await lab.ok("pg", "stop", "main");
    rmSync(join(pgdata, "global", "pg_control"));
    await lab.ok("pg", "start", "main");
    await check("without pg_control", [1, 2, 3]);

    await lab.ok("pg", "stop", "main");
    const second = await lab.ok("pg", "create", "second", "--branch", "main");
    await lab.execute(second, "insert into t values (4)");
    await lab.ok("pg", "stop", "second");
    await lab.ok("pg", "start", "main");
    await check("after another compute has written", [1, 2, 3, 4]);
    await lab.execute(uri, "insert into t values (5)");
    await lab.ok("pg", "stop", "main");
    const again = await lab.ok("pg", "start", "second");
    assert.deepEqual(await lab.column(again, "select v from t order by v"), [1, 2, 3, 4, 5]);
  },
);

test("a setting that Postgres refuses is explained, and can be corrected", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(uri, "create table t as select 1 as v");
  await lab.ok("pg", "stop", "main");
  const conf = join(lab.computeDirectory("main"), "neon-user.conf");
  const text = readFileSync(conf, "utf8");
  writeFileSync(conf, `${text}\nshared_buffers = 'many'\n`);
  const failed = await lab.run("pg", "start", "main");
  assert.equal(failed.code, 10);
  assert.match(failed.stderr, /Postgres did not start.*\n.*shared_buffers/s);
  assert.match(failed.stderr, /hint: .*postgres\.log/);
  assert.equal(await lab.computeField("main", "state"), "stopped");
  writeFileSync(conf, text);
  await lab.ok("pg", "start", "main");
  assert.deepEqual(await lab.column(uri, "select v from t"), [1]);
});

/** Something that lives on, and dies of any signal that is sent to it. */
function bystander(path: string): ChildProcess {
  const child = spawn(path, ["1000"], { stdio: "ignore" });
  assert(child.pid !== undefined);
  return child;
}

test("pid files of foreign processes never lead to a signal", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(uri, "create table t as select 1 as v");
  // Even one with the name of Postgres is somebody else's.
  const disguised = join(lab.directory, "postgres");
  copyFileSync("/bin/sleep", disguised);
  const sleepers = [bystander("/bin/sleep"), bystander(disguised)];
  const pidFile = join(lab.computeDirectory("main"), "pgdata", "postmaster.pid");
  try {
    const text = readFileSync(pidFile, "utf8");
    for (const { pid } of sleepers) {
      await killAndWait(await lab.computePid("main"));
      writeFileSync(pidFile, text.replace(/^\d+/, String(pid)));
      assert.equal(await lab.computeField("main", "state"), "crashed");
      await lab.ok("pg", "stop", "main", "--immediate");
      writeFileSync(pidFile, text.replace(/^\d+/, String(pid)));
      await lab.ok("pg", "stop", "main");
      await lab.ok("pg", "start", "main");
      assert.deepEqual(await lab.column(uri, "select v from t"), [1]);
    }
    await lab.ok("pg", "stop", "main");
    writeFileSync(pidFile, text.replace(/^\d+/, String(sleepers[1]?.pid)));
    await lab.ok("pg", "destroy", "main", "--force");

    await lab.ok("stop");
    const serverPid = join(lab.neonDirectory, "pageserver", "pageserver.pid");
    const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    for (const { pid } of sleepers) {
      writeFileSync(
        serverPid,
        JSON.stringify({ pid, start_time: "1", boot_id: bootId, listen: "127.0.0.1:1" }),
      );
      assert.match(await lab.ok("stop"), /The pageserver was not running/);
      assert.match(await lab.ok("stop", "--force"), /The pageserver was not running/);
      writeFileSync(
        serverPid,
        JSON.stringify({ pid, start_time: "1", boot_id: bootId, listen: "127.0.0.1:1" }),
      );
      await lab.ok("start");
      await lab.ok("stop");
    }
    for (const sleeper of sleepers) assert(sleeper.pid !== undefined && isAlive(sleeper.pid));
  } finally {
    for (const sleeper of sleepers) {
      sleeper.kill("SIGKILL");
      await once(sleeper, "exit");
    }
  }
});

test("a Postgres that hangs can be got rid of", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(uri, "create table t as select 1 as v");
  const pgdata = join(lab.computeDirectory("main"), "pgdata");
  for (const pid of processesBelow(pgdata)) send(pid, "SIGSTOP");
  await lab.ok("pg", "stop", "main", "--immediate");
  assert.deepEqual(processesBelow(pgdata), []);
  await lab.ok("pg", "start", "main");
  assert.deepEqual(await lab.column(uri, "select v from t"), [1]);
});

test("read-only computes show exactly their moment and reject writes", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  const client = await lab.connect(uri);
  const moments: { lsn: string; at: Date }[] = [];
  await client.query("create table t (v int primary key)");
  await client.query("create sequence s");
  for (let v = 1; v <= 5; v++) {
    await client.query("insert into t values ($1)", [v]);
    const { rows } = await client.query<{ lsn: string; at: Date }>(
      "select pg_current_wal_insert_lsn()::text as lsn, clock_timestamp() as at",
    );
    moments.push(...rows);
    // The next commit has another millisecond for certain.
    await client.query("select pg_sleep(0.02)");
  }
  await client.query("delete from t where v < 3");
  await client.end();
  const third = moments[2];
  const fifth = moments[4];
  assert(third && fifth);
  const byLsn = await lab.json("pg", "create", "by-lsn", "--branch", "main", "--lsn", third.lsn);
  const byTime = await lab.json("pg", "create", "by-time", "--lsn", `main@${fifth.at.toISOString()}`);
  assert.equal(byLsn["mode"], "read-only");
  const show = async (compute: Json): Promise<unknown[]> =>
    lab.column(String(compute["uri"]), "select v from t order by v");
  assert.deepEqual(await show(byLsn), [1, 2, 3]);
  assert.deepEqual(await show(byTime), [1, 2, 3, 4, 5]);
  assert.deepEqual(await lab.column(uri, "select v from t order by v"), [3, 4, 5]);
  const readOnly = String(byLsn["uri"]);
  for (const sql of [
    "insert into t values (9)",
    "delete from t",
    "create table x ()",
    "select nextval('s')",
    "vacuum t",
  ]) {
    await assert.rejects(lab.execute(readOnly, sql), /read-only|recovery/, sql);
  }
  await lab.execute(uri, "insert into t values (10)");
  assert.deepEqual(await show(byLsn), [1, 2, 3], "it does not follow the branch");
  await lab.ok("pg", "restart", "by-lsn");
  assert.deepEqual(await show(byLsn), [1, 2, 3]);
  await killAndWait(await lab.computePid("by-lsn"));
  await lab.ok("pg", "start", "by-lsn");
  assert.deepEqual(await show(byLsn), [1, 2, 3], "after kill -9");

  // Who promotes it can write to it, but into thin air: the branch is not his.
  assert.equal(await lab.value(readOnly, "select pg_promote()"), true);
  await lab.execute(readOnly, "insert into t values (66)");
  assert.deepEqual(await show(byLsn), [1, 2, 3, 66]);
  assert.deepEqual(await lab.column(uri, "select v from t order by v"), [3, 4, 5, 10]);
  await lab.ok("pg", "restart", "by-lsn");
  assert.deepEqual(await show(byLsn), [1, 2, 3], "the moment again");
  assert.deepEqual([...(await lab.branches()).keys()], ["main"]);
});

test("several computes on different branches under parallel load", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(
    uri,
    "create table t (branch text, v int, primary key (branch, v))",
    "insert into t values ('common', 0)",
  );
  const names = ["main", "a", "b", "c"];
  const uris = new Map([["main", uri]]);
  for (const name of names.slice(1)) await lab.ok("branch", name);
  // Made at the same time, and while the others are in use.
  await Promise.all(
    names.slice(1).map(async (name) => {
      const { code, stdout, stderr } = await neon(lab, ["pg", "create", name]);
      assert.equal(code, 0, stderr);
      uris.set(name, stdout.trim());
    }),
  );
  assert.equal(new Set(uris.values()).size, names.length, "every compute has a port of its own");
  const load = async (name: string): Promise<void> => {
    const client = await lab.connect(uris.get(name) ?? "");
    for (let v = 1; v <= 100; v++) {
      await client.query("insert into t values ($1, $2)", [name, v]);
      if (v % 10 === 0) await client.query("update t set v = -v where branch = $1 and v = $2", [name, v]);
    }
    await client.end();
  };
  await Promise.all(
    [...names, ...names.map(() => "")].map((name) => (name === "" ? lab.run("status") : load(name))),
  );
  const expected = (name: string): unknown[] => ["common", ...Array<string>(100).fill(name)].sort();
  await lab.ok("stop");
  await lab.ok("start", "--all");
  for (const name of names) {
    const rows = await lab.column(uris.get(name) ?? "", 'select branch from t order by branch collate "C"');
    assert.deepEqual(rows, expected(name), name);
  }
});

test("a repository that was moved while it did not run", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  await lab.execute(await lab.ok("pg", "url", "main"), "create table t as select 1 as v");
  await lab.ok("stop");
  const elsewhere = join(lab.directory, "elsewhere");
  mkdirSync(elsewhere);
  renameSync(lab.neonDirectory, join(elsewhere, ".neon"));
  // Ports belong to these files; without them, whatever else needs a port meanwhile may take one.
  for (const owner of ["pageserver/owner", "computes/main/compute.json", "config.toml"]) {
    const path = join(lab.neonDirectory, owner);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, "");
  }
  const there = { cwd: elsewhere };
  const started = await neon(lab, ["start", "--all"], there);
  rmSync(lab.neonDirectory, { recursive: true });
  assert.equal(started.code, 0, started.stderr);
  const url = (await neon(lab, ["pg", "url", "main"], there)).stdout.trim();
  assert.deepEqual(await lab.column(url, "select v from t"), [1]);
  const stopped = await neon(lab, ["stop"], there);
  assert.equal(stopped.code, 0, stopped.stderr);
});

test("the pageserver goes and comes back under a running compute", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  await lab.ok("branch", "local");
  const remote = await lab.ok("pg", "url", "main");
  const local = await lab.ok("pg", "create", "local", "--commit", "local");
  const client = await lab.connect(remote);
  const localClient = await lab.connect(local);
  await client.query("create table t (v int)");
  await localClient.query("create table t (v int)");
  for (const how of ["stop", "kill", "pause"] as const) {
    const pid = await lab.pageserverPid();
    if (how === "pause") send(pid, "SIGSTOP");
    else if (how === "kill") await killAndWait(pid);
    else {
      // `neon stop` would stop the computes first.
      send(pid, "SIGTERM");
      await until("the pageserver to end", () => !isAlive(pid));
    }
    const commit = client.query("insert into t values (1)");
    assert(await isPending(commit), `${how}: the commit waits`);
    assert.equal(await lab.value(remote, "select 1"), 1, "reading goes on");
    await localClient.query("insert into t values (1)");
    if (how === "pause") send(pid, "SIGCONT");
    else await lab.ok("start");
    await commit;
  }
  assert.deepEqual((await client.query("select v from t")).rows.length, 3);
  await client.end();
  await localClient.end();
  for (const [branch, source] of [
    ["fork", "main"],
    ["fork-of-local", "local"],
  ] as const) {
    await lab.ok("branch", branch, source);
    const uri = await lab.ok("pg", "create", branch);
    assert.deepEqual(await lab.column(uri, "select v from t"), [1, 1, 1], branch);
  }
});
