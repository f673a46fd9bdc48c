/** URIs of pageservers: what they mean, and that what is wrong with one is said without its password. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import {
  formatPageserverUri,
  isOnThisMachine,
  parsePageserverUri,
  remoteTarget,
} from "../../src/client/pageserver-uri.ts";

void test("parts and defaults", () => {
  const cases: readonly [text: string, formatted: string][] = [
    ["http://localhost", "http://localhost:9898"],
    ["http://localhost:80", "http://localhost:80"],
    ["HTTP://[::1]:1234/", "http://[::1]:1234"],
    ["https://db.example.com", "https://db.example.com:9898?sslmode=verify-full&sslrootcert=system"],
    ["https://db.example.com:443", "https://db.example.com:443?sslmode=verify-full&sslrootcert=system"],
    ["https://a@h?sslmode=require", "https://a@h:9898?sslmode=require"],
    ["https://a:b@h?sslrootcert=/x/c.crt", "https://a@h:9898?sslmode=verify-full&sslrootcert=%2Fx%2Fc.crt"],
    ["http://a%40b:c%2Fd@h:7?passfile=/p", "http://a%40b@h:7?passfile=%2Fp"],
  ];
  for (const [text, formatted] of cases) {
    const uri = parsePageserverUri(text);
    assert.equal(formatPageserverUri(uri), formatted, text);
    // What is kept in a file means the same, but for the password.
    assert.deepEqual(parsePageserverUri(formatted), { ...uri, password: undefined }, text);
  }
  const { user, password, host, port } = parsePageserverUri("http://a%40b:c%2Fd@[::1]:7");
  assert.deepEqual({ user, password, host, port }, { user: "a@b", password: "c/d", host: "::1", port: 7 });
});

void test("what is wrong is said, the password is not", () => {
  const bad: readonly [text: string, message: RegExp][] = [
    ["localhost:9898", /does not begin with http/],
    ["postgresql://a:geheim@h", /address for libpq/],
    ["https://a:geheim@h/path", /nothing but \?/],
    ["https://a:geheim@h#x", /a # is not expected/],
    ["https://a:geheim@h:99999", /host or port/],
    ["https://a:geheim@h:0", /port is not between/],
    ["https://a:geheim@", /host or port/],
    ["https://a:geheim%@h", /wrong % sequence/],
    ["https://a:geheim@h?sslmode=maybe", /sslmode is one of/],
    ["https://a:geheim@h?sslmode=prefer", /require, verify-ca or verify-full/],
    ["http://a:geheim@h?sslmode=require", /go with https/],
    ["https://a@h?password=geheim", /password goes before the host/],
    ["https://a@h?colour=red", /"colour" is not known/],
    ["https://a@h?passfile=/a&passfile=/b", /given twice/],
    ["https://a@h?passfile=", /has no value/],
    [`https://${"a".repeat(5000)}`, /longer than/],
  ];
  for (const [text, message] of bad) {
    assert.throws(
      () => parsePageserverUri(text),
      (error) => {
        assert.ok(error instanceof NeonError && error.code === ErrorCode.Usage, text);
        assert.match(error.message, message, text);
        assert.doesNotMatch(error.message + error.hint, /geheim/, text);
        return true;
      },
    );
  }
});

void test("credentials: a user's password from where libpq has it, else a token", () => {
  const none = { PGPASSFILE: "/nowhere/pgpass" };
  const target = (text: string, environment: Record<string, string>): object =>
    remoteTarget(parsePageserverUri(text), { ...none, ...environment }).target;
  assert.deepEqual(target("http://h", {}), { baseUrl: "http://h:9898", remote: true, token: undefined });
  assert.deepEqual(target("http://h", { NEON_PAGESERVER_TOKEN: "t", PGPASSWORD: "x" }), {
    baseUrl: "http://h:9898",
    remote: true,
    token: "t",
  });
  assert.deepEqual(target("http://a@h", { NEON_PAGESERVER_TOKEN: "t", PGPASSWORD: "x" }), {
    baseUrl: "http://h:9898",
    remote: true,
    login: { user: "a", password: "x" },
  });
  assert.throws(
    () => target("http://a@h", {}),
    (error) => error instanceof NeonError && /no password is known for user a/.test(error.message),
  );
  assert.throws(
    () => target("https://a:b@h?sslrootcert=/nowhere/server.crt", {}),
    (error) => error instanceof NeonError && error.code === ErrorCode.Usage,
  );
});

void test("this machine and others", () => {
  for (const host of ["localhost", "127.0.0.1", "127.9.8.7", "::1"])
    assert.ok(isOnThisMachine({ host }), host);
  for (const host of ["h", "127.example.com", "10.0.0.1", "::2"]) assert.ok(!isOnThisMachine({ host }), host);
});
