/** Connection URIs, and that no password gets out of them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { formatTarget, parseLibpqUri, redactUri } from "../../src/pgwire/uri.ts";
import { SeededRandom } from "../support/random.ts";

const DEFAULTS = {
  host: "h",
  port: 64_000,
  user: "neon",
  password: undefined,
  database: undefined,
  sslMode: "prefer",
  sslRootCert: undefined,
  passFile: undefined,
  connectTimeoutMs: 10_000,
};

void test("what a URI says", () => {
  const cases: [string, Partial<typeof DEFAULTS> | object][] = [
    ["postgresql://h", {}],
    ["postgres://h/", {}],
    ["postgresql://h:1", { port: 1 }],
    ["postgresql://h:", {}],
    ["postgresql://me@h:65535/x", { user: "me", port: 65_535, database: "x" }],
    ["postgresql://me:pw@h", { user: "me", password: "pw" }],
    ["postgresql://me:@h", { user: "me" }],
    ["postgresql://:pw@h", { password: "pw" }],
    ["postgresql://m%40e:p%3Aw%2F%C3%A9@h", { user: "m@e", password: "p:w/é" }],
    ["postgresql://me:a@b@h", { user: "me", password: "a@b" }],
    ["postgresql://[::1]:5000/a%20b", { host: "::1", port: 5000, database: "a b" }],
    ["postgresql://[fe80::1%25eth0]", { host: "fe80::1%25eth0" }],
    ["postgresql://h?sslmode=verify-ca&sslrootcert=%2Fa%2Fb", { sslMode: "verify-ca", sslRootCert: "/a/b" }],
    ["postgresql://h?sslrootcert=system", { sslMode: "verify-full", sslRootCert: "system" }],
    [
      "postgresql://h/d?passfile=/p&connect_timeout=5",
      { database: "d", passFile: "/p", connectTimeoutMs: 5000 },
    ],
    ["postgresql://h?connect_timeout=1", { connectTimeoutMs: 2000 }],
    ["postgresql://h?connect_timeout=0", { connectTimeoutMs: 3_600_000 }],
    ["postgresql://h?application_name=x&&", {}],
  ];
  for (const [uri, expected] of cases) {
    const target = parseLibpqUri(uri);
    const wanted = { ...DEFAULTS, ...expected };
    // A zone of an address is written %25 in a URI.
    if (uri.includes("%25")) wanted.host = "fe80::1%eth0";
    assert.deepEqual(target, wanted, uri);
  }
});

void test("what is refused, and that it says why", () => {
  const cases: [string, RegExp][] = [
    ["http://h", /does not begin with postgresql:/],
    ["h:5432", /does not begin/],
    ["postgresql://", /host is missing/],
    ["postgresql:///db", /host is missing/],
    ["postgresql://me@:5/", /host is missing/],
    ["postgresql://h:0", /port is not between/],
    ["postgresql://h:65536", /port is not between/],
    ["postgresql://h:x", /no HOST:PORT/],
    ["postgresql://::1", /brackets/],
    ["postgresql://a,b", /several hosts/],
    ["postgresql://h?sslmode=on", /sslmode is one of/],
    ["postgresql://h?sslmode=require&sslrootcert=system", /verify-full only/],
    ["postgresql://h?password=x", /password goes before the host/],
    ["postgresql://h?nosuch=1", /"nosuch" is not known/],
    ["postgresql://h?sslmode", /has no value/],
    ["postgresql://h?sslmode=disable&sslmode=disable", /given twice/],
    ["postgresql://h?connect_timeout=-1", /connect_timeout/],
    ["postgresql://h?connect_timeout=1.5", /connect_timeout/],
    ["postgresql://%zz@h", /wrong % sequence/],
    ["postgresql://a%00b@h", /wrong % sequence/],
    ["postgresql://h/ x", /blank/],
    ["postgresql://me:pa/ss@h", /an @ stands behind the host/],
    [`postgresql://${"h".repeat(5000)}`, /longer than/],
  ];
  for (const [uri, message] of cases) {
    assert.throws(
      () => parseLibpqUri(uri),
      (error) => error instanceof NeonError && error.code === ErrorCode.Usage && message.test(error.message),
      uri,
    );
  }
});

void test("passwords are never shown", (t) => {
  assert.equal(redactUri("postgresql://me:pw@h:1/x"), "postgresql://me:***@h:1/x");
  assert.equal(redactUri("postgresql://me@h"), "postgresql://me@h");
  assert.equal(redactUri("postgresql://me:a/b?c@d@h/x?y=z"), "postgresql://me:***@h/x?y=z");
  assert.equal(
    redactUri("postgresql://h?password=x&sslpassword=y"),
    "postgresql://h?password=***&sslpassword=***",
  );
  assert.equal(redactUri("me:pw@h"), "me:***@h");
  const secret = "Zq8Xw9";
  const random = SeededRandom.forTest(t);
  const letters = Array.from("@:/?#%[]&=, a1é\\");
  const noise = (): string =>
    Array.from({ length: random.below(7) }, () => letters[random.below(letters.length)]).join("");
  for (let round = 0; round < 5000; round++) {
    const password = noise() + secret + noise();
    const uri = `postgresql://me:${password}@h${noise()}/${noise()}`;
    const where = `round ${round}`;
    assert.ok(!redactUri(uri).includes(secret), where);
    try {
      assert.ok(!formatTarget(parseLibpqUri(uri)).includes(secret), where);
    } catch (error) {
      assert.ok(error instanceof NeonError, `${where}: ${String(error)}`);
      const shown = `${error.message} ${error.hint} ${JSON.stringify(error.data)}`;
      assert.ok(!shown.includes(secret), `${where}: ${shown}`);
    }
  }
});
