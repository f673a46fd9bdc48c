/** origin, fetch, push and pull with made-up pageservers on both sides: what is asked, what is shown, what is noted. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { chooseBranches, chooseTenant } from "../../src/commands/shared/clone-choice.ts";
import { compareWith, standingText } from "../../src/commands/shared/upstream.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { parseTenantId } from "../../src/base/ids.ts";
import type { RemoteBranch, RemoteTenant } from "../../src/client/remote-pageserver.ts";
import { readUpstreams } from "../../src/repository/origins.ts";
import type { Repository } from "../../src/repository/repository.ts";
import { sendJson } from "../client/fake-http.ts";
import { temporaryDirectory, until } from "../repository/support.ts";
import { type FakeOrigin, IDENTITY, type OriginAnswer, dataRow, fakeOrigin } from "./fake-origin.ts";
import { type Outcome, TIMELINE, branch, fakeRepository, json, neon, startNeon } from "./support.ts";

const TENANT = "0".repeat(32);
const PASSWORD = "canary-4711/x";

function lineage(endLsn: string, ...epochs: [string, string][]): object {
  return {
    entries: epochs.map(([start, epoch]) => ({ start_lsn: start, epoch })),
    end_lsn: endLsn,
  };
}

/** Our main: root up to 0/1000, then written by e1 up to 0/2000. */
const OURS = lineage("0/2000", ["0/0", "root"], ["0/1000", "e1"]);

interface Sharing {
  readonly cwd: string;
  readonly repository: Repository;
  readonly local: FakeOrigin;
  readonly run: (args: string[], env?: Record<string, string>) => Promise<Outcome>;
}

/** A repository with branch main, whose pageserver does transfers as `perform` says. */
async function sharing(t: TestContext, perform: (command: string) => OriginAnswer): Promise<Sharing> {
  const cwd = temporaryDirectory(t);
  const { repository } = await fakeRepository(t, cwd, (request, response) => {
    if (request.url.endsWith("/branch")) {
      sendJson(response, 200, { branches: [branch("main", { lineage: OURS })] });
    } else if (request.url.includes("/branch/")) {
      sendJson(response, 200, branch("main", { lineage: OURS }));
    } else sendJson(response, 404, { error: { code: "not_found", message: "no" } });
  });
  const local = await fakeOrigin(t, perform, { password: repository.config.pageserver.authToken });
  await repository.changeSetting("pageserver.listen_libpq", `127.0.0.1:${local.port}`);
  const run = (args: string[], env: Record<string, string> = {}): Promise<Outcome> =>
    neon(args, { cwd, env: { HOME: cwd, PGPASSWORD: undefined, PGPASSFILE: undefined, ...env } });
  return { cwd, repository, local, run };
}

const refuse = (): never => {
  throw new NeonError(ErrorCode.Usage, "unknown command");
};

function remoteBranch(name: string, more: object = {}): object {
  return { ...branch(name), ...more };
}

/** A pageserver with these branches in our tenant. */
function origin(t: TestContext, branches: object[], password?: string): Promise<FakeOrigin> {
  return fakeOrigin(
    t,
    (command) => {
      if (command === "identify_system") return IDENTITY;
      if (command === "tenant_list") return dataRow([{ tenant_id: TENANT, pg_version: 17, state: "active" }]);
      if (command === `branch_list ${TENANT}`) return dataRow(branches);
      return refuse();
    },
    password === undefined ? {} : { password },
  );
}

async function succeed(running: Promise<Outcome>): Promise<Outcome> {
  const outcome = await running;
  assert.equal(outcome.code, 0, outcome.stderr + outcome.stdout);
  return outcome;
}

test("origins are added, listed, renamed and removed; their passwords are never shown", async (t) => {
  const { run, repository, cwd } = await sharing(t, refuse);
  const uri = `postgresql://ada:${encodeURIComponent(PASSWORD)}@127.0.0.1:1`;
  const outputs = [
    await succeed(run(["origin", "add", "a", uri])),
    await succeed(run(["origin", "list", "--offline"])),
    await succeed(run(["origin", "list", "--json"])),
    await succeed(run(["origin", "rename", "a", "b"])),
    await succeed(run(["origin", "set-url", "b", uri])),
    await succeed(run(["config", "list"])),
    await succeed(run(["config", "set", "origins.c", uri, "--json"])),
    await run(["fetch", "b"]),
    await run(["push", "main", "b"]),
    await run(["origin", "add", "x", `${uri}:x:y`]),
    await run(["origin", "add", "x", `postgresql://ada:${PASSWORD}@h`]),
    await run(["clone", uri, "elsewhere"]),
    await succeed(run(["origin", "remove", "b"])),
  ];
  for (const { stdout, stderr } of outputs) {
    assert.ok(!(stdout + stderr).includes("canary"), stdout + stderr);
  }
  assert.match(outputs[0]?.stderr ?? "", /readable for you only/);
  assert.match(outputs[1]?.stdout ?? "", /^a +postgresql:\/\/ada:\*\*\*@127\.0\.0\.1:1 +unchecked$/m);
  assert.deepEqual(Object.keys(repository.config.origins), []);
  assert.equal(existsSync(join(cwd, "elsewhere")), false, "a clone that failed leaves nothing");

  assert.equal((await run(["origin", "add", "c", uri])).code, 4);
  assert.equal((await run(["origin", "remove", "nobody"])).code, 3);
  assert.equal((await run(["origin", "rename", "c", "a/b"])).code, 2);
  for (const bad of ["http://h", "postgresql://", "postgresql://h:99999", "postgresql://h?sslmode=maybe"]) {
    assert.equal((await run(["origin", "add", "x", bad])).code, 2, bad);
  }
  const plain = await succeed(run(["origin", "add", "plain", "postgresql://h.example.com"]));
  assert.match(plain.stderr, /unencrypted/);
  const verified = await succeed(
    run([
      "origin",
      "add",
      "tls",
      "postgresql://h.example.com?sslmode=verify-full&sslrootcert=my.crt",
      "--json",
    ]),
  );
  assert.equal(verified.stderr, "");
  assert.equal(
    json(verified)["uri"],
    `postgresql://h.example.com?sslmode=verify-full&sslrootcert=${cwd}/my.crt`,
  );
});

test("origin list says who answers, who refuses, and who is no pageserver", async (t) => {
  const { run, cwd } = await sharing(t, refuse);
  const good = await origin(t, [], PASSWORD);
  const other = await fakeOrigin(t, refuse);
  const silent = createServer((socket) => socket.resume()).listen(0, "127.0.0.1");
  await once(silent, "listening");
  t.after(() => silent.close());
  const silentPort = (silent.address() as { port: number }).port;
  const at = (port: number, rest = ""): string => `postgresql://ada@127.0.0.1:${port}${rest}`;
  const origins: [string, string, string, RegExp | null][] = [
    ["a-good", at(good.port), "answers", null],
    ["b-postgres", at(other.port), "unreachable", /not a pageserver/],
    ["c-dead", at(1), "unreachable", /ECONNREFUSED/],
    ["d-silent", at(silentPort, "?connect_timeout=2"), "unreachable", /did not answer within 2 s/],
    ["e-name", "postgresql://ada@no-such-host.invalid", "unreachable", /no-such-host/],
  ];
  for (const [name, uri] of origins) await succeed(run(["origin", "add", name, uri]));
  const list = json(await succeed(run(["origin", "list", "--json"], { PGPASSWORD: PASSWORD })));
  const shown = list["origins"] as { name: string; uri: string; state: string; error: string | null }[];
  for (const [i, [name, uri, state, error]] of origins.entries()) {
    const one = shown[i];
    assert.deepEqual([one?.name, one?.uri, one?.state], [name, uri, state], one?.error ?? "");
    if (error) assert.match(one?.error ?? "", error);
    else assert.equal(one?.error, null);
  }
  const wrong = await succeed(run(["origin", "list"], { PGPASSWORD: "wrong" }));
  assert.match(wrong.stdout, /^a-good .*refuses$/m);
  assert.match(wrong.stderr, /password authentication failed/);

  // A password file that others may read is not used, and that is said.
  const passfile = join(cwd, ".pgpass");
  writeFileSync(passfile, `127.0.0.1:*:*:ada:${PASSWORD}\n`, { mode: 0o600 });
  assert.equal((await run(["fetch", "a-good"])).code, 0);
  writeFileSync(join(cwd, "open"), `*:*:*:*:${PASSWORD}\n`, { mode: 0o644 });
  const open = await run(["fetch", "a-good"], { PGPASSFILE: join(cwd, "open") });
  assert.equal(open.code, 6);
  assert.match(open.stderr, /readable for others/);
});

test("fetch shows how ours stand to theirs, and branch and status know it from then on", async (t) => {
  const { run, repository } = await sharing(t, refuse);
  const theirs = [
    remoteBranch("main", {
      last_record_lsn: "0/1800",
      lineage: lineage("0/1800", ["0/0", "root"], ["0/1000", "e1"]),
    }),
    remoteBranch("dev"),
  ];
  const there = await origin(t, theirs);
  await succeed(run(["origin", "add", "o", `postgresql://127.0.0.1:${there.port}`]));
  const fetched = await succeed(run(["fetch", "o"]));
  assert.match(fetched.stdout, /^main +0\/1800 +main +ahead 2\.0 KiB$/m);
  assert.match(fetched.stdout, /^dev +0\/2000 +-$/m);
  const shape = json(await succeed(run(["fetch", "o", "--json"])));
  assert.deepEqual((shape["branches"] as object[])[0], {
    name: "main",
    last_record_lsn: "0/1800",
    ancestor: null,
    local_branch: "main",
    state: "ahead",
    ahead_bytes: 0x800,
    behind_bytes: 0,
  });
  // Without an upstream there is nothing to be ahead of.
  assert.equal((await succeed(run(["branch"]))).stdout, " main\n");
  assert.equal(
    (json(await run(["branch", "--json"]))["branches"] as { upstream: unknown }[])[0]?.upstream,
    null,
  );
  writeFileSync(
    join(repository.directory, "upstreams.json"),
    JSON.stringify({
      format: "neon upstreams",
      version: 1,
      upstreams: { [TIMELINE]: { origin: "o", branch: "main" } },
    }),
  );
  assert.equal((await succeed(run(["branch"]))).stdout, " main  [o:main: ahead 2.0 KiB]\n");
  assert.match((await succeed(run(["status"]))).stdout, /^main .*o:main, ahead 2\.0 KiB$/m);
  const [first] = json(await run(["branch", "--json"]))["branches"] as {
    upstream: Record<string, unknown>;
  }[];
  const { contacted_at: contactedAt, ...upstream } = first?.upstream ?? {};
  assert.ok(Date.parse(String(contactedAt)) > Date.now() - 600_000);
  assert.deepEqual(upstream, {
    origin: "o",
    branch: "main",
    state: "ahead",
    ahead_bytes: 0x800,
    behind_bytes: 0,
    last_record_lsn: "0/1800",
  });
  await succeed(run(["origin", "remove", "o"]));
  assert.equal((await succeed(run(["branch"]))).stdout, " main\n");
});

const DONE = {
  event: "done",
  result: "created",
  bytes_sent: 2048,
  bytes_received: 100,
  from_lsn: null,
  to_lsn: "0/2000",
  remote_branches: [remoteBranch("main", { lineage: OURS })],
};

test("push and pull: what the pageserver is asked, what is printed and noted", async (t) => {
  const progress = { event: "progress", phase: "sending", bytes: 1024, total: 4096, rate: 1 };
  const { run, local, repository } = await sharing(t, (command) => ({
    lines: command.includes('"dry_run":true')
      ? [{ ...DONE, total_bytes: 5000, remote_branches: undefined }]
      : [progress, progress, DONE],
  }));
  const none = await run(["push", "main"]);
  assert.equal(none.code, 2);
  assert.match(none.stderr, /no upstream.*neon origin add/s);
  const uri = `postgresql://ada:${encodeURIComponent(PASSWORD)}@db.example.com:4000/x?sslmode=verify-full&sslrootcert=/r.crt`;
  await succeed(run(["origin", "add", "o", uri]));
  assert.match((await run(["push", "main"])).stderr, /neon push main o/);
  assert.equal((await run(["push", "nobody", "o"])).code, 3);
  assert.equal((await run(["push", "main", "nobody"])).code, 3);
  assert.equal((await run(["push", "main", "o:a b"])).code, 2);
  assert.equal((await run(["push", "a b", "o"])).code, 2);
  assert.equal(local.seen.length, 0);

  const dry = await succeed(run(["push", "main", "o", "--dry-run"]));
  assert.equal(dry.stdout, "main -> o:main  would be created, 0/2000, 4.9 KiB before compression\n");
  assert.equal(readUpstreams(repository).size, 0);
  const pushed = await succeed(run(["push", "main", "o"]));
  assert.equal(pushed.stdout, "main -> o:main  created, 0/2000, 2.1 KiB transferred\n");
  assert.match(pushed.stderr, /upstream of main is o:main/);
  const command = local.seen.at(-1) ?? "";
  assert.ok(command.startsWith("perform_push "), command);
  assert.deepEqual(JSON.parse(command.slice("perform_push ".length)), {
    tenant_id: TENANT,
    branch: "main",
    origin: {
      host: "db.example.com",
      port: 4000,
      user: "ada",
      password: PASSWORD,
      database: "x",
      sslmode: "verify-full",
      sslrootcert: "/r.crt",
      connect_timeout_ms: 10_000,
    },
    other: "main",
    dry_run: false,
  });
  assert.equal((await succeed(run(["branch"]))).stdout, " main  [o:main: equal]\n");

  // The upstream serves without being named, and stays unless -u says otherwise.
  const again = await succeed(run(["pull", "main", "--json"]));
  assert.deepEqual(json(again), {
    ok: true,
    result: "created",
    bytes_sent: 2048,
    bytes_received: 100,
    from_lsn: null,
    to_lsn: "0/2000",
    total_bytes: null,
    branch: "main",
    origin: "o",
    other: "main",
    dry_run: false,
  });
  const [event] = again.stderr.split("\n");
  assert.deepEqual(JSON.parse(event ?? ""), {
    event: "progress",
    phase: "sending",
    bytes: 1024,
    total: 4096,
  });
  await succeed(run(["push", "main", "o:else"]));
  assert.equal(readUpstreams(repository).get(TIMELINE)?.branch, "main");
  await succeed(run(["push", "main", "o:else", "-u"]));
  assert.equal(readUpstreams(repository).get(TIMELINE)?.branch, "else");
  const newHere = await run(["pull", "theirs", "o:main", "--dry-run"]);
  assert.equal(newHere.stdout, "o:main -> theirs  would be created, 0/2000, 4.9 KiB before compression\n");
});

test("failures of a transfer keep their codes, with and without --json", async (t) => {
  let failure: () => AsyncIterable<object> = () => unreachable();
  // eslint-disable-next-line require-yield -- it fails before it says anything.
  async function* unreachable(): AsyncIterable<object> {
    throw new NeonError(ErrorCode.Unreachable, "nobody there", { hint: "h" });
  }
  // eslint-disable-next-line require-yield -- the same.
  async function* diverged(): AsyncIterable<object> {
    throw new NeonError(ErrorCode.Conflict, "the histories part at 0/1000");
  }
  async function* cutOff(): AsyncIterable<object> {
    yield { event: "progress", phase: "sending", bytes: 1, total: null };
  }
  async function* nonsense(): AsyncIterable<object> {
    yield { event: "done", result: "maybe" };
  }
  const { run, repository } = await sharing(t, () => ({ lines: failure() }));
  await succeed(run(["origin", "add", "o", "postgresql://h"]));
  for (const [make, code, text] of [
    [unreachable, 6, /nobody there/],
    [diverged, 5, /part at 0\/1000/],
    [cutOff, 6, /broke off the push/],
    [nonsense, 6, /not understood/],
  ] as const) {
    failure = make;
    const plain = await run(["push", "main", "o"]);
    assert.equal(plain.code, code, plain.stderr);
    assert.match(plain.stderr, text);
    assert.equal(plain.stdout, "");
    const inJson = await run(["push", "main", "o", "--json"]);
    assert.equal(inJson.code, code);
    assert.match(JSON.stringify(json(inJson)["error"]), text);
  }
  assert.equal(readUpstreams(repository).size, 0);
  await repository.changeSetting("pageserver.listen_libpq", "127.0.0.1:1");
  const stopped = await run(["push", "main", "o"]);
  assert.equal(stopped.code, 6);
  assert.match(stopped.stderr, /neon start/);
});

test("Ctrl-C ends a transfer at once, tells the pageserver, and says how to go on", async (t) => {
  const waiting = Promise.withResolvers<void>();
  async function* slow(): AsyncIterable<object> {
    yield { event: "progress", phase: "sending", bytes: 1, total: 2 };
    await waiting.promise;
  }
  const { run, cwd, local } = await sharing(t, () => ({ lines: slow() }));
  await succeed(run(["origin", "add", "o", "postgresql://h"]));
  const child = startNeon(["push", "main", "o"], { cwd });
  let stderr = "";
  child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  await until("the transfer to begin", () => stderr.includes("pushing main -> o:main"));
  child.kill("SIGINT");
  const [code] = (await once(child, "close")) as [number | null];
  assert.equal(code, 130);
  assert.match(stderr, /interrupted by SIGINT[^]*Run the same command again/);
  await until("the pageserver to know", () => local.aborted.length === 1);
  waiting.resolve();
});

test("ahead, behind, diverged: by histories", () => {
  const made = (end: number, ...epochs: [number, string][]): Parameters<typeof compareWith>[0] => ({
    entries: epochs.map(([start, epoch]) => ({ startLsn: toLsn(start), epoch })),
    endLsn: toLsn(end),
  });
  const base = made(0x2000, [0, "r"], [0x1000, "a"]);
  const cases: [typeof base, typeof base, string][] = [
    [base, base, "equal"],
    [base, made(0x1800, [0, "r"], [0x1000, "a"]), "ahead 2.0 KiB"],
    [made(0x1000, [0, "r"]), base, "behind 4.0 KiB"],
    [base, made(0x1400, [0, "r"], [0x1000, "b"]), "diverged: ahead 4.0 KiB, behind 1.0 KiB"],
    [base, made(0x1000, [0, "other"]), "diverged: ahead 8.0 KiB, behind 4.0 KiB"],
    [base, undefined, "unknown"],
    [undefined, base, "unknown"],
  ];
  for (const [ours, theirs, text] of cases) assert.equal(standingText(compareWith(ours, theirs)), text);
});

test("what a clone gets", () => {
  const made = (name: string, parent: string | null, state = "active"): RemoteBranch => ({
    name,
    lastRecordLsn: toLsn(1),
    ancestor: parent === null ? null : { name: parent, lsn: toLsn(1) },
    lineage: undefined,
    state,
  });
  const tenant = (digit: string, ...branches: RemoteBranch[]): RemoteTenant => ({
    tenantId: parseTenantId(digit.repeat(32)),
    pgVersion: 17,
    branches,
  });
  const one = tenant("1", made("b", "a"), made("a", "main"), made("main", null), made("x y", null));
  assert.deepEqual(chooseBranches(one, undefined, "u"), ["main", "a", "b"]);
  assert.deepEqual(chooseBranches(one, ["b", "a"], "u"), ["a", "b"]);
  assert.throws(() => chooseBranches(one, ["mian"], "u"), /no branch "mian"/);
  assert.throws(
    () => chooseBranches(tenant("1", made("m", null, "broken")), undefined, "u"),
    /has no branch/,
  );
  const circle = tenant("1", made("c", "d"), made("d", "c"), made("main", null));
  assert.deepEqual(chooseBranches(circle, undefined, "u"), ["main", "c", "d"]);
  assert.equal(chooseTenant([tenant("2"), one], undefined, "u").tenantId, one.tenantId);
  assert.throws(() => chooseTenant([], undefined, "u"), /nothing to clone/);
  assert.throws(
    () => chooseTenant([one, { ...one, tenantId: parseTenantId(TENANT) }], undefined, "u"),
    /several/,
  );
  assert.throws(() => chooseTenant([one], "2".repeat(32), "u"), /no tenant/);
  assert.throws(() => chooseTenant([one], "postgres", "u"), /no tenant id/);
  assert.throws(() => chooseTenant([{ ...one, pgVersion: null }], undefined, "u"), /cannot be opened/);
});
