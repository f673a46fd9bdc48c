/** A stopped compute's directory against its branch: equal as it is, and every change to it is found. */
import assert from "node:assert/strict";
import { cpSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type Lsn, lsnAdd } from "../../src/base/lsn.ts";
import { parseControlFile } from "../../src/postgres/control-file.ts";
import { checkpointEndLsn } from "../../src/postgres/wal/start-point.ts";
import type { Verification } from "../../src/pageserver/verify/verify-directory.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { SeededRandom } from "../support/random.ts";
import { Lab } from "./branch-harness.ts";

function verify(timeline: Timeline, directory: string, lsn: Lsn): Promise<Verification> {
  const { signal } = new AbortController();
  return timeline.verifyDirectory({ directory, lsn }, { signal, progress: () => undefined });
}

function endOf(directory: string): Lsn {
  return checkpointEndLsn(parseControlFile(readFileSync(join(directory, "global/pg_control"))));
}

async function notChecked(running: Promise<unknown>, pattern: RegExp): Promise<void> {
  await assert.rejects(running, (error) => {
    assert.ok(error instanceof NeonError && error.code === ErrorCode.NotChecked, String(error));
    assert.match(error.message, pattern);
    return true;
  });
}

test("a directory is compared page by page", { timeout: 300_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using lab = new Lab({ checkpointDistanceBytes: 4 << 20 });
  const main = await lab.init(["--data-checksums"]);
  const compute = await lab.compute(main, { max_prepared_transactions: 5 });
  const { dataDir } = compute;
  for (const sql of [
    "create table t as select i, md5(i::text) v from generate_series(1, 5000) i",
    "create index on t (v)",
    "create unlogged table u as select 1 as one",
    "create sequence s",
    "select nextval('s') from generate_series(1, 5)",
    "update t set v = 'x' where i % 3 = 0",
    "vacuum t",
    "begin; insert into t values (0, 'prepared'); prepare transaction 'p'",
  ]) {
    await compute.query(sql);
  }
  const table = await compute.value("select pg_relation_filepath('t')");
  const unlogged = await compute.value("select pg_relation_filepath('u')");
  await main.syncWithWriter(10_000);
  await notChecked(verify(main, dataDir, main.lastRecordLsn), /a Postgres runs on/);
  await compute.stop();
  const end = endOf(dataDir);
  await main.waitForLsn(end, 10_000);

  const same = await verify(main, dataDir, end);
  assert.deepEqual([same.differences, same.omitted], [[], 0]);
  assert.ok(same.pages > 2000, `${same.pages} pages`);

  const copy = join(lab.directory, "copy");
  cpSync(dataDir, copy, { recursive: true });
  const changed = async (
    path: string,
    change: (bytes: Buffer) => Buffer | undefined,
  ): Promise<Verification> => {
    const whole = readFileSync(join(copy, path));
    const bytes = Buffer.from(whole);
    writeFileSync(join(copy, path), change(bytes) ?? bytes);
    const found = await verify(main, copy, end);
    writeFileSync(join(copy, path), whole);
    return found;
  };

  await t.test("a bit on a page", async () => {
    for (let i = 0; i < 5; i++) {
      const block = random.below(20);
      // Tuples fill the end of these pages; in their last bytes there is text.
      const at = 8192 - random.between(9, 30);
      const { differences, pages } = await changed(table, (bytes) => {
        bytes[block * 8192 + at] = (bytes[block * 8192 + at] ?? 0) ^ (1 << random.below(8));
        return undefined;
      });
      assert.deepEqual([differences.length, pages], [1, same.pages]);
      const [found] = differences;
      assert.deepEqual([found?.file, found?.block, found?.byte], [table, block, at]);
    }
  });

  await t.test("what is not logged may differ", async () => {
    // LSN, checksum and hints of a page; any byte of an unlogged table.
    for (const [path, at] of [
      [table, 3],
      [table, 8],
      [table, 20],
      [unlogged, 8190],
    ] as const) {
      const { differences } = await changed(path, (bytes) => {
        bytes[at] = (bytes[at] ?? 0) ^ 1;
        return undefined;
      });
      assert.deepEqual(differences, [], `byte ${at} of ${path}`);
    }
    const longer = await changed(table, (bytes) => Buffer.concat([bytes, Buffer.alloc(3 * 8192)]));
    assert.deepEqual([longer.differences, longer.pages], [[], same.pages + 3]);
  });

  await t.test("files that are cut off, longer, missing or too many", async () => {
    const shorter = await changed(table, (bytes) => bytes.subarray(0, bytes.length - 8192));
    const blocks = readFileSync(join(copy, table)).length / 8192;
    assert.deepEqual(
      shorter.differences.map(({ file, block }) => [file, block]),
      [[table, blocks - 1]],
    );
    const longer = await changed(table, (bytes) => Buffer.concat([bytes, bytes.subarray(0, 8192)]));
    assert.deepEqual(
      longer.differences.map(({ block }) => block),
      [blocks],
    );
    const clog = await changed("pg_xact/0000", (bytes) => {
      bytes[700] = 0xff;
      return undefined;
    });
    assert.deepEqual(
      clog.differences.map(({ file, block, byte }) => [file, block, byte]),
      [["pg_xact/0000", undefined, 700]],
    );
    const [prepared] = readdirSync(join(copy, "pg_twophase"));
    const twoPhase = `pg_twophase/${prepared}`;
    const cut = await changed(twoPhase, (bytes) => bytes.subarray(0, 40));
    assert.match(cut.differences[0]?.what ?? "", /^40 bytes in the directory/);
    for (const path of [table, twoPhase, "global/pg_filenode.map"]) {
      renameSync(join(copy, path), join(lab.directory, "away"));
      const { differences } = await verify(main, copy, end);
      renameSync(join(lab.directory, "away"), join(copy, path));
      assert.ok(differences.length > 0 && differences.every(({ file }) => file === path), path);
    }
    for (const path of ["base/5/99999", "pg_xact/0007"]) {
      writeFileSync(join(copy, path), readFileSync(join(copy, table)).subarray(0, 8192));
      const { differences } = await verify(main, copy, end);
      rmSync(join(copy, path));
      assert.deepEqual(
        differences.map(({ file }) => file),
        [path],
      );
    }
  });

  await t.test("what cannot be compared is not called different", async () => {
    await notChecked(verify(main, "/nonexistent", end), /is no data directory/);
    await notChecked(verify(main, copy, lsnAdd(end, -8)), /was shut down at/);
    await notChecked(verify(main, copy, lsnAdd(end, 8192)), /has its WAL up to/);
    const control = join(copy, "global/pg_control");
    const whole = readFileSync(control);
    const bytes = Buffer.from(whole);
    bytes[60] = (bytes[60] ?? 0) ^ 1;
    writeFileSync(control, bytes);
    await notChecked(verify(main, copy, end), /pg_control .* cannot be read/);
    writeFileSync(control, whole);
    writeFileSync(join(copy, "postmaster.pid"), "1\n");
    await notChecked(verify(main, copy, end), /a Postgres runs/);
    rmSync(join(copy, "postmaster.pid"));
    assert.deepEqual((await verify(main, copy, end)).differences, []);
  });

  await t.test("the past can be compared, too", async () => {
    const { differences, pages } = await verify(main, lab.base.dataDir, main.startLsn);
    assert.deepEqual(differences, []);
    assert.ok(pages < same.pages);
  });

  await t.test("a comparison ends when nobody waits for it", async () => {
    const abort = new AbortController();
    const progress = (): void => abort.abort(new Error("enough"));
    const running = main.verifyDirectory({ directory: copy, lsn: end }, { signal: abort.signal, progress });
    await assert.rejects(running, /enough/);
  });
});
