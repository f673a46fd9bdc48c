/** `neon verify` with a real Postgres: what it shows and its exit codes. Needs `npm run build`. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Cli } from "../e2e/cli.ts";

test("a branch is compared with its stopped compute", { timeout: 300_000 }, async () => {
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

interface Moment {
  readonly lsn: string;
  readonly redo_lsn: string;
  readonly pages: number;
  readonly differences: readonly unknown[];
}

test("a branch's past is compared with stock recovery", { timeout: 300_000 }, async () => {
  await using cli = new Cli();
  await cli.ok("init");
  const never = await cli.run("verify", "main", "--samples", "2");
  assert.equal(never.code, 8, never.stderr);
  assert.match(never.stderr, /there is no checkpoint between/);

  const uri = await cli.ok("pg", "create", "main");
  const lsn = async () => String(await cli.value(uri, "select pg_current_wal_insert_lsn()::text"));
  await cli.value(uri, "create table t as select i, md5(i::text) v from generate_series(1, 3000) i");
  await cli.value(uri, "create index on t (v)");
  const early = await lsn();
  await cli.value(uri, "checkpoint");
  await cli.value(uri, "update t set v = v || 'x' where i % 3 = 0");
  await cli.value(uri, "vacuum t");
  await cli.value(uri, "create database other");
  // The compute goes on running.
  const samples = await cli.run("verify", "main", "--samples", "3");
  assert.equal(samples.code, 0, samples.stdout + samples.stderr);
  const line = /^[0-9A-F]+\/[0-9A-F]+, recovered from [0-9A-F]+\/[0-9A-F]+: \d{4,} pages, no difference$/gm;
  assert.ok((samples.stdout.match(line)?.length ?? 0) >= 2, samples.stdout);
  assert.match(
    samples.stdout,
    /^Compared \d moments of branch main with stock recovery of \d{2,} records: no difference$/m,
  );
  const at = await cli.json("verify", "main", "--at", `${early},1s`);
  assert.equal(at["ok"], true, JSON.stringify(at));
  const moments = at["moments"] as Moment[];
  assert.ok(moments.length >= 1 && moments.every(({ differences }) => differences.length === 0));
  assert.ok(moments.every(({ pages }) => pages > 1000));
  assert.equal(existsSync(join(cli.directory, ".neon/verify")), false);

  for (const [args, code, what] of [
    [["--from", early], 2, /--from needs --at or --samples/],
    [["--at", "dev@0/1"], 2, /is not a moment of branch "main"/],
    [["--at", "0/1"], 3, /before the history/],
    [["--at", early, "--samples", "3"], 2, /--samples/],
    [["--samples", "0"], 2, /1/],
  ] as const) {
    const refused = await cli.run("verify", "main", ...args);
    assert.equal(refused.code, code, refused.stderr);
    assert.match(refused.stderr, what);
  }
  await cli.ok("branch", "dev");
  const ofDev = await cli.json("verify", "dev", "--at", early);
  assert.equal((ofDev["error"] as { code: string }).code, "not_checked", JSON.stringify(ofDev));
});
