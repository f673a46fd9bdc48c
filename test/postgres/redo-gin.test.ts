/** GIN records that a server seldom writes, and the limits of posting lists. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Rmgr } from "../../src/postgres/constants.ts";
import {
  type PageBuffer,
  maxOffsetNumber,
  pageLower,
  pageLsn,
  pagePruneXid,
  setPageLower,
} from "../../src/postgres/page/layout.ts";
import { SeededRandom } from "../support/random.ts";
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

const DATA = 1;
const LEAF = 2;
const DELETED = 4;
const INCOMPLETE_SPLIT = 0x40;
const COMPRESSED = 0x80;

type Tid = readonly [block: number, offset: number];

function gin(info: number, main: number[], blocks: BlockSpec[]) {
  return makeRecord({ rmgr: Rmgr.Gin, info, main: bytes(...main), blocks });
}

function ginPage(flags: number, content: readonly number[] = [], count = 0): PageBuffer {
  const page = newPage(8);
  page.view.setUint32(8184, 0xffffffff, true);
  page.view.setUint16(8188, count, true);
  page.view.setUint16(8190, flags, true);
  if (flags & DATA) {
    page.bytes.set(content, 32);
    setPageLower(page, 32 + content.length);
  }
  return page;
}

const flagsOf = (page: PageBuffer): number => page.view.getUint16(8190, true);
const contentOf = (page: PageBuffer): number[] => [...page.bytes.subarray(32, pageLower(page))];

/** A compressed posting list, written with bigint: not the way redo does it. */
function segment(tids: readonly Tid[]): number[] {
  const numbers = tids.map(([page, offset]) => (BigInt(page) << 11n) | BigInt(offset));
  const rest: number[] = [];
  for (let i = 1; i < numbers.length; i++) {
    let distance = (numbers[i] as bigint) - (numbers[i - 1] as bigint);
    for (; distance > 0x7fn; distance >>= 7n) rest.push(Number(distance & 0x7fn) | 0x80);
    rest.push(Number(distance));
  }
  const size = rest.length;
  if (size & 1) rest.push(0);
  return [...tid(...(tids[0] as Tid)), ...u16(size), ...rest];
}

/** Content of a record that changes a leaf. */
const actions = (...list: number[][]): Uint8Array => bytes(...u16(list.length), ...list.flat());
const remove = (at: number) => [at, 1];
const insert = (at: number, tids: Tid[]) => [at, 2, ...segment(tids)];
const replace = (at: number, tids: Tid[]) => [at, 3, ...segment(tids)];
const add = (at: number, tids: Tid[]) => [at, 4, ...u16(tids.length), ...tids.flatMap((t) => tid(...t))];

function recompress(page: PageBuffer, data: Uint8Array): void {
  redo(page, gin(0x90, [], [block(0, 5, { data })]));
}

const leafFlags = DATA | LEAF | COMPRESSED;

test("posting lists are kept, removed, inserted, replaced and extended in one pass", () => {
  const [a, b, c, d]: Tid[][] = [
    [[1, 1]],
    [
      [2, 1],
      [2, 9],
    ],
    [
      [3, 1],
      [900, 2],
      [4_000_000_000, 5],
    ],
    [[4_100_000_000, 1]],
  ];
  assert(a && b && c && d);
  const page = ginPage(leafFlags, [...segment(a), ...segment(b), ...segment(c), ...segment(d)]);
  const added: Tid[] = [
    [2, 2047],
    [900, 2],
    [901, 1],
  ];
  recompress(
    page,
    actions(
      remove(0),
      insert(1, [[1, 7]]),
      replace(1, [[2, 5]]),
      add(2, added),
      insert(4, [[4_200_000_000, 3]]),
    ),
  );
  const merged: Tid[] = [
    [2, 2047],
    [3, 1],
    [900, 2],
    [901, 1],
    [4_000_000_000, 5],
  ];
  const expected = [[[1, 7]], [[2, 5]], merged, d, [[4_200_000_000, 3]]] as Tid[][];
  assert.deepEqual(contentOf(page), expected.flatMap(segment));
  assert.equal(pageLsn(page), END_LSN);
});

test("random lists merge as they should, up to the last TID", (t) => {
  const random = SeededRandom.forTest(t);
  for (let round = 0; round < 200; round++) {
    const pick = (): Tid => [
      random.pick([random.below(4), random.below(3000), random.u32()]),
      random.between(1, 2047),
    ];
    const sorted = (tids: Tid[]) =>
      [...new Map(tids.map((x) => [x[0] * 2048 + x[1], x])).entries()]
        .sort((a, b) => a[0] - b[0])
        .map((x) => x[1]);
    const old = sorted(Array.from({ length: random.between(1, 60) }, pick));
    const more = sorted(Array.from({ length: random.between(1, 30) }, pick));
    const page = ginPage(leafFlags, segment(old));
    recompress(page, actions(add(0, more)));
    assert.deepEqual(contentOf(page), segment(sorted([...old, ...more])));
  }
});

test("a leaf from before 9.4 is compressed first", () => {
  const tids: Tid[] = [
    [1, 1],
    [1, 2],
    [70_000, 9],
  ];
  const page = ginPage(
    DATA | LEAF,
    tids.flatMap((x) => tid(...x)),
    3,
  );
  recompress(page, actions(add(0, [[5, 5]])));
  assert.deepEqual(
    contentOf(page),
    segment([
      [1, 1],
      [1, 2],
      [5, 5],
      [70_000, 9],
    ]),
  );
  assert.deepEqual([flagsOf(page), page.view.getUint16(8188, true)], [leafFlags, 0]);
  const empty = ginPage(DATA | LEAF, [], 0);
  recompress(empty, actions(insert(0, [[3, 3]])));
  assert.deepEqual(contentOf(empty), segment([[3, 3]]));
});

test("changes of posting lists that do not fit the page are corrupt", () => {
  const page = () =>
    ginPage(leafFlags, [
      ...segment([
        [1, 1],
        [1, 5],
      ]),
      ...segment([[2, 1]]),
    ]);
  const many = Array.from({ length: 1300 }, (_, i): Tid => [i * 3_000_000, 1]);
  const full = ginPage(leafFlags, segment(many));
  for (const [name, data, target] of [
    ["no actions where one is said to be", bytes(...u16(1)), page()],
    ["bytes left", bytes(...u16(0), 0), page()],
    ["backwards", actions(remove(1), remove(0)), page()],
    ["behind the last", actions(remove(2)), page()],
    ["far behind the last", actions(insert(3, [[9, 9]])), page()],
    ["unknown action", actions([0, 5]), page()],
    ["list cut short", actions([0, 2, 0, 0, 0, 0, 1, 0, 200, 0]), page()],
    ["more TIDs than there are", actions([0, 4, 9, 0]), page()],
    ["no room", actions(insert(0, many)), full],
    [
      "no room for more TIDs",
      actions(
        ...[
          add(
            0,
            many.map(([x]) => [x, 1000]),
          ),
        ],
      ),
      full,
    ],
    [
      "TIDs not ascending",
      actions(
        add(0, [
          [1, 7],
          [1, 6],
        ]),
      ),
      page(),
    ],
    ["not a leaf", actions(remove(0)), ginPage(DATA)],
    ["an entry page", actions(remove(0)), ginPage(LEAF)],
    ["a list of old TIDs beyond the page", actions(remove(0)), ginPage(DATA | LEAF, [], 2000)],
    [
      "a list on the page that has no end",
      actions(add(0, [[1, 1]])),
      ginPage(leafFlags, [...tid(1, 1), ...u16(2), 255, 255]),
    ],
    [
      "a list on the page longer than the page's content",
      actions(remove(0)),
      ginPage(leafFlags, [...tid(1, 1), ...u16(4), 1, 1]),
    ],
    [
      "a distance of 8 bytes",
      actions(add(0, [[1, 1]])),
      ginPage(leafFlags, [...tid(1, 1), ...u16(8), ...new Array<number>(7).fill(255), 1]),
    ],
    [
      "TIDs beyond the last",
      actions(add(0, [[1, 1]])),
      ginPage(leafFlags, [...tid(1, 1), ...u16(8), ...new Array<number>(6).fill(255), 127, 0]),
    ],
  ] as const) {
    assert.throws(
      () => {
        recompress(target, data);
      },
      isLocatedCorruption,
      name,
    );
  }
});

const postingItem = (child: number, key: Tid): number[] => [...tid(child, 0).slice(0, 4), ...tid(...key)];
const child = (number: number): number[] => tid(number, 0).slice(0, 4);

test("a downlink on an inner page of a posting tree; the left child is complete", () => {
  const old = [postingItem(7, [1, 1]), postingItem(8, [5, 5])];
  const page = ginPage(DATA, old.flat(), 2);
  const left = postingItem(70_000, [1, 1]);
  const main = [...u16(1), ...child(70_000), ...child(9)];
  const record = gin(0x20, main, [block(0, 5, { data: bytes(...u16(2), ...left) }), block(1, 70_000)]);
  redo(page, record, 0);
  assert.deepEqual(contentOf(page), [...postingItem(7, [1, 1]), ...left, ...postingItem(9, [5, 5])]);
  assert.equal(page.view.getUint16(8188, true), 3);
  const complete = ginPage(leafFlags | INCOMPLETE_SPLIT);
  redo(complete, record, 1);
  assert.equal(flagsOf(complete), leafFlags);
  for (const number of [0, 3, 0xffff]) {
    const wrong = gin(0x20, main, [block(0, 5, { data: bytes(...u16(number), ...left) })]);
    assert.throws(() => {
      redo(ginPage(DATA, old.flat(), 2), wrong);
    }, isLocatedCorruption);
  }
});

test("a downlink on an inner entry page", () => {
  const entry = (n: number, size = 16): number[] => [
    ...tid(n, 0),
    ...u16(size),
    ...new Array<number>(size - 8).fill(n),
  ];
  const page = ginPage(0);
  addItems(page, [entry(7), entry(8)]);
  const main = [...u16(0), ...child(90_000), ...child(91_000)];
  const data = bytes(...u16(2), 0, 0, ...entry(5, 24));
  redo(page, gin(0x20, main, [block(0, 5, { data })]));
  assert.equal(maxOffsetNumber(page), 3);
  const third = page.view.getUint32(32, true) & 0x7fff;
  assert.deepEqual([...page.bytes.subarray(third, third + 6)], tid(91_000, 0));
});

test("deletion of a page of a posting tree", () => {
  const items = [postingItem(7, [1, 1]), postingItem(8, [5, 5]), postingItem(9, [0, 0])];
  const record = gin(
    0x50,
    [...u16(2), 0, 0, ...u32(99), ...u32(4242)],
    [block(0, 8), block(1, 3), block(2, 7)],
  );
  const deleted = ginPage(leafFlags);
  redo(deleted, record, 0);
  assert.deepEqual([flagsOf(deleted), pagePruneXid(deleted)], [leafFlags | DELETED, 4242]);
  const parent = ginPage(DATA, items.flat(), 3);
  redo(parent, record, 1);
  assert.deepEqual(contentOf(parent), [...postingItem(7, [1, 1]), ...postingItem(9, [0, 0])]);
  const left = ginPage(leafFlags);
  redo(left, record, 2);
  assert.equal(left.view.getUint32(8184, true), 99);
  assert.throws(() => {
    redo(ginPage(DATA, [], 1), record, 1);
  }, isLocatedCorruption);
});

test("records that must have images are corrupt without", () => {
  for (const [info, id] of [
    [0x30, 0],
    [0x30, 1],
    [0x30, 2],
    [0x40, 0],
  ] as const) {
    assert.throws(() => {
      redo(ginPage(LEAF), gin(info, new Array<number>(28).fill(0), [block(id, 5)]));
    }, isLocatedCorruption);
  }
});
