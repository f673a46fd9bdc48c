/** SP-GiST records that a server seldom writes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Rmgr } from "../../src/postgres/constants.ts";
import {
  PageBuffer,
  itemId,
  itemLength,
  itemOffset,
  maxOffsetNumber,
} from "../../src/postgres/page/layout.ts";
import { POSTGRES_15 } from "../../src/postgres/versions/postgres-15.ts";
import type { BlockSpec } from "../support/wal-builder.ts";
import {
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
const LEAF = 4;
const NULLS = 8;
const REDIRECT = 1;
const PLACEHOLDER = 3;

function spgist(info: number, main: number[], blocks: BlockSpec[]) {
  return makeRecord({ rmgr: Rmgr.Spgist, info, main: bytes(...main), blocks });
}

function spgistPage(flags: number, tuples: number[][] = [], redirects = 0, placeholders = 0): PageBuffer {
  const page = newPage(8);
  addItems(page, tuples);
  [flags, redirects, placeholders, 0xff82].forEach((value, i) => {
    page.view.setUint16(8184 + 2 * i, value, true);
  });
  return page;
}

/** flags, redirects, placeholders */
const special = (page: PageBuffer): number[] => [8184, 8186, 8188].map((at) => page.view.getUint16(at, true));

function items(page: PageBuffer): number[][] {
  return Array.from({ length: maxOffsetNumber(page) }, (_, i) => {
    const id = itemId(page, i + 1);
    return [...page.bytes.subarray(itemOffset(id), itemOffset(id) + itemLength(id))];
  });
}

/** A leaf tuple of 16 bytes. */
const leaf = (n: number, next = 0, state = 0): number[] => [
  ...u32((16 << 2) | state),
  ...u16(next),
  ...tid(n, 1),
  ...u32(n),
];
const dead = (state: number, target: readonly [number, number] = [NONE, 0], xid = 0): number[] => [
  ...u32((16 << 2) | state),
  ...u16(0),
  ...tid(...target),
  ...u32(xid),
];
/** An inner tuple with a prefix of 8 bytes and two nodes of 16 bytes. */
const inner = (links: readonly (readonly [number, number])[], mark = 9): number[] => {
  const nodes = links.flatMap((link) => [...tid(...link), ...u16(16), ...new Array<number>(8).fill(mark)]);
  const size = 8 + 8 + nodes.length;
  return [
    ...u32((8 << 16) | (links.length << 3)),
    ...u16(size),
    0,
    0,
    ...new Array<number>(8).fill(mark),
    ...nodes,
  ];
};

const state = (isBuild: number): number[] => [...u32(700), isBuild, 0, 0, 0];
const addNode = (flags: { newPage?: number; parent: number; isBuild?: number }): number[] => [
  ...[...u16(1), ...u16(2), flags.newPage ?? 0, flags.parent & 255],
  ...[...u16(1), ...u16(1), 0, 0, ...state(flags.isBuild ?? 0)],
  ...inner([
    [1, 1],
    [2, 2],
    [3, 3],
  ]),
];
const parent = inner([
  [1, 1],
  [1, 2],
]);
const linked = inner([
  [1, 1],
  [31, 2],
]);

test("an inner tuple that moves to another page, its parent on either page or on a third", () => {
  const larger = inner([
    [1, 1],
    [2, 2],
    [3, 3],
  ]);
  const blocks = (count: number) => [block(0, 30), block(1, 31), block(2, 32)].slice(0, count);
  const third = spgistPage(0, [parent]);
  redo(third, spgist(0x30, addNode({ parent: 2 }), blocks(3)), 2);
  assert.deepEqual(items(third), [linked]);

  const source = spgistPage(0, [inner([[1, 1]])]);
  redo(source, spgist(0x30, addNode({ parent: 2 }), blocks(3)), 0);
  assert.deepEqual(items(source), [dead(REDIRECT, [31, 2], 700)]);
  assert.deepEqual(special(source), [0, 1, 0]);

  const building = spgistPage(0, [inner([[1, 1]])]);
  redo(building, spgist(0x30, addNode({ parent: 2, isBuild: 1 }), blocks(3)), 0);
  assert.deepEqual(items(building), [dead(PLACEHOLDER)]);
  assert.deepEqual(special(building), [0, 0, 1]);

  const withParent = spgistPage(0, [parent, dead(PLACEHOLDER)], 0, 1);
  redo(withParent, spgist(0x30, addNode({ parent: 1 }), blocks(2)), 1);
  assert.deepEqual(items(withParent), [linked, larger]);
  assert.deepEqual(special(withParent), [0, 0, 0]);

  const main = addNode({ parent: 0 });
  main.splice(0, 2, ...u16(2));
  const sourceWithParent = spgistPage(0, [parent, inner([[1, 1]])]);
  redo(sourceWithParent, spgist(0x30, main, blocks(2)), 0);
  assert.deepEqual(items(sourceWithParent), [linked, dead(REDIRECT, [31, 2], 700)]);
});

/** One tuple of the old list leaves; two leaf tuples: one stays (or goes to the new page), one goes to the target. */
const picksplit = (
  flags: Partial<Record<"root" | "source" | "target" | "inner" | "nulls" | "parent" | "build", number>>,
) => [
  ...[
    flags.root ?? 0,
    0,
    ...u16(2),
    ...u16(2),
    flags.source ?? 0,
    flags.target ?? 0,
    ...u16(1),
    flags.inner ?? 0,
  ],
  ...[flags.nulls ?? 0, flags.parent ?? 0, 0, ...u16(2), ...u16(1), 0, 0, ...state(flags.build ?? 0)],
  ...[...u16(2), ...u16(1), ...u16(1), ...u16(1), 0, 1],
  ...inner([
    [5, 5],
    [6, 6],
  ]),
  ...leaf(21),
  ...leaf(22),
];

test("a list of leaf tuples that is split, with pages made anew or not", () => {
  const blocks = (init: boolean) => [
    block(0, 10, { willInit: init }),
    block(1, 11, { willInit: init }),
    block(2, 12, { willInit: init }),
    block(3, 13),
  ];
  const anew = spgist(0x50, picksplit({ source: 1, target: 1, inner: 1, nulls: 1 }), blocks(true));
  const pages = [0, 1, 2].map((index) => {
    const page = new PageBuffer();
    redo(page, anew, index);
    return [special(page)[0], items(page)];
  });
  assert.deepEqual(pages, [
    [LEAF | NULLS, [leaf(21)]],
    [LEAF | NULLS, [leaf(22)]],
    [
      NULLS,
      [
        inner([
          [5, 5],
          [6, 6],
        ]),
      ],
    ],
  ]);
  const top = spgistPage(0, [leaf(1), parent]);
  redo(top, anew, 3);
  assert.deepEqual(
    items(top)[1],
    inner([
      [1, 1],
      [12, 1],
    ]),
  );

  // The first of the list becomes a redirect, the second a placeholder, which a leaf tuple takes over.
  const source = spgistPage(LEAF, [leaf(1), leaf(2, 1), leaf(3)]);
  redo(source, spgist(0x50, picksplit({}), blocks(false)), 0);
  assert.deepEqual(items(source), [leaf(21), dead(REDIRECT, [12, 1], 700), leaf(3)]);
  assert.deepEqual(special(source), [LEAF, 1, 0]);
  const building = spgistPage(LEAF, [leaf(1), leaf(2, 1), leaf(3)]);
  redo(building, spgist(0x50, picksplit({ build: 1 }), blocks(false)), 0);
  assert.deepEqual(items(building), [leaf(21), dead(PLACEHOLDER), leaf(3)]);

  const both = spgistPage(0, [dead(PLACEHOLDER), parent], 0, 1);
  redo(both, spgist(0x50, picksplit({ parent: 1 }), blocks(false)), 2);
  assert.deepEqual(items(both), [
    inner([
      [5, 5],
      [6, 6],
    ]),
    inner([
      [1, 1],
      [12, 1],
    ]),
  ]);
});

test("leaf tuples that move while the index is built leave no redirect", () => {
  const main = (isBuild: number) => [
    ...[...u16(1), 0, 0, 0, 0, ...u16(1), ...u16(1), 0, 0, ...state(isBuild)],
    ...[...u16(1), ...u16(1), ...u16(2), ...leaf(7, 2), ...leaf(8)],
  ];
  const blocks = [block(0, 10), block(1, 11), block(2, 12)];
  for (const [isBuild, expected, counts] of [
    [0, dead(REDIRECT, [11, 2], 700), [LEAF, 1, 0]],
    [1, dead(PLACEHOLDER), [LEAF, 0, 1]],
  ] as const) {
    const page = spgistPage(LEAF, [leaf(1)]);
    redo(page, spgist(0x20, main(isBuild), blocks), 0);
    assert.deepEqual([items(page), special(page)], [[expected], counts]);
  }
  const target = spgistPage(LEAF);
  redo(target, spgist(0x20, main(0), blocks), 1);
  assert.deepEqual(items(target), [leaf(7, 2), leaf(8)]);
});

test("redirects become placeholders, in the layouts of old and new versions", () => {
  const tuples = [leaf(1), dead(REDIRECT, [5, 5], 700), leaf(2), dead(PLACEHOLDER), dead(PLACEHOLDER)];
  const now = spgistPage(LEAF, tuples, 1, 2);
  redo(now, spgist(0x80, [...u16(1), ...u16(4), ...u32(0), 0, 0, ...u16(2)], [block(0, 9)]));
  const then = spgistPage(LEAF, tuples, 1, 2);
  redo(then, spgist(0x80, [...u16(1), ...u16(4), ...u32(0), ...u16(2)], [block(0, 9)]), 0, true, POSTGRES_15);
  for (const page of [now, then]) {
    assert.deepEqual(items(page), [leaf(1), dead(PLACEHOLDER, [NONE, 0], 700), leaf(2)]);
    assert.deepEqual(special(page), [LEAF, 0, 1]);
  }
});

test("tuples that do not fit the page are corrupt", () => {
  const addLeaf = (number: number, head: number, tuple: number[]) => [
    0,
    0,
    ...u16(number),
    ...u16(head),
    ...u16(1),
    ...u16(5),
    ...tuple,
  ];
  for (const [name, page, record] of [
    ["over a live tuple", spgistPage(LEAF, [leaf(1)]), spgist(0x10, addLeaf(1, 0, leaf(2)), [block(0, 9)])],
    ["item 0", spgistPage(LEAF, [leaf(1)]), spgist(0x10, addLeaf(0, 1, leaf(2)), [block(0, 9)])],
    ["far behind the last", spgistPage(LEAF, [leaf(1)]), spgist(0x10, addLeaf(5, 1, leaf(2)), [block(0, 9)])],
    ["no head", spgistPage(LEAF, [leaf(1)]), spgist(0x10, addLeaf(2, 9, leaf(2)), [block(0, 9)])],
    [
      "no such node",
      spgistPage(0, [parent]),
      spgist(0x10, addLeaf(2, 9, leaf(2)), [block(0, 9), block(1, 8)]),
    ],
    ["short tuple", spgistPage(LEAF), spgist(0x10, addLeaf(1, 0, leaf(2).slice(0, 15)), [block(0, 9)])],
    [
      "prefix beyond the tuple",
      spgistPage(0, [[0, 0, 255, 255, ...u16(40), ...new Array<number>(34).fill(0)]]),
      spgist(0x10, addLeaf(1, 0, leaf(2)), [block(0, 9), block(1, 8)]),
    ],
  ] as const) {
    const index = record.blockCount - 1;
    assert.throws(
      () => {
        redo(page, record, index);
      },
      isLocatedCorruption,
      name,
    );
  }
});
