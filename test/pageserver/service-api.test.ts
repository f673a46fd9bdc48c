/** Every route of the HTTP API, for what works and for what a client may do wrong. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn, formatLsn } from "../../src/base/lsn.ts";
import { FAKE_START, FAKE_SYSTEM_ID, type FakeTimeline } from "./fake-timelines.ts";
import { Harness, TENANT, TempDirectory, errorOf } from "./harness.ts";

const ID = /^[0-9a-f]{32}$/;

function timelineOf(harness: Harness, id: string): FakeTimeline {
  for (const [key, timeline] of harness.timelines.opened) if (key === id) return timeline;
  throw new Error(`no timeline ${id}`);
}

void test("tenants: create, list, get, and creating one twice", async () => {
  await using harness = await Harness.start();
  assert.deepEqual(await harness.ok("GET", "/v1/tenant"), []);
  const made = await harness.call("POST", "/v1/tenant", { tenant_id: TENANT.toUpperCase(), pg_version: 17 });
  assert.equal(made.status, 201);
  assert.equal(made.body?.["tenant_id"], TENANT);
  assert.equal(made.body?.["pg_version"], 17);
  const other = await harness.ok("POST", "/v1/tenant", { pg_version: 17 });
  assert.match(String(other["tenant_id"]), ID);
  assert.equal((await harness.call("GET", "/v1/tenant")).body?.["length"], 2);
  assert.equal((await harness.ok("GET", `/v1/tenant/${TENANT}`))["system_id"], null);

  const again = await harness.call("POST", "/v1/tenant", { tenant_id: TENANT, pg_version: 17 });
  assert.equal(again.status, 409);
  assert.equal(errorOf(again).code, "exists");
});

void test("a tenant is deleted with all that it has; not while a compute writes to it", async () => {
  await using harness = await Harness.withMain();
  const other = String((await harness.ok("POST", "/v1/tenant", { pg_version: 16 }))["tenant_id"]);
  const main = await harness.timelineIdOf("main");
  const source = { host: "127.0.0.1", port: 5432, user: "postgres" };
  const writer = await harness.ok("POST", harness.t(`/timeline/${main}/writer`), { name: "shop", source });
  const refused = await harness.call("DELETE", `/v1/tenant/${TENANT}`);
  assert.equal(refused.status, 409);
  assert.match(errorOf(refused).message, /in use by compute "shop"/);
  await harness.ok("DELETE", harness.t(`/timeline/${main}/writer/${String(writer["epoch"])}`));

  assert.deepEqual(await harness.ok("DELETE", `/v1/tenant/${TENANT}`), { deleted: TENANT });
  assert.equal(errorOf(await harness.call("GET", harness.t("/branch"))).code, "not_found");
  assert.equal(errorOf(await harness.call("DELETE", `/v1/tenant/${TENANT}`)).code, "not_found");
  const tenants: unknown = await harness.ok("GET", "/v1/tenant");
  assert.ok(Array.isArray(tenants));
  assert.deepEqual(
    tenants.map((tenant: { tenant_id: string }) => tenant.tenant_id),
    [other],
  );
  // Its id may be used again.
  await harness.ok("POST", "/v1/tenant", { tenant_id: TENANT, pg_version: 17 });
  assert.deepEqual(await harness.ok("GET", harness.t("/branch")), { branches: [] });
});

void test("import makes a root timeline and its branch", async () => {
  await using harness = await Harness.start();
  await harness.ok("POST", "/v1/tenant", { tenant_id: TENANT, pg_version: 17 });
  const id = "0123456789abcdef0123456789abcdef";
  const body = "x".repeat(3_000_000);
  assert.deepEqual(await harness.ok("POST", harness.t(`/import?branch=main&timeline_id=${id}`), body), {
    timeline_id: id,
    lsn: formatLsn(FAKE_START),
    system_id: FAKE_SYSTEM_ID.toString(),
    pg_version: 17,
  });
  assert.equal(harness.timelines.importedBytes, 3_000_000);
  const branch = await harness.branch("main");
  assert.equal(branch["timeline_id"], id);
  assert.equal(branch["ancestor"], null);
  assert.equal(branch["state"], "active");
  assert.equal(branch["writer"], null);
  assert.equal((await harness.ok("GET", `/v1/tenant/${TENANT}`))["system_id"], FAKE_SYSTEM_ID.toString());
});

void test("import refuses a taken branch, a taken timeline id and another cluster", async () => {
  await using harness = await Harness.withMain();
  const main = await harness.timelineIdOf("main");
  const refused = async (query: string): Promise<unknown> =>
    errorOf(await harness.call("POST", harness.t(`/import?${query}`), "a tar")).code;
  assert.equal(await refused("branch=main"), "exists");
  assert.equal(await refused(`branch=other&timeline_id=${main}`), "exists");
  harness.timelines.systemId = 1n;
  assert.equal(await refused("branch=other"), "conflict");
  assert.equal(((await harness.ok("GET", harness.t("/branch")))["branches"] as unknown[]).length, 1);
});

void test("a branch begins at the end, at an LSN rounded down, or at a time", async () => {
  await using harness = await Harness.withMain();
  const main = timelineOf(harness, await harness.timelineIdOf("main"));
  main.commit(10);
  const create = async (name: string, point: object): Promise<unknown> => {
    const made = await harness.ok("POST", harness.t("/branch"), { name, point });
    assert.equal(made["name"], name);
    assert.match(String(made["timeline_id"]), ID);
    return made["ancestor"];
  };
  const at = (commits: number): object => ({
    name: "main",
    timeline_id: main.id,
    lsn: formatLsn(toLsn(FAKE_START + commits * 256)),
  });
  assert.deepEqual(await create("end", { branch: "main" }), at(10));
  assert.deepEqual(await create("by-id", { timeline_id: main.id }), at(10));
  const between = formatLsn(toLsn(FAKE_START + 3 * 256 + 100));
  assert.deepEqual(await create("by-lsn", { branch: "main", lsn: between }), at(3));
  assert.deepEqual(await create("at-start", { branch: "main", lsn: formatLsn(FAKE_START) }), at(0));
  const time = main.createdAt + 4500;
  assert.deepEqual(await create("by-time", { branch: "main", timestamp_ms: time }), at(4));
  // Without a writer there is nobody to wait for, but the point must be durable.
  assert.equal(main.calls.includes("syncWithWriter"), false);
  assert.equal(main.calls.includes("waitForLsn"), true);
});

void test("a branch of a branch at an LSN before it began hangs on the older timeline", async () => {
  await using harness = await Harness.withMain();
  const main = timelineOf(harness, await harness.timelineIdOf("main"));
  main.commit(10);
  await harness.ok("POST", harness.t("/branch"), { name: "dev", point: { branch: "main" } });
  const dev = timelineOf(harness, await harness.timelineIdOf("dev"));
  dev.commit(2);
  const lsn = formatLsn(toLsn(FAKE_START + 5 * 256));
  const old = await harness.ok("POST", harness.t("/branch"), { name: "old", point: { branch: "dev", lsn } });
  assert.deepEqual(old["ancestor"], { name: "main", timeline_id: main.id, lsn });
});

void test("a new branch waits for the running writer first", async () => {
  await using harness = await Harness.withMain();
  const id = await harness.timelineIdOf("main");
  await harness.ok("POST", harness.t(`/timeline/${id}/writer`), {
    name: "main",
    source: { host: "127.0.0.1", port: 5432, user: "postgres" },
  });
  await harness.ok("POST", harness.t("/branch"), { name: "dev", point: { branch: "main" } });
  const main = timelineOf(harness, id);
  assert.equal(main.calls.filter((call) => call === "syncWithWriter").length, 1);
  const start = formatLsn(FAKE_START);
  await harness.ok("POST", harness.t("/branch"), { name: "dev2", point: { branch: "main", lsn: start } });
  assert.equal(main.calls.filter((call) => call === "syncWithWriter").length, 1);
});

void test("bad branch requests", async (t) => {
  await using harness = await Harness.withMain();
  const main = await harness.timelineIdOf("main");
  const point = { branch: "main" };
  const cases: [string, unknown, string, RegExp][] = [
    ["no name", { point }, "usage", /"name" is missing/],
    ["a name that is no text", { name: 1, point }, "usage", /"name" must be a string/],
    ["an empty name", { name: "", point }, "usage", /"name" must not be empty/],
    ["a bad name", { name: "a..b", point }, "usage", /"a\.\.b" is no name for a branch/],
    ["a taken name", { name: "main", point }, "exists", /"main" exists already/],
    ["no point", { name: "b" }, "usage", /"point" is missing: it must be a JSON object/],
    ["an empty point", { name: "b", point: {} }, "usage", /"point\.branch"/],
    ["two sources", { name: "b", point: { branch: "main", timeline_id: main } }, "usage", /point\.branch/],
    ["an unknown branch", { name: "b", point: { branch: "nope" } }, "not_found", /no branch "nope"/],
    [
      "an unknown timeline",
      { name: "b", point: { timeline_id: "0".repeat(32) } },
      "not_found",
      /no timeline/,
    ],
    ["a bad timeline id", { name: "b", point: { timeline_id: "zz" } }, "usage", /point\.timeline_id/],
    ["a bad LSN", { name: "b", point: { ...point, lsn: "x" } }, "usage", /"point\.lsn" must be an LSN/],
    [
      "an LSN as number",
      { name: "b", point: { ...point, lsn: 5 } },
      "usage",
      /"point\.lsn" must be a string/,
    ],
    ["LSN and time", { name: "b", point: { ...point, lsn: "0/1", timestamp_ms: 1 } }, "usage", /excludes/],
    ["the future", { name: "b", point: { ...point, lsn: "FF/0" } }, "not_found", /lies in the future/],
    ["before history", { name: "b", point: { ...point, lsn: "0/10" } }, "not_found", /before the history of/],
    ["a broken time", { name: "b", point: { ...point, timestamp_ms: 1.5 } }, "usage", /point\.timestamp_ms/],
    ["a negative time", { name: "b", point: { ...point, timestamp_ms: -1 } }, "usage", /point\.timestamp_ms/],
    ["an early time", { name: "b", point: { ...point, timestamp_ms: 1 } }, "not_found", /before the history/],
    [
      "a misspelt field",
      { name: "b", point: { ...point, LSN: "0/1" } },
      "usage",
      /"point\.LSN" is not known/,
    ],
    ["a field too many", { name: "b", point, force: true }, "usage", /"force" is not known/],
    ["a prototype's name", '{"name":"b","point":{"branch":"main"},"__proto__":1}', "usage", /__proto__/],
    ["a list", [], "usage", /the body must be a JSON object/],
    ["null", "null", "usage", /the body must be a JSON object/],
    ["half a body", '{"name":', "usage", /the body is no JSON/],
    ["no body", undefined, "usage", /no body/],
  ];
  for (const [what, body, code, message] of cases) {
    await t.test(what, async () => {
      const reply = await harness.call("POST", harness.t("/branch"), body);
      const error = errorOf(reply);
      assert.equal(error.code, code);
      assert.match(error.message, message);
    });
  }
  const { branches } = await harness.ok("GET", harness.t("/branch"));
  assert.equal((branches as unknown[]).length, 1, "nothing was changed");
});

void test("branches with a slash and beyond ASCII", async () => {
  await using harness = await Harness.withMain();
  for (const name of ["feature/login", "Ärger", "日本", "UPPER", "upper"]) {
    await harness.ok("POST", harness.t("/branch"), { name, point: { branch: "main" } });
    assert.equal((await harness.branch(name))["name"], name);
  }
  const { branches } = await harness.ok("GET", harness.t("/branch"));
  assert.deepEqual(
    (branches as { name: string }[]).map((branch) => branch.name),
    ["UPPER", "feature/login", "main", "upper", "Ärger", "日本"],
  );
});

void test("delete: refused with children or a writer, otherwise gone with its files", async () => {
  await using harness = await Harness.withMain();
  const point = { branch: "main" };
  await harness.ok("POST", harness.t("/branch"), { name: "dev", point });
  await harness.ok("POST", harness.t("/branch"), { name: "leaf", point: { branch: "dev" } });
  const id = await harness.timelineIdOf("leaf");
  const withChildren = await harness.call("DELETE", harness.t("/branch/dev"));
  assert.equal(withChildren.status, 409);
  assert.equal(errorOf(withChildren).code, "conflict");
  assert.match(errorOf(withChildren).message, /has a child: leaf/);

  const writer = await harness.ok("POST", harness.t(`/timeline/${id}/writer`), {
    name: "leaf-compute",
    source: { socket_directory: "/tmp/x", port: 5432, user: "postgres" },
  });
  const inUse = await harness.call("DELETE", harness.t("/branch/leaf"));
  assert.match(errorOf(inUse).message, /in use by compute "leaf-compute"/);
  assert.match(String(errorOf(inUse).hint), /neon pg stop leaf-compute/);
  await harness.ok("DELETE", harness.t(`/timeline/${id}/writer/${String(writer["epoch"])}`));

  assert.deepEqual(await harness.ok("DELETE", harness.t("/branch/leaf")), { deleted: "leaf" });
  assert.equal(timelineOf(harness, id).closed, true);
  assert.equal((await harness.call("GET", harness.t("/branch/leaf"))).status, 404);
  assert.equal(
    (await harness.call("POST", harness.t(`/timeline/${id}/resolve`), { lsn: "0/1" })).status,
    404,
  );
  assert.equal((await harness.call("DELETE", harness.t("/branch/leaf"))).status, 404);
  await harness.ok("DELETE", harness.t("/branch/dev"));
});

void test("rename", async () => {
  await using harness = await Harness.withMain();
  await harness.ok("POST", harness.t("/branch"), { name: "dev", point: { branch: "main" } });
  const id = await harness.timelineIdOf("dev");
  const renamed = await harness.ok("POST", harness.t("/branch/dev/rename"), { new_name: "topic/dev" });
  assert.equal(renamed["name"], "topic/dev");
  assert.equal(renamed["timeline_id"], id);
  const rename = async (name: string, body: unknown): Promise<unknown> =>
    errorOf(await harness.call("POST", harness.t(`/branch/${encodeURIComponent(name)}/rename`), body)).code;
  assert.equal(await rename("dev", { new_name: "x" }), "not_found");
  assert.equal(await rename("main", { new_name: "topic/dev" }), "exists");
  assert.equal(await rename("main", { new_name: "main" }), "exists");
  assert.equal(await rename("main", { new_name: "a b" }), "usage");
  assert.equal(await rename("main", {}), "usage");
  // Children name their ancestor by its new name.
  await harness.ok("POST", harness.t("/branch/main/rename"), { new_name: "trunk" });
  assert.equal(((await harness.branch("topic/dev"))["ancestor"] as { name: string }).name, "trunk");
});

void test("writers: open, conflict, takeover, reopen, close", async () => {
  await using harness = await Harness.withMain();
  const id = await harness.timelineIdOf("main");
  const path = harness.t(`/timeline/${id}/writer`);
  const source = { socket_directory: "/run/a", port: 5432, user: "postgres" };
  const first = await harness.call("POST", path, { name: "a", source });
  assert.equal(first.status, 201);
  assert.match(String(first.body?.["epoch"]), ID);
  assert.equal(first.body?.["lsn"], formatLsn(FAKE_START));
  const listed = (await harness.branch("main"))["writer"];
  assert.deepEqual(listed, { name: "a", epoch: first.body?.["epoch"], state: "connecting", error: null });

  const second = await harness.call("POST", path, { name: "b", source });
  assert.equal(errorOf(second).code, "conflict");
  assert.match(errorOf(second).message, /compute "a" writes to this branch already/);

  const taken = await harness.ok("POST", path, { name: "b", source, takeover: true });
  const again = await harness.ok("POST", path, { name: "b", source, takeover: false });
  assert.notEqual(again["epoch"], taken["epoch"]);
  const stale = await harness.call("DELETE", `${path}/${String(taken["epoch"])}`);
  assert.equal(errorOf(stale).code, "not_found");
  await harness.ok("DELETE", `${path}/${String(again["epoch"])}`);
  assert.equal((await harness.branch("main"))["writer"], null);
  const { calls } = timelineOf(harness, id);
  assert.deepEqual(
    calls.map((call) => call.split(" ")[0]),
    ["openWriter", "closeWriter", "openWriter", "closeWriter", "openWriter", "closeWriter"],
  );
});

void test("two computes that open a writer at once: one is refused", async () => {
  await using harness = await Harness.withMain();
  const path = harness.t(`/timeline/${await harness.timelineIdOf("main")}/writer`);
  const source = { host: "localhost", port: 1, user: "postgres" };
  const names = Array.from({ length: 8 }, (_, i) => `c${i}`);
  const replies = await Promise.all(names.map((name) => harness.call("POST", path, { name, source })));
  assert.deepEqual(
    replies.map((reply) => reply.status).sort((a, b) => a - b),
    [201, ...Array<number>(7).fill(409)],
  );
});

void test("bad writer requests", async (t) => {
  await using harness = await Harness.withMain();
  const path = harness.t(`/timeline/${await harness.timelineIdOf("main")}/writer`);
  const source = { host: "localhost", port: 5432, user: "postgres" };
  const cases: [string, unknown, RegExp][] = [
    ["no name", { source }, /"name" is missing/],
    ["no source", { name: "a" }, /"source" is missing: it must be a JSON object/],
    ["no address", { name: "a", source: { port: 1, user: "p" } }, /source\.host/],
    ["two addresses", { name: "a", source: { ...source, socket_directory: "/x" } }, /source\.host/],
    [
      "a relative directory",
      { name: "a", source: { socket_directory: "x", port: 1, user: "p" } },
      /absolute/,
    ],
    ["port 0", { name: "a", source: { ...source, port: 0 } }, /source\.port/],
    ["port 65536", { name: "a", source: { ...source, port: 65_536 } }, /source\.port/],
    ["a port as text", { name: "a", source: { ...source, port: "1" } }, /source\.port/],
    ["no user", { name: "a", source: { host: "x", port: 1 } }, /source\.user/],
    ["a NUL in the user", { name: "a", source: { ...source, user: "a\0b" } }, /NUL/],
    ["a long user", { name: "a", source: { ...source, user: "u".repeat(64) } }, /at most 63/],
    ["a long password", { name: "a", source: { ...source, password: "x".repeat(1001) } }, /at most 1000/],
    ["an sslmode", { name: "a", source: { ...source, sslmode: "maybe" } }, /source\.sslmode.*is one of/],
    ["a misspelt field", { name: "a", source: { ...source, passwort: "x" } }, /source\.passwort.*not known/],
    ["takeover as text", { name: "a", source, takeover: "yes" }, /"takeover" must be true or false/],
  ];
  for (const [what, body, message] of cases) {
    await t.test(what, async () => {
      const error = errorOf(await harness.call("POST", path, body));
      assert.equal(error.code, "usage");
      assert.match(error.message, message);
    });
  }
  assert.equal((await harness.branch("main"))["writer"], null);
  const reply = await harness.call("DELETE", `${path}/not-an-epoch`);
  assert.match(errorOf(reply).message, /no writer epoch/);
});

void test("wait: reached, timed out, bad input", async () => {
  await using harness = await Harness.withMain();
  const path = harness.t(`/timeline/${await harness.timelineIdOf("main")}/wait`);
  const lsn = formatLsn(FAKE_START);
  assert.deepEqual(await harness.ok("POST", path, { lsn, timeout_ms: 0 }), { lsn });
  const late = await harness.call("POST", path, { lsn: "FF/0", timeout_ms: 1 });
  assert.equal(late.status, 504);
  assert.equal(errorOf(late).code, "timeout");
  assert.match(errorOf(late).message, new RegExp(lsn));
  for (const body of [
    {},
    { lsn },
    { lsn, timeout_ms: -1 },
    { lsn, timeout_ms: 1e9 },
    { lsn, timeout_ms: null },
    { lsn: "1", timeout_ms: 1 },
    { timeout_ms: 1 },
  ]) {
    assert.equal(errorOf(await harness.call("POST", path, body)).code, "usage", JSON.stringify(body));
  }
});

void test("resolve: LSN and time, the future, before history, bad input", async () => {
  await using harness = await Harness.withMain();
  const main = timelineOf(harness, await harness.timelineIdOf("main"));
  main.commit(5);
  const path = harness.t(`/timeline/${main.id}/resolve`);
  const lsn = formatLsn(toLsn(FAKE_START + 256));
  assert.deepEqual(await harness.ok("POST", path, { lsn: formatLsn(toLsn(FAKE_START + 257)) }), { lsn });
  assert.deepEqual(await harness.ok("POST", path, { timestamp_ms: main.createdAt + 1999 }), { lsn });
  const code = async (body: unknown): Promise<unknown> =>
    errorOf(await harness.call("POST", path, body)).code;
  assert.equal(await code({ lsn: "FF/0" }), "not_found");
  assert.equal(await code({ lsn: "0/1" }), "not_found");
  assert.equal(await code({}), "usage");
  assert.equal(await code({ lsn: "0/1", timestamp_ms: 1 }), "usage");
  assert.equal(await code({ lsn: "FFFFFFFF/0" }), "usage");
});

void test("base backup: headers, the whole stream, bad input", async () => {
  await using harness = await Harness.withMain();
  const main = timelineOf(harness, await harness.timelineIdOf("main"));
  main.commit(5);
  const path = harness.t(`/timeline/${main.id}/basebackup`);
  const fetched = async (query: string): Promise<Response> =>
    fetch(`${harness.url}${path}${query}`, {
      headers: { authorization: "Bearer correct-horse-battery-staple" },
    });
  const end = await fetched("");
  assert.equal(end.headers.get("content-type"), "application/x-tar");
  assert.equal(end.headers.get("x-neon-lsn"), formatLsn(toLsn(FAKE_START + 5 * 256)));
  assert.equal(end.headers.get("x-neon-previous-lsn"), formatLsn(toLsn(FAKE_START + 4 * 256)));
  assert.equal(end.headers.get("x-neon-system-id"), FAKE_SYSTEM_ID.toString());
  assert.equal((await end.arrayBuffer()).byteLength, 64 * 64 * 1024);
  const past = await fetched(`?lsn=${formatLsn(toLsn(FAKE_START + 300))}&read_only=true`);
  assert.equal(past.headers.get("x-neon-lsn"), formatLsn(toLsn(FAKE_START + 256)));
  await past.arrayBuffer();
  assert.deepEqual(main.calls, ["baseBackup read-write", "baseBackup read-only"]);
  const code = async (query: string): Promise<unknown> =>
    errorOf(await harness.call("GET", path + query)).code;
  assert.equal(await code("?lsn=xyz"), "usage");
  assert.equal(await code("?lsn=FF/0"), "not_found");
  assert.equal(await code("?read_only=maybe"), "usage");
  assert.equal(await code("?lsn=0/1&lsn=0/2"), "usage");
  assert.equal(await code("?readonly=true"), "usage");
});

void test("bad tenants, paths and imports", async (t) => {
  await using harness = await Harness.withMain();
  const none = "b".repeat(32);
  const cases: [string, string, string, unknown, string, RegExp][] = [
    ["no version", "POST", "/v1/tenant", {}, "usage", /"pg_version" is missing/],
    [
      "a version as text",
      "POST",
      "/v1/tenant",
      { pg_version: "17" },
      "usage",
      /"pg_version" must be a whole/,
    ],
    ["an unknown version", "POST", "/v1/tenant", { pg_version: 9 }, "unsupported", /9/],
    [
      "a bad id",
      "POST",
      "/v1/tenant",
      { tenant_id: "x", pg_version: 17 },
      "usage",
      /"tenant_id" must have 32/,
    ],
    ["an unknown field", "POST", "/v1/tenant", { pg_version: 17, x: 1 }, "usage", /"x" is not known/],
    ["a tenant that is none", "GET", "/v1/tenant/xyz/branch", undefined, "usage", /"xyz" in the path/],
    ["an unknown tenant", "GET", `/v1/tenant/${none}/branch`, undefined, "not_found", /no tenant/],
    ["an unknown branch", "GET", harness.t("/branch/nope"), undefined, "not_found", /no branch "nope"/],
    ["a bad escape", "GET", harness.t("/branch/%zz"), undefined, "usage", /not well encoded/],
    ["an empty part", "GET", harness.t("/branch/"), undefined, "not_found", /has no GET/],
    ["a dotted path", "GET", harness.t("/branch/..%2f..%2ftenant.json"), undefined, "not_found", /no branch/],
    ["an unknown path", "GET", "/v2/tenant", undefined, "not_found", /has no GET/],
    ["the root", "GET", "/", undefined, "not_found", /has no GET/],
    ["a bad timeline id", "POST", harness.t("/timeline/zz/wait"), {}, "usage", /"zz" in the path/],
    ["an unknown timeline", "POST", harness.t(`/timeline/${none}/wait`), {}, "not_found", /no timeline/],
    ["import without branch", "POST", harness.t("/import"), "tar", "usage", /"branch" is missing/],
    [
      "import with a bad name",
      "POST",
      harness.t("/import?branch=a%20b"),
      "tar",
      "usage",
      /no name for a branch/,
    ],
    [
      "import with a bad id",
      "POST",
      harness.t("/import?branch=x&timeline_id=1"),
      "tar",
      "usage",
      /timeline_id/,
    ],
    [
      "import with a typo",
      "POST",
      harness.t("/import?branch=x&timeline=1"),
      "tar",
      "usage",
      /"timeline" is not/,
    ],
  ];
  for (const [what, method, path, body, code, message] of cases) {
    await t.test(what, async () => {
      const error = errorOf(await harness.call(method, path, body));
      assert.equal(error.code, code);
      assert.match(error.message, message);
    });
  }
  const wrongMethod = await harness.call("DELETE", harness.t("/branch"));
  assert.equal(wrongMethod.status, 405);
  assert.match(errorOf(wrongMethod).message, /takes GET, POST, not DELETE/);
});

void test("settings of a tenant are still there after a restart", async () => {
  using directory = new TempDirectory();
  const config = { tenant_id: TENANT, gc_horizon: 12_345, pitr_interval: "2h" };
  {
    await using harness = await Harness.withMain({ workdir: directory.path });
    await harness.ok("PUT", "/v1/tenant/config", config);
    // An import writes the file as well.
    await harness.ok("POST", harness.t("/import?branch=other"), "a tar");
  }
  await using harness = await Harness.start({ workdir: directory.path });
  const shown = await harness.ok("GET", harness.t("/config"));
  assert.deepEqual(shown["tenant_specific_overrides"], { gc_horizon: 12_345, pitr_interval: "2h" });
});
