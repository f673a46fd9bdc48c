/** The command line with the real pageserver and real Postgres: what a user does in the first ten minutes. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "pg";
import { SeededRandom } from "../support/random.ts";
import { temporaryDirectory } from "../repository/support.ts";
import { type Outcome, json, neon, startNeon } from "./support.ts";

/** A directory that Postgres may enter even when the test is run by root; what runs in it is stopped at the end. */
function workshop(t: TestContext): (args: string[], input?: string) => Promise<Outcome> {
  const cwd = temporaryDirectory(t);
  chmodSync(cwd, 0o755);
  const run = (args: string[], input?: string): Promise<Outcome> =>
    neon(args, { cwd, ...(input === undefined ? {} : { input }) });
  t.after(async () => {
    if (existsSync(join(cwd, ".neon", "config.toml"))) await run(["stop", "--force"]);
    const left = processesIn(cwd);
    assert.deepEqual(left, [], "processes that were left running");
  });
  return Object.assign(run, { cwd });
}

function processesIn(directory: string): string[] {
  const { stdout } = spawnSync("ps", ["-eo", "pid=,args="], { encoding: "utf8" });
  return stdout.split("\n").filter((line) => line.includes(directory));
}

async function query(uri: string, sql: string): Promise<unknown[]> {
  const client = new Client({ connectionString: uri });
  await client.connect();
  try {
    const { rows } = await client.query<{ v: unknown }>(sql);
    return rows.map((row) => row.v);
  } finally {
    await client.end();
  }
}

async function succeed(running: Promise<Outcome>): Promise<Outcome> {
  const outcome = await running;
  assert.equal(outcome.code, 0, outcome.stderr + outcome.stdout);
  return outcome;
}

test("init, two Postgres on two branches, the past, stop and start", async (t) => {
  const run = workshop(t);
  const init = json(await succeed(run(["init", "--json"])));
  assert.equal(init["branch"], "main");
  assert.equal(init["pg_version"], 17);
  assert.match(String(init["tenant_id"]), /^[0-9a-f]{32}$/);
  assert.equal((await run(["init"])).code, 4);

  const created = await succeed(run(["pg", "create", "main"]));
  const main = created.stdout.trim();
  assert.match(created.stdout, /^postgresql:\/\/postgres@127\.0\.0\.1:\d+\/postgres\n$/);
  await query(main, "CREATE TABLE t (v int)");
  await query(main, "INSERT INTO t VALUES (1), (2)");
  const [past] = await query(main, "SELECT pg_current_wal_insert_lsn()::text AS v");
  await query(main, "INSERT INTO t VALUES (3)");

  await succeed(run(["branch", "dev"]));
  const dev = (await succeed(run(["pg", "create", "dev", "--commit", "local"]))).stdout.trim();
  await query(main, "INSERT INTO t VALUES (4)");
  await query(dev, "DELETE FROM t WHERE v = 1");
  assert.deepEqual(await query(main, "SELECT v FROM t ORDER BY v"), [1, 2, 3, 4]);
  assert.deepEqual(await query(dev, "SELECT v FROM t ORDER BY v"), [2, 3]);

  const look = json(
    await succeed(run(["pg", "create", "look", "--branch", "main", "--lsn", String(past), "--json"])),
  );
  assert.equal(look["mode"], "read-only");
  assert.deepEqual(await query(String(look["uri"]), "SELECT v FROM t ORDER BY v"), [1, 2]);
  await assert.rejects(query(String(look["uri"]), "INSERT INTO t VALUES (9)"), /read-only/);

  assert.match((await succeed(run(["branch"]))).stdout, /^ main\n ┗━ @[0-9A-F]+\/[0-9A-F]+: dev\n$/);
  const { computes } = json(await succeed(run(["pg", "list", "--json"]))) as {
    computes: Record<string, unknown>[];
  };
  assert.deepEqual(
    computes.map((c) => [c["name"], c["state"]]),
    [
      ["dev", "running"],
      ["look", "running"],
      ["main", "running"],
    ],
  );

  assert.equal((await run(["pg", "create", "second", "--branch", "main"])).code, 5);
  assert.equal((await run(["pg", "create", "dev"])).code, 4);
  assert.equal((await run(["branch", "-d", "dev"])).code, 5);
  assert.equal((await run(["branch", "future", "main@F/0"])).code, 3);
  assert.equal((await run(["branch", "early", "main@0/10"])).code, 3);

  const piped = await succeed(
    run(["pg", "psql", "main", "--builtin"], "SELECT count(*) FROM t;\nSELECT 'a;b'"),
  );
  assert.match(piped.stdout, /count\n4\n\(1 row\)[^]*a;b\n/);
  assert.equal((await run(["pg", "psql", "main", "--builtin"], "SELCT;")).code, 3);
  const rows = json(await succeed(run(["pg", "psql", "main", "--json", "-c", "SELECT max(v) FROM t"])));
  assert.deepEqual((rows["results"] as { rows: unknown }[])[0]?.rows, [["4"]]);

  await succeed(run(["pg", "destroy", "look", "--force"]));
  await succeed(run(["pg", "stop", "--all"]));
  assert.match((await run(["pg", "psql", "main"])).stderr, /neon pg start main/);
  await succeed(run(["stop"]));
  assert.equal((await run(["branch"])).code, 6);
  const again = json(await succeed(run(["start", "--all", "--json"])));
  assert.equal((again["computes"] as unknown[]).length, 2);
  assert.deepEqual(await query(main, "SELECT v FROM t ORDER BY v"), [1, 2, 3, 4]);
  assert.deepEqual(await query(dev, "SELECT v FROM t ORDER BY v"), [2, 3]);
  assert.match((await succeed(run(["logs"]))).stdout, /INFO/);
  assert.match((await succeed(run(["logs", "main"]))).stdout, /database system is ready/);
  await succeed(run(["stop"]));
});

test("an init that was killed or interrupted can be run again", async (t) => {
  const random = SeededRandom.forTest(t);
  for (const signal of ["SIGKILL", "SIGKILL", "SIGINT", "SIGTERM"] as const) {
    const run = workshop(t);
    const { cwd } = run as unknown as { cwd: string };
    const delayMs = random.between(100, 1200);
    const child = startNeon(["init"], { cwd });
    child.stdout?.resume();
    child.stderr?.resume();
    const ended = once(child, "close");
    await Promise.race([sleep(delayMs), ended]);
    child.kill(signal);
    const [code] = (await ended) as [number | null];
    if (signal !== "SIGKILL" && code !== 0) {
      // Before Node has installed its handlers the signal itself ends it.
      const expected = signal === "SIGINT" ? 130 : 143;
      assert.ok(code === expected || code === null, `${signal} after ${delayMs} ms: ${code}`);
      if (code !== null) assert.deepEqual(readdirSync(cwd), [], "an interrupted init leaves nothing");
    }
    // A signal can still end a program that has done its work and listens no more.
    const directory = join(cwd, ".neon");
    const isComplete =
      existsSync(join(directory, "config.toml")) && !existsSync(join(directory, "init-unfinished"));
    if (!isComplete) await succeed(run(["init"]));
    assert.match((await succeed(run(["status"]))).stdout, /running/);
    assert.match(readFileSync(join(cwd, ".neon", "config.toml"), "utf8"), /default_tenant_id/);
    await succeed(run(["stop"]));
  }
});
