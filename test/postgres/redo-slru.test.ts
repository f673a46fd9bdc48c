import assert from "node:assert/strict";
import { test } from "node:test";
import { Rmgr } from "../../src/postgres/constants.ts";
import {
  clogPageOf,
  clogPagesOfXact,
  clogTruncation,
  clogZeroedPage,
  isClogSegmentRemoved,
  redoClogPage,
  xidStatus,
} from "../../src/postgres/redo/clog.ts";
import {
  isMembersPageZeroed,
  isMembersSegmentRemoved,
  isOffsetsSegmentRemoved,
  multixactMemberPages,
  multixactOffsetPages,
  multixactTruncation,
  redoMultixactMembersPage,
  redoMultixactOffsetsPage,
} from "../../src/postgres/redo/multixact.ts";
import { parseXactRecord } from "../../src/postgres/redo/xact.ts";
import { POSTGRES_16 } from "../../src/postgres/versions/postgres-16.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { bytes, isLocatedCorruption, makeRecord, u16, u32 } from "./redo-builder.ts";

const XIDS_PER_PAGE = 32768;

/** A commit (info 0x00) or abort (0x20) with subtransactions. */
function end(info: number, xid: number, subxids: number[]): WalRecord {
  const main = bytes(...u32(0), ...u32(0), ...u32(0x02), ...u32(subxids.length), ...subxids.flatMap(u32));
  return makeRecord({ rmgr: Rmgr.Xact, info: info | 0x80, xid, main });
}

function pagesOf(record: WalRecord): number[] {
  const pages: number[] = [];
  clogPagesOfXact(parseXactRecord(record, POSTGRES_17), (page) => {
    pages.push(page);
  });
  return pages;
}

test("a commit sets two bits for itself and each subtransaction, on the pages where they are", () => {
  const subxids = [XIDS_PER_PAGE + 1, XIDS_PER_PAGE + 2, 3 * XIDS_PER_PAGE, XIDS_PER_PAGE - 2];
  const record = end(0x00, XIDS_PER_PAGE - 1, subxids);
  assert.deepEqual(pagesOf(record), [0, 1, 3]);
  const first = new Uint8Array(8192);
  redoClogPage(first, 0, record, POSTGRES_17);
  assert.deepEqual(first.subarray(8190), bytes(0, 0x50));
  const second = new Uint8Array(8192);
  redoClogPage(second, 1, record, POSTGRES_17);
  assert.deepEqual([...second.subarray(0, 2)], [0x14, 0]);
  assert.deepEqual(
    [0, 1, 2, 3].map((i) => xidStatus(second, XIDS_PER_PAGE + i)),
    [0, 1, 1, 0],
  );
  const other = new Uint8Array(8192);
  redoClogPage(other, 2, record, POSTGRES_17);
  assert(other.every((byte) => byte === 0));
});

test("an abort sets the other bit; the end of a prepared transaction is about that one", () => {
  const page = new Uint8Array(8192);
  redoClogPage(page, 0, end(0x20, 1000, [1001]), POSTGRES_17);
  assert.deepEqual(
    [1000, 1001, 1002].map((xid) => xidStatus(page, xid)),
    [2, 2, 0],
  );
  const main = bytes(...u32(0), ...u32(0), ...u32(0x10), ...u32(2000));
  const prepared = makeRecord({ rmgr: Rmgr.Xact, info: 0x30 | 0x80, xid: 0, main });
  redoClogPage(page, 0, prepared, POSTGRES_17);
  assert.equal(xidStatus(page, 2000), 1);
  assert.deepEqual(pagesOf(prepared), [0]);
});

test("records that decide nothing touch nothing, nor does a commit without xid", () => {
  assert.deepEqual(pagesOf(end(0x00, 0, [])), []);
  const assignment = makeRecord({
    rmgr: Rmgr.Xact,
    info: 0x50,
    xid: 7,
    main: bytes(...u32(7), ...u32(1), ...u32(8)),
  });
  assert.deepEqual(pagesOf(assignment), []);
  const page = new Uint8Array(8192);
  redoClogPage(page, 0, end(0x00, 0, []), POSTGRES_17);
  redoClogPage(page, 0, assignment, POSTGRES_17);
  assert(page.every((byte) => byte === 0));
});

test("xids above 2^31 are unsigned", () => {
  assert.equal(clogPageOf(0xffffffff), 131071);
  const page = new Uint8Array(8192);
  redoClogPage(page, 131071, end(0x00, 0xffffffff, []), POSTGRES_17);
  assert.equal(page[8191], 0x40);
});

const clog = (info: number, main: number[]) => makeRecord({ rmgr: Rmgr.Clog, info, main: bytes(...main) });

test("a zeroed page of commit status, a truncation, and damaged forms of both", () => {
  const zero = clog(0x00, [...u32(5), ...u32(0)]);
  assert.equal(clogZeroedPage(zero, POSTGRES_17), 5);
  const page = new Uint8Array(8192).fill(0x55);
  redoClogPage(page, 4, zero, POSTGRES_17);
  assert.equal(page[0], 0x55);
  redoClogPage(page, 5, zero, POSTGRES_17);
  assert(page.every((byte) => byte === 0));
  const truncate = clog(0x10, [...u32(40), ...u32(0), ...u32(1310720), ...u32(5)]);
  assert.deepEqual(clogTruncation(truncate, POSTGRES_17), {
    cutoffPage: 40,
    oldestXid: 1310720,
    oldestXidDb: 5,
  });
  assert.equal(clogZeroedPage(truncate, POSTGRES_17), undefined);
  assert.equal(clogTruncation(zero, POSTGRES_17), undefined);
  assert.equal(clogTruncation(end(0x00, 7, []), POSTGRES_17), undefined);
  assert.equal(clogZeroedPage(end(0x00, 7, []), POSTGRES_17), undefined);
  assert.throws(() => clogZeroedPage(clog(0x00, u32(5)), POSTGRES_17), isLocatedCorruption);
  assert.throws(() => clogZeroedPage(clog(0x00, [...u32(5), ...u32(1)]), POSTGRES_17), isLocatedCorruption);
  assert.throws(
    () => clogZeroedPage(clog(0x00, [...u32(0xffffffff), ...u32(0)]), POSTGRES_17),
    isLocatedCorruption,
  );
  assert.throws(
    () => clogTruncation(clog(0x10, [...u32(40), ...u32(0), 1]), POSTGRES_17),
    isLocatedCorruption,
  );
  assert.equal(clogZeroedPage(clog(0x00, u32(5)), POSTGRES_16), 5);
  const old = clogTruncation(clog(0x10, [...u32(40), ...u32(99), ...u32(5)]), POSTGRES_16);
  assert.deepEqual(old, { cutoffPage: 40, oldestXid: 99, oldestXidDb: 5 });
});

test("a segment of commit status goes only when it lies wholly before the cutoff, around the circle", () => {
  const removed = (cutoff: number) =>
    [0, 1, 2, 3, 4095].filter((segment) => isClogSegmentRemoved(segment, cutoff));
  assert.deepEqual(removed(0), [4095]);
  assert.deepEqual(removed(31), [4095]);
  assert.deepEqual(removed(32), [0, 4095]);
  assert.deepEqual(removed(33), [0, 4095]);
  assert.deepEqual(removed(64), [0, 1, 4095]);
  // Half the circle further on, what lies ahead is not what lies behind.
  assert.deepEqual(removed(65536 + 64), [3]);
});

const multixact = (info: number, main: number[]) =>
  makeRecord({ rmgr: Rmgr.Multixact, info, main: bytes(...main) });
const create = (multi: number, offset: number, members: [number, number][]) =>
  multixact(0x20, [
    ...u32(multi),
    ...u32(offset),
    ...u32(members.length),
    ...members.flatMap(([xid, status]) => [...u32(xid), ...u32(status)]),
  ]);

function collect(visit: (emit: (page: number) => void) => void): number[] {
  const pages: number[] = [];
  visit((page) => {
    pages.push(page);
  });
  return pages;
}

const offsetPages = (record: WalRecord) =>
  collect((emit) => {
    multixactOffsetPages(record, POSTGRES_17, emit);
  });
const memberPages = (record: WalRecord) =>
  collect((emit) => {
    multixactMemberPages(record, POSTGRES_17, emit);
  });

test("a multixact sets its own offset and where the next one begins", () => {
  const record = create(7, 100, [
    [900, 0],
    [901, 5],
  ]);
  assert.deepEqual(offsetPages(record), [0]);
  const page = new Uint8Array(8192);
  redoMultixactOffsetsPage(page, 0, record, POSTGRES_17);
  assert.deepEqual([...page.subarray(28, 36)], [...u32(100), ...u32(102)]);
});

test("the next multixact's entry may be on the next page, and outlives the record that makes that page", () => {
  const record = create(2047, 100, [[900, 0]]);
  assert.deepEqual(offsetPages(record), [0, 1]);
  const next = new Uint8Array(8192);
  redoMultixactOffsetsPage(next, 1, record, POSTGRES_17);
  assert.deepEqual([...next.subarray(0, 8)], [...u32(101), ...u32(0)]);
  const zero = multixact(0x00, [...u32(1), ...u32(0)]);
  assert.deepEqual(offsetPages(zero), [1]);
  redoMultixactOffsetsPage(next, 1, zero, POSTGRES_17);
  assert.deepEqual([...next.subarray(0, 4)], u32(101));
  const used = new Uint8Array(8192).fill(9);
  redoMultixactOffsetsPage(used, 1, zero, POSTGRES_17);
  assert(used.every((byte) => byte === 0));
});

test("multixact ids go around past 0, and offsets never begin at 0", () => {
  const record = create(0xffffffff, 0xfffffffe, [
    [900, 0],
    [901, 1],
  ]);
  assert.deepEqual(offsetPages(record), [2097151, 0]);
  const last = new Uint8Array(8192);
  redoMultixactOffsetsPage(last, 2097151, record, POSTGRES_17);
  assert.deepEqual([...last.subarray(8188)], u32(0xfffffffe));
  const first = new Uint8Array(8192);
  redoMultixactOffsetsPage(first, 0, record, POSTGRES_17);
  assert.deepEqual([...first.subarray(0, 8)], [...u32(0), ...u32(1)]);
});

test("members lie in groups of four: statuses, then xids", () => {
  const record = create(7, 6, [
    [0x11111111, 0],
    [0xfedcba98, 5],
    [0x33333333, 4],
  ]);
  assert.deepEqual(memberPages(record), [0]);
  const page = new Uint8Array(8192);
  redoMultixactMembersPage(page, 0, record, POSTGRES_17);
  assert.deepEqual([...page.subarray(20, 24)], [0, 0, 0, 5]);
  assert.deepEqual([...page.subarray(24 + 8, 24 + 16)], [...u32(0x11111111), ...u32(0xfedcba98)]);
  assert.deepEqual([...page.subarray(40, 48)], [4, 0, 0, 0, ...u32(0x33333333)]);
});

test("members go on on the next page after 1636, and around the circle after 2^32", () => {
  const over = create(7, 1634, [
    [1, 1],
    [2, 2],
    [3, 3],
  ]);
  assert.deepEqual(memberPages(over), [0, 1]);
  const first = new Uint8Array(8192);
  redoMultixactMembersPage(first, 0, over, POSTGRES_17);
  assert.deepEqual(
    [...first.subarray(8160, 8192)],
    [0, 0, 1, 2, ...new Array<number>(8).fill(0), 1, 0, 0, 0, 2, 0, 0, 0, ...new Array<number>(12).fill(0)],
  );
  const second = new Uint8Array(8192);
  redoMultixactMembersPage(second, 1, over, POSTGRES_17);
  assert.deepEqual([...second.subarray(0, 8)], [3, 0, 0, 0, 3, 0, 0, 0]);
  const around = create(7, 0xffffffff, [
    [1, 1],
    [2, 2],
  ]);
  assert.deepEqual(memberPages(around), [2625285, 0]);
});

test("a members page is zeroed; hostile counts are refused", () => {
  const zero = multixact(0x10, [...u32(3), ...u32(0)]);
  assert.deepEqual(memberPages(zero), [3]);
  assert(isMembersPageZeroed(zero));
  const page = new Uint8Array(8192).fill(1);
  redoMultixactMembersPage(page, 3, zero, POSTGRES_17);
  assert(page.every((byte) => byte === 0));
  for (const count of [2, 0xffffffff, 0x80000000]) {
    const record = multixact(0x20, [...u32(7), ...u32(1), ...u32(count), ...u32(900), ...u32(0)]);
    assert.throws(() => memberPages(record), isLocatedCorruption);
    assert.throws(() => {
      redoMultixactOffsetsPage(page, 0, record, POSTGRES_17);
    }, isLocatedCorruption);
    assert.throws(() => {
      redoMultixactMembersPage(page, 0, record, POSTGRES_17);
    }, isLocatedCorruption);
  }
  assert.throws(() => offsetPages(multixact(0x20, u16(1))), isLocatedCorruption);
});

test("truncation of multixacts: segments of members from one to another, of offsets before a page", () => {
  const perSegment = 1636 * 32;
  const record = multixact(0x30, [
    ...u32(5),
    ...u32(1),
    ...u32(2048 * 32),
    ...u32(perSegment - 1),
    ...u32(3 * perSegment),
  ]);
  const truncation = multixactTruncation(record);
  assert(truncation);
  assert.deepEqual(truncation, {
    oldestMulti: 65536,
    oldestMultiDb: 5,
    offsetsCutoffPage: 31,
    membersFromSegment: 0,
    membersToSegment: 3,
  });
  assert.deepEqual(
    [0, 1, 2, 3, 4].filter((segment) => isMembersSegmentRemoved(segment, truncation)),
    [0, 1, 2],
  );
  assert.deepEqual(
    [0, 1, 2].filter((segment) => isOffsetsSegmentRemoved(segment, truncation)),
    [],
  );
  const later = { ...truncation, offsetsCutoffPage: 32 };
  assert.deepEqual(
    [0, 1, 2].filter((segment) => isOffsetsSegmentRemoved(segment, later)),
    [0],
  );
  const around = { ...truncation, membersFromSegment: 82039, membersToSegment: 1 };
  assert.deepEqual(
    [0, 1, 82038, 82039, 82040, 99999].filter((s) => isMembersSegmentRemoved(s, around)),
    [0, 82039, 82040],
  );
  assert.equal(multixactTruncation(create(1, 1, [])), undefined);
  for (const [oldest, page] of [
    [65537, 32],
    [1, 2097151],
  ] as const) {
    const other = multixact(0x30, [...u32(5), ...u32(1), ...u32(oldest), ...u32(1), ...u32(1)]);
    assert.equal(multixactTruncation(other)?.offsetsCutoffPage, page);
  }
});
