/** `neon init` that is interrupted at any moment, or run twice at once. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { SeededRandom } from "../support/random.ts";
import { type Json, sleep } from "./cli.ts";
import { snapshot } from "./refusals.ts";
import { Lab, finish, neon, processesBelow, startNeon } from "./support.ts";

test("an interrupted init can be run again", { timeout: 300_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using lab = new Lab();
  const started = performance.now();
  await lab.ok("init");
  const usualMs = performance.now() - started;
  await lab.ok("stop");
  rmSync(lab.neonDirectory, { recursive: true });

  const interrupt = async (signal: NodeJS.Signals, ms: number): Promise<void> => {
    const what = `${signal} after ${ms} ms`;
    const child = startNeon(lab, ["init"]);
    const running = finish(child);
    await sleep(ms);
    assert(child.pid !== undefined);
    // What a terminal does at Ctrl-C: the whole group gets it. SIGKILL goes to the command alone.
    const late = child.exitCode !== null;
    if (!late) process.kill(signal === "SIGINT" ? -child.pid : child.pid, signal);
    const { code, stderr } = await running;
    // A signal can still end a program that has done its work and listens no more.
    const isComplete =
      existsSync(join(lab.neonDirectory, "config.toml")) &&
      !existsSync(join(lab.neonDirectory, "init-unfinished"));
    if (late || code === 0 || isComplete) {
      assert.equal((await lab.json("status"))["ok"], true, what);
      await lab.ok("stop");
      rmSync(lab.neonDirectory, { recursive: true });
      return;
    }
    if (signal === "SIGINT") {
      assert.equal(code, 130, `${what}: ${stderr}`);
      assert.deepEqual(readdirSync(lab.directory), [], `${what} leaves nothing`);
      assert.deepEqual(processesBelow(lab.directory), [], `${what} leaves no process`);
    } else if (existsSync(lab.neonDirectory)) {
      const half = await lab.json("status");
      const { code: state } = half["error"] as Json;
      assert(state === "conflict" || state === "not_found", `${what}: ${JSON.stringify(half)}`);
    }
  };
  for (let round = 0; round < 3; round++) await interrupt("SIGINT", random.between(0, usualMs));
  for (let round = 0; round < 4; round++) await interrupt("SIGKILL", random.between(0, usualMs));
  await lab.ok("init");
  const uri = await lab.ok("pg", "create", "main");
  assert.equal(await lab.value(uri, "select 1"), 1);
  const pageservers = processesBelow(lab.directory).filter((pid) =>
    /pageserver\.js/.test(readFileSync(`/proc/${pid}/cmdline`, "latin1")),
  );
  assert.equal(pageservers.length, 1, "no pageserver of an earlier attempt is left");
  const leftovers = [...snapshot(lab.directory).keys()].filter((name) => /init|unfinished/.test(name));
  assert.deepEqual(leftovers, []);
});

test("two inits at once: one wins, the other says so", { timeout: 300_000 }, async () => {
  await using lab = new Lab();
  const runs = await Promise.all([neon(lab, ["init"]), neon(lab, ["init"]), neon(lab, ["init", "--json"])]);
  assert.equal(runs.filter((run) => run.code === 0).length, 1, JSON.stringify(runs));
  for (const run of runs) {
    if (run.code !== 0)
      assert.match(run.stderr + run.stdout, /is in use by another neon command|is a neon repository already/);
  }
  assert.equal((await lab.json("status"))["ok"], true);
});
