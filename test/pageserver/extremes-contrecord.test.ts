/**
 * Everything is killed in the middle of a record that goes over many pages: the compute, which then recovers in place
 * and declares the rest of the record missing (OVERWRITE_CONTRECORD), or is built anew; and the pageserver.
 */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { systemCode } from "../../src/base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnAlignDown } from "../../src/base/lsn.ts";
import { rebuiltWal } from "../../src/pageserver/replication/rebuilt-wal.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { PAGE_SIZE } from "../../src/postgres/constants.ts";
import { segmentName, segmentStart } from "../../src/postgres/wal/layout.ts";
import { PageFlag } from "../../src/postgres/wal/page-header.ts";
import type { TestPostgres } from "../support/postgres.ts";
import { Lab } from "./branch-harness.ts";
import { WalArchive, compareWithRecovery, complainTo } from "./extremes-harness.ts";

const MEGABYTE = 2 ** 20;
const MESSAGE_BYTES = 60 * MEGABYTE;
const ATTEMPTS = 10;
const TIMEOUT_MS = 60_000;

/** As `commit = local`: what was written to disk counts, and Postgres recovers by itself. */
const LOCAL = {
  fsync: "on",
  full_page_writes: "on",
  synchronous_standby_names: "",
  wal_keep_size: "10GB",
  min_wal_size: "80MB",
};
const REMOTE = { wal_keep_size: "10GB" };

interface LongRecord {
  /** What becomes of it in the end: never rejected. */
  readonly message: Promise<unknown>;
  /** The process that writes it. */
  readonly backend: number;
}

/** Ends a server that writes a record, its writer first: it may have all of it written a moment later. */
async function killWriter(server: TestPostgres, { backend, message }: LongRecord): Promise<void> {
  assert(backend > 1, `process ${backend}`);
  try {
    process.kill(backend, "SIGKILL");
  } catch (error) {
    if (systemCode(error) !== "ESRCH") throw error;
  }
  await server.kill();
  await message;
}

/** Begins a record of 60 MB; returns when some of it has been sent to the pageserver, not all. */
async function beginLongRecord(server: TestPostgres): Promise<LongRecord> {
  const before = await server.lsn();
  const client = await server.connect();
  const { rows } = await client.query<{ pid: number }>("select pg_backend_pid() as pid");
  const message = client
    .query(`select pg_logical_emit_message(false, 'long', repeat('m', ${MESSAGE_BYTES}))`)
    .catch((error: unknown) => error);
  void message.then(() => client.end().catch(() => undefined));
  const deadline = Date.now() + TIMEOUT_MS;
  for (;;) {
    const sent = await server.lsn("select coalesce(max(sent_lsn), '0/0') from pg_stat_replication");
    if (sent > before + 2 * MEGABYTE) return { message, backend: rows[0]?.pid ?? 0 };
    assert(Date.now() < deadline, "the record is on its way");
    await sleep(2);
  }
}

/** Pages of WAL on which a record was declared to have no rest. */
function overwritten(server: TestPostgres): number {
  let count = 0;
  const directory = join(server.dataDir, "pg_wal");
  for (const name of readdirSync(directory)) {
    if (!/^[0-9A-F]{24}$/.test(name)) continue;
    const bytes = readFileSync(join(directory, name));
    for (let at = 0; at + PAGE_SIZE <= bytes.length; at += PAGE_SIZE) {
      const isPage = bytes.readUInt16LE(at) >> 8 === 0xd1;
      if (isPage && bytes.readUInt16LE(at + 2) & PageFlag.OverwriteContinuation) count++;
    }
  }
  return count;
}

/** The WAL of the branch as it is put together again from its layers, from the start of a segment on. */
async function rebuilt(main: Timeline, from: Lsn): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const { bytes } of rebuiltWal(main.wal, from)) pieces.push(bytes);
  return Buffer.concat(pieces);
}

/** As the server has it, but for the flag that says whether a backup was running. */
function assertAsWritten(
  server: TestPostgres,
  wal: Buffer,
  { from, startLsn }: { from: Lsn; startLsn: Lsn },
): void {
  for (let at = lsnAlignDown(startLsn, PAGE_SIZE) - from; at < wal.length; at += PAGE_SIZE) {
    const lsn = lsnAdd(from, at);
    const path = join(server.dataDir, "pg_wal", segmentName(1, lsn, MEGABYTE));
    const page = readFileSync(path).subarray(lsn % MEGABYTE, (lsn % MEGABYTE) + PAGE_SIZE);
    const ours = wal.subarray(at, at + PAGE_SIZE);
    for (const bytes of [page, ours]) bytes[2] = (bytes[2] ?? 0) | PageFlag.BackupRemovable;
    const first = Math.max(0, startLsn - lsn);
    assert.ok(
      page.subarray(first, ours.length).equals(ours.subarray(first)),
      `the page at ${formatLsn(lsn)}`,
    );
  }
}

async function rowsOf(server: TestPostgres): Promise<string> {
  return server.value("select string_agg(i::text, ',' order by i) from t");
}

test("a compute that recovers in the middle of a record", { timeout: 300_000 }, async (t) => {
  await using lab = new Lab({ checkpointDistanceBytes: 4 * MEGABYTE, log: complainTo(t) });
  let main: Timeline = await lab.init(["--wal-segsize=1"]);
  const archive = new WalArchive(lab.base);
  const { startLsn } = main;
  const compute = await lab.compute(main, LOCAL);
  await compute.query("create table t (i int)");
  const points: { lsn: Lsn; rows: string }[] = [];
  let attempt = 0;
  // Whether the server is hit while it writes cannot be known before.
  while (overwritten(compute) < 2) {
    assert(attempt++ < ATTEMPTS, `never hit in the middle of a record in ${ATTEMPTS} attempts`);
    await killWriter(compute, await beginLongRecord(compute));
    await lab.startWriter(main, compute);
    await compute.query(`insert into t values (${attempt})`);
    await main.syncWithWriter(TIMEOUT_MS);
    points.push({ lsn: main.lastRecordLsn, rows: await rowsOf(compute) });
  }
  t.diagnostic(`${attempt} attempts`);
  await compute.query("insert into t values (100)");
  await main.syncWithWriter(TIMEOUT_MS);
  archive.add(compute, startLsn);
  // The stored WAL has the same abandoned records.
  const end = main.lastRecordLsn;
  main = await lab.reopen(main);
  assert.equal(main.lastRecordLsn, end);
  assert.equal(main.error, undefined);
  // So has the WAL that is put together again from layers: the same bytes, and stock recovery goes on behind them.
  await main.checkpoint();
  const from = segmentStart(startLsn, MEGABYTE);
  const wal = await rebuilt(main, from);
  assert.ok(from + wal.length >= end);
  assertAsWritten(compute, wal, { from, startLsn });
  const again = new WalArchive(lab.base, "rebuilt");
  again.addBytes(from, wal, startLsn);
  await compareWithRecovery(lab, main, { archive: again, lsn: points.at(-1)?.lsn ?? end, where: "rebuilt" });
  for (const { lsn, rows } of points.slice(-2)) {
    await compareWithRecovery(lab, main, { archive, lsn, where: `rows ${rows}` });
    const branch = await lab.compute(await lab.branch(main, lsn), REMOTE);
    assert.equal(await rowsOf(branch), rows);
    await branch.query("insert into t values (7)");
    await lab.release(branch);
  }
});

test(
  "a compute that is built anew, and a pageserver that starts again, in the middle of a record",
  { timeout: 300_000 },
  async (t) => {
    await using lab = new Lab({ checkpointDistanceBytes: 4 * MEGABYTE, log: complainTo(t) });
    let main: Timeline = await lab.init();
    let compute = await lab.compute(main, REMOTE);
    await compute.query("create table t (i int)");
    for (let round = 1; round <= 2; round++) {
      const { message } = await beginLongRecord(compute);
      main = await lab.reopen(main);
      assert.equal(typeof (await message), "object", "the record is complete in the end");
      await compute.query(`insert into t values (${round})`);
      await killWriter(compute, await beginLongRecord(compute));
      await lab.release(compute);
      if (round === 1) main = await lab.reopen(main);
      compute = await lab.compute(main, REMOTE);
      assert.equal(await rowsOf(compute), Array.from({ length: round }, (_, i) => i + 1).join(","));
    }
    await main.syncWithWriter(TIMEOUT_MS);
    assert.equal(main.error, undefined);
    const branch = await lab.compute(await lab.branch(main), REMOTE);
    assert.equal(await rowsOf(branch), "1,2");
  },
);
