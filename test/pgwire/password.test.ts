/** Where passwords come from. */
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { findPassword, passwordFromLines } from "../../src/pgwire/password.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";

void test("the first line that fits", () => {
  const target = { host: "h", port: 64_000, database: "d", user: "me" };
  const cases: [string, string | undefined][] = [
    ["h:64000:d:me:pw", "pw"],
    ["*:*:*:*:pw", "pw"],
    ["h:64000:d:you:no\nh:*:d:me:yes", "yes"],
    ["# h:64000:d:me:no\r\nh:64000:d:me:pw\r\n", "pw"],
    ["h:64000:d:me:a\\:b\\\\c:d", "a:b\\c:d"],
    ["h:64000:d:me:", undefined],
    ["h:64000:d:me", undefined],
    ["h:64000:d", undefined],
    ["\\*:64000:d:me:no", undefined],
    ["", undefined],
  ];
  for (const [text, expected] of cases) assert.equal(passwordFromLines(text, target), expected, text);
  assert.equal(
    passwordFromLines("a\\:b:1:c\\\\:u:pw", { host: "a:b", port: 1, database: "c\\", user: "u" }),
    "pw",
  );
  // Without a database its name is the user's.
  assert.equal(
    passwordFromLines("h:1:me:me:pw", { host: "h", port: 1, database: undefined, user: "me" }),
    "pw",
  );
});

void test("URI, then environment, then file; a file that others can read is not used", () => {
  const home = mkdtempSync(join(tmpdir(), "neon-pass-"));
  try {
    const uri = "postgresql://me@h/d";
    assert.deepEqual(findPassword(parseLibpqUri(uri), {}, home), { password: undefined, warning: undefined });
    const write = (name: string, password: string, mode = 0o600): string => {
      const path = join(home, name);
      writeFileSync(path, `h:64000:d:me:${password}\n`, { mode });
      chmodSync(path, mode);
      return path;
    };
    write(".pgpass", "home");
    assert.equal(findPassword(parseLibpqUri(uri), {}, home).password, "home");
    const other = write("other", "environment");
    assert.equal(findPassword(parseLibpqUri(uri), { PGPASSFILE: other }, home).password, "environment");
    const named = `${uri}?passfile=${write("named", "named")}`;
    assert.equal(findPassword(parseLibpqUri(named), { PGPASSFILE: other }, home).password, "named");
    assert.equal(findPassword(parseLibpqUri(named), { PGPASSWORD: "variable" }, home).password, "variable");
    assert.equal(
      findPassword(parseLibpqUri("postgresql://me:uri@h"), { PGPASSWORD: "variable" }, home).password,
      "uri",
    );
    const open = `${uri}?passfile=${write("open", "secret", 0o644)}`;
    const { password, warning } = findPassword(parseLibpqUri(open), {}, home);
    assert.equal(password, undefined);
    assert.match(warning ?? "", /readable for others.*chmod 0600/);
    assert.ok(!warning?.includes("secret"));
    const directory = `${uri}?passfile=${home}`;
    assert.match(findPassword(parseLibpqUri(directory), {}, home).warning ?? "", /no plain file/);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
});
