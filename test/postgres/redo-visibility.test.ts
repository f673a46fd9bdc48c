import assert from "node:assert/strict";
import { test } from "node:test";
import { Rmgr } from "../../src/postgres/constants.ts";
import { PageBuffer, isNewPage, pageLower, pageLsn } from "../../src/postgres/page/layout.ts";
import {
  HEAP_BLOCKS_PER_MAP_PAGE,
  clearVisibilityBits,
  forEachImplicitVisibilityClear,
  mapBlockOf,
  mapPagesAfterTruncate,
  redoImplicitVisibility,
  setVisibilityBits,
  truncateVisibilityPage,
  visibilityBits,
} from "../../src/postgres/redo/visibility.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { type BlockSpec } from "../support/wal-builder.ts";
import {
  END_LSN,
  block,
  bytes,
  isLocatedCorruption,
  makeRecord,
  newPage,
  redo,
  u16,
  u32,
} from "./redo-builder.ts";

const PER_PAGE = 32672;
/** A map page on which all bits are set. */
function fullMap(): PageBuffer {
  const page = newPage(0);
  page.bytes.fill(0xff, 24);
  return page;
}

/** The heap blocks (of the first map page's number `mapBlock`) whose bits are not all set, with their bits. */
function cleared(page: PageBuffer, mapBlock = 0): [number, number][] {
  const found: [number, number][] = [];
  for (let i = 0; i < PER_PAGE; i++) {
    const bits = visibilityBits(page, mapBlock * PER_PAGE + i);
    if (bits !== 3) found.push([mapBlock * PER_PAGE + i, bits]);
  }
  return found;
}

function implicit(record: WalRecord): [number, number, number][] {
  const found: [number, number, number][] = [];
  forEachImplicitVisibilityClear(record, (relation, heapBlock, mask) => {
    found.push([relation.relNumber, heapBlock, mask]);
  });
  return found;
}

const record = (rmgr: number, info: number, main: number[], blocks: BlockSpec[]) =>
  makeRecord({ rmgr, info, xid: 700, main: bytes(...main), blocks });
const map = (id: number, mapBlock: number): BlockSpec => block(id, mapBlock, { fork: 2 });

const insert = (flags: number, blocks: BlockSpec[]) => record(Rmgr.Heap, 0x00, [...u16(1), flags], blocks);
const lock = (rmgr: number, flags: number, blocks: BlockSpec[]) =>
  record(rmgr, 0x60, [...u32(1), ...u16(1), 0, flags], blocks);
const update = (info: number, flags: number, blocks: BlockSpec[]) =>
  record(Rmgr.Heap, info, [...u32(1), ...u16(1), 0, flags, ...u32(0), ...u16(2)], blocks);

test("bits are found at the end of a map page and at the start of the next", () => {
  assert.equal(HEAP_BLOCKS_PER_MAP_PAGE, PER_PAGE);
  assert.deepEqual([0, PER_PAGE - 1, PER_PAGE, 0xffffffff].map(mapBlockOf), [0, 0, 1, 131457]);
  const page = newPage(0);
  assert(setVisibilityBits(page, PER_PAGE - 1, 1));
  assert.equal(page.bytes[8191], 0x40);
  assert(setVisibilityBits(page, PER_PAGE + 1, 3));
  assert.equal(page.bytes[24], 0x0c);
  assert.equal(setVisibilityBits(page, PER_PAGE + 1, 3), false);
  assert.equal(clearVisibilityBits(page, 1, 2), true);
  assert.equal(page.bytes[24], 0x04);
  assert.equal(clearVisibilityBits(page, 1, 2), false);
});

test("the old form: insert, multi-insert, delete, update and lock clear without naming the map", () => {
  const heapBlock = PER_PAGE + 5;
  const one = [block(0, heapBlock)];
  assert.deepEqual(implicit(insert(0x01, one)), [[16384, heapBlock, 3]]);
  assert.deepEqual(implicit(insert(0x20, one)), []);
  assert.deepEqual(implicit(record(Rmgr.Heap2, 0x50, [1, 0, ...u16(1), ...u16(1)], one)), [
    [16384, heapBlock, 3],
  ]);
  assert.deepEqual(implicit(record(Rmgr.Heap, 0x10, [...u32(1), ...u16(1), 0, 1], one)), [
    [16384, heapBlock, 3],
  ]);
  assert.deepEqual(implicit(record(Rmgr.Heap, 0x10, [...u32(1), ...u16(1), 0, 0x1e], one)), []);
  assert.deepEqual(implicit(lock(Rmgr.Heap, 1, one)), [[16384, heapBlock, 2]]);
  assert.deepEqual(implicit(lock(Rmgr.Heap2, 1, one)), [[16384, heapBlock, 2]]);
  assert.deepEqual(implicit(lock(Rmgr.Heap, 0, one)), []);
  const two = [block(0, 7), block(1, heapBlock)];
  assert.deepEqual(implicit(update(0x20, 0x03, two)), [
    [16384, heapBlock, 3],
    [16384, 7, 3],
  ]);
  assert.deepEqual(implicit(update(0x20, 0x01, two)), [[16384, heapBlock, 3]]);
  assert.deepEqual(implicit(update(0x20, 0x02, two)), [[16384, 7, 3]]);
  assert.deepEqual(implicit(update(0x40, 0x01, one)), [[16384, heapBlock, 3]]);
  assert.deepEqual(implicit(update(0x40, 0x60, one)), []);
  // Records of others whose main data looks alike.
  assert.deepEqual(implicit(record(Rmgr.Btree, 0x00, [...u16(1), 1], one)), []);
  assert.deepEqual(implicit(record(Rmgr.Heap, 0x70, [...u16(1), 1, 1, 1, 1, 1, 1], one)), []);
});

test("the old form is applied per map page and leaves the LSN alone", () => {
  const two = update(0x20, 0x03, [block(0, 7), block(1, PER_PAGE + 5)]);
  const first = fullMap();
  redoImplicitVisibility(first, 0, two);
  assert.deepEqual(cleared(first), [[7, 0]]);
  const second = fullMap();
  redoImplicitVisibility(second, 1, two);
  assert.deepEqual(cleared(second, 1), [[PER_PAGE + 5, 0]]);
  assert.equal(pageLsn(second), 0);
  const locked = fullMap();
  redoImplicitVisibility(locked, 0, lock(Rmgr.Heap, 1, [block(0, 9)]));
  assert.deepEqual(cleared(locked), [[9, 1]]);
  const missing = new PageBuffer();
  redoImplicitVisibility(missing, 0, two);
  assert(isNewPage(missing));
});

test("the new form names the map page; the LSN moves only if a bit changed", () => {
  const named = insert(0x01, [block(0, 5), map(1, 0)]);
  assert.deepEqual(implicit(named), []);
  const page = fullMap();
  redo(page, named, 1);
  assert.deepEqual(cleared(page), [[5, 0]]);
  assert.equal(pageLsn(page), END_LSN);
  const clear = newPage(0);
  redo(clear, named, 1);
  assert.equal(pageLsn(clear), 0);
  const locked = fullMap();
  redo(locked, lock(Rmgr.Heap2, 1, [block(0, 6), map(1, 0)]), 1);
  assert.deepEqual(cleared(locked), [[6, 1]]);
  const wrongPage = insert(0x01, [block(0, 5), map(1, 1)]);
  assert.throws(() => {
    redo(fullMap(), wrongPage, 1);
  }, isLocatedCorruption);
});

test("the new form of update: one map page for both, or one each, or only the old one's", () => {
  const shared = update(0x20, 0x03, [block(0, 7), block(1, 8), map(2, 0)]);
  const both = fullMap();
  redo(both, shared, 2);
  assert.deepEqual(cleared(both), [
    [7, 0],
    [8, 0],
  ]);
  const apart = update(0x20, 0x03, [block(0, 7), block(1, PER_PAGE + 8), map(2, 0), map(3, 1)]);
  const newer = fullMap();
  redo(newer, apart, 2);
  assert.deepEqual(cleared(newer), [[7, 0]]);
  const older = fullMap();
  redo(older, apart, 3);
  assert.deepEqual(cleared(older, 1), [[PER_PAGE + 8, 0]]);
  assert.deepEqual(implicit(apart), []);
  const hot = update(0x40, 0x01, [block(0, 7), map(3, 0)]);
  const page = fullMap();
  redo(page, hot, 1);
  assert.deepEqual(cleared(page), [[7, 0]]);
  assert.deepEqual(implicit(hot), []);
  // One of two is named: the bits of the other were clear already.
  assert.deepEqual(implicit(update(0x20, 0x03, [block(0, 7), block(1, PER_PAGE + 8), map(2, 0)])), []);
});

test("visible sets bits, makes a missing map page, and stamps only what changed", () => {
  const visible = (flags: number) =>
    record(Rmgr.Heap2, 0x40, [...u32(0), flags], [map(0, 1), block(1, PER_PAGE + 2)]);
  const page = new PageBuffer();
  redo(page, visible(0x07), 0);
  assert.equal(pageLower(page), 24);
  assert.equal(visibilityBits(page, PER_PAGE + 2), 3);
  assert.equal(pageLsn(page), END_LSN);
  const same = newPage(0);
  same.bytes[24] = 0x30;
  redo(same, visible(0x03), 0);
  assert.equal(pageLsn(same), 0);
  const more = newPage(0);
  more.bytes[24] = 0x10;
  redo(more, visible(0x03), 0);
  assert.deepEqual([more.bytes[24], pageLsn(more)], [0x30, END_LSN]);
});

test("truncating a table clears what lies behind its new end", () => {
  assert.deepEqual([0, 1, PER_PAGE, PER_PAGE + 1].map(mapPagesAfterTruncate), [0, 1, 1, 2]);
  for (const blocks of [1, 2, 3, 4, 5, 1000, PER_PAGE - 1]) {
    const page = fullMap();
    truncateVisibilityPage(page, blocks);
    const expected = Array.from({ length: PER_PAGE - blocks }, (_, i) => [blocks + i, 0]);
    assert.deepEqual(cleared(page), expected, `${blocks}`);
    const second = fullMap();
    truncateVisibilityPage(second, PER_PAGE + blocks);
    assert.deepEqual(second.bytes, page.bytes);
  }
  const whole = fullMap();
  truncateVisibilityPage(whole, PER_PAGE);
  assert.deepEqual(cleared(whole), []);
  const missing = new PageBuffer();
  truncateVisibilityPage(missing, 3);
  assert(isNewPage(missing));
});

test("records too short to say what they clear are refused", () => {
  assert.throws(() => implicit(record(Rmgr.Heap, 0x00, [1, 0], [block(0, 5)])), isLocatedCorruption);
  assert.throws(
    () => implicit(record(Rmgr.Heap, 0x20, [1, 0, 0, 0, 0, 0, 0, 1], [block(0, 5)])),
    isLocatedCorruption,
  );
  assert.throws(() => implicit(insert(0x01, [])), isLocatedCorruption);
});
