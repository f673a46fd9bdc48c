/** Data directories that are imported although, or refused because, they are not what initdb has just made. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { packDataDirectory } from "../../src/compute/data-directory.ts";
import { readDataDirectory } from "../../src/pageserver/basebackup/import.ts";
import { Spool } from "../../src/pageserver/basebackup/spool.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { withPageSize } from "../support/control-file.ts";
import { EMBEDDED_MAJORS, TestPostgres } from "../support/postgres.ts";
import { Lab } from "./branch-harness.ts";

async function refusal(directory: string): Promise<NeonError> {
  try {
    await using spool = new Spool("/nowhere", new RealFiles());
    await readDataDirectory(packDataDirectory(directory) as AsyncIterable<Uint8Array>, spool);
  } catch (error) {
    assert(error instanceof NeonError, String(error));
    return error;
  }
  return assert.fail("it was imported");
}

test("what cannot be imported is refused by name", { timeout: 300_000 }, async () => {
  await using server = await TestPostgres.create({ start: false });
  const { dataDir } = server;
  const control = join(dataDir, "global/pg_control");
  const usual = readFileSync(control);
  writeFileSync(control, withPageSize(usual, 16_384));
  const build = await refusal(dataDir);
  assert.equal(build.code, ErrorCode.Unsupported);
  assert.match(build.message, /page size 16384; only 8192 is supported/);
  assert.match(build.hint ?? "", /without --with-blocksize/);
  writeFileSync(control, usual);

  symlinkSync("/somewhere", join(dataDir, "pg_tblspc/16384"));
  const linked = await refusal(dataDir);
  assert.equal(linked.code, ErrorCode.Unsupported);
  assert.match(linked.message, /pg_tblspc\/16384: tablespaces cannot be imported/);

  await using other = await TestPostgres.create({ start: false });
  mkdirSync(join(other.dataDir, "pg_tblspc/16384/PG_17_202406281/5"), { recursive: true });
  writeFileSync(join(other.dataDir, "pg_tblspc/16384/PG_17_202406281/5/16385"), "");
  assert.match((await refusal(other.dataDir)).message, /tablespaces cannot be imported/);

  await using third = await TestPostgres.create({ start: false });
  writeFileSync(join(third.dataDir, "pg_twophase/0000000000000345"), Buffer.alloc(100, 1));
  const torn = await refusal(third.dataDir);
  assert.equal(torn.code, ErrorCode.Corrupt);
  assert.match(torn.message, /pg_twophase\/0000000000000345 is no whole prepared transaction/);
  symlinkSync("/somewhere", join(third.dataDir, "pg_xact/0001"));
  assert.match((await refusal(third.dataDir)).message, /pg_xact\/0001 in the data directory is a link/);
});

async function importPrepared(t: TestContext, major: number): Promise<void> {
  await using lab = new Lab();
  const main = await lab.init([], major, async (server) => {
    await server.start({ max_prepared_transactions: 5 });
    await server.query("create table t (i int)");
    await server.query("insert into t values (1)");
    for (const i of [2, 3]) {
      await server.query(`begin; insert into t values (${i}); prepare transaction 'p${i}'`);
    }
    await server.stop();
  });
  const compute = await lab.compute(main);
  assert.equal(
    await compute.value("select string_agg(gid, ',' order by gid) from pg_prepared_xacts"),
    "p2,p3",
  );
  await compute.query("commit prepared 'p3'");
  await main.syncWithWriter(60_000);
  const branch = await lab.compute(await lab.branch(main));
  await branch.query("commit prepared 'p2'");
  await compute.query("rollback prepared 'p2'");
  assert.equal(await branch.value("select string_agg(i::text, ',' order by i) from t"), "1,2,3");
  assert.equal(await compute.value("select string_agg(i::text, ',' order by i) from t"), "1,3");
  t.diagnostic(`Postgres ${major}`);
}

for (const major of EMBEDDED_MAJORS.filter((m) => m === 14 || m === 17)) {
  test(`prepared transactions are imported, Postgres ${major}`, { timeout: 300_000 }, async (t) => {
    await importPrepared(t, major);
  });
}
