import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { parseTenantId } from "../../src/base/ids.ts";
import { CONFIG_KEYS, findConfigKey, parseListenAddress } from "../../src/repository/config-keys.ts";
import {
  changeSetting,
  configFromSettings,
  parseSettings,
  renderConfig,
} from "../../src/repository/config.ts";
import { newConfig } from "../../src/repository/repository.ts";

const EXAMPLE = readFileSync(join(import.meta.dirname, "..", "..", ".neon.example.toml"), "utf8");
const CONFIG = newConfig({
  tenantId: parseTenantId("0123456789abcdef0123456789abcdef"),
  pgVersion: 17,
  pageserverPort: 9898,
});

function usage(pattern: RegExp): (error: unknown) => boolean {
  return (error) =>
    error instanceof NeonError &&
    error.code === ErrorCode.Usage &&
    pattern.test(`${error.message} ${error.hint}`);
}

test("the example file is valid, and mentions every key with its default", () => {
  // Settings that are commented out are examples too: they must be valid as well.
  const uncommented = EXAMPLE.replaceAll(/^# ([a-z_]+ = .*)$/gm, "$1");
  const settings = parseSettings(uncommented, "example");
  for (const key of CONFIG_KEYS) {
    const pattern = new RegExp(`^${key.path.replaceAll(".", "\\.").replace("<name>", "[a-z]+")}$`);
    const found = [...settings.keys()].filter((path) => pattern.test(path));
    assert.ok(found.length > 0, `${key.path} is not in the example file`);
    if (key.defaultValue !== undefined) {
      assert.match(EXAMPLE, new RegExp(`Default: ${key.defaultValue}\\b`), key.path);
    }
  }
  for (const path of settings.keys()) assert.ok(findConfigKey(path), path);
});

test("a rendered config parses to itself", () => {
  const text = renderConfig({ ...CONFIG, pgBin: '/a "b"/c' });
  assert.deepEqual(configFromSettings(parseSettings(text, "f")), { ...CONFIG, pgBin: '/a "b"/c' });
});

test("origins and computes, names with dots included", () => {
  const text = `${renderConfig(CONFIG)}
[origins]
"a.b" = "postgresql://u:p@h:1"
[computes."feature/x"]
port = 5432
commit = "local"
[computes."v1.port"]
port = 6000
`;
  const config = configFromSettings(parseSettings(text, "f"));
  assert.deepEqual(config.origins, { "a.b": "postgresql://u:p@h:1" });
  assert.deepEqual(config.computes, {
    "feature/x": { port: 5432, commit: "local" },
    "v1.port": { port: 6000 },
  });
});

test("mistakes are refused with file, key and reason", () => {
  const base = renderConfig(CONFIG);
  const cases: [string, RegExp][] = [
    ["x = [", /f is no valid TOML/],
    ["", /f: default_tenant_id: it is missing/],
    [`${base}\n[computes.a]\nprot = 1`, /f: computes\.a\.prot: no such setting/],
    [`${base}\n[computes.a]\nport = "1"`, /computes\.a\.port: a whole number/],
    [`${base}\n[computes.a]\nport = 70000`, /between 1 and 65535/],
    [`${base}\n[computes.a]\ncommit = "maybe"`, /`remote` or `local`/],
    [base.replace("pg_version = 17", "pg_version = 9"), /pg_version: Postgres 14 to 18/],
    [base.replace("pg_version = 17", "pg_version = 17\npg_bin = 'x'"), /absolute path/],
    [base.replace("127.0.0.1:9898", "localhost"), /HOST:PORT/],
    [`${base}verify_redo = "true"`, /pageserver\.verify_redo: true or false is wanted, without quotes/],
    [`${base}\n[a.b.c.d.e]\nf = 1`, /no such setting/],
  ];
  for (const [text, pattern] of cases) assert.throws(() => parseSettings(text, "f"), usage(pattern), text);
});

test("settings that are true or false", () => {
  const text = renderConfig(CONFIG);
  const verifyRedoOf = (changed: string) =>
    configFromSettings(parseSettings(changed, "f")).pageserver.verifyRedo;
  assert.equal(verifyRedoOf(text), undefined);
  for (const value of [true, false]) {
    const changed = changeSetting(text, "pageserver.verify_redo", value, "f");
    assert.match(changed, new RegExp(`^verify_redo = ${value}$`, "m"));
    assert.equal(verifyRedoOf(changed), value);
    assert.equal(changeSetting(changed, "pageserver.verify_redo", undefined, "f"), text);
  }
  assert.throws(() => changeSetting(text, "pageserver.verify_redo", 1, "f"), usage(/true or false/));
});

test("changing a setting checks it and leaves the rest alone", () => {
  const text = renderConfig(CONFIG);
  const changed = changeSetting(text, "computes.feature/x.port", 6000, "f");
  assert.ok(changed.startsWith(text));
  assert.equal(configFromSettings(parseSettings(changed, "f")).computes["feature/x"]?.port, 6000);
  assert.equal(changeSetting(changed, "computes.feature/x.port", undefined, "f").includes("6000"), false);
  assert.throws(() => changeSetting(text, "pageserver.listen", "nowhere", "f"), usage(/HOST:PORT/));
  assert.throws(() => changeSetting(text, "pageserver.listn", "x", "f"), /there is no setting/);
  // Valid TOML that the line editor does not know: refused, not damaged.
  const inline = `${text}\ncomputes = { main = { port = 1 } }`.replace(
    /\[pageserver\][^]*?\n(?=computes)/,
    "",
  );
  assert.throws(() =>
    changeSetting(
      `${inline}\n[pageserver]\nlisten="127.0.0.1:1"\nauth_token="${"x".repeat(16)}"`,
      "computes.main.port",
      2,
      "f",
    ),
  );
});

test("listen addresses", () => {
  assert.deepEqual(parseListenAddress("127.0.0.1:9898"), { host: "127.0.0.1", port: 9898 });
  assert.deepEqual(parseListenAddress("[::1]:80"), { host: "[::1]", port: 80 });
  for (const bad of ["", ":1", "h", "h:0", "h:65536", "a b:1", "h:1:2"])
    assert.equal(parseListenAddress(bad), undefined, bad);
});
