/** Who is let in over HTTP and with what: auth_token, users, JSON Web Tokens; and what a token of one tenant opens. */
import assert from "node:assert/strict";
import { createHmac, createPrivateKey, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseTenantId } from "../../src/base/ids.ts";
import { type TokenRequest, makeKeyPair, readPrivateKey, signToken } from "../../src/client/jwt.ts";
import { UserClient } from "../../src/client/users.ts";
import { AuthenticationError } from "../../src/pageserver/service/authentication-error.ts";
import { Authentication } from "../../src/pageserver/service/authentication.ts";
import { JwtKeys } from "../../src/pageserver/service/jwt-keys.ts";
import { Harness, TENANT, TOKEN, TempDirectory, errorOf } from "./harness.ts";

const OTHER = parseTenantId("b".repeat(32));
const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };
const NOW = Date.parse("2026-11-30T12:00:00Z");

function base64(value: unknown): string {
  return Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
}

/** A token made by hand, so that everything about it can be wrong. */
function tokenOf(header: object, claims: unknown, signed: (text: string) => Buffer): string {
  const text = `${base64(header)}.${base64(claims)}`;
  return `${text}.${signed(text).toString("base64url")}`;
}

function makeAuthentication(path: string): Authentication {
  return new Authentication(
    { token: TOKEN },
    {
      users: { find: () => undefined },
      keys: JwtKeys.open(path, () => undefined),
      clock: { now: () => NOW },
      random,
    },
  );
}

async function reasonOf(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    (identity) => assert.fail(`let in as ${JSON.stringify(identity)}`),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof AuthenticationError, String(error));
  return error.reason;
}

void test("tokens: what is accepted, and why the others are not", async (t) => {
  using directory = new TempDirectory();
  const { publicPem, privatePem } = makeKeyPair();
  const path = join(directory.path, "key.pem");
  writeFileSync(path, publicPem);
  const authentication = makeAuthentication(path);
  const key = createPrivateKey(privatePem);
  const byHand = (claims: unknown, header: object = { alg: "EdDSA", typ: "JWT" }): string =>
    tokenOf(header, claims, (text) => sign(null, Buffer.from(text), key));
  const seconds = NOW / 1000;

  await t.test("good ones", async () => {
    const everything = await authentication.jwt(byHand({ scope: "pageserverapi" }));
    assert.deepEqual([everything.tenants, everything.expiresAt], ["all", undefined]);
    const one = await authentication.jwt(byHand({ scope: "tenant", tenant_id: TENANT, exp: seconds + 60 }));
    assert.deepEqual([one.tenants, one.expiresAt], [new Set([TENANT]), (seconds + 90) * 1000]);
    const limited = await authentication.jwt(byHand({ scope: "pageserverapi", tenant_id: TENANT }));
    assert.deepEqual(limited.tenants, new Set([TENANT]));
    // Clocks may be apart a little.
    await authentication.jwt(byHand({ scope: "pageserverapi", exp: seconds - 10, nbf: seconds + 10 }));
    // As the password of a name that is nobody's, as over libpq; the name with a token of its own is not.
    const basic = (user: string): string =>
      `Basic ${Buffer.from(`${user}:${byHand({ scope: "tenant", tenant_id: TENANT })}`).toString("base64")}`;
    const shown = await authentication.ofHeader(basic("somebody"), { loopback: false });
    assert.deepEqual(shown.tenants, new Set([TENANT]));
    assert.equal(await reasonOf(authentication.ofHeader(basic("neon"), { loopback: false })), "unknown");
    const bearer = await authentication.ofHeader(`bearer ${byHand({ scope: "pageserverapi" })}`, {
      loopback: false,
    });
    assert.equal(bearer.tenants, "all");
    const request: TokenRequest = {
      scope: "tenant",
      tenantId: parseTenantId(TENANT),
      now: NOW,
      expiresAt: NOW + 60_000,
    };
    const ours = await authentication.jwt(await signToken(readPrivateKey(privatePem, "key"), request));
    assert.deepEqual(ours.tenants, new Set([TENANT]));
  });

  const good = byHand({ scope: "pageserverapi" });
  const [head = "", body = "", signature = ""] = good.split(".");
  const otherKey = generateKeyPairSync("ed25519").privateKey;
  const hmac = (secret: string) => (text: string) => createHmac("sha256", secret).update(text).digest();
  const bad: [string, string, string][] = [
    ["no token", "hello", "malformed"],
    ["too long", `${head}.${"A".repeat(9000)}.${signature}`, "malformed"],
    ["two parts", `${head}.${body}`, "malformed"],
    ["no JSON", `${base64("{")}.${body}.${signature}`, "malformed"],
    ["claims that are no object", byHand([1]), "malformed"],
    ["no scope", byHand({}), "malformed"],
    ["a scope that is no text", byHand({ scope: 1 }), "malformed"],
    ["tenant without tenant_id", byHand({ scope: "tenant" }), "malformed"],
    ["tenant_id that is none", byHand({ scope: "tenant", tenant_id: "../x" }), "malformed"],
    ["exp that is no number", byHand({ scope: "pageserverapi", exp: "tomorrow" }), "malformed"],
    ["expired", byHand({ scope: "pageserverapi", exp: seconds - 60 }), "expired"],
    ["not yet", byHand({ scope: "pageserverapi", nbf: seconds + 60 }), "expired"],
    ["signature of other claims", `${head}.${base64({ scope: "admin" })}.${signature}`, "signature"],
    ["no signature", `${head}.${body}.`, "signature"],
    [
      "other key",
      tokenOf({ alg: "EdDSA" }, { scope: "pageserverapi" }, (text) =>
        sign(null, Buffer.from(text), otherKey),
      ),
      "signature",
    ],
    ["alg none", tokenOf({ alg: "none" }, { scope: "pageserverapi" }, () => Buffer.alloc(0)), "signature"],
    [
      "HS256 with the public key",
      tokenOf({ alg: "HS256" }, { scope: "pageserverapi" }, hmac(publicPem)),
      "signature",
    ],
    ["the right signature under RS256", byHand({ scope: "pageserverapi" }, { alg: "RS256" }), "signature"],
    [
      "critical extension",
      byHand({ scope: "pageserverapi" }, { alg: "EdDSA", crit: ["x"], x: 1 }),
      "signature",
    ],
    ["scope of another service", byHand({ scope: "safekeeperdata", tenant_id: TENANT }), "forbidden"],
    ["scope admin", byHand({ scope: "admin" }), "forbidden"],
  ];
  for (const [name, token, reason] of bad) {
    await t.test(name, async () => assert.equal(await reasonOf(authentication.jwt(token)), reason));
  }
  await t.test("headers", async () => {
    const of = (header: string | undefined): Promise<string> =>
      reasonOf(authentication.ofHeader(header, { loopback: true }));
    assert.equal(await of(undefined), "missing");
    assert.equal(await of(" "), "missing");
    for (const header of ["Digest x", "Bearer", "Basic", `Bearer ${"x".repeat(20_000)}`, "Bearer a b"]) {
      assert.equal(await of(header), "malformed", header);
    }
    assert.equal(await of(`Basic ${Buffer.from("no colon").toString("base64")}`), "malformed");
    assert.equal(await of(`Basic ${Buffer.from([0xff, 0x3a]).toString("base64")}`), "malformed");
    assert.equal(await of(`Basic ${Buffer.from("neon:wrong").toString("base64")}`), "unknown");
    assert.equal(await of(`Basic ${Buffer.from(`neon:${"x".repeat(5000)}`).toString("base64")}`), "unknown");
  });
});

void test("keys may be several, and change while the server runs; what cannot be used opens nothing", async () => {
  using directory = new TempDirectory();
  const keys = join(directory.path, "keys");
  mkdirSync(keys);
  assert.throws(() => JwtKeys.open(keys, () => undefined), /has no files \*\.pem/);
  const [first, second] = [makeKeyPair(), makeKeyPair()];
  const put = (name: string, text: string): void => {
    writeFileSync(join(directory.path, name), text);
    renameSync(join(directory.path, name), join(keys, name));
  };
  put("a.pem", first.publicPem);
  put("README", "not a key");
  const authentication = makeAuthentication(keys);
  const token = ({ privatePem }: { privatePem: string }): Promise<string> =>
    signToken(createPrivateKey(privatePem), {
      scope: "pageserverapi",
      tenantId: undefined,
      now: NOW,
      expiresAt: NOW + 1000,
    });
  const [one, two] = [await token(first), await token(second)];
  await authentication.jwt(one);
  assert.equal(await reasonOf(authentication.jwt(two)), "signature");
  put("b.pem", second.publicPem);
  await authentication.jwt(one);
  await authentication.jwt(two);
  // Half a file: its key holds no longer, the other one does.
  put("a.pem", first.publicPem.slice(0, 40));
  assert.equal(await reasonOf(authentication.jwt(one)), "signature");
  await authentication.jwt(two);
  rmSync(join(keys, "b.pem"));
  assert.equal(await reasonOf(authentication.jwt(two)), "signature");
  const wrong: [string, RegExp][] = [
    [first.privatePem, /no public key in PEM/],
    [
      generateKeyPairSync("ec", { namedCurve: "P-256" })
        .publicKey.export({ type: "spki", format: "pem" })
        .toString(),
      /no Ed25519 key/,
    ],
    ["x".repeat(100_000), /longer than/],
  ];
  for (const [text, message] of wrong) {
    put("a.pem", text);
    assert.throws(() => JwtKeys.open(keys, () => undefined), message);
  }
});

interface Door {
  readonly name: string;
  readonly headers: Record<string, string>;
}

/** A server with the tenants TENANT and OTHER, and keys to OTHER only: a token and a user. */
async function withDoors(directory: TempDirectory): Promise<{ harness: Harness; doors: Door[] }> {
  const { publicPem, privatePem } = makeKeyPair();
  const path = join(directory.path, "key.pem");
  writeFileSync(path, publicPem);
  const harness = await Harness.withMain({ jwtPublicKey: path });
  await harness.ok("POST", "/v1/tenant", { tenant_id: OTHER, pg_version: 17 });
  const users = new UserClient({ baseUrl: harness.url, token: TOKEN });
  await users.add({ name: "bob", password: "a secret: of bob", tenants: [OTHER] }, random);
  const token = await signToken(createPrivateKey(privatePem), {
    scope: "tenant",
    tenantId: OTHER,
    now: Date.now(),
    expiresAt: Date.now() + 3_600_000,
  });
  const basic = Buffer.from("bob:a secret: of bob").toString("base64");
  return {
    harness,
    doors: [
      { name: "token", headers: { authorization: `Bearer ${token}` } },
      { name: "user", headers: { authorization: `Basic ${basic}` } },
    ],
  };
}

void test("what opens one tenant opens nothing of another and nothing of the server, on every route", async (t) => {
  using directory = new TempDirectory();
  const { harness, doors } = await withDoors(directory);
  await using _ = harness;
  const { routes } = harness.server;
  assert.ok(routes.length > 30);
  const main = await harness.timelineIdOf("main");
  const missing = "c".repeat(32);
  for (const { name, headers } of doors) {
    for (const tenant of [TENANT, missing]) {
      for (const { method, pattern, access } of routes) {
        if (access === "open" || access === "filtered") continue;
        const path = pattern
          .replace(":tenant", tenant)
          .replace(":timeline", main)
          .replace(":epoch", "d".repeat(32))
          .replace(/:[a-z_]+/, "main");
        const body = method === "GET" ? undefined : {};
        const reply = await harness.call(method, path, body, headers);
        assert.equal(reply.status, 403, `${name}: ${method} ${path}`);
        assert.equal(errorOf(reply).code, "declined");
      }
    }
    await t.test(`${name}: its own tenant is open to it`, async () => {
      const own = await harness.call("GET", `/v1/tenant/${OTHER}/branch`, undefined, headers);
      assert.equal(own.status, 200);
      // A timeline of another tenant is none of this one.
      const foreign = await harness.call(
        "GET",
        `/v1/tenant/${OTHER}/timeline/${main}/lease`,
        undefined,
        headers,
      );
      assert.equal(foreign.status, 404);
      const listed = await harness.call("GET", "/v1/tenant", undefined, headers);
      assert.equal(JSON.stringify(listed.body).includes(TENANT), false);
      assert.equal(JSON.stringify(listed.body).includes(OTHER), true);
    });
    await t.test(`${name}: a tenant in the body is no way in`, async () => {
      const body = { tenant_id: TENANT, name: "x", start_point: "main" };
      assert.equal((await harness.call("POST", "/v1/branch", body, headers)).status, 403);
      for (const method of ["PUT", "PATCH"]) {
        const reply = await harness.call(
          method,
          "/v1/tenant/config",
          { tenant_id: TENANT, gc_horizon: 0 },
          headers,
        );
        assert.equal(reply.status, 403);
      }
    });
    await t.test(`${name}: it creates no other tenant`, async () => {
      for (const tenant of [{ tenant_id: TENANT }, { tenant_id: missing }, {}]) {
        const reply = await harness.call("POST", "/v1/tenant", { ...tenant, pg_version: 17 }, headers);
        assert.equal(reply.status, 403);
      }
    });
  }
});

void test("over HTTP: 401 for what is no key, with the ways to log in", async () => {
  using directory = new TempDirectory();
  const { harness } = await withDoors(directory);
  await using _ = harness;
  const refused = async (authorization?: string): Promise<void> => {
    const headers: Record<string, string> = authorization === undefined ? {} : { authorization };
    const reply = await harness.call("GET", "/v1/tenant", undefined, headers);
    assert.equal(reply.status, 401, authorization);
    assert.match(reply.headers.get("www-authenticate") ?? "", /Bearer .*Basic /);
  };
  await refused();
  await refused("Bearer x.y.z");
  await refused("Bearer wrong-token-wrong-token");
  await refused(`Basic ${Buffer.from("bob:wrong").toString("base64")}`);
  await refused(`Basic ${Buffer.from("nobody:wrong").toString("base64")}`);
  const basic = (text: string): { authorization: string } => ({
    authorization: `Basic ${Buffer.from(text).toString("base64")}`,
  });
  const own = await harness.call("GET", "/v1/user", undefined, basic(`neon:${TOKEN}`));
  assert.equal(own.status, 200);
  const reload = await harness.call("POST", "/v1/reload_auth_validation_keys", {});
  assert.deepEqual([reload.status, reload.body], [200, { keys: 1 }]);
});
