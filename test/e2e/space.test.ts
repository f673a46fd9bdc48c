/**
 * Space of a repository with real databases: what `neon du` says is what the file system shows; the biggest table is free
 * after the window, but not under a read-only compute that looks at it; a deleted branch frees its own.
 */
import assert from "node:assert/strict";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseLsn } from "../../src/base/lsn.ts";
import type { Json } from "./cli.ts";
import { Lab } from "./support.ts";

const MIB = 2 ** 20;
const NO_HISTORY = ["--keep", "0s", "--horizon", "0"];
/** Lines that do not compress, so that its size is known: about 20 MB. */
const BIG =
  "create table big as select i, string_agg(md5(i::text || j::text), '') as filler " +
  "from generate_series(1, 20000) i, generate_series(1, 30) j group by i";
const BIG_BYTES = 19 * MIB;

/** Sum of the sizes of all files below a directory. */
function bytesBelow(directory: string): number {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
}

async function totalBytes(lab: Lab): Promise<number> {
  return Number((await lab.json("du"))["total_bytes"]);
}

/** The users of the points that garbage collection keeps, of all timelines. */
function users(collected: Json): string[] {
  const timelines = collected["timelines"] as { points: { used_by: string[] }[] }[];
  return timelines.flatMap(({ points }) => points.flatMap((point) => point.used_by)).sort();
}

test("space is explained, and freed when nothing needs it any more", { timeout: 300_000 }, async (t) => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(uri, BIG, "create table kept as select 1 as v");
  const before = await lab.value(uri, "select pg_current_wal_flush_lsn()::text");
  const look = await lab.ok("pg", "create", "look", "--branch", "main", "--lsn", String(before));
  await lab.ok("branch", "dev");
  const dev = await lab.ok("pg", "create", "dev");
  await lab.execute(dev, BIG.replaceAll("big", "other"));
  await lab.execute(uri, "drop table big");
  for (const name of ["main", "dev"]) await lab.ok("pg", "stop", name);
  await lab.ok("compact");

  await t.test("du adds up to what the file system shows", async () => {
    const usage = await lab.json("du");
    const tenants = join(lab.neonDirectory, "pageserver", "tenants");
    assert.equal(usage["total_bytes"], bytesBelow(tenants));
    const branches = usage["branches"] as Json[];
    assert.deepEqual(branches.map((branch) => branch["name"]).sort(), ["dev", "main"]);
    for (const branch of branches) assert.ok(Number(branch["unique_bytes"]) > 0, JSON.stringify(branch));
  });

  await t.test("within the window everything stays", async () => {
    const collected = await lab.json("gc", "--keep", "1d");
    assert.equal(collected["removed_bytes"], 0);
    assert.deepEqual(await lab.column(look, "select count(*)::int from big"), [20_000]);
  });

  await t.test("a dry run says what is done then; what is looked at stays", async () => {
    const size = await totalBytes(lab);
    const planned = await lab.json("gc", "--dry-run", ...NO_HISTORY);
    assert.equal(await totalBytes(lab), size);
    const done = await lab.json("gc", ...NO_HISTORY);
    assert.deepEqual({ ...done, dry_run: true }, planned);
    const freed = size - (await totalBytes(lab));
    const expected = Number(done["removed_bytes"]) - Number(done["written_bytes"]);
    // The indexes themselves are a little larger or smaller.
    assert.ok(Math.abs(freed - expected) < 64 * 1024, `${freed} bytes freed, ${expected} said`);
    const [lease, branch] = users(done).reverse();
    assert.equal(branch, 'branch "dev"');
    assert.match(lease ?? "", /^lease ".*look.*"$/);
    const again = await lab.ok("pg", "restart", "look").then(() => lab.ok("pg", "url", "look"));
    assert.deepEqual(await lab.column(again, "select count(*)::int from big"), [20_000]);
  });

  await t.test("a deleted branch frees its own", async () => {
    const size = await totalBytes(lab);
    await lab.ok("pg", "destroy", "dev");
    await lab.ok("branch", "-d", "dev");
    const freed = size - (await totalBytes(lab));
    assert.ok(freed > BIG_BYTES, `${freed} bytes`);
  });

  await t.test("the biggest table is free once nobody looks at it", async () => {
    const size = await totalBytes(lab);
    await lab.ok("pg", "destroy", "look", "--force");
    const done = await lab.json("gc", ...NO_HISTORY);
    assert.deepEqual(users(done), []);
    const freed = size - (await totalBytes(lab));
    assert.ok(freed > BIG_BYTES, `${freed} bytes`);
    const early = await lab.json("branch", "late", `main@${String(before)}`);
    assert.match(JSON.stringify(early["error"]), /GC cutoff/);
    assert.ok(parseLsn(String(before)) !== undefined);
    // Its old port may be somebody else's by now.
    await lab.ok("pg", "destroy", "main");
    assert.deepEqual(await lab.column(await lab.ok("pg", "create", "main"), "select v from kept"), [1]);
    assert.equal((await lab.run("fsck")).code, 0);
  });
});
