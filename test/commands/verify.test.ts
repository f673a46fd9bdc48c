/** `neon verify` with a real Postgres: what it shows and its exit codes. Needs `npm run build`. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Cli } from "../e2e/cli.ts";

test("a branch is compared with its stopped compute", { timeout: 120_000 }, async () => {
  await using cli = new Cli();
  await cli.ok("init");
  const without = await cli.run("verify", "main");
  assert.equal(without.code, 8);
  assert.match(without.stderr, /branch "main" has no compute .*\n.*neon pg create main/);
  assert.equal((await cli.run("verify", "nobody")).code, 3);

  const uri = await cli.ok("pg", "create", "main");
  await cli.value(uri, "create table t as select i, md5(i::text) v from generate_series(1, 2000) i");
  const path = String(await cli.value(uri, "select pg_relation_filepath('t')"));
  const running = await cli.json("verify", "main");
  assert.deepEqual([running["ok"], (running["error"] as { code: string }).code], [false, "not_checked"]);
  await cli.ok("pg", "stop", "main");

  const equal = await cli.run("verify", "main");
  assert.equal(equal.code, 0, equal.stderr);
  assert.match(
    equal.stdout,
    /^Compared \d{4,} pages of compute main, branch main at [0-9A-F]+\/[0-9A-F]+: no difference\n$/,
  );
  const asJson = await cli.json("verify", "main");
  assert.equal(asJson["ok"], true);
  assert.deepEqual([asJson["branch"], asJson["compute"], asJson["differences"]], ["main", "main", []]);
  assert.ok(Number(asJson["pages"]) > 1000);

  const file = join(cli.directory, ".neon/computes/main/pgdata", path);
  const bytes = readFileSync(file);
  const at = 3 * 8192 - 10;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(file, bytes);
  const different = await cli.run("verify", "main");
  assert.equal(different.code, 7);
  assert.match(different.stdout, new RegExp(`^differs: ${path}, block 2, byte ${8192 - 10}: 0x`, "m"));
  assert.match(different.stdout, /: 1 differs$/m);
  assert.match(
    different.stderr,
    /^error: branch "main" is not what its compute has: 1 differs\nhint: .*neon fsck/m,
  );
  const value = await cli.json("verify", "main");
  assert.equal((value["error"] as { code: string }).code, "corrupt");
  const [found] = value["differences"] as { file: string; block: number; byte: number }[];
  assert.deepEqual([found?.file, found?.block, found?.byte], [path, 2, 8192 - 10]);
});
