/**
 * A server that is treated badly, for the records that only such servers write: with as little WAL as possible, cut off in
 * the middle of a record, and promoted from standby.
 */
import { readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, lsnAdd, toLsn } from "../../src/base/lsn.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { parseSegmentName, segmentName, segmentStart } from "../../src/postgres/wal/layout.ts";
import { findEndOfWal } from "../../src/postgres/wal/end-of-wal.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { WalStream } from "../../src/postgres/wal/stream.ts";
import { type Settings, TestPostgres, embeddedBinDir } from "../support/postgres.ts";
import { readControl } from "./redo-replay.ts";

const SEGMENT = 1024 * 1024;
const DEADLINE_MS = 60_000;
const SETTINGS: Settings = {
  min_wal_size: "2MB",
  wal_keep_size: "1GB",
  fsync: false,
  autovacuum: false,
  wal_consistency_checking: "all",
};

/** All WAL from `from` on, each segment as the newest timeline has it. */
export function readNewestWal(dataDir: string, from: Lsn): Buffer {
  const newest = new Map<number, { timeline: number; name: string }>();
  for (const name of readdirSync(join(dataDir, "pg_wal"))) {
    const segment = parseSegmentName(name, SEGMENT);
    if (segment === undefined) continue;
    const known = newest.get(segment.startLsn);
    if (known === undefined || known.timeline < segment.timeline)
      newest.set(segment.startLsn, { timeline: segment.timeline, name });
  }
  const parts: Buffer[] = [];
  let lsn = segmentStart(from, SEGMENT);
  for (let file = newest.get(lsn); file !== undefined; file = newest.get(lsn)) {
    parts.push(readFileSync(join(dataDir, "pg_wal", file.name)));
    lsn = lsnAdd(lsn, SEGMENT);
  }
  return Buffer.concat(parts).subarray(from % SEGMENT);
}

/** An index on a table whose WAL is not written, so that its pages need LSNs of their own. */
async function withLittleWal(server: TestPostgres): Promise<void> {
  const client = await server.connect();
  try {
    await client.query(
      `begin; create table quiet (p point); create index on quiet using gist (p);
       insert into quiet select point(i, -i) from generate_series(1, 2000) i; commit; drop table quiet`,
    );
  } finally {
    await client.end();
  }
}

/** Takes the end of a long record away, as if the machine had stopped while it was written. */
async function cutRecord(server: TestPostgres, version: PgVersion, startLsn: Lsn): Promise<void> {
  await server.query("select pg_logical_emit_message(false, 'p', repeat('z', 400000))");
  const flushed = await server.flushedLsn();
  await server.kill();
  const { systemId } = readControl(server.dataDir);
  const wal = readNewestWal(server.dataDir, startLsn);
  const options = { version, segmentSize: SEGMENT, systemId, startLsn };
  const { endLsn } = await findEndOfWal(options, (lsn) => wal.subarray(lsn - startLsn));
  if (endLsn < flushed) throw new Error("the WAL ends before what was flushed");
  const cutLsn = toLsn(flushed - 250_000);
  const name = join(server.dataDir, "pg_wal", segmentName(1, cutLsn, SEGMENT));
  writeFileSync(name, readFileSync(name).fill(0, cutLsn % SEGMENT));
  rmSync(join(server.dataDir, "pg_wal", segmentName(1, lsnAdd(cutLsn, SEGMENT), SEGMENT)), { force: true });
}

async function promote(server: TestPostgres): Promise<void> {
  const signal = join(server.dataDir, "standby.signal");
  writeFileSync(signal, "");
  server.own(signal);
  await server.start();
  await server.query("select pg_promote()");
  const deadline = Date.now() + DEADLINE_MS;
  while ((await server.value("select pg_is_in_recovery()")) === "true") {
    if (Date.now() > deadline) throw new Error("the standby was not promoted");
    await sleep(20);
  }
  await server.query("create table promoted as select 1 as one");
}

/** Runs the server and shows every record of its life. */
export async function visitEdgeRecords(
  version: PgVersion,
  visit: (record: WalRecord) => void,
): Promise<void> {
  const minimal = { ...SETTINGS, wal_level: "minimal", max_wal_senders: 0, wal_skip_threshold: "0" };
  await using server = await TestPostgres.create({
    binDir: embeddedBinDir(version.major),
    initdb: [...version.initdbArguments, "--wal-segsize=1"],
    start: false,
  });
  const { checkpoint } = readControl(server.dataDir);
  const startLsn = checkpoint.redoLsn;
  server.configure(minimal);
  await server.start();
  await withLittleWal(server);
  await server.stop();
  server.configure({ ...SETTINGS, wal_level: "replica" });
  await server.start();
  await server.query("create table beforehand (i int)");
  await cutRecord(server, version, startLsn);
  await server.start();
  await server.query("create table afterwards (i int)");
  await server.stop();
  await promote(server);
  await server.stop();

  const wal = readNewestWal(server.dataDir, startLsn);
  const stream = new WalStream({ version, segmentSize: SEGMENT, startLsn });
  stream.feed(startLsn, wal);
  const { checkpointLsn } = readControl(server.dataDir);
  for (let record = stream.next(); record; record = stream.next()) {
    visit(record);
    if (record.lsn === checkpointLsn) return;
  }
  throw new Error("the WAL ends before the shutdown checkpoint");
}
