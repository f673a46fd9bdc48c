/** The libpq service of a pageserver, with clients that nobody here wrote (psql, pg), and who may do what. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { Client } from "pg";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type TenantId, parseTenantId } from "../../src/base/ids.ts";
import { type TokenRequest, makeKeyPair, readPrivateKey, signToken } from "../../src/client/jwt.ts";
import { UserClient } from "../../src/client/users.ts";
import { makeCertificate } from "../../src/pgwire/certificate.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { Harness, TENANT, TOKEN, TempDirectory } from "./harness.ts";

const PSQL = ["/usr/lib/postgresql/15/bin/psql", "/usr/bin/psql"].find((path) => existsSync(path));
const OTHER = "b".repeat(32);
const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };

function uriOf(harness: Harness, options: { user?: string; password?: string; query?: string } = {}): string {
  const { user = "neon", password = TOKEN, query = "" } = options;
  return `postgresql://${user}:${password}@127.0.0.1:${harness.server.libpqPort}/x${query}`;
}

async function addUser(harness: Harness, name: string, tenants?: readonly TenantId[]): Promise<void> {
  const users = new UserClient({ baseUrl: harness.url, token: TOKEN });
  await users.add({ name, password: `${name}-password`, tenants }, random);
}

void test("psql runs the commands", async (t) => {
  if (PSQL === undefined) {
    t.skip("there is no psql");
    return;
  }
  await using harness = await Harness.withMain();
  const psql = async (command: string, uri = uriOf(harness)): Promise<string> => {
    const args = [
      "--no-psqlrc",
      "--tuples-only",
      "--no-align",
      "--set",
      "ON_ERROR_STOP=1",
      uri,
      "-c",
      command,
    ];
    // It tells failures by its exit code.
    const { stdout } = await promisify(execFile)(PSQL, args);
    return stdout.trim();
  };
  assert.equal(JSON.parse(await psql("status;"))["state"], "ready");
  assert.match(await psql("identify_system"), /^\|1\|\d+\.\d+\.\d+\|neon$/);
  assert.match(await psql(`IDENTIFY_SYSTEM '${TENANT}'`), /^7412345678901234567\|1\|/);
  assert.equal(JSON.parse(await psql("tenant_list"))[0]["id"], TENANT);
  assert.equal(JSON.parse(await psql(`branch_list ${TENANT}`))[0]["name"], "main");
  assert.equal(await psql("set client_encoding to utf8"), "SELECT 1");
  await assert.rejects(psql("nonsense"), /unknown command "nonsense".*\n.*usage/);
  await assert.rejects(psql(`branch_list ${OTHER}`), /there is no tenant/);
  await assert.rejects(psql("branch_list"), /the tenant id is missing/);
  await assert.rejects(
    psql("status", uriOf(harness, { password: "wrong" })),
    /password authentication failed/,
  );
});

void test("psql over TLS, with a self-signed certificate and channel binding", async (t) => {
  if (PSQL === undefined) {
    t.skip("there is no psql");
    return;
  }
  using directory = new TempDirectory();
  const certPath = join(directory.path, "server.crt");
  const keyPath = join(directory.path, "server.key");
  const renew = (): void => {
    const made = makeCertificate({ hosts: ["127.0.0.1"], days: 1, now: Date.now() }, random);
    writeFileSync(keyPath, made.keyPem, { mode: 0o600 });
    writeFileSync(certPath, made.certPem);
  };
  renew();
  await using harness = await Harness.start({ tls: { certPath, keyPath } });
  const psql = async (query: string): Promise<string> => {
    const uri = uriOf(harness, { query: `?sslrootcert=${certPath}&${query}` });
    return (await promisify(execFile)(PSQL, ["-XAt", uri, "-c", "status"])).stdout;
  };
  assert.match(await psql("sslmode=verify-full&channel_binding=require"), /"ready"/);
  assert.match(await psql("sslmode=verify-ca&channel_binding=disable"), /"ready"/);
  assert.match(await psql("sslmode=disable"), /"ready"/);
  renew();
  // The new certificate holds without a restart.
  assert.match(await psql("sslmode=verify-full&channel_binding=require"), /"ready"/);
  await using client = await connectLibpq(
    parseLibpqUri(uriOf(harness, { query: `?sslmode=verify-full&sslrootcert=${certPath}` })),
  );
  assert.ok(client.encrypted);
});

void test("pg, with simple and prepared statements", async () => {
  await using harness = await Harness.withMain();
  const client = new Client({ connectionString: uriOf(harness) });
  await client.connect();
  try {
    const { rows } = await client.query("identify_system");
    assert.deepEqual(Object.keys(rows[0]), ["systemid", "protocol_version", "version", "user"]);
    assert.equal(rows[0].protocol_version, "1");
    for (let round = 0; round < 3; round++) {
      const prepared = await client.query({ name: "list", text: `branch_list ${TENANT}` });
      assert.equal(JSON.parse(prepared.rows[0].data)[0].name, "main");
    }
    await assert.rejects(client.query({ name: "bad", text: "nonsense" }), /unknown command/);
    await assert.rejects(client.query("status", ["a parameter"]), /parameters are given/);
    assert.equal((await client.query({ text: "status", rowMode: "array", values: [] })).rows.length, 1);
    await client.query("");
  } finally {
    await client.end();
  }
});

void test("a user of one tenant gets nothing of another, and nothing of the pageserver as a whole", async () => {
  await using harness = await Harness.withMain();
  await harness.ok("POST", "/v1/tenant", { tenant_id: OTHER, pg_version: 17 });
  await addUser(harness, "alice", [parseTenantId(TENANT)]);
  await using client = await connectLibpq(
    parseLibpqUri(uriOf(harness, { user: "alice", password: "alice-password" })),
  );
  const declined = (error: unknown): boolean =>
    error instanceof NeonError && error.code === ErrorCode.Declined && /alice/.test(error.message);
  const own = await client.query(`branch_list ${TENANT}`);
  assert.equal(own.rows.length, 1);
  assert.deepEqual(
    JSON.parse((await client.query("tenant_list")).rows[0]?.[0] ?? "").map(({ id }: { id: string }) => id),
    [TENANT],
  );
  const foreign = { tenant_id: OTHER, branch: "main", other: "main", dry_run: false };
  const origin = { host: "127.0.0.1", port: 1, user: "x", sslmode: "disable", connect_timeout_ms: 1000 };
  const timeline = "e".repeat(32);
  const commands = [
    `branch_list ${OTHER}`,
    `branch_list ${"c".repeat(32)}`,
    `identify_system ${OTHER}`,
    `show ${OTHER}`,
    `tenant_create ${"c".repeat(32)}`,
    `branch_create ${OTHER} x main`,
    `branch_delete ${OTHER} main`,
    `get_lsn_by_timestamp ${OTHER} ${timeline} 2026-01-01T00:00:00Z`,
    `get_last_record_rlsn ${OTHER} ${timeline}`,
    `import basebackup ${OTHER} ${timeline} 0/1 0/1`,
    `import wal ${OTHER} ${timeline} 0/1 0/2`,
    `checkpoint ${OTHER} ${timeline}`,
    `compact ${OTHER} ${timeline}`,
    `do_gc ${OTHER}`,
    `lease lsn ${OTHER} ${timeline} 0/1`,
    `basebackup ${OTHER} ${timeline}`,
    `fullbackup ${OTHER} ${timeline}`,
    `pagestream_v2 ${OTHER} ${timeline}`,
    `pagestream_v3 ${OTHER} ${timeline}`,
    `branch_push ${JSON.stringify(foreign)}`,
    `branch_pull ${JSON.stringify(foreign)}`,
    // It may not make the pageserver connect to others, not even for its own tenant.
    `callmemaybe ${TENANT} ${timeline} host=127.0.0.1`,
    `perform_push ${JSON.stringify({ ...foreign, tenant_id: TENANT, origin })}`,
    `perform_pull ${JSON.stringify({ ...foreign, tenant_id: TENANT, origin })}`,
    `remote_branches ${JSON.stringify({ origin, tenant_id: TENANT })}`,
  ];
  // Those that concern no tenant; every other command must be among those above.
  const harmless = ["set", "status", "tenant_list"];
  let listed = "";
  await client.query("nonsense").catch((error: Error) => (listed = error.message));
  const names = /there are (.*)$/.exec(listed)?.[1]?.split(", ") ?? [];
  assert.ok(names.length > 20);
  for (const name of names) {
    const tried = harmless.includes(name) || commands.some((command) => command.startsWith(`${name} `));
    assert.ok(tried, `${name} is not tried`);
  }
  for (const command of commands) await assert.rejects(client.query(command), declined, command);
});

void test("an import, which a wrong end LSN takes back", async () => {
  await using harness = await Harness.withMain();
  await using client = await connectLibpq(parseLibpqUri(uriOf(harness)));
  const timeline = "e".repeat(32);
  const names = async (): Promise<string[]> =>
    JSON.parse((await client.query(`branch_list ${TENANT}`)).rows[0]?.[0] ?? "[]").map(
      ({ name }: { name: string }) => name,
    );
  const load = (endLsn: string): Promise<void> =>
    client.copyIn(`import basebackup ${TENANT} ${timeline} 0/0 ${endLsn} 17`, [Buffer.from("a tar")]);
  await assert.rejects(load("0/16"), /ends at 0\/1500000, not at 0\/16/);
  assert.deepEqual(await names(), ["main"]);
  await load("0/1500000");
  assert.deepEqual(await names(), ["import-eeeeeeee", "main"]);
  await assert.rejects(load("0/1500000"), /exists/);
});

void test("tokens are passwords of any name, until they expire", async () => {
  using directory = new TempDirectory();
  const { publicPem, privatePem } = makeKeyPair();
  const keyFile = join(directory.path, "key.pem");
  writeFileSync(keyFile, publicPem);
  await using harness = await Harness.start({ jwtPublicKey: keyFile });
  await harness.call("POST", "/v1/tenant", { tenant_id: TENANT, pg_version: 17 });
  await addUser(harness, "bob");
  const token = (changes: Partial<TokenRequest> = {}): Promise<string> =>
    signToken(readPrivateKey(privatePem, "key"), {
      scope: "tenant",
      tenantId: parseTenantId(TENANT),
      now: Date.now(),
      expiresAt: Date.now() + 60_000,
      ...changes,
    });
  const good = await token();
  for (const user of ["anybody", "tenant_writer"]) {
    const client = new Client({
      connectionString: uriOf(harness, { user, password: good, query: "?sslmode=disable" }),
    });
    await client.connect();
    const { rows } = await client.query<{ data: string }>("tenant_list");
    assert.deepEqual(
      (JSON.parse(rows[0]?.data ?? "[]") as { id: string }[]).map(({ id }) => id),
      [TENANT],
    );
    await assert.rejects(client.query(`branch_list ${OTHER}`), { code: "42501" });
    await client.end();
  }
  const rejected = async (user: string, password: string): Promise<void> => {
    await assert.rejects(connectLibpq(parseLibpqUri(uriOf(harness, { user, password }))), (error) => {
      assert.ok(error instanceof NeonError, String(error));
      assert.match(error.message, /password authentication failed/);
      assert.ok(!error.message.includes(password));
      return true;
    });
  };
  const stranger = makeKeyPair();
  await rejected(
    "anybody",
    await signToken(readPrivateKey(stranger.privatePem, "key"), {
      scope: "pageserverapi",
      tenantId: undefined,
      now: Date.now(),
      expiresAt: Date.now() + 60_000,
    }),
  );
  await rejected("anybody", await token({ expiresAt: Date.now() - 120_000, now: Date.now() - 240_000 }));
  await rejected("anybody", "no-token");
  // Whoever has a password of its own shows that one, and never in clear text.
  await rejected("bob", good);
  await rejected("neon", good);
  // A connection ends with the token that opened it: clocks may be 30 s apart.
  const short = await token({ expiresAt: Date.now() - 28_500 });
  await using client = await connectLibpq(parseLibpqUri(uriOf(harness, { user: "x", password: short })));
  await client.query("tenant_list");
  await assert.rejects(async () => {
    for (;;) await client.query("tenant_list");
  }, /the token has expired|closed/);
});

void test("users: made, listed, removed, kept over a restart; the password is stored nowhere", async () => {
  using directory = new TempDirectory();
  const login = async (harness: Harness, password: string): Promise<void> => {
    await using _ = await connectLibpq(parseLibpqUri(uriOf(harness, { user: "bob", password })));
  };
  {
    await using harness = await Harness.start({ workdir: directory.path });
    await addUser(harness, "bob");
    await assert.rejects(addUser(harness, "bob"), /exists already/);
    await assert.rejects(addUser(harness, "neon"), /exists already/);
    await assert.rejects(addUser(harness, "../x"), /is no name of a user/);
    const reply = await harness.call("POST", "/v1/user", { name: "carl", verifier: "SCRAM-SHA-256$0:x" });
    assert.equal(reply.status, 400);
    await login(harness, "bob-password");
    await assert.rejects(login(harness, "carl-password"), /password authentication failed/);
  }
  await using harness = await Harness.start({ workdir: directory.path });
  await login(harness, "bob-password");
  const users = new UserClient({ baseUrl: harness.url, token: TOKEN });
  assert.deepEqual(
    (await users.list()).map(({ name, tenants }) => [name, tenants]),
    [["bob", null]],
  );
  const { stdout } = await promisify(execFile)("grep", ["-rl", "bob-password", directory.path]).catch(
    (error: { stdout: string }) => error,
  );
  assert.equal(stdout, "");
  await users.remove("bob");
  await assert.rejects(login(harness, "bob-password"), /password authentication failed/);
  await assert.rejects(users.remove("bob"), /there is no user/);
});
