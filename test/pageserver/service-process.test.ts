/** The pageserver as a process: its working directory, its port, signals, exit codes, and what a restart finds. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Child, configure, readJson } from "./child.ts";
import { TENANT, TOKEN, TempDirectory } from "./harness.ts";

async function api(
  url: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<Record<string, unknown>> {
  const response = await fetch(url + path, {
    method,
    headers: { authorization: `Bearer ${TOKEN}` },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  return JSON.parse(await response.text());
}

void test("starts, says who it is, prints nothing on stdout, and ends orderly on SIGTERM", async () => {
  using directory = new TempDirectory();
  await using server = new Child("fake-pageserver.ts", configure(directory));
  const url = await server.ready();
  const status = await api(url, "GET", "/v1/status");
  assert.equal(status["pid"], server.pid);
  assert.equal(status["repository"], directory.path);
  const pidFile = readJson(join(directory.path, "pageserver.pid"));
  if (process.platform === "linux") {
    const stat = readFileSync(`/proc/${server.pid}/stat`, "latin1");
    assert.equal(pidFile?.["start_time"], stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]);
    assert.equal(pidFile?.["boot_id"], readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim());
  }
  server.signal("SIGTERM");
  assert.equal(await server.end(), 0);
  assert.equal(server.output, "");
  assert.equal(existsSync(join(directory.path, "pageserver.pid")), false);
});

void test("a second one on the same directory is refused, also with another port", async () => {
  using directory = new TempDirectory();
  await using first = new Child("fake-pageserver.ts", configure(directory));
  await first.ready();
  await using second = new Child("fake-pageserver.ts", directory.path);
  assert.equal(await second.end(), 5);
  assert.equal(second.lastWords["code"], "conflict");
  assert.match(String(second.lastWords["msg"]), new RegExp(`process ${first.pid}`));
  // The refusal has not disturbed the first.
  assert.equal((await api(await first.ready(), "GET", "/v1/status"))["pid"], first.pid);
});

void test("of many that start at once on one directory exactly one serves", async () => {
  using directory = new TempDirectory();
  const workdir = configure(directory);
  const servers = Array.from({ length: 4 }, () => new Child("fake-pageserver.ts", workdir));
  try {
    const codes = servers.map((server) => server.end());
    const refused: unknown[] = [];
    for (const code of codes) void code.then((value) => refused.push(value));
    const deadline = performance.now() + 30_000;
    while (refused.length < 3) {
      assert.ok(performance.now() < deadline, `three are refused, not ${refused.length}`);
      await sleep(10);
    }
    assert.deepEqual(refused, [5, 5, 5]);
    const living = servers.find(
      (server) => server.pid === readJson(join(workdir, "pageserver.pid"))?.["pid"],
    );
    assert.ok(living, "the fourth has written its pid");
    await living.ready();
  } finally {
    for (const server of servers) await server[Symbol.asyncDispose]();
  }
});

void test("the port in use is a clear error", async () => {
  using directory = new TempDirectory();
  const squatter = createServer().listen(0, "127.0.0.1");
  await once(squatter, "listening");
  const address = squatter.address();
  assert.ok(typeof address === "object" && address !== null);
  writeFileSync(join(directory.path, "pageserver.toml"), `listen = "127.0.0.1:${address.port}"\n`);
  await using server = new Child("fake-pageserver.ts", directory.path);
  assert.equal(await server.end(), 9);
  squatter.close();
  const words = server.lastWords;
  assert.equal(words["code"], "resource");
  assert.match(String(words["msg"]), new RegExp(`port ${address.port} on 127.0.0.1 is in use`));
  assert.match(String(words["hint"]), /pageserver\.listen/);
  assert.equal(existsSync(join(directory.path, "pageserver.pid")), false);
});

void test("bad settings and arguments", async (t) => {
  using directory = new TempDirectory();
  const cases: [string, string[], number, RegExp][] = [
    ["no --workdir", [], 2, /--workdir DIR is missing/],
    ["an unknown option", ["--workdri", "x"], 2, /workdri/],
    ["an argument too many", ["--workdir", directory.path, "x"], 2, /x/],
    ["a bad file", ["--workdir", configure(directory, "listen_port = 5\n")], 2, /"listen_port" is not known/],
    ["a directory that cannot be", ["--workdir", join(directory.path, "pageserver.toml")], 9, /cannot/],
  ];
  for (const [what, args, code, message] of cases) {
    await t.test(what, async () => {
      await using server = new Child("fake-pageserver.ts", directory.path, args);
      assert.equal(await server.end(), code);
      assert.match(String(server.lastWords["msg"]), message);
    });
  }
  await using help = new Child("fake-pageserver.ts", directory.path, ["--help"]);
  assert.equal(await help.end(), 0);
  assert.match(help.output, /^usage: pageserver --workdir DIR/);
});

void test("after a kill -9 everything is as it was, and the writer is still known", async () => {
  using directory = new TempDirectory();
  const workdir = configure(directory);
  let before: unknown;
  {
    await using server = new Child("fake-pageserver.ts", workdir);
    const url = await server.ready();
    await api(url, "POST", "/v1/tenant", { tenant_id: TENANT, pg_version: 17 });
    const main = await api(url, "POST", `/v1/tenant/${TENANT}/import?branch=main`, "a tar");
    await api(url, "POST", `/v1/tenant/${TENANT}/branch`, { name: "dev/a", point: { branch: "main" } });
    await api(url, "POST", `/v1/tenant/${TENANT}/timeline/${String(main["timeline_id"])}/writer`, {
      name: "c1",
      source: { socket_directory: "/tmp/s", port: 5432, user: "postgres" },
    });
    before = await api(url, "GET", `/v1/tenant/${TENANT}/branch`);
    server.signal("SIGKILL");
    assert.equal(await server.end(), "SIGKILL");
    assert.equal(existsSync(join(workdir, "pageserver.pid")), true);
  }
  await using again = new Child("fake-pageserver.ts", workdir);
  const url = await again.ready();
  assert.deepEqual(await api(url, "GET", `/v1/tenant/${TENANT}/branch`), before);
  assert.match(JSON.stringify(before), /"writer":\{"name":"c1"/);
});
