/** Hash index records that a server seldom writes, or whose result no comparison with a server shows. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Rmgr } from "../../src/postgres/constants.ts";
import {
  PageBuffer,
  maxOffsetNumber,
  pageLower,
  pageLsn,
  setPageLower,
} from "../../src/postgres/page/layout.ts";
import { bucketsAt, splitPointOf } from "../../src/postgres/redo/hash-meta.ts";
import { POSTGRES_16 } from "../../src/postgres/versions/postgres-16.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { BlockSpec } from "../support/wal-builder.ts";
import {
  END_LSN,
  addItems,
  block,
  bytes,
  isLocatedCorruption,
  makeRecord,
  newPage,
  redo,
  tid,
  u16,
  u32,
} from "./redo-builder.ts";

const NONE = 0xffffffff;
const OVERFLOW = 1;
const BUCKET = 2;
const BITMAP = 4;
const META = 8;
const BEING_SPLIT = 0x20;
const SPLIT_CLEANUP = 0x40;

const tuple = (n: number): number[] => [...tid(n, 1), ...u16(16), ...new Array<number>(8).fill(n)];

const f64 = (value: number): number[] => [...new Uint8Array(new Float64Array([value]).buffer)];

function hash(info: number, main: number[], blocks: BlockSpec[]) {
  return makeRecord({ rmgr: Rmgr.Hash, info, main: bytes(...main), blocks });
}

function hashPage(
  flags: number,
  links: { previous?: number; next?: number; bucket?: number } = {},
): PageBuffer {
  const page = newPage(16);
  page.view.setUint32(8176, links.previous ?? NONE, true);
  page.view.setUint32(8180, links.next ?? NONE, true);
  page.view.setUint32(8184, links.bucket ?? NONE, true);
  page.view.setUint16(8188, flags, true);
  page.view.setUint16(8190, 0xff80, true);
  return page;
}

/** previous, next, bucket, flags, page id */
function special(page: PageBuffer): number[] {
  const { view } = page;
  const links = [8176, 8180, 8184].map((at) => view.getUint32(at, true));
  return [...links, view.getUint16(8188, true), view.getUint16(8190, true)];
}

/** Fields of the metapage by their offset behind the page header. */
const meta = (page: PageBuffer, at: number): number => page.view.getUint32(24 + at, true);

function metaPage(fields: Readonly<Record<number, number>>): PageBuffer {
  const page = hashPage(META);
  setPageLower(page, 4568);
  for (const [at, value] of Object.entries(fields)) page.view.setUint32(24 + Number(at), value, true);
  return page;
}

test("a new metapage has buckets for the number of tuples that are expected", () => {
  // tuples, fill factor, last bucket, high mask, low mask, split point
  for (const [tuples, fillFactor, ...expected] of [
    [0, 307, 1, 3, 1, 1],
    [614, 307, 1, 3, 1, 1],
    [10_000, 307, 31, 63, 31, 5],
    [60_000, 100, 639, 1023, 511, 10],
    [100_000, 100, 1023, 2047, 1023, 13],
    [1e12, 10, 0x3fff_ffff, 0x7fff_ffff, 0x3fff_ffff, 93],
  ] as const) {
    const main = [...f64(tuples), ...u32(449), ...u16(fillFactor)];
    const page = new PageBuffer();
    redo(page, hash(0x00, main, [block(0, 0, { willInit: true })]));
    assert.deepEqual(
      [24, 28, 32, 36].map((at) => meta(page, at)),
      expected,
      `${tuples} tuples`,
    );
    assert.equal(meta(page, 52 + 4 * expected[3]), 1);
    assert.deepEqual([meta(page, 0), meta(page, 4), meta(page, 48)], [0x6440640, 4, 449]);
    assert.deepEqual(
      [...page.bytes.subarray(40, 48)],
      [...u16(fillFactor), ...u16(8152), ...u16(4096), ...u16(15)],
    );
    assert.equal(pageLower(page), 4568);
    assert.deepEqual(special(page), [NONE, NONE, NONE, META, 0xff80]);
  }
  const main = [...f64(0), ...u32(449), ...u16(0)];
  assert.throws(() => {
    redo(new PageBuffer(), hash(0x00, main, [block(0, 0, { willInit: true })]));
  }, isLocatedCorruption);
});

test("split points and numbers of buckets are each other's inverse", () => {
  for (let point = 0; point < 94; point++) {
    assert.equal(splitPointOf(bucketsAt(point)), point);
    if (point > 1) assert.equal(splitPointOf(bucketsAt(point - 1) + 1), point);
  }
});

test("an overflow page that needs a new bitmap page", () => {
  const record = hash(
    0x30,
    [...u16(4096), 0],
    [
      block(0, 70, { willInit: true, data: bytes(...u32(5)) }),
      block(1, 60),
      block(3, 71, { willInit: true }),
      block(4, 0, { data: bytes(...u32(33)) }),
    ],
  );
  const added = new PageBuffer();
  redo(added, record, 0);
  assert.deepEqual(special(added), [60, NONE, 5, OVERFLOW, 0xff80]);
  const before = hashPage(BUCKET, { bucket: 5 });
  redo(before, record, 1);
  assert.equal(special(before)[1], 70);
  const bitmap = new PageBuffer();
  redo(bitmap, record, 2);
  assert.deepEqual(special(bitmap), [NONE, NONE, NONE, BITMAP, 0xff80]);
  assert(bitmap.bytes.subarray(24, 24 + 4096).every((byte) => byte === 0xff));
  assert.equal(pageLower(bitmap), 24 + 4096);
  const page = metaPage({ 36: 12, 44: 2, [52 + 48]: 9 });
  redo(page, record, 3);
  assert.deepEqual(
    [meta(page, 40), meta(page, 44), meta(page, 444 + 8), meta(page, 52 + 48)],
    [33, 3, 71, 11],
  );
  assert.equal(pageLsn(page), END_LSN);
});

test("a metapage with impossible counts is corrupt", () => {
  const blocks = [block(3, 71, { willInit: true }), block(4, 0, { data: bytes(...u32(33)) })];
  for (const fields of [{ 36: 98 }, { 44: 1024 }]) {
    assert.throws(() => {
      redo(metaPage(fields), hash(0x30, [...u16(4096), 0], blocks), 1);
    }, isLocatedCorruption);
  }
  const split = hash(
    0x40,
    [...u32(9), ...u16(0), ...u16(0), 2],
    [block(2, 0, { data: bytes(...u32(98), ...u32(1)) })],
  );
  assert.throws(() => {
    redo(metaPage({}), split);
  }, isLocatedCorruption);
});

test("bits of the bitmap", () => {
  const page = hashPage(BITMAP);
  setPageLower(page, 24 + 4096);
  const add = (bit: number) => hash(0x30, [0, 0, 1], [block(2, 9, { data: bytes(...u32(bit)) })]);
  const free = (bit: number) =>
    hash(0x80, new Array<number>(12).fill(0), [block(5, 9, { data: bytes(...u32(bit)) })]);
  for (const bit of [0, 9, 39, 32767]) redo(page, add(bit));
  redo(page, free(9));
  assert.deepEqual([...page.bytes.subarray(24, 30), page.bytes[24 + 4095]], [1, 0, 0, 0, 0x80, 0, 0x80]);
  assert.throws(() => {
    redo(page, add(32768));
  }, isLocatedCorruption);
});

test("the beginning and the end of a split set flags, with or without an image", () => {
  const image = { stored: hashPage(BUCKET, { previous: 7, bucket: 3 }).bytes.slice(), info: 0x02 };
  const begin = [...u32(12), ...u16(BUCKET | BEING_SPLIT), ...u16(BUCKET | 0x10), 0];
  const end = [...u16(BUCKET | SPLIT_CLEANUP), ...u16(BUCKET)];
  for (const more of [{}, { image }]) {
    const page = hashPage(BUCKET, { previous: 7, bucket: 3 });
    redo(page, hash(0x40, begin, [block(0, 4, more)]));
    assert.deepEqual(special(page), [12, NONE, 3, BUCKET | BEING_SPLIT, 0xff80]);
    redo(page, hash(0x60, end, [block(0, 4, more)]));
    assert.equal(special(page)[3], BUCKET | SPLIT_CLEANUP);
    redo(page, hash(0x60, end, [block(1, 4, more)]));
    assert.equal(special(page)[3], BUCKET);
    assert.equal(pageLsn(page), END_LSN);
  }
});

const squeezeMain = (count: number, isFirst: boolean, isBefore: boolean): number[] => [
  ...u32(50),
  ...u32(70),
  ...u16(count),
  Number(isFirst),
  Number(isBefore),
];

test("a squeeze links the pages around the freed one", () => {
  const record = hash(0x80, squeezeMain(0, true, false), [block(2, 60), block(3, 50), block(4, 70)]);
  const freed = hashPage(OVERFLOW, { previous: 50, next: 70, bucket: 3 });
  addItems(freed, [tuple(1)]);
  redo(freed, record, 0);
  assert.deepEqual(special(freed), [NONE, NONE, NONE, 0, 0xff80]);
  assert.equal(maxOffsetNumber(freed), 0);
  const before = hashPage(OVERFLOW, { previous: 40, next: 60, bucket: 3 });
  redo(before, record, 1);
  assert.deepEqual(special(before).slice(0, 2), [40, 70]);
  const after = hashPage(OVERFLOW, { previous: 60, next: 80, bucket: 3 });
  redo(after, record, 2);
  assert.deepEqual(special(after).slice(0, 2), [50, 80]);
});

test("a squeeze that leaves the page written to as it is stamps it in old versions only", () => {
  for (const [version, stamps] of [
    [POSTGRES_16, true],
    [POSTGRES_17, false],
  ] as const) {
    const page = hashPage(BUCKET);
    redo(page, hash(0x80, squeezeMain(0, true, false), [block(1, 4)]), 0, true, version);
    assert.equal(pageLsn(page) === END_LSN, stamps);
    redo(page, hash(0x80, squeezeMain(0, true, true), [block(1, 4)]), 0, true, version);
    assert.deepEqual([pageLsn(page), special(page)[1]], [END_LSN, 70]);
  }
});

test("pages that are only locked stay as they are", () => {
  for (const [info, main] of [
    [0x70, [0, 0, 0]],
    [0x80, squeezeMain(0, false, false)],
    [0x90, [0, 0]],
  ] as const) {
    const page = hashPage(BUCKET);
    const copy = page.bytes.slice();
    redo(page, hash(info, [...main], [block(0, 4)]));
    assert.deepEqual(page.bytes, copy);
  }
});

test("a page of a split without image is corrupt", () => {
  assert.throws(() => {
    redo(hashPage(BUCKET), hash(0x50, [], [block(0, 4)]));
  }, isLocatedCorruption);
});
