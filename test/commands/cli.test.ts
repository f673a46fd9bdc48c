import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryDirectory, until } from "../repository/support.ts";
import { sendJson } from "../client/fake-http.ts";
import { ROOT, TIMELINE, branch, fakeRepository, json, neon, notFound, startNeon } from "./support.ts";

/** The command ids, from the source files. */
function commandIds(): string[] {
  const directory = join(ROOT, "src", "commands");
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts") && !file.startsWith("shared"))
    .map((file) => file.slice(0, -3).replaceAll("/", " "))
    .sort();
}

test("--version needs nothing", async () => {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  assert.equal((await neon(["--version"])).stdout, `neon ${version}\n`);
});

test("every command has help with summary, usage, examples and --json; topics and the root too", async () => {
  const ids = commandIds();
  assert.ok(ids.includes("pg create") && ids.includes("branch"));
  const root = await neon(["--help"]);
  assert.equal(root.code, 0);
  for (const id of ids) {
    const help = await neon([...id.split(" "), "--help"]);
    assert.equal(help.code, 0, id);
    for (const part of ["USAGE", "EXAMPLES", "--json", "--repo", "--tenant-id"]) {
      assert.ok(help.stdout.includes(part), `${id}: ${part}`);
    }
    const [topic = "", ...rest] = id.split(" ");
    assert.match(root.stdout, new RegExp(`^  ${topic} `, "m"), id);
    if (rest.length > 0)
      assert.match((await neon([topic, ...rest.slice(0, -1)])).stdout, new RegExp(`^  ${id} `, "m"));
  }
  for (const args of [[], ["pg"], ["config"], ["help"], ["help", "pg", "create"]]) {
    const help = await neon(args);
    assert.equal(help.code, 0, args.join(" "));
    assert.match(help.stdout, /USAGE/);
    assert.equal(help.stderr, "");
  }
});

test("unknown commands, with what may have been meant", async () => {
  const cases: [string[], RegExp][] = [
    [["brnach"], /neon branch/],
    [["pg", "crate", "dev"], /neon pg create/],
    [["pg", "zzzzzz"], /neon pg --help/],
    [["zzzzzz", "--json"], /neon --help/],
    [["help", "zzzzzz"], /neon --help/],
  ];
  for (const [args, hint] of cases) {
    const outcome = await neon(args);
    assert.equal(outcome.code, 127, args.join(" "));
    assert.match(args.includes("--json") ? outcome.stdout : outcome.stderr, hint);
  }
});

test("failures have the same exit code in text and JSON, and say what to do next", async (t) => {
  const cwd = temporaryDirectory(t);
  const { repository } = await fakeRepository(t, join(cwd), (_, response) =>
    sendJson(response, 404, notFound),
  );
  const empty = temporaryDirectory(t);
  const file = temporaryDirectory(t);
  writeFileSync(join(file, ".neon"), "");
  const cases: [number, string, string[], string][] = [
    [2, "usage", ["branch", "--frob"], cwd],
    [2, "usage", ["branch", "a", "b", "c"], cwd],
    [2, "usage", ["branch", "a..b"], cwd],
    [2, "usage", ["branch", "x", "main@foo"], cwd],
    [2, "usage", ["branch", "-m", "x"], cwd],
    [2, "usage", ["branch", "--tenant-id", "xyz"], cwd],
    [2, "usage", ["pg", "create", "x", "--port", "abc"], cwd],
    [2, "usage", ["pg", "create", "x", "--commit", "perhaps"], cwd],
    [2, "usage", ["pg", "restart"], cwd],
    [2, "usage", ["pg", "stop"], cwd],
    [2, "usage", ["init", "--pg-version", "9"], empty],
    [2, "usage", ["config", "set", "computes.a.port", "x"], cwd],
    [3, "not_found", ["status"], empty],
    [3, "not_found", ["branch", "-d", "x"], cwd],
    [3, "not_found", ["pg", "url", "x"], cwd],
    [3, "not_found", ["config", "get", "nothing"], cwd],
    [3, "not_found", ["status"], file],
    [4, "exists", ["init"], cwd],
    [5, "conflict", ["init"], file],
    [5, "conflict", ["config", "set", "pg_version", "16"], cwd],
    [10, "postgres", ["init", "--pg-bin", "/nonexistent"], empty],
  ];
  for (const [code, name, args, directory] of cases) {
    const text = await neon(args, { cwd: directory });
    assert.equal(text.code, code, `${args.join(" ")}: ${text.stderr}`);
    assert.equal(text.stdout, "", args.join(" "));
    assert.match(text.stderr, /^error: .+\nhint: .+/, args.join(" "));
    const inJson = await neon([...args, "--json"], { cwd: directory });
    assert.equal(inJson.code, code, args.join(" "));
    assert.equal(inJson.stderr, "", args.join(" "));
    const { ok, error } = json(inJson) as { ok: boolean; error: Record<string, unknown> };
    assert.equal(ok, false);
    assert.equal(error["code"], name, args.join(" "));
    assert.equal(`error: ${String(error["message"])}\nhint: ${String(error["hint"])}\n`, text.stderr);
  }
  assert.deepEqual(readdirSync(empty), [], "a refused init changes nothing");
  assert.equal(readFileSync(join(file, ".neon"), "utf8"), "");
  assert.ok(existsSync(repository.configPath));
});

test("a pageserver that does not run", async (t) => {
  const cwd = temporaryDirectory(t);
  const { repository } = await fakeRepository(t, cwd, () => undefined);
  await repository.changeSetting("pageserver.listen", "127.0.0.1:1");
  const outcome = await neon(["branch"], { cwd });
  assert.equal(outcome.code, 6);
  assert.match(outcome.stderr, /no pageserver answers at http:\/\/127\.0\.0\.1:1\nhint: .*neon start/);
  // The process that the pid file names lives, so `start` waits for it; it is not started twice.
  writeFileSync(join(repository.pageserverDirectory, "pageserver.pid"), "{}");
  const status = json(await neon(["status", "--json"], { cwd }));
  assert.deepEqual((status["pageserver"] as Record<string, unknown>)["state"], "stopped");
  assert.deepEqual(status["branches"], []);
  assert.equal((await neon(["status"], { cwd })).code, 0);
});

test("branch: tree, list, create, delete, rename", async (t) => {
  const cwd = temporaryDirectory(t);
  const ancestor = { name: "main", timeline_id: TIMELINE, lsn: "0/1000" };
  const branches = [branch("main"), branch("dev", { timeline_id: "2".repeat(32), ancestor })];
  const { seen } = await fakeRepository(t, cwd, (request, response) => {
    const name = decodeURIComponent(request.url.split("/branch/")[1] ?? "");
    if (request.method === "GET" && name === "") sendJson(response, 200, { branches });
    else if (request.method === "GET") sendJson(response, 200, branch(name, { ancestor }));
    else if (request.method === "POST" && name === "") {
      const body = JSON.parse(request.body) as { name: string; point: { branch: string } };
      if (body.point.branch === "mian") sendJson(response, 404, notFound);
      else sendJson(response, 201, { name: body.name, timeline_id: TIMELINE, ancestor });
    } else sendJson(response, 200, {});
  });
  const last = (): unknown => JSON.parse(seen.findLast((request) => request.method === "POST")?.body ?? "");

  const tree = await neon(["branch"], { cwd });
  assert.equal(tree.stdout, " main\n ┗━ @0/1000: dev\n");
  const list = json(await neon(["branch", "--json"], { cwd }));
  assert.equal(list["ok"], true);
  assert.deepEqual((list["branches"] as Record<string, unknown>[])[1]?.["ancestor"], ancestor);

  const created = await neon(["branch", "x", "--json"], { cwd });
  assert.deepEqual(json(created), { ok: true, name: "x", timeline_id: TIMELINE, ancestor });
  assert.deepEqual(last(), { name: "x", point: { branch: "main" } });
  assert.equal(
    (await neon(["branch", "x", "dev@0/1F"], { cwd })).stdout,
    "Created branch x at main@0/1000\n",
  );
  assert.deepEqual(last(), { name: "x", point: { branch: "dev", lsn: "0/1F" } });
  await neon(["branch", "x", "dev@10m"], { cwd });
  const { timestamp_ms: time } = (last() as { point: { timestamp_ms: number } }).point;
  assert.ok(Math.abs(Date.now() - 600_000 - time) < 60_000);
  const misspelt = await neon(["branch", "x", "mian"], { cwd });
  assert.equal(misspelt.code, 3);
  assert.match(misspelt.stderr, /Did you mean "main"/);

  assert.equal((await neon(["branch", "-d", "dev"], { cwd })).code, 0);
  assert.equal(seen.at(-1)?.method, "DELETE");
  assert.equal(
    (await neon(["branch", "-m", "dev", "feature/dev"], { cwd })).stdout,
    "Renamed branch dev to feature/dev\n",
  );
  assert.deepEqual(last(), { new_name: "feature/dev" });
});

test("the repository is found from below, by --repo in any place, by NEON_REPO_DIR", async (t) => {
  const root = temporaryDirectory(t);
  const below = join(root, "a", "b");
  mkdirSync(below, { recursive: true });
  const { repository } = await fakeRepository(t, root, (_, response) =>
    sendJson(response, 200, { branches: [] }),
  );
  const runs = [
    neon(["config", "get", "pageserver.listen"], { cwd: below }),
    neon(["config", "get", "pageserver.listen", "--repo", root]),
    neon(["--repo", root, "config", "get", "pageserver.listen"]),
    neon([`--repo=${root}/.neon`, "config", "get", "pageserver.listen"]),
    neon(["config", "get", "pageserver.listen"], { env: { NEON_REPO_DIR: root } }),
  ];
  for (const run of await Promise.all(runs))
    assert.equal(run.stdout, `${repository.config.pageserver.listen}\n`);
});

test("config: set, get, list", async (t) => {
  const cwd = temporaryDirectory(t);
  await fakeRepository(t, cwd, () => undefined);
  assert.equal((await neon(["config", "set", "computes.main.port", "5999"], { cwd })).code, 0);
  assert.equal((await neon(["config", "get", "computes.main.port"], { cwd })).stdout, "5999\n");
  const list = await neon(["config", "list"], { cwd });
  assert.match(list.stdout, /computes\.main\.port +file +5999/);
  assert.match(list.stdout, /auth_token +file +\*\*\*/);
  const { settings } = json(await neon(["config", "list", "--json"], { cwd })) as {
    settings: Record<string, unknown>[];
  };
  assert.equal(settings.find((s) => s["key"] === "pageserver.auth_token")?.["value"], "***");
  assert.equal((await neon(["config", "set", "computes.main.port", "--unset"], { cwd })).code, 0);
  assert.equal((await neon(["config", "get", "computes.main.port"], { cwd })).code, 3);
});

test("doctor finds what is wrong", async (t) => {
  const cwd = temporaryDirectory(t);
  const { repository } = await fakeRepository(t, cwd, (_, response) => {
    sendJson(response, 200, { branches: [branch("main", { state: "broken", error: "unknown record" })] });
  });
  const outcome = await neon(["doctor", "--json"], { cwd });
  assert.equal(outcome.code, 1);
  const { healthy, checks } = json(outcome) as { healthy: boolean; checks: Record<string, string>[] };
  assert.equal(healthy, false);
  const branches = checks.find((check) => check["name"] === "branches");
  assert.match(branches?.["message"] ?? "", /main: unknown record/);
  assert.equal(checks.find((check) => check["name"] === "node")?.["state"], "ok");
  assert.match((await neon(["doctor"], { cwd })).stdout, /failed +branches/);
  assert.ok(existsSync(repository.configPath));
  const elsewhere = await neon(["doctor"], { cwd: temporaryDirectory(t) });
  assert.match(elsewhere.stderr, /No repository here/);
});

test("Ctrl-C ends a command with 130, SIGTERM with 143, in JSON too", async (t) => {
  const cwd = temporaryDirectory(t);
  for (const [signal, code, args] of [
    ["SIGINT", 130, ["branch", "x"]],
    ["SIGTERM", 143, ["branch"]],
    ["SIGINT", 130, ["branch", "--json"]],
  ] as const) {
    const root = join(cwd, `${code}-${args.length}-${args.at(-1)}`);
    mkdirSync(root);
    let asked = 0;
    await fakeRepository(t, root, () => asked++);
    const child = startNeon(args, { cwd: root });
    let stdout = "";
    child.stdout?.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
    await until("the request", () => asked > 0);
    child.kill(signal);
    const [exit] = (await once(child, "close")) as [number];
    assert.equal(exit, code, args.join(" "));
    if (args.length > 1 && args[1] === "--json") {
      assert.equal((JSON.parse(stdout) as { error: { code: string } }).error.code, "interrupted");
    }
  }
});

test("an older Node starts the newer one that npm brought", async (t) => {
  const old = "/usr/bin/node";
  const version = existsSync(old) ? spawnSync(old, ["--version"], { encoding: "utf8" }).stdout : "";
  if (!/^v(18|20|21)\./.test(version)) return t.skip("no older Node is installed");
  const cwd = temporaryDirectory(t);
  await fakeRepository(t, cwd, (_, response) => sendJson(response, 200, { branches: [branch("main")] }));
  const outcome = await neon(["branch"], { cwd, node: old });
  assert.equal(outcome.stdout, " main\n");
  assert.equal((await neon(["nonsense"], { cwd, node: old })).code, 127);
  const stuck = await neon(["branch", "--json"], { cwd, node: old, env: { NEON_NODE_RESTARTED: "1" } });
  assert.equal(stuck.code, 1);
  assert.match(stuck.stdout, /needs Node\.js 22\.15/);
});

test("colours only where they are wanted", async (t) => {
  const cwd = temporaryDirectory(t);
  const plain = await neon(["status"], { cwd });
  assert.ok(!plain.stderr.includes("\u001b"));
  const forced = await neon(["status"], { cwd, env: { NO_COLOR: undefined, FORCE_COLOR: "1" } });
  assert.ok(forced.stderr.includes("\u001b[31m"));
});

test("completion of commands, flags, values and names; the script for bash works", async (t) => {
  const cwd = temporaryDirectory(t);
  await fakeRepository(t, cwd, (_, response) =>
    sendJson(response, 200, { branches: [branch("main"), branch("dev")] }),
  );
  const complete = async (...words: string[]): Promise<string[]> =>
    (await neon(["completion", "--words", "--", ...words], { cwd })).stdout.trim().split("\n");
  assert.deepEqual(await complete("st"), ["start", "status", "stop"]);
  assert.ok((await complete("")).includes("pg"));
  assert.deepEqual(await complete("pg", "s"), ["start", "stop"]);
  assert.deepEqual(await complete("pg", "create", "--commit", ""), ["local", "remote"]);
  assert.deepEqual(await complete("pg", "create", "--po"), ["--port"]);
  assert.deepEqual(await complete("branch", ""), ["dev", "main"]);
  assert.deepEqual(await complete("pg", "create", "-b", "d"), ["dev"]);
  assert.deepEqual(await complete("config", "get", "pg_b"), ["pg_bin"]);
  assert.deepEqual(
    (await neon(["completion", "--words", "--", "branch", ""], { cwd: temporaryDirectory(t) })).stdout,
    "",
  );
  assert.equal((await neon(["completion", "csh"])).code, 2);

  const { stdout: script } = await neon(["completion", "bash"]);
  const shell = `neon() { "${process.execPath}" "${join(ROOT, "bin", "neon.js")}" "$@"; }
${script}
COMP_WORDS=(neon branch d); COMP_CWORD=2; _neon_completion; echo "\${COMPREPLY[@]}"`;
  const child = spawn("bash", ["-c", shell], { cwd, stdio: ["ignore", "pipe", "inherit"] });
  const [chunk] = (await once(child.stdout, "data")) as [Buffer];
  assert.equal(chunk.toString(), "dev\n");
});
