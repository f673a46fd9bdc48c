/**
 * Segments of WAL of 1, 64 and 1024 MB, through the command line: computes that stop, start, are killed and built anew,
 * records that are longer than a segment, and switches to the next one.
 */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { Lab, killAndWait } from "./support.ts";

const MEGABYTE = 2 ** 20;

/** In bytes. */
const SEGMENT_SIZE = "select setting::bigint from pg_settings where name = 'wal_segment_size'";

async function runSegments(t: TestContext, megabytes: number, messageBytes: number): Promise<void> {
  await using lab = new Lab();
  const initialized = await lab.json("init", "--wal-segsize", String(megabytes));
  assert.equal(initialized["ok"], true, JSON.stringify(initialized));
  assert.equal(initialized["wal_segment_mb"], megabytes);
  const started = performance.now();
  const uri = await lab.ok("pg", "create", "main");
  assert.equal(Number(await lab.value(uri, SEGMENT_SIZE)), megabytes * MEGABYTE);
  await lab.execute(uri, "create table t (i int primary key, v text)", "insert into t values (1, 'first')");
  await lab.ok("pg", "stop", "main");
  await lab.ok("pg", "start", "main");
  await lab.execute(
    uri,
    "insert into t values (2, 'after a stop')",
    "select pg_switch_wal()",
    `select pg_logical_emit_message(true, 'long', repeat('x', ${messageBytes}))`,
    "insert into t values (3, 'behind a long record')",
    // Its void is as long as the segment.
    ...(megabytes < 1024 ? ["select pg_switch_wal()"] : []),
  );
  await lab.ok("branch", "middle");
  await lab.execute(uri, "insert into t values (4, 'behind a switch')");
  await killAndWait(await lab.computePid("main"));
  await lab.ok("pg", "start", "main");
  await lab.execute(uri, "insert into t values (5, 'built anew')", "checkpoint", "vacuum t");
  await killAndWait(await lab.pageserverPid());
  await lab.ok("start");
  await lab.execute(uri, "insert into t values (6, 'another pageserver')");
  assert.deepEqual(await lab.column(uri, "select i from t order by i"), [1, 2, 3, 4, 5, 6]);
  const middle = await lab.ok("pg", "create", "middle");
  assert.deepEqual(await lab.column(middle, "select i from t order by i"), [1, 2, 3]);
  await lab.execute(middle, "insert into t values (7, 'on the branch')");
  await lab.ok("pg", "stop", "main");
  const verified = await lab.json("verify", "main");
  assert.deepEqual(verified["differences"], []);
  t.diagnostic(`${megabytes} MB: ${Math.round(performance.now() - started)} ms`);
}

for (const [megabytes, messageBytes] of [
  [1, 20 * MEGABYTE],
  [64, 100 * MEGABYTE],
  [1024, 30 * MEGABYTE],
] as const) {
  test(`segments of ${megabytes} MB`, { timeout: 300_000 }, async (t) => {
    await runSegments(t, megabytes, messageBytes);
  });
}

test("a size that is none is refused", { timeout: 300_000 }, async () => {
  await using lab = new Lab();
  for (const size of ["0", "3", "2048", "-1", "big", "1.5"]) {
    const refused = await lab.json("init", `--wal-segsize=${size}`);
    const error = refused["error"] as { code: string; message: string };
    assert.equal(error.code, "usage", size);
    assert.match(error.message, /no size of a WAL segment/);
  }
});
