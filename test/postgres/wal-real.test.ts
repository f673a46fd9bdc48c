/** The WAL of a real Postgres 17, decoded and held against Postgres' own reading of it (the pg_walinspect extension). */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { formatLsn, type Lsn, parseLsn, toLsn } from "../../src/base/lsn.ts";
import { type CheckPoint, decodeCheckPoint } from "../../src/postgres/checkpoint.ts";
import { Rmgr, rmgrName } from "../../src/postgres/constants.ts";
import { cleanShutdown, parseControlFile, renderControlFile } from "../../src/postgres/control-file.ts";
import { parseRelationPath, relationPath } from "../../src/postgres/relation.ts";
import { parseSlruPath, parseTwoPhasePath } from "../../src/postgres/slru.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { findEndOfWal } from "../../src/postgres/wal/end-of-wal.ts";
import { restoreBlockImage } from "../../src/postgres/wal/image.ts";
import { recordEndLsn, segmentName } from "../../src/postgres/wal/layout.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { synthesizeStart } from "../../src/postgres/wal/start-point.ts";
import { WalStream, type WalStreamOptions } from "../../src/postgres/wal/stream.ts";
import { TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";

const SEGMENT = 1024 * 1024;

/** Touches every resource manager that is cheap to touch, with long records, images, segment switches and 2PC. */
const WORKLOAD = `
  create extension pg_walinspect;
  create extension bloom;
  create table heap (id int primary key, body text, n int);
  insert into heap select g, repeat(md5(g::text), 1 + g % 40), g from generate_series(1, 3000) g;
  create index on heap using hash (n);
  create index on heap using brin (id);
  create index on heap using gin (string_to_array(body, 'a'));
  create index on heap using gist (point(id, n));
  create index on heap using spgist (body);
  create index on heap using bloom (n);
  insert into heap select g, repeat(md5(g::text), 2), g from generate_series(3001, 5000) g;
  update heap set n = n + 1 where id % 5 = 0;
  delete from heap where id % 7 = 0;
  vacuum (freeze) heap;
  create sequence seq; select count(nextval('seq')) from generate_series(1, 100);
  select pg_logical_emit_message(true, 'p', repeat('x', 300000));
  select pg_logical_emit_message(false, 'p', repeat('y', 3000000));
  select pg_switch_wal();
  create table second (a int); insert into second select generate_series(1, 500);
  begin; savepoint a; insert into second values (1); savepoint b; insert into second values (2); commit;
  begin; select * from second where a = 7 for share; commit;
  begin; select * from heap where id = 8 for share; savepoint a; update heap set n = 0 where id = 8; commit;
  vacuum full pg_class;
  truncate second; drop table second;
  create database other;
  checkpoint;
  set wal_compression = pglz;
  update heap set n = n + 1 where id % 3 = 0;
  set wal_compression = off;
  create table third (a int);
  begin; insert into third values (1); prepare transaction 'gid';
  select pg_switch_wal();
  alter table heap set (fillfactor = 70); vacuum full heap;
`;

/** What the workload must have brought about. */
const EXPECTED_KINDS =
  "XLOG Transaction Storage Database MultiXact RelMap Standby Heap2 Heap Btree Hash Gin Gist Sequence SPGist BRIN Generic LogicalMessage".split(
    " ",
  );

let server: TestPostgres;
let systemId: bigint;
/** End of the last record of initdb, the shutdown checkpoint: WAL before it is not all kept. */
let firstLsn: Lsn;
let initdbCheckpointLsn: Lsn;
let wal: Buffer;
let endLsn: Lsn;

before(async () => {
  server = await TestPostgres.create({
    initdb: ["--wal-segsize=1"],
    start: false,
    settings: {
      max_prepared_transactions: 5,
      wal_keep_size: "1GB",
      wal_level: "logical",
      track_commit_timestamp: true,
      lock_timeout: "20s",
    },
  });
  const control = parseControlFile(readFileSync(join(server.dataDir, "global/pg_control")));
  systemId = control.systemId;
  initdbCheckpointLsn = control.checkpointLsn;
  firstLsn = recordEndLsn(control.checkpointLsn, 114, SEGMENT);
  await server.start();
  for (const statement of splitStatements(WORKLOAD)) await server.query(statement);
  endLsn = await server.flushedLsn();
  wal = readWal(server, firstLsn);
});

after(async () => {
  await server[Symbol.asyncDispose]();
});

/** Statements one by one, transactions in one go: several statements in one message would be one transaction. */
function splitStatements(text: string): string[] {
  return text
    .split("\n")
    .flatMap((line) => (line.includes("begin;") ? [line] : line.split(";")))
    .filter((statement) => statement.trim() !== "");
}

/** All WAL that there is from `from` on, and what follows it in the last segment. */
function readWal(of: TestPostgres, from: Lsn): Buffer {
  const directory = join(of.dataDir, "pg_wal");
  const names = readdirSync(directory)
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .sort();
  const start = names.indexOf(segmentName(1, from, SEGMENT));
  assert.ok(start >= 0, "the first segment is still there");
  const all = Buffer.concat(names.slice(start).map((name) => readFileSync(join(directory, name))));
  return all.subarray(from % SEGMENT);
}

function streamOptions(): WalStreamOptions {
  const previousLsn = initdbCheckpointLsn;
  return { version: POSTGRES_17, segmentSize: SEGMENT, systemId, startLsn: firstLsn, previousLsn };
}

/** Decodes to `end` and calls `visit` for each record. */
function decodeTo(end: Lsn, visit: (record: WalRecord) => void, chunk = SEGMENT): WalStream {
  const stream = new WalStream(streamOptions());
  for (let at = 0; at < end - firstLsn; at += chunk) {
    stream.feed(stream.fedLsn, wal.subarray(at, Math.min(at + chunk, end - firstLsn)));
    for (let record = stream.next(); record; record = stream.next()) visit(record);
  }
  return stream;
}

interface Summary {
  start: string;
  end: string;
  prev: string;
  xid: number;
  rmgr: string;
  length: number;
  main: number;
  fpi: number;
}

const RMGR_NAMES: Readonly<Record<string, string>> = {
  Xlog: "XLOG",
  Brin: "BRIN",
  Xact: "Transaction",
  Smgr: "Storage",
  Clog: "CLOG",
  Dbase: "Database",
  Tblspc: "Tablespace",
  Multixact: "MultiXact",
  Relmap: "RelMap",
  Seq: "Sequence",
  Spgist: "SPGist",
  CommitTs: "CommitTs",
  ReplOrigin: "ReplicationOrigin",
  LogicalMsg: "LogicalMessage",
};

test("every record agrees with pg_walinspect: positions, links, sizes, resource managers", async () => {
  const ours: Summary[] = [];
  const stream = decodeTo(endLsn, (record) => {
    const name = rmgrName(record.rmgr);
    let fpi = 0;
    for (const block of record.blocks.slice(0, record.blockCount)) fpi += block.imageLength;
    ours.push({
      start: formatLsn(record.lsn),
      end: formatLsn(record.endLsn),
      prev: formatLsn(record.previousLsn),
      xid: record.xid,
      rmgr: RMGR_NAMES[name] ?? name,
      length: record.length,
      main: record.mainLength,
      fpi,
    });
  });
  assert.equal(stream.position, endLsn, "the last record ends at pg_current_wal_flush_lsn()");
  const rows = await server.query(
    `select start_lsn, end_lsn, prev_lsn, xid, resource_manager, record_length, main_data_length, fpi_length
     from pg_get_wal_records_info($1, $2)`,
    [ours[0]?.start, formatLsn(endLsn)],
  );
  const theirs = rows.map((row) => ({
    start: row["start_lsn"],
    end: row["end_lsn"],
    prev: row["prev_lsn"],
    xid: Number(row["xid"]),
    rmgr: row["resource_manager"],
    length: row["record_length"],
    main: row["main_data_length"],
    fpi: row["fpi_length"],
  }));
  assert.ok(ours.length > 10_000, `${ours.length} records`);
  assert.equal(ours.length, theirs.length);
  for (const [i, record] of ours.entries()) assert.deepEqual(record, theirs[i]);
  const kinds = new Set(ours.map((record) => record.rmgr));
  for (const kind of EXPECTED_KINDS) assert.ok(kinds.has(kind), `${kind} occurs`);
});

test("every block reference and every restored image agrees with pg_walinspect", async () => {
  const rows = await server.query(
    `select start_lsn, block_id, reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber,
            block_data_length, coalesce(block_fpi_length, 0) as fpi, block_fpi_info,
            md5(block_fpi_data) as image, md5(block_data) as data
     from pg_get_wal_block_info($1, $2) order by start_lsn, block_id`,
    [formatLsn(await firstRecordLsn()), formatLsn(endLsn)],
  );
  const page = new Uint8Array(8192);
  const md5 = (bytes: Uint8Array): string => createHash("md5").update(bytes).digest("hex");
  let index = 0;
  let images = 0;
  let compressed = 0;
  decodeTo(endLsn, (record) => {
    for (const block of record.blocks.slice(0, record.blockCount)) {
      const row = rows[index++];
      const where = `${formatLsn(record.lsn)} block ${block.id}`;
      assert.ok(row, where);
      assert.deepEqual(
        [
          formatLsn(record.lsn),
          block.id,
          block.spcOid,
          block.dbOid,
          block.relNumber,
          block.fork,
          block.blockNumber,
          block.dataLength,
          block.imageLength,
        ],
        [
          row["start_lsn"],
          row["block_id"],
          row["reltablespace"],
          row["reldatabase"],
          row["relfilenode"],
          row["relforknumber"],
          Number(row["relblocknumber"]),
          row["block_data_length"],
          row["fpi"],
        ],
        where,
      );
      if (block.dataLength > 0)
        assert.equal(
          md5(record.bytes.subarray(block.dataOffset, block.dataOffset + block.dataLength)),
          row["data"],
          where,
        );
      if (!block.hasImage) continue;
      images++;
      if ((block.imageInfo & POSTGRES_17.image.pglz) !== 0) compressed++;
      restoreBlockImage(record, block, POSTGRES_17, page);
      assert.equal(md5(page), row["image"], `image of ${where}`);
      const flags = row["block_fpi_info"];
      assert.ok(Array.isArray(flags));
      assert.equal(block.applyImage, flags.includes("APPLY"), where);
    }
  });
  assert.equal(index, rows.length);
  assert.ok(images > 500 && compressed > 50, `${images} images, ${compressed} of them compressed`);
});

async function firstRecordLsn(): Promise<Lsn> {
  let first: Lsn | undefined;
  decodeTo(toLsn(firstLsn + 8192), (record) => (first ??= record.lsn));
  assert.ok(first);
  return first;
}

test("the same records come in any split", (t) => {
  const random = SeededRandom.forTest(t);
  const digest = (chunk: number): string => {
    const hash = createHash("md5");
    decodeTo(
      endLsn,
      (record) => {
        hash.update(`${record.lsn} ${record.endLsn} `);
        hash.update(record.bytes.subarray(record.offset, record.offset + record.length));
      },
      chunk,
    );
    return hash.digest("hex");
  };
  const whole = digest(endLsn - firstLsn);
  for (const chunk of [8192, random.between(1000, 70_000), random.between(7, 200)])
    assert.equal(digest(chunk), whole, `chunks of ${chunk}`);
});

test("every relation, SLRU and two-phase file of a real data directory has a path that we know", () => {
  const known: string[] = [];
  for (const entry of readdirSync(server.dataDir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name).slice(server.dataDir.length + 1);
    const relation = parseRelationPath(path, POSTGRES_17);
    if (relation) assert.equal(relationPath(relation, POSTGRES_17), path);
    if (relation || parseSlruPath(path) || parseTwoPhasePath(path, POSTGRES_17) !== undefined)
      known.push(path);
    else assert.doesNotMatch(path, /^(base\/\d+|global)\/\d|^pg_(xact|multixact|commit_ts|twophase)\//);
  }
  for (const start of ["base/1/", "global/", "pg_xact/", "pg_multixact/offsets/", "pg_multixact/members/"])
    assert.ok(
      known.some((path) => path.startsWith(start)),
      start,
    );
  assert.ok(known.length > 900, `${known.length} files`);
});

test("a record that a crash cuts off: the WAL ends before it, and goes on with OVERWRITE_CONTRECORD", async () => {
  await using crashed = await TestPostgres.create({
    initdb: ["--wal-segsize=1"],
    settings: { wal_keep_size: "1GB", min_wal_size: "2MB" },
  });
  const startLsn = await crashed.flushedLsn();
  await crashed.query("create table beforehand (a int)");
  await crashed.query("select pg_logical_emit_message(false, 'p', repeat('z', 400000))");
  const flushed = await crashed.flushedLsn();
  await crashed.kill();
  const identity = parseControlFile(readFileSync(join(crashed.dataDir, "global/pg_control"))).systemId;
  const options = { version: POSTGRES_17, segmentSize: SEGMENT, systemId: identity, startLsn };
  const raw = readWal(crashed, startLsn);
  const whole = await findEndOfWal(options, (lsn) => raw.subarray(lsn - startLsn));
  assert.ok(whole.endLsn >= flushed);

  // As if the machine had stopped while the long record was written: nothing of its last 250 kB.
  const cutLsn = flushed - 250_000;
  const name = join(crashed.dataDir, "pg_wal", segmentName(1, toLsn(cutLsn), SEGMENT));
  const file = readFileSync(name);
  writeFileSync(name, file.fill(0, cutLsn % SEGMENT));
  const later = join(crashed.dataDir, "pg_wal", segmentName(1, toLsn(cutLsn + SEGMENT), SEGMENT));
  rmSync(later, { force: true });
  const cut = readWal(crashed, startLsn);
  const shorter = await findEndOfWal(options, (lsn) => cut.subarray(lsn - startLsn));
  assert.ok(shorter.endLsn > startLsn && shorter.endLsn < cutLsn - 100_000, formatLsn(shorter.endLsn));
  assert.ok(shorter.invalid);

  await crashed.start();
  await crashed.query("create table afterwards (a int)");
  const end = await crashed.flushedLsn();
  const bytes = readWal(crashed, startLsn).subarray(0, end - startLsn);
  for (const chunk of [bytes.length, 5000, 97]) {
    const stream = new WalStream(options);
    let overwrites = 0;
    for (let at = 0; at < bytes.length; at += chunk) {
      stream.feed(stream.fedLsn, bytes.subarray(at, at + chunk));
      for (let record = stream.next(); record; record = stream.next()) {
        if (record.rmgr !== Rmgr.Xlog || record.info !== 0xd0) continue;
        overwrites++;
        assert.equal(record.previousLsn, shorter.previousLsn);
        assert.ok(record.lsn % 8192 <= 40, "it is the first record of its page");
      }
    }
    assert.equal(overwrites, 1);
    assert.equal(stream.position, end);
  }
});

/** The clean end of the server's WAL, from its own pg_control. Ends the server: the last test. */
test("after a clean stop: the shutdown record and pg_control are reproduced byte for byte; WAL ends where they say", async () => {
  await server.stop("fast");
  const controlBytes = readFileSync(join(server.dataDir, "global/pg_control"));
  const control = parseControlFile(controlBytes);
  const tail = readWal(server, firstLsn);
  const records: { lsn: Lsn; previousLsn: Lsn; endLsn: Lsn; checkpoint: CheckPoint | undefined }[] = [];
  const found = await findEndOfWal(streamOptions(), (lsn) =>
    tail.subarray(lsn - firstLsn, lsn - firstLsn + 50_000),
  );
  assert.equal(found.previousLsn, control.checkpointLsn, "the last record is the shutdown checkpoint");

  const stream = new WalStream(streamOptions());
  stream.feed(firstLsn, tail.subarray(0, found.endLsn - firstLsn));
  for (let record = stream.next(); record; record = stream.next()) {
    const isLast = record.lsn === control.checkpointLsn;
    const checkpoint = isLast ? decodeCheckPoint(record.bytes, record.mainOffset, POSTGRES_17) : undefined;
    records.push({ lsn: record.lsn, previousLsn: record.previousLsn, endLsn: record.endLsn, checkpoint });
  }
  const [beforeLast, last] = records.slice(-2);
  assert.ok(beforeLast && last?.checkpoint);
  assert.deepEqual(last.checkpoint, control.checkpoint);

  const point = synthesizeStart({
    lsn: beforeLast.endLsn,
    previousLsn: beforeLast.lsn,
    checkpoint: control.checkpoint,
    version: POSTGRES_17,
    systemId,
    segmentSize: SEGMENT,
    timelineNumber: 1,
  });
  assert.equal(point.recordLsn, last.lsn);
  assert.equal(point.endLsn, last.endLsn);
  const real = tail.subarray(beforeLast.endLsn - firstLsn, last.endLsn - firstLsn);
  assert.ok(Buffer.from(point.wal).equals(real), "raw WAL from the last record's end on");
  assert.deepEqual(point.checkpoint, control.checkpoint);

  const changes = cleanShutdown(point.recordLsn, point.checkpoint, control.parameters);
  const rendered = renderControlFile(controlBytes, { ...changes, timeSeconds: control.timeSeconds });
  const scrambled = renderControlFile(controlBytes, {
    state: 6,
    timeSeconds: 1,
    checkpointLsn: toLsn(8),
    checkpoint: { ...control.checkpoint, nextXid: 1n },
    minRecoveryPoint: toLsn(8),
    parameters: { ...control.parameters, maxConnections: 1 },
  });
  const again = renderControlFile(scrambled, { ...changes, timeSeconds: control.timeSeconds });
  for (const bytes of [rendered, again]) {
    assert.ok(Buffer.from(bytes).equals(controlBytes));
  }
  assert.equal(parseLsn(formatLsn(control.checkpointLsn)), control.checkpointLsn);
});
