import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../src/base/lsn.ts";
import { Fork } from "../../src/postgres/constants.ts";
import { formatRelation, parseRelationPath, relationPath } from "../../src/postgres/relation.ts";
import { parseSlruPath, parseTwoPhasePath, Slru, slruPath, twoPhasePath } from "../../src/postgres/slru.ts";
import { POSTGRES_16 } from "../../src/postgres/versions/postgres-16.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { nextRecordLsn, parseSegmentName, recordEndLsn, segmentName } from "../../src/postgres/wal/layout.ts";
import { SeededRandom } from "../support/random.ts";
import { WalBuilder } from "../support/wal-builder.ts";

const file = (spcOid: number, dbOid: number, relNumber: number, fork = 0, segment = 0) => ({
  spcOid,
  dbOid,
  relNumber,
  fork,
  segment,
});

const PATHS = [
  ["global/1262", file(1664, 0, 1262)],
  ["global/1262_fsm", file(1664, 0, 1262, Fork.FreeSpaceMap)],
  ["base/5/1259", file(1663, 5, 1259)],
  ["base/5/1259_vm.1", file(1663, 5, 1259, Fork.VisibilityMap, 1)],
  ["base/4294967295/4294967295_init.32767", file(1663, 0xffffffff, 0xffffffff, Fork.Init, 32767)],
  ["pg_tblspc/16390/PG_17_202406281/5/16384.12", file(16390, 5, 16384, 0, 12)],
] as const;

test("relation paths", () => {
  for (const [path, relation] of PATHS) {
    assert.equal(relationPath(relation, POSTGRES_17), path);
    assert.deepEqual(parseRelationPath(path, POSTGRES_17), relation);
  }
  assert.equal(formatRelation(file(1663, 5, 16384, 2)), "1663/5/16384 vm");
});

test("what is no relation file", () => {
  const others = [
    "global/pg_control",
    "global/pg_filenode.map",
    "global/1262_fsm.0",
    "base/5/PG_VERSION",
    "base/5/t3_16390",
    "base/5/1259_xyz",
    "base/5/1259.",
    "base/5/1259.00",
    "base/5/01259",
    "base/0/1259",
    "base/5/0",
    "base/5",
    "base/5/",
    "base/4294967296/1",
    "base/5/4294967296",
    "base/5/1.32768",
    "base/5/1.99999",
    "base/5/1259\n",
    "/base/5/1259",
    "base/5/../1259",
    "pg_tblspc/16390/PG_16_202307071/5/16384",
    "pg_tblspc/16390/PG_17_202406281/5",
    "pg_xact/0000",
    "",
  ];
  for (const path of others) assert.equal(parseRelationPath(path, POSTGRES_17), undefined, path);
});

test("SLRU paths", () => {
  const cases = [
    ["pg_xact/0000", Slru.Xact, 0],
    ["pg_xact/0FFF", Slru.Xact, 0xfff],
    ["pg_multixact/offsets/000A", Slru.MultixactOffsets, 10],
    ["pg_multixact/members/14078", Slru.MultixactMembers, 0x14078],
    ["pg_commit_ts/0001", Slru.CommitTs, 1],
  ] as const;
  for (const [path, slru, segment] of cases) {
    assert.equal(slruPath(slru, segment), path);
    assert.deepEqual(parseSlruPath(path), { slru, segment });
  }
  for (const path of [
    "pg_xact/000",
    "pg_xact/000a",
    "pg_xact/00000",
    "pg_xact/",
    "pg_xact",
    "pg_subtrans/0000",
    "0000",
    "",
  ])
    assert.equal(parseSlruPath(path), undefined, path);
});

test("two-phase state files: full xid in 17, plain xid before", () => {
  const old = POSTGRES_16;
  const xid = 0x1_0000_02e5n;
  assert.equal(twoPhasePath(xid, POSTGRES_17), "pg_twophase/00000001000002E5");
  assert.equal(twoPhasePath(xid, old), "pg_twophase/000002E5");
  assert.equal(parseTwoPhasePath("pg_twophase/00000001000002E5", POSTGRES_17), xid);
  assert.equal(parseTwoPhasePath("pg_twophase/000002E5", old), 0x2e5n);
  for (const path of [
    "pg_twophase/000002E5",
    "pg_twophase/00000001000002e5",
    "pg_twophase/",
    "other/00000001000002E5",
  ])
    assert.equal(parseTwoPhasePath(path, POSTGRES_17), undefined, path);
});

test("segment names", () => {
  const MiB = 1024 * 1024;
  const cases = [
    ["000000010000000000000001", 1, 0x1000000, 16 * MiB],
    ["0000000100000000000000FF", 1, 0xff000000, 16 * MiB],
    ["000000010000000100000000", 1, 0x100000000, 16 * MiB],
    ["000000FF00001FFF000000FE", 255, 0x1ffffe000000, 16 * MiB],
    ["000000010000000000000FFF", 1, 0xfff00000, MiB],
    ["000000010000000200000003", 1, 0x2c0000000, 1024 * MiB],
  ] as const;
  for (const [name, timeline, start, size] of cases) {
    assert.equal(segmentName(timeline, toLsn(start), size), name);
    assert.equal(segmentName(timeline, toLsn(start + size - 1), size), name);
    assert.deepEqual(parseSegmentName(name, size), { timeline, startLsn: start });
  }
  const others = [
    "000000010000000000000100",
    "000000000000000000000001",
    "00000001000000000000000g",
    "000000010000000000000001.partial",
    "00000002.history",
    "0000000100FFFFFF00000000",
  ];
  for (const name of others) assert.equal(parseSegmentName(name, 16 * MiB), undefined, name);
});

test("record positions agree with WAL laid out byte by byte", (t) => {
  const random = SeededRandom.forTest(t);
  const size = 1024 * 1024;
  for (let round = 0; round < 200; round++) {
    const edge = 3 * size + random.pick([0, 8192, 5 * 8192]);
    const start = edge - 8 * random.below(30);
    const builder = new WalBuilder({ start });
    const record = builder.add({ main: random.bytes(random.below(random.pick([10, 300, 30_000]))) });
    assert.equal(nextRecordLsn(toLsn(start), size), record.lsn);
    assert.equal(recordEndLsn(toLsn(record.lsn), record.bytes.length, size), record.endLsn);
  }
});
