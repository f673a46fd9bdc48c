/** Commands at the same time, commands that are killed, files that are damaged, places with unusual names. */
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { SeededRandom } from "../support/random.ts";
import { type Json, type Run, sleep } from "./cli.ts";
import { refusal, refused } from "./refusals.ts";
import { Lab, finish, freePort, neon, processesBelow, send, startNeon } from "./support.ts";

test("the same command several times at once", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init();
  const together = (...commands: string[][]): Promise<Run[]> =>
    Promise.all(commands.map((args) => neon(lab, args)));
  const codes = (runs: Run[]): number[] => runs.map((run) => run.code).sort((a, b) => a - b);
  const create = ["pg", "create", "main"];
  assert.deepEqual(codes(await together(create, create, create)), [0, 4, 4]);
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(uri, "create table t (v int)", "insert into t values (1)");
  assert.deepEqual(codes(await together(["branch", "a"], ["branch", "a"], ["branch", "a"])), [0, 4, 4]);
  assert.deepEqual(
    codes(await together(["pg", "create", "a"], ["pg", "create", "b", "--branch", "a"])),
    [0, 5],
  );
  await lab.ok("pg", "stop", "--all");
  const start = ["pg", "start", "main"];
  const stop = ["pg", "stop", "main"];
  assert.deepEqual(codes(await together(start, start, start)), [0, 0, 0]);
  assert.deepEqual(codes(await together(stop, stop, start, ["pg", "restart", "main"])), [0, 0, 0, 0]);
  await lab.ok("stop");
  assert.deepEqual(codes(await together(["start"], ["start"], ["start"])), [0, 0, 0]);
  assert.equal(processesBelow(join(lab.neonDirectory, "pageserver")).length, 1, "one pageserver");
  // Whichever comes first, nothing is half done.
  const [made, deleted] = await together(["branch", "c", "a"], ["branch", "-d", "a"]);
  assert(made && deleted);
  const names = [...(await lab.branches()).keys()].sort();
  assert.deepEqual(names, [...(deleted.code === 0 ? [] : ["a"]), ...(made.code === 0 ? ["c"] : []), "main"]);
  await lab.ok("pg", "start", "main");
  assert.deepEqual(await lab.column(uri, "select v from t"), [1]);
});

test("a command that is killed leaves what the next one can go on with", { timeout: 300_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(uri, "create table t (v int)");
  const commands: string[][] = [
    ["pg", "stop", "main"],
    ["pg", "stop", "main", "--immediate"],
    ["pg", "restart", "main"],
    ["pg", "destroy", "main", "--force"],
    ["branch", "other"],
    ["branch", "-d", "other"],
    ["stop"],
  ];
  for (let round = 1; round <= 14; round++) {
    const args = random.pick(commands);
    const ms = random.between(50, 600);
    const what = `round ${round}: neon ${args.join(" ")} killed after ${ms} ms`;
    const child = startNeon(lab, args);
    const running = finish(child);
    await sleep(ms);
    child.kill("SIGKILL");
    await running;
    // What it has started may take a moment to end; the next command waits for that.
    const revive = startNeon(lab, ["pg", "start", "main"]);
    const second = finish(revive);
    if (random.chance(0.5)) {
      await sleep(random.between(50, 1000));
      revive.kill("SIGKILL");
    }
    await second;
    const start = await lab.run("start");
    assert.equal(start.code, 0, `${what}: ${start.stderr}`);
    let again = await lab.run("pg", "start", "main");
    // While it was down, a stranger may have come to listen on its port.
    if (again.code === 9) again = await lab.run("pg", "start", "main", "--port", String(await freePort()));
    assert.equal(again.code, 0, `${what}: ${again.stderr}`);
    const now = again.stdout.trim();
    const rows = Number(await lab.value(now, "select count(*)::int from t"));
    assert.equal(rows, round - 1, what);
    await lab.execute(now, `insert into t values (${round})`);
  }
  const temporary = readdirSync(lab.computeDirectory("main")).filter((name) => /\.(new|old|tmp)$/.test(name));
  assert.deepEqual(temporary, []);
});

test("damaged files are noticed, named, and do no harm to others", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main", "dev");
  const dev = await lab.ok("pg", "url", "dev");
  await lab.execute(dev, "create table t as select 7 as v");
  await lab.ok("pg", "stop", "main");

  const compute = join(lab.computeDirectory("main"), "compute.json");
  const text = readFileSync(compute, "utf8");
  writeFileSync(compute, text.replace(/"port": \d+/, '"port": 1'));
  const damaged = refusal(
    7,
    "corrupt",
    /compute\.json is damaged: its checksum is wrong/,
    /remove the compute's directory/,
  );
  for (const args of [
    ["pg", "start", "main"],
    ["pg", "stop", "main"],
    ["pg", "url", "main"],
  ])
    await refused(lab, args, damaged);
  const list = await lab.run("pg", "list");
  assert.equal(list.code, 0);
  assert.match(list.stdout, /^dev /m);
  assert.match(list.stderr, /warning: .*compute\.json is damaged/);
  writeFileSync(compute, text);

  await lab.ok("stop");
  const main = String((JSON.parse(text) as { compute: Json }).compute["timeline_id"]);
  const timelines = join(
    lab.neonDirectory,
    "pageserver",
    "tenants",
    String((JSON.parse(text) as { compute: Json }).compute["tenant_id"]),
    "timelines",
  );
  const layers = join(timelines, main, "layers");
  const image = join(layers, readdirSync(layers).find((name) => name.endsWith(".image")) ?? "");
  const bytes = readFileSync(image);
  const flipped = Buffer.from(bytes);
  for (let at = 4096; at < flipped.length - 65_536; at += 65_536) flipped[at] = (flipped[at] ?? 0) ^ 1;
  writeFileSync(image, flipped);
  await lab.ok("start");
  // Dev's own data hangs on main's: neither is served, both say why.
  await lab.ok("branch", "fork").catch(() => undefined);
  const broken = await lab.run("pg", "create", "look", "--branch", "main", "--lsn", "0s");
  assert.equal(broken.code, 7, broken.stdout + broken.stderr);
  assert.match(broken.stderr, /checksum|damaged/);
  assert.equal(await lab.computeField("look", "name"), undefined, "nothing is left of it");
  writeFileSync(image, bytes);
  await lab.ok("stop");
  await lab.ok("start", "--all");
  assert.deepEqual(await lab.column(dev, "select v from t"), [7], "whole again, it serves again");
});

test(
  "directories with unusual names, through a link, too deep for sockets, closed to Postgres",
  { timeout: 300_000 },
  async (t) => {
    await using lab = new Lab();
    const odd = join(lab.directory, 'it\'s a "día" $HOME %d');
    const deep = join(lab.directory, "d".repeat(60), "e".repeat(60));
    mkdirSync(odd);
    mkdirSync(deep, { recursive: true });
    const link = join(lab.directory, "link");
    symlinkSync(odd, link);
    const cases = [
      { create: odd, use: link },
      { create: deep, use: deep },
    ];
    for (const { create, use } of cases) {
      const inIt = { cwd: use };
      try {
        for (const args of [
          ["init", create],
          ["pg", "create", "main"],
        ]) {
          const run = await neon(lab, args, inIt);
          assert.equal(run.code, 0, `${create}: ${run.stderr}`);
        }
        const url = (await neon(lab, ["pg", "url", "main"], { cwd: create })).stdout.trim();
        await lab.execute(url, "create table t as select 1 as v");
        for (const args of [
          ["pg", "stop", "main", "--immediate"],
          ["pg", "start", "main"],
          ["branch", "dev"],
        ]) {
          const run = await neon(lab, args, inIt);
          assert.equal(run.code, 0, `${create}: ${run.stderr}`);
        }
        assert.deepEqual(await lab.column(url, "select v from t"), [1]);
      } finally {
        await neon(lab, ["stop", "--force"], inIt);
      }
    }
    if (process.getuid?.() !== 0)
      return t.diagnostic("not root: directories that only root may enter were not tried");
    const closed = join(lab.directory, "closed");
    mkdirSync(closed);
    chmodSync(closed, 0o700);
    const message = /Postgres runs as user "\w+" here, who may not enter the directory .*closed$/;
    await refused(lab, ["init"], refusal(9, "resource", message, /chmod o\+x .*closed/), { cwd: closed });
    assert.deepEqual(readdirSync(closed), []);
    for (const pid of processesBelow(lab.directory)) send(pid, "SIGKILL");
    rmSync(link);
    return undefined;
  },
);
