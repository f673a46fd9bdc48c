/** GiST and BRIN records: what no comparison with a server shows. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Rmgr } from "../../src/postgres/constants.ts";
import { PageBuffer, maxOffsetNumber, pageLower, pageLsn } from "../../src/postgres/page/layout.ts";
import { POSTGRES_15 } from "../../src/postgres/versions/postgres-15.ts";
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

const LEAF = 0x01;
const DELETED = 0x02;
const FOLLOW_RIGHT = 0x08;
const HAS_GARBAGE = 0x10;
const NONE = 0xffffffff;

const tuple = (n: number): number[] => [...tid(n, 1), ...u16(16), ...new Array<number>(8).fill(n)];

function gist(info: number, main: number[], blocks: BlockSpec[]) {
  return makeRecord({ rmgr: Rmgr.Gist, info, main: bytes(...main), blocks });
}

function gistPage(flags: number, tuples: number[][] = [], rightLink = NONE): PageBuffer {
  const page = newPage(16);
  addItems(page, tuples);
  page.view.setUint32(8184, rightLink, true);
  page.view.setUint16(8188, flags, true);
  page.view.setUint16(8190, 0xff81, true);
  return page;
}

/** NSN (high and low word), right link, flags */
function special(page: PageBuffer): number[] {
  const words = [8176, 8180, 8184].map((at) => page.view.getUint32(at, true));
  return [...words, page.view.getUint16(8188, true)];
}

test("a complete split is noted with the record's LSN, with or without an image", () => {
  const image = { stored: gistPage(LEAF | FOLLOW_RIGHT, [tuple(1)], 8).bytes.slice(), info: 0x02 };
  for (const more of [{}, { image }]) {
    for (const record of [
      gist(0x00, [...u16(0), ...u16(0)], [block(0, 1), block(1, 5, more)]),
      gist(0x30, new Array<number>(24).fill(0), [block(0, 5, more), block(1, 9, { willInit: true })]),
    ]) {
      const page = gistPage(LEAF | FOLLOW_RIGHT, [tuple(1)], 8);
      const index = (record.info & 0xf0) === 0x00 ? 1 : 0;
      redo(page, record, index);
      assert.deepEqual(special(page), [7, 0x1040, 8, LEAF]);
      assert.equal(pageLsn(page), END_LSN);
      assert.equal(maxOffsetNumber(page), 1);
    }
  }
});

test("images of other pages are left alone", () => {
  const image = { stored: gistPage(LEAF | FOLLOW_RIGHT, [tuple(1)], 8).bytes.slice(), info: 0x02 };
  const page = new PageBuffer();
  redo(page, gist(0x00, [...u16(0), ...u16(1)], [block(0, 5, { image })]));
  assert.deepEqual(special(page), [0, 0, 8, LEAF | FOLLOW_RIGHT]);
});

/** NSN 0x100000002, leaf, three pages. */
const splitMain = (follow: number): number[] => [
  ...u32(77),
  ...u32(0),
  ...u32(2),
  ...u32(1),
  1,
  0,
  ...u16(3),
  follow,
  0,
  0,
  0,
];

test("pages of a split: links, NSN and flags", () => {
  const pages = (first: number): BlockSpec[] =>
    [first, 20, 21].map((number, i) =>
      block(i + 1, number, { willInit: true, data: bytes(...u32(1), ...tuple(number)) }),
    );
  const results = (first: number, follow: number): number[][] =>
    [0, 1, 2].map((index) => {
      const page = new PageBuffer();
      redo(page, gist(0x30, splitMain(follow), pages(first)), index);
      assert.equal(maxOffsetNumber(page), 1);
      return special(page);
    });
  assert.deepEqual(results(19, 1), [
    [1, 2, 20, LEAF | FOLLOW_RIGHT],
    [1, 2, 21, LEAF | FOLLOW_RIGHT],
    [1, 2, 77, LEAF],
  ]);
  assert.deepEqual(results(19, 0), [
    [1, 2, 20, LEAF],
    [1, 2, 21, LEAF],
    [1, 2, 77, LEAF],
  ]);
  assert.deepEqual(results(0, 1), [
    [1, 2, NONE, 0],
    [1, 2, 21, LEAF],
    [1, 2, 77, LEAF],
  ]);
});

test("a wrong number of tuples is corrupt", () => {
  const data = bytes(...u32(2), ...tuple(1));
  assert.throws(() => {
    redo(new PageBuffer(), gist(0x30, splitMain(0), [block(3, 5, { willInit: true, data })]));
  }, isLocatedCorruption);
  assert.throws(() => {
    redo(gistPage(LEAF), gist(0x00, [...u16(0), ...u16(2)], [block(0, 5, { data: bytes(...tuple(1)) })]));
  }, isLocatedCorruption);
});

test("deleted items, in the layouts of old and new versions; pages that are deleted", () => {
  const tuples = [1, 2, 3, 4].map(tuple);
  const list = [...u16(1), ...u16(3), ...u16(4)];
  const now = gistPage(LEAF | HAS_GARBAGE, tuples);
  redo(now, gist(0x10, [...u32(0), ...u16(3), 0, 0, ...list], [block(0, 5)]));
  const then = gistPage(LEAF | HAS_GARBAGE, tuples);
  redo(then, gist(0x10, [...u32(0), ...u16(3), ...list], [block(0, 5)]), 0, true, POSTGRES_15);
  for (const page of [now, then]) {
    assert.deepEqual([maxOffsetNumber(page), special(page)[3]], [1, LEAF]);
    assert.deepEqual([...page.bytes.subarray(8160, 8176)], tuple(2));
  }
  const deleted = gistPage(LEAF);
  redo(deleted, gist(0x60, [...u32(5), ...u32(6), ...u16(2)], [block(0, 5)]));
  assert.deepEqual([pageLower(deleted), special(deleted)[3]], [32, LEAF | DELETED]);
  assert.deepEqual([...deleted.bytes.subarray(24, 32)], [...u32(5), ...u32(6)]);
});

function brin(info: number, main: number[], blocks: BlockSpec[]) {
  return makeRecord({ rmgr: Rmgr.Brin, info, main: bytes(...main), blocks });
}

function brinPage(kind: number, tuples: number[][] = []): PageBuffer {
  const page = newPage(8);
  addItems(page, tuples);
  page.view.setUint16(8190, kind, true);
  return page;
}

test("entries of BRIN's range map lie where the range of the heap block says", () => {
  const entry = (page: PageBuffer, index: number) => [...page.bytes.subarray(24 + 6 * index, 30 + 6 * index)];
  for (const [heapBlock, pagesPerRange, index] of [
    [0, 1, 0],
    [1359, 1, 1359],
    [1360, 1, 0],
    [0xfffffffe, 1, 0xfffffffe % 1360],
    [1360 * 128 * 3 + 128 * 7 + 5, 128, 7],
  ] as const) {
    const page = brinPage(0xf092);
    const main = [...u32(heapBlock), ...u32(pagesPerRange), ...u16(9)];
    const blocks = [block(0, 70_000, { data: bytes(1) }), block(1, 1)];
    redo(page, brin(0x10, main, blocks), 1);
    assert.deepEqual(entry(page, index), tid(70_000, 9));
    redo(page, brin(0x50, [...u32(pagesPerRange), ...u32(heapBlock), ...u16(9)], [block(0, 1)]));
    assert.deepEqual(entry(page, index), tid(NONE, 0));
  }
  assert.throws(() => {
    redo(brinPage(0xf092), brin(0x50, new Array<number>(10).fill(0), [block(0, 1)]));
  }, isLocatedCorruption);
});

test("a BRIN tuple takes a number that is free; another is refused", () => {
  const page = brinPage(0xf093, [tuple(1), tuple(2), tuple(3)]);
  redo(page, brin(0x50, [...u32(1), ...u32(1), ...u16(2)], [block(1, 5)]));
  assert.equal(maxOffsetNumber(page), 3);
  const insert = (number: number) =>
    brin(0x10, [...u32(0), ...u32(1), ...u16(number)], [block(0, 5, { data: bytes(...tuple(9)) })]);
  assert.throws(() => {
    redo(new PageBuffer(page.bytes.slice()), insert(1));
  }, isLocatedCorruption);
  redo(page, insert(2));
  const at = page.view.getUint32(28, true) & 0x7fff;
  assert.deepEqual([...page.bytes.subarray(at, at + 16)], tuple(9));
});

test("BRIN's metapage", () => {
  const page = new PageBuffer();
  redo(page, brin(0x80, [...u32(128), ...u16(1)], [block(0, 0, { willInit: true })]));
  redo(page, brin(0x40, u32(7), [block(0, 0)]));
  assert.deepEqual([...page.bytes.subarray(24, 40)], [...u32(0xa8109cfa), ...u32(1), ...u32(128), ...u32(7)]);
  assert.deepEqual([pageLower(page), page.view.getUint16(8190, true)], [40, 0xf091]);
});
