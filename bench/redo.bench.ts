/**
 * How many small records redo applies per second: heap inserts, heap HOT updates and btree inserts on pages that are
 * emptied when full (that copy included), and decoding plus redo as a read does it.
 * Usage: node bench/redo.bench.ts [records, default 2000000]
 */
import { Rmgr } from "../src/postgres/constants.ts";
import { PageBuffer, pageInit } from "../src/postgres/page/layout.ts";
import { redoBlock } from "../src/postgres/redo/apply.ts";
import { RedoContext } from "../src/postgres/redo/context.ts";
import { POSTGRES_17 } from "../src/postgres/versions/postgres-17.ts";
import { decodeRecord } from "../src/postgres/wal/decode-record.ts";
import { WalRecord } from "../src/postgres/wal/record.ts";
import { buildRecord } from "../test/support/wal-builder.ts";
import { toLsn } from "../src/base/lsn.ts";

const RELATION = [1663, 5, 16384] as const;
const HEAP_INSERTS = 60;
const HEAP_UPDATES = 60;
const BTREE_INSERTS = 200;

function u16(value: number): number[] {
  return [value & 255, value >>> 8];
}

function u32(value: number): number[] {
  return [...u16(value & 0xffff), ...u16(value >>> 16)];
}

function heapInsert(offsetNumber: number): Uint8Array {
  const data = Uint8Array.from([...u16(3), ...u16(0x0802), 24, ...new Array<number>(33).fill(7)]);
  return buildRecord(
    {
      rmgr: Rmgr.Heap,
      info: 0x00,
      xid: 700,
      main: Uint8Array.from([...u16(offsetNumber), 0]),
      blocks: [{ id: 0, relation: RELATION, block: 1, data }],
    },
    0,
  );
}

function heapHotUpdate(oldNumber: number, newNumber: number): Uint8Array {
  const data = Uint8Array.from([
    ...u16(4),
    ...u16(20),
    ...u16(3),
    ...u16(0x2802),
    24,
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
  ]);
  return buildRecord(
    {
      rmgr: Rmgr.Heap,
      info: 0x40,
      xid: 700,
      main: Uint8Array.from([...u32(700), ...u16(oldNumber), 0, 0x60, ...u32(0), ...u16(newNumber)]),
      blocks: [{ id: 0, relation: RELATION, block: 1, data }],
    },
    0,
  );
}

function btreeInsert(offsetNumber: number): Uint8Array {
  const tuple = Uint8Array.from([0, 0, 1, 0, 1, 0, ...u16(16), 1, 2, 3, 4, 5, 6, 7, 8]);
  return buildRecord(
    {
      rmgr: Rmgr.Btree,
      info: 0x00,
      xid: 700,
      main: Uint8Array.from(u16(offsetNumber)),
      blocks: [{ id: 0, relation: RELATION, block: 1, data: tuple }],
    },
    0,
  );
}

function decode(record: WalRecord, bytes: Uint8Array): WalRecord {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  decodeRecord(record, bytes, view, 0, bytes.length, POSTGRES_17);
  record.lsn = toLsn(0x1000000);
  record.endLsn = toLsn(0x1000040);
  return record;
}

function measure(name: string, count: number, run: (index: number) => void): void {
  run(0);
  const start = performance.now();
  for (let i = 0; i < count; i++) run(i);
  const seconds = (performance.now() - start) / 1000;
  console.log(`${name}: ${Math.round(count / seconds / 1000)} thousand records/s`);
}

/** Applies the records in turn, from the empty page again after the last. */
function measureRedo(name: string, count: number, records: readonly Uint8Array[], special: number): void {
  const context = new RedoContext({ version: POSTGRES_17, hintBitsLogged: true });
  const empty = new PageBuffer();
  pageInit(empty, special);
  const page = new PageBuffer();
  const decoded = records.map((bytes) => decode(new WalRecord(), bytes));
  measure(`${name}, redo`, count, (i) => {
    const index = i % decoded.length;
    if (index === 0) page.bytes.set(empty.bytes);
    redoBlock(page, decoded[index] as WalRecord, 0, context);
  });
  const record = new WalRecord();
  measure(`${name}, decode and redo`, count, (i) => {
    const index = i % records.length;
    if (index === 0) page.bytes.set(empty.bytes);
    redoBlock(page, decode(record, records[index] as Uint8Array), 0, context);
  });
}

const count = Number(process.argv[2] ?? 2_000_000);
const inserts = Array.from({ length: HEAP_INSERTS }, (_, i) => heapInsert(i + 1));
const updates = Array.from({ length: HEAP_UPDATES }, (_, i) => heapHotUpdate(i + 1, HEAP_INSERTS + i + 1));
measureRedo("heap insert", count, inserts, 0);
measureRedo("heap insert and update", count, [...inserts, ...updates], 0);
// In front of all others, so that line pointers move.
measureRedo(
  "btree insert",
  count,
  Array.from({ length: BTREE_INSERTS }, () => btreeInsert(1)),
  16,
);
