/**
 * The WAL of a real Postgres 15, where the system has one: proof of lz4 and zstd images, for which no embedded Postgres
 * is built. Its own pg_waldump is the judge of records, the pages on disk are the judge of images.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { formatLsn, type Lsn, toLsn } from "../../src/base/lsn.ts";
import { Rmgr } from "../../src/postgres/constants.ts";
import { POSTGRES_15 } from "../../src/postgres/versions/postgres-15.ts";
import { restoreBlockImage } from "../../src/postgres/wal/image.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { WalStream } from "../../src/postgres/wal/stream.ts";
import { TestPostgres } from "../support/postgres.ts";
import { Watcher } from "./redo-index-oracle.ts";
import { ORACLE_SETTINGS } from "./redo-oracle.ts";
import { Replay } from "./redo-replay.ts";

const BIN = "/usr/lib/postgresql/15/bin";
const skip = ["postgres", "initdb", "pg_waldump"].every((name) => existsSync(join(BIN, name)))
  ? false
  : `no PostgreSQL 15 with pg_waldump in ${BIN}`;

const SEGMENT = 16 * 1024 * 1024;
const FIRST_LSN = toLsn(SEGMENT);
const XLOG_FPI = 0xb0;

/** start, previous, length, xid of every record up to `end`, as pg_waldump sees them. */
function waldump(server: TestPostgres, end: Lsn): string[] {
  const path = join(server.dataDir, "pg_wal");
  const output = execFileSync(
    join(BIN, "pg_waldump"),
    ["-p", path, "-s", formatLsn(FIRST_LSN), "-e", formatLsn(end)],
    {
      encoding: "utf8",
      maxBuffer: 2 ** 30,
      stdio: ["ignore", "pipe", "ignore"],
    },
  );
  const records: string[] = [];
  for (const line of output.split("\n")) {
    const match = /len \(rec\/tot\): +\d+\/ *(\d+), tx: +(\d+), lsn: ([0-9A-F/]+), prev ([0-9A-F/]+),/.exec(
      line,
    );
    if (!match) continue;
    const [, length, xid, lsn, previous] = match;
    records.push(`${unpadded(lsn)} ${unpadded(previous)} ${length} ${xid}`);
  }
  return records;
}

/** pg_waldump pads the low word with zeros. */
function unpadded(lsn = ""): string {
  return lsn.replace(/\/0+(?=.)/, "/");
}

function decode(wal: Buffer, end: Lsn, visit: (record: WalRecord) => void): void {
  const stream = new WalStream({ version: POSTGRES_15, segmentSize: SEGMENT, startLsn: FIRST_LSN });
  stream.feed(FIRST_LSN, wal.subarray(0, end - FIRST_LSN));
  for (let record = stream.next(); record; record = stream.next()) visit(record);
  assert.equal(stream.position, end);
}

test(
  "WAL of PostgreSQL 15: every record; images without compression, and with pglz, lz4 and zstd",
  { skip },
  async (t) => {
    await using server = await TestPostgres.create({ binDir: BIN, settings: { wal_keep_size: "1GB" } });
    const methods = ["off", "pglz", "lz4", "zstd"];
    await server.query(
      "create table t as select g as a, repeat(md5((g % 50)::text), 2) || g as b from generate_series(1, 15000) g",
    );
    const files = new Map<number, Buffer>();
    for (const method of methods) {
      await server.query(`set wal_compression = ${method}`);
      await server.query(`create index t_${method} on t (b, a)`);
    }
    await server.query("checkpoint");
    for (const method of methods) {
      const path = await server.value("select pg_relation_filepath($1)", [`t_${method}`]);
      files.set(Number(path.split("/").pop()), readFileSync(join(server.dataDir, path)));
    }
    const end = await server.flushedLsn();
    const directory = join(server.dataDir, "pg_wal");
    const names = readdirSync(directory).filter((name) => /^[0-9A-F]{24}$/.test(name));
    const wal = Buffer.concat(names.sort().map((name) => readFileSync(join(directory, name))));

    const ours: string[] = [];
    const page = new Uint8Array(8192);
    const compared = new Map<number, number>();
    decode(wal, end, (record) => {
      ours.push(`${formatLsn(record.lsn)} ${formatLsn(record.previousLsn)} ${record.length} ${record.xid}`);
      for (const block of record.blocks.slice(0, record.blockCount)) {
        if (!block.hasImage) continue;
        restoreBlockImage(record, block, POSTGRES_15, page);
        const file = files.get(block.relNumber);
        // The page of a fresh index is written once, by the build that logs it; only its LSN is set afterwards.
        if (!file || block.fork !== 0 || record.rmgr !== Rmgr.Xlog || record.info !== XLOG_FPI) continue;
        const onDisk = Buffer.from(file.subarray(block.blockNumber * 8192, (block.blockNumber + 1) * 8192));
        // Builders leave old line pointers behind in the hole, which no image contains.
        onDisk.fill(0, onDisk.readUInt16LE(12), onDisk.readUInt16LE(14));
        assert.ok(
          onDisk.subarray(8).equals(page.subarray(8)),
          `block ${block.blockNumber} at ${formatLsn(record.lsn)}`,
        );
        compared.set(block.imageInfo & 0x1c, (compared.get(block.imageInfo & 0x1c) ?? 0) + 1);
      }
    });
    const theirs = waldump(server, end);
    assert.ok(ours.length > 5000, `${ours.length} records`);
    assert.equal(ours.length, theirs.length);
    for (const [i, record] of ours.entries()) assert.equal(record, theirs[i]);
    for (const [name, bits] of [
      ["plain", 0],
      ["pglz", 4],
      ["lz4", 8],
      ["zstd", 16],
    ] as const) {
      const count = compared.get(bits) ?? 0;
      t.diagnostic(`${name}: ${count} images compared with the pages on disk`);
      assert.ok(count > 50, `${count} images with ${name}`);
    }
  },
);

test(
  "PostgreSQL 15: pages made from lz4 and zstd images, and compared with them, record by record",
  { skip },
  async (t) => {
    await using server = await TestPostgres.create({
      binDir: BIN,
      settings: { ...ORACLE_SETTINGS, wal_compression: "zstd" },
      start: false,
    });
    await using base = await server.clone();
    await server.start();
    for (const statement of [
      "create table t as select i as id, md5(i::text) as v from generate_series(1, 3000) i",
      "create index on t (v)",
      "create index on t using gin (string_to_array(v, 'a'))",
      "checkpoint",
      "update t set v = v || 'x' where id % 5 = 0",
      "set wal_compression = lz4",
      "delete from t where id % 7 = 0",
      "vacuum t",
      "checkpoint",
      "update t set v = 'y' || v where id % 3 = 0",
      "vacuum (freeze) t",
    ])
      await server.query(statement);
    await server.stop();
    const counts = { "lz4 applied": 0, "lz4 compared": 0, "zstd applied": 0, "zstd compared": 0 };
    const watcher = new Watcher();
    const replay: Replay = new Replay(base.dataDir, {
      hintBitsLogged: false,
      observer: (record, index, page) => {
        watcher.observe(record, index, page, replay);
      },
      onRecord: (record) => {
        for (const block of record.blocks.slice(0, record.blockCount)) {
          const { lz4, zstd } = POSTGRES_15.image;
          const method = block.imageInfo & lz4 ? "lz4" : block.imageInfo & zstd ? "zstd" : undefined;
          if (block.hasImage && method) counts[`${method} ${block.applyImage ? "applied" : "compared"}`]++;
        }
      },
    });
    replay.run(server.dataDir);
    t.diagnostic(JSON.stringify(counts));
    assert.deepEqual(replay.differences, []);
    for (const count of Object.values(counts)) assert.ok(count > 100, JSON.stringify(counts));
  },
);
