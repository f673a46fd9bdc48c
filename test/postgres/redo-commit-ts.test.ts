/** pg_commit_ts: which records set which times on which pages. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Rmgr } from "../../src/postgres/constants.ts";
import {
  commitTsPageOf,
  commitTsPagesOfXact,
  commitTsTruncation,
  commitTsZeroedPage,
  isCommitTsSegmentRemoved,
  newestTimedXid,
  redoCommitTsPage,
} from "../../src/postgres/redo/commit-ts.ts";
import { parseXactRecord } from "../../src/postgres/redo/xact.ts";
import { POSTGRES_16 } from "../../src/postgres/versions/postgres-16.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { bytes, isLocatedCorruption, makeRecord, u16, u32 } from "./redo-builder.ts";

const OWN = [1, 2, 3, 4, 5, 6, 7, 0];
const THEIRS = [9, 8, 7, 6, 5, 4, 3, 0];

function end(
  info: number,
  xid: number,
  subxids: number[],
  origin?: { id: number; time: number[] },
): WalRecord {
  const progress = origin === undefined ? [] : [...u32(1), ...u32(0), ...origin.time];
  const xinfo = 0x02 | (origin === undefined ? 0 : 0x20);
  const main = bytes(...OWN, ...u32(xinfo), ...u32(subxids.length), ...subxids.flatMap(u32), ...progress);
  const spec = { rmgr: Rmgr.Xact, info: info | 0x80, xid, main };
  return makeRecord(origin === undefined ? spec : { ...spec, origin: origin.id });
}

function pagesOf(record: WalRecord): number[] {
  const pages: number[] = [];
  commitTsPagesOfXact(parseXactRecord(record, POSTGRES_17), (page) => {
    pages.push(page);
  });
  return pages;
}

function redo(record: WalRecord, pageNumber: number): Uint8Array {
  const page = new Uint8Array(8192);
  redoCommitTsPage(page, pageNumber, record, POSTGRES_17);
  return page;
}

test("a commit sets the time of itself and of each subtransaction, ten bytes each, 819 on a page", () => {
  const record = end(0x00, 818, [819, 820, 3 * 819]);
  assert.deepEqual(pagesOf(record), [0, 1, 3]);
  assert.equal(newestTimedXid(parseXactRecord(record, POSTGRES_17)), 3 * 819);
  assert.deepEqual([...redo(record, 0).subarray(8170)], [...Array(10).fill(0), ...OWN, ...u16(0), 0, 0]);
  assert.deepEqual([...redo(record, 1).subarray(0, 21)], [...OWN, ...u16(0), ...OWN, ...u16(0), 0]);
  assert.ok(redo(record, 2).every((byte) => byte === 0));
  assert.equal(commitTsPageOf(0xffff_ffff), 5244160);
});

test("the time of the origin counts, if it has one", () => {
  const first = (origin: { id: number; time: number[] }): number[] => [
    ...redo(end(0x00, 819, [], origin), 1).subarray(0, 10),
  ];
  assert.deepEqual(first({ id: 0x0102, time: THEIRS }), [...THEIRS, 2, 1]);
  assert.deepEqual(first({ id: 3, time: Array<number>(8).fill(0) }), [...OWN, 3, 0]);
  assert.deepEqual(first({ id: 0xffff, time: THEIRS }), [...OWN, 0xff, 0xff], "not to be replicated");
});

test("aborts set no time", () => {
  const record = end(0x20, 1000, [1001]);
  assert.deepEqual(pagesOf(record), []);
  assert.equal(newestTimedXid(parseXactRecord(record, POSTGRES_17)), 0);
  assert.ok(redo(record, 1).every((byte) => byte === 0));
});

test("pages are made anew and removed by segment, page numbers by version", () => {
  const zero = makeRecord({ rmgr: Rmgr.CommitTs, info: 0x00, main: bytes(...u32(7), ...u32(0)) });
  assert.equal(commitTsZeroedPage(zero, POSTGRES_17), 7);
  assert.equal(commitTsTruncation(zero, POSTGRES_17), undefined);
  const page = new Uint8Array(8192).fill(5);
  redoCommitTsPage(page, 6, zero, POSTGRES_17);
  assert.equal(page[0], 5);
  redoCommitTsPage(page, 7, zero, POSTGRES_17);
  assert.ok(page.every((byte) => byte === 0));
  const cut = makeRecord({ rmgr: Rmgr.CommitTs, info: 0x10, main: bytes(...u32(64), ...u32(52500)) });
  assert.deepEqual(commitTsTruncation(cut, POSTGRES_16), { cutoffPage: 64, oldestXid: 52500 });
  assert.throws(() => commitTsTruncation(cut, POSTGRES_17), isLocatedCorruption);
  assert.equal(commitTsZeroedPage(cut, POSTGRES_16), undefined);
  assert.deepEqual(
    [0, 1, 2].map((segment) => isCommitTsSegmentRemoved(segment, 64)),
    [true, true, false],
  );
  assert.deepEqual(
    [0, 1].map((segment) => isCommitTsSegmentRemoved(segment, 63)),
    [true, false],
  );
});
