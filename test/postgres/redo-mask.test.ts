import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { Rmgr } from "../../src/postgres/constants.ts";
import {
  PageBuffer,
  itemId,
  itemOffset,
  setPageFlags,
  setPageLower,
  setPagePruneXid,
} from "../../src/postgres/page/layout.ts";
import { maskPage } from "../../src/postgres/redo/mask.ts";
import { SeededRandom } from "../support/random.ts";
import { addItems, newPage, tid, u16, u32 } from "./redo-builder.ts";

/** Positions at which masking changes the page. */
function masked(rmgr: number, page: PageBuffer, blockNumber = 7): number[] {
  const copy = new PageBuffer(page.bytes.slice());
  maskPage(rmgr, copy, blockNumber);
  const found: number[] = [];
  for (let i = 0; i < 8192; i++) if (copy.bytes[i] !== page.bytes[i]) found.push(i);
  return found;
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

/** LSN, checksum, all flags and prune xid set; the hole, 24 (or more) to `special`, full. */
function dressed(specialSize: number, items: number[][] = []): PageBuffer {
  const page = newPage(specialSize);
  addItems(page, items);
  page.bytes.fill(1, 0, 10);
  setPageFlags(page, 7);
  setPagePruneXid(page, 0x01010101);
  const lower = page.view.getUint16(12, true);
  page.bytes.fill(0xee, lower, page.view.getUint16(14, true));
  return page;
}

const HEADER = [...range(0, 10), 10, ...range(20, 24)];
const LSN_AND_CHECKSUM = range(0, 10);

function heapTuple(infomask: number, ctid: number[] = tid(1, 1), infomask2 = 0xffff): number[] {
  return [
    ...u32(100),
    ...u32(200),
    ...u32(0x01010101),
    ...ctid,
    ...u16(infomask2),
    ...u16(infomask),
    24,
    0,
    5,
  ];
}

test("heap: hints, hole, command id, transaction bits, speculative ctid and padding", () => {
  const page = dressed(0, [heapTuple(0xffff), heapTuple(0xfcff), heapTuple(0xfcff, tid(9, 0xfffe))]);
  const [frozen, normal, speculative] = [1, 2, 3].map((n) => itemOffset(itemId(page, n))) as [
    number,
    number,
    number,
  ];
  for (const start of [frozen, normal, speculative]) page.bytes.fill(0xdd, start + 25, start + 32);
  const expected = [
    ...HEADER,
    ...range(36, speculative),
    ...[...range(8, 12), 21, ...range(25, 32)].map((i) => frozen + i),
    ...[...range(8, 12), 20, 21, ...range(25, 32)].map((i) => normal + i),
    ...[...range(8, 12), 14, 16, 17, 20, 21, ...range(25, 32)].map((i) => speculative + i),
  ];
  assert.deepEqual(
    masked(Rmgr.Heap, page),
    expected.sort((a, b) => a - b),
  );
  assert.deepEqual(masked(Rmgr.Heap2, page), expected);
  maskPage(Rmgr.Heap, page, 7);
  assert.equal(page.view.getUint16(frozen + 20, true), 0xf3ff);
  assert.equal(page.view.getUint16(normal + 20, true), 0x000f);
  assert.deepEqual([...page.bytes.subarray(speculative + 12, speculative + 18)], tid(7, 3));
});

/** A page with one dead item of 8 bytes and a special area. */
function indexPage(specialSize: number, flagsAt: number, flags: number): PageBuffer {
  const page = dressed(specialSize, [[1, 2, 3, 4, 5, 6, 7, 8]]);
  page.bytes.fill(0xff, 8192 - specialSize);
  page.view.setUint16(flagsAt, flags, true);
  page.view.setUint32(24, (itemId(page, 1) | (3 << 15)) >>> 0, true);
  return page;
}

/** Where the state of item 1 lies. */
const ITEM_STATE = [25, 26];

test("btree: item states on leaves only, garbage, split end and cycle id", () => {
  const hole = range(28, 8168);
  assert.deepEqual(masked(Rmgr.Btree, indexPage(16, 8188, 0xffff)), [
    ...HEADER,
    ...ITEM_STATE,
    ...hole,
    8188,
    8190,
    8191,
  ]);
  const inner = indexPage(16, 8188, 0xfffe);
  assert.deepEqual(masked(Rmgr.Btree, inner), [...HEADER, ...hole, 8188, 8190, 8191]);
  maskPage(Rmgr.Btree, inner, 0);
  assert.equal(inner.view.getUint16(8188, true), 0xff9e);
});

test("hash: everything on unused pages, item states on bucket and overflow pages, dead-tuples flag", () => {
  const hole = range(28, 8168);
  for (const kind of [1, 2]) {
    assert.deepEqual(masked(Rmgr.Hash, indexPage(16, 8188, 0x80 | kind)), [
      ...HEADER,
      ...ITEM_STATE,
      ...hole,
      8188,
    ]);
  }
  assert.deepEqual(masked(Rmgr.Hash, indexPage(16, 8188, 0x84)), [...HEADER, ...hole, 8188]);
  const unused = indexPage(16, 8188, 0x80);
  maskPage(Rmgr.Hash, unused, 0);
  assert(unused.bytes.subarray(24).every((byte) => byte === 0));
  assert.deepEqual([...unused.bytes.subarray(12, 18)], [0, 0, 0, 0, 0xf0, 0x1f]);
});

test("gin: the hole unless there is none, everything on deleted pages", () => {
  assert.deepEqual(masked(Rmgr.Gin, indexPage(8, 8190, 0xfffb)), [...HEADER, ...range(28, 8176)]);
  const old = indexPage(8, 8190, 0xfffb);
  setPageLower(old, 24);
  assert.deepEqual(masked(Rmgr.Gin, old), HEADER);
  const deleted = indexPage(8, 8190, 0xffff);
  maskPage(Rmgr.Gin, deleted, 0);
  assert(deleted.bytes.subarray(24).every((byte) => byte === 0));
});

test("gist: sequence number, follow-right and garbage, item states on leaves", () => {
  const page = indexPage(16, 8188, 0x11);
  assert.deepEqual(masked(Rmgr.Gist, page), [
    ...HEADER,
    ...ITEM_STATE,
    ...range(28, 8168),
    ...range(8176, 8184),
    8188,
  ]);
  maskPage(Rmgr.Gist, page, 0);
  assert.equal(page.view.getUint16(8188, true), 0x09);
});

test("spgist and brin: the hole where it is one, brin's evacuate flag", () => {
  assert.deepEqual(masked(Rmgr.Spgist, indexPage(8, 8184, 0)), [...HEADER, ...range(28, 8176)]);
  const brin = (kind: number) => {
    const page = indexPage(8, 8190, kind);
    page.view.setUint16(8188, 1, true);
    return page;
  };
  assert.deepEqual(masked(Rmgr.Brin, brin(0xf093)), [...HEADER, ...range(28, 8176), 8188]);
  assert.deepEqual(masked(Rmgr.Brin, brin(0xf091)), [...HEADER, ...range(28, 8176), 8188]);
  assert.deepEqual(masked(Rmgr.Brin, brin(0xf092)), [...HEADER, 8188]);
});

test("sequences and generic records: LSN, checksum and hole, no hints; others nothing", () => {
  for (const rmgr of [Rmgr.Seq, Rmgr.Generic]) {
    assert.deepEqual(masked(rmgr, indexPage(8, 8184, 0)), [...LSN_AND_CHECKSUM, ...range(28, 8176)]);
  }
  for (const rmgr of [Rmgr.Xlog, Rmgr.Xact, 200]) assert.deepEqual(masked(rmgr, indexPage(8, 8184, 0)), []);
});

test("an empty page is masked like any other, one whose areas overlap is refused", () => {
  const empty = newPage(16);
  empty.bytes.fill(0xee, 24, 8176);
  assert.deepEqual(masked(Rmgr.Btree, empty), range(24, 8176));
  for (const [at, value] of [
    [12, 23],
    [12, 8177],
    [14, 8177],
    [16, 8193],
  ] as const) {
    const page = newPage(16);
    page.view.setUint16(at, value, true);
    assert.throws(() => masked(Rmgr.Btree, page), NeonError, `${at} ${value}`);
  }
});

test("masking any bytes ends in a masked page or in `corrupt`", (t) => {
  const random = SeededRandom.forTest(t);
  for (let i = 0; i < 2000; i++) {
    const page = newPage(random.pick([0, 8, 16]));
    page.bytes.set(random.bytes(64), random.pick([0, 8, 12, 24]));
    page.bytes.set(random.bytes(16), 8176);
    try {
      maskPage(random.below(22), page, 1);
    } catch (error) {
      assert(error instanceof NeonError && error.code === ErrorCode.Corrupt);
    }
  }
});
