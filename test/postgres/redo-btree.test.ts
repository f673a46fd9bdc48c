import assert from "node:assert/strict";
import { test } from "node:test";
import { Rmgr } from "../../src/postgres/constants.ts";
import {
  ItemState,
  PageBuffer,
  itemId,
  itemLength,
  itemOffset,
  itemState,
  maxOffsetNumber,
  pageFlags,
  pageLower,
  pageLsn,
  pagePruneXid,
  setItemId,
  setPageFlags,
  setPagePruneXid,
} from "../../src/postgres/page/layout.ts";
import { POSTGRES_18 } from "../../src/postgres/versions/postgres-18.ts";
import type { RecordSpec } from "../support/wal-builder.ts";
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
const INCOMPLETE_SPLIT = 0x80;
const HAS_GARBAGE = 0x40;

/** A tuple of 16 bytes with an 8-byte key and one TID. */
function plain(key: number, heapBlock: number, offset = 1): number[] {
  return [...tid(heapBlock, offset), ...u16(16), ...new Array<number>(8).fill(key)];
}

/** A posting list with an 8-byte key. */
function posting(key: number, tids: readonly (readonly [number, number])[]): number[] {
  const size = (16 + 6 * tids.length + 7) & ~7;
  const list = tids.flatMap(([heapBlock, offset]) => tid(heapBlock, offset));
  const all = [
    ...tid(16, tids.length | 0x2000),
    ...u16(size | 0x2000),
    ...new Array<number>(8).fill(key),
    ...list,
  ];
  while (all.length < size) all.push(0);
  return all;
}

function btreePage(
  items: readonly (readonly number[])[],
  special: { previous?: number; next?: number; level?: number; flags?: number; cycleId?: number } = {},
): PageBuffer {
  const page = newPage(16);
  addItems(page, items);
  page.view.setUint32(8176, special.previous ?? 0, true);
  page.view.setUint32(8180, special.next ?? 0, true);
  page.view.setUint32(8184, special.level ?? 0, true);
  page.view.setUint16(8188, special.flags ?? LEAF, true);
  page.view.setUint16(8190, special.cycleId ?? 0, true);
  return page;
}

function items(page: PageBuffer): number[][] {
  return Array.from({ length: maxOffsetNumber(page) }, (_, i) => {
    const id = itemId(page, i + 1);
    return [...page.bytes.subarray(itemOffset(id), itemOffset(id) + itemLength(id))];
  });
}

/** previous, next, level, flags, cycle id */
function special(page: PageBuffer): number[] {
  const { view } = page;
  return [
    view.getUint32(8176, true),
    view.getUint32(8180, true),
    view.getUint32(8184, true),
    view.getUint16(8188, true),
    view.getUint16(8190, true),
  ];
}

function btree(info: number, main: number[], blocks: NonNullable<RecordSpec["blocks"]>) {
  return makeRecord({ rmgr: Rmgr.Btree, info, xid: 700, main: bytes(...main), blocks });
}

const META = [...u32(4), ...u32(3), ...u32(2), ...u32(5), ...u32(1), ...u32(6), 1, 0, 0, 0];

function checkMeta(page: PageBuffer): void {
  const expected = [...u32(0x053162), ...META.slice(0, 24), ...u32(0), ...[0, 0, 0, 0, 0, 0, 0xf0, 0xbf], 1];
  assert.deepEqual([...page.bytes.subarray(24, 65)], expected);
  assert.equal(pageLower(page), 72);
  assert.deepEqual(special(page), [0, 0, 0, 8, 0]);
}

test("insert on an internal page: tuple, complete child, metapage", () => {
  const record = btree(0x20, u16(2), [
    block(0, 5, { data: bytes(...plain(2, 20)) }),
    block(1, 6),
    block(2, 0, { willInit: true, data: bytes(...META) }),
  ]);
  const page = btreePage([plain(1, 10), plain(3, 30)], { level: 1, flags: 0 });
  redo(page, record, 0);
  assert.deepEqual(items(page), [plain(1, 10), plain(2, 20), plain(3, 30)]);
  assert.equal(pageLsn(page), END_LSN);
  const child = btreePage([], { flags: LEAF | INCOMPLETE_SPLIT });
  redo(child, record, 1);
  assert.deepEqual(special(child), [0, 0, 0, LEAF, 0]);
  const meta = new PageBuffer();
  redo(meta, record, 2);
  checkMeta(meta);
});

test("insert into a posting list: the new TID goes into the list, its last TID into the new tuple", () => {
  const page = btreePage([
    posting(1, [
      [1, 1],
      [2, 2],
      [5, 5],
    ]),
    plain(7, 70),
  ]);
  redo(page, btree(0x50, u16(2), [block(0, 5, { data: bytes(...u16(2), ...plain(1, 3, 3)) })]));
  assert.deepEqual(items(page), [
    posting(1, [
      [1, 1],
      [2, 2],
      [3, 3],
    ]),
    plain(1, 5, 5),
    plain(7, 70),
  ]);
});

test("a position outside of the posting list, or a tuple without one, is refused", () => {
  for (const [position, first] of [
    [
      0,
      posting(1, [
        [1, 1],
        [2, 2],
      ]),
    ],
    [
      2,
      posting(1, [
        [1, 1],
        [2, 2],
      ]),
    ],
    [1, plain(1, 1)],
  ] as const) {
    const record = btree(0x50, u16(2), [block(0, 5, { data: bytes(...u16(position), ...plain(1, 3, 3)) })]);
    assert.throws(() => {
      redo(btreePage([first]), record);
    }, isLocatedCorruption);
  }
});

const leaf = [plain(99, 0), plain(1, 1), plain(2, 2), plain(3, 3), plain(4, 4)];

test("split to the left: new item among those that stay", () => {
  const main = [...u32(0), ...u16(4), ...u16(3), ...u16(0)];
  const right = [...plain(4, 4), ...plain(3, 3), ...plain(99, 0)];
  const record = btree(0x30, main, [
    block(0, 5, { data: bytes(...plain(2, 9), ...plain(88, 0)) }),
    block(1, 6, { willInit: true, data: bytes(...right) }),
    block(2, 7),
  ]);
  const page = btreePage(leaf, { previous: 4, next: 7, flags: LEAF | HAS_GARBAGE, cycleId: 3 });
  setPageFlags(page, 2);
  setPagePruneXid(page, 9);
  redo(page, record, 0);
  assert.deepEqual(items(page), [plain(88, 0), plain(1, 1), plain(2, 9), plain(2, 2)]);
  assert.deepEqual(special(page), [4, 6, 0, LEAF | INCOMPLETE_SPLIT, 0]);
  assert.deepEqual([pageFlags(page), pagePruneXid(page)], [0, 0]);
  const created = new PageBuffer();
  redo(created, record, 1);
  assert.deepEqual(items(created), [plain(99, 0), plain(3, 3), plain(4, 4)]);
  assert.deepEqual(special(created), [5, 7, 0, LEAF, 0]);
  // The last of the payload is item 1 and lies highest.
  assert.equal(itemOffset(itemId(created, 1)), 8160);
  const sibling = btreePage([], { previous: 5 });
  redo(sibling, record, 2);
  assert.equal(special(sibling)[0], 6);
});

test("split to the left with the new item last, on the rightmost page of an internal level", () => {
  const main = [...u32(1), ...u16(3), ...u16(3), ...u16(0)];
  const record = btree(0x30, main, [
    block(0, 5, { data: bytes(...plain(2, 9), ...plain(88, 0)) }),
    block(1, 6, { willInit: true, data: bytes(...plain(3, 3)) }),
    block(3, 8),
  ]);
  const page = btreePage([plain(1, 1), plain(2, 2), plain(3, 3)], { level: 1, flags: 0 });
  redo(page, record, 0);
  assert.deepEqual(items(page), [plain(88, 0), plain(1, 1), plain(2, 2), plain(2, 9)]);
  assert.deepEqual(special(page), [0, 6, 1, INCOMPLETE_SPLIT, 0]);
  const created = new PageBuffer();
  redo(created, record, 1);
  assert.deepEqual(special(created), [5, 0, 1, 0, 0]);
  const child = btreePage([], { flags: LEAF | INCOMPLETE_SPLIT });
  redo(child, record, 2);
  assert.deepEqual(special(child), [0, 0, 0, LEAF, 0]);
});

test("split to the right leaves the new item out", () => {
  const main = [...u32(0), ...u16(3), ...u16(4), ...u16(0)];
  const record = btree(0x40, main, [
    block(0, 5, { data: bytes(...plain(88, 0)) }),
    block(1, 6, { willInit: true, data: bytes(...plain(3, 3)) }),
  ]);
  const page = btreePage(leaf, { next: 7 });
  redo(page, record, 0);
  assert.deepEqual(items(page), [plain(88, 0), plain(1, 1)]);
});

test("split with a posting list replaced on the left, the new item going left or right", () => {
  const old = [
    plain(99, 0),
    posting(1, [
      [1, 1],
      [4, 4],
    ]),
    plain(3, 3),
  ];
  const swapped = posting(1, [
    [1, 1],
    [2, 2],
  ]);
  const data = bytes(...plain(1, 2, 2), ...plain(88, 0));
  const blocks = [block(0, 5, { data }), block(1, 6, { willInit: true, data: bytes(...plain(3, 3)) })];
  const toRight = btreePage(old, { next: 7 });
  redo(toRight, btree(0x40, [...u32(0), ...u16(3), ...u16(3), ...u16(1)], blocks), 0);
  assert.deepEqual(items(toRight), [plain(88, 0), swapped]);
  const toLeft = btreePage(old, { next: 7 });
  redo(toLeft, btree(0x30, [...u32(0), ...u16(3), ...u16(3), ...u16(1)], blocks), 0);
  assert.deepEqual(items(toLeft), [plain(88, 0), swapped, plain(1, 4, 4)]);
});

test("deduplication merges the intervals and nothing else", () => {
  const page = btreePage(
    [
      plain(99, 0),
      plain(1, 1),
      plain(2, 2),
      posting(2, [
        [3, 3],
        [4, 4],
      ]),
      plain(2, 5),
      plain(3, 6),
      plain(3, 7),
    ],
    { next: 9, flags: LEAF | HAS_GARBAGE },
  );
  const data = bytes(...u16(3), ...u16(3), ...u16(6), ...u16(2));
  redo(page, btree(0x60, u16(2), [block(0, 5, { data })]));
  const merged = posting(
    2,
    [
      [2, 1],
      [3, 3],
      [4, 4],
      [5, 1],
    ].map(([b, o]) => [b, o] as [number, number]),
  );
  // The base tuple gave its own TID with offset number 1.
  merged.splice(16, 6, ...tid(2, 1));
  assert.deepEqual(items(page), [
    plain(99, 0),
    plain(1, 1),
    merged,
    posting(3, [
      [6, 1],
      [7, 1],
    ]),
  ]);
  assert.deepEqual(special(page), [0, 9, 0, LEAF, 0]);
});

test("deduplication intervals that match no items are refused", () => {
  for (const [base, count] of [
    [9, 2],
    [1, 3],
    [2, 2],
    [1, 0],
  ] as const) {
    const record = btree(0x60, u16(1), [block(0, 5, { data: bytes(...u16(base), ...u16(count)) })]);
    assert.throws(
      () => {
        redo(btreePage([plain(1, 1), plain(1, 2)]), record);
      },
      isLocatedCorruption,
      `${base} ${count}`,
    );
  }
});

test("vacuum and delete shorten posting lists first, then remove items", () => {
  const build = () => {
    const page = btreePage(
      [
        plain(1, 1),
        posting(2, [
          [1, 1],
          [2, 2],
          [3, 3],
        ]),
        plain(3, 3),
        posting(4, [
          [4, 4],
          [5, 5],
        ]),
      ],
      { flags: LEAF | HAS_GARBAGE, cycleId: 0x707 },
    );
    setItemId(page, 2, itemOffset(itemId(page, 2)), ItemState.Dead, itemLength(itemId(page, 2)));
    return page;
  };
  const data = bytes(...u16(3), ...u16(2), ...u16(4), ...u16(1), ...u16(1), ...u16(1), ...u16(0));
  const expected = [
    plain(1, 1),
    posting(2, [
      [1, 1],
      [3, 3],
    ]),
    plain(4, 5, 5),
  ];
  const vacuumed = build();
  const vacuum = btree(0xc0, [...u16(1), ...u16(2)], [block(0, 5, { data })]);
  redo(vacuumed, vacuum);
  assert.deepEqual(items(vacuumed), expected);
  assert.equal(pageLsn(vacuumed), END_LSN);
  assert.equal(itemState(itemId(vacuumed, 2)), ItemState.Dead);
  assert.deepEqual(special(vacuumed), [0, 0, 0, LEAF, 0x707]);
  const deleted = build();
  redo(deleted, btree(0x70, [...u32(5), ...u16(1), ...u16(2), 0], [block(0, 5, { data })]));
  assert.deepEqual(items(deleted), expected);
  const later = build();
  redo(later, vacuum, 0, true, POSTGRES_18);
  assert.deepEqual(special(later), [0, 0, 0, LEAF, 0]);
});

test("removing TIDs that are not there, or all of them, is refused", () => {
  for (const positions of [[2], [1, 0], [0, 1], [0, 0]]) {
    const data = bytes(...u16(1), ...u16(positions.length), ...positions.flatMap(u16));
    const record = btree(0xc0, [...u16(0), ...u16(1)], [block(0, 5, { data })]);
    const page = btreePage([
      posting(2, [
        [1, 1],
        [2, 2],
      ]),
    ]);
    assert.throws(
      () => {
        redo(page, record);
      },
      isLocatedCorruption,
      positions.join(" "),
    );
  }
});

test("unlink: the page is marked deleted, its siblings point past it, the leaf below becomes half-dead", () => {
  const main = [
    ...u32(3),
    ...u32(9),
    ...u32(1),
    0,
    0,
    0,
    0,
    ...[1, 2, 3, 4, 5, 6, 7, 8],
    ...u32(13),
    ...u32(19),
    ...u32(0xffffffff),
  ];
  const record = btree(0x90, main, [
    block(0, 5, { willInit: true }),
    block(1, 3),
    block(2, 9),
    block(3, 15, { willInit: true }),
    block(4, 0, { willInit: true, data: bytes(...META) }),
  ]);
  const target = new PageBuffer(new Uint8Array(8192).fill(0xee));
  redo(target, record, 0);
  assert.deepEqual(special(target), [3, 9, 1, 0x104, 0]);
  assert.equal(pageLower(target), 32);
  assert.deepEqual([...target.bytes.subarray(24, 33)], [1, 2, 3, 4, 5, 6, 7, 8, 0]);
  const left = btreePage([], { next: 5 });
  redo(left, record, 1);
  assert.equal(special(left)[1], 9);
  const right = btreePage([], { previous: 5 });
  redo(right, record, 2);
  assert.equal(special(right)[0], 3);
  const below = new PageBuffer();
  redo(below, record, 3);
  assert.deepEqual(special(below), [13, 19, 0, 0x11, 0]);
  assert.deepEqual(items(below), [[0xff, 0xff, 0xff, 0xff, 0, 0, 0x08, 0x20]]);
  const meta = new PageBuffer();
  redo(meta, record, 4);
  checkMeta(meta);
});

test("half-dead: the parent's downlink takes over the next one's child, which goes", () => {
  const main = [...u16(1), 0, 0, ...u32(5), ...u32(3), ...u32(9), ...u32(0x10002)];
  const record = btree(0xb0, main, [block(0, 5, { willInit: true }), block(1, 2)]);
  const parent = btreePage([plain(1, 0x50005, 11), plain(2, 0x90009, 22), plain(3, 3)], {
    level: 1,
    flags: 0,
  });
  redo(parent, record, 1);
  assert.deepEqual(items(parent), [plain(1, 0x90009, 11), plain(3, 3)]);
  const page = new PageBuffer();
  redo(page, record, 0);
  assert.deepEqual(special(page), [3, 9, 0, 0x11, 0]);
  assert.deepEqual(items(page), [[1, 0, 2, 0, 0, 0, 0x08, 0x20]]);
});

test("new root: empty leaf, or the items of an internal page", () => {
  const empty = btree(
    0xa0,
    [...u32(1), ...u32(0)],
    [block(0, 1, { willInit: true }), block(2, 0, { willInit: true, data: bytes(...META) })],
  );
  const root = new PageBuffer();
  redo(root, empty, 0);
  assert.deepEqual(special(root), [0, 0, 0, 3, 0]);
  assert.deepEqual(items(root), []);
  const data = bytes(...plain(2, 2), ...[...tid(1, 0), ...u16(8)]);
  const higher = btree(
    0xa0,
    [...u32(4), ...u32(1)],
    [
      block(0, 4, { willInit: true, data }),
      block(1, 1),
      block(2, 0, { willInit: true, data: bytes(...META) }),
    ],
  );
  const page = new PageBuffer();
  redo(page, higher, 0);
  assert.equal(pageLsn(page), END_LSN);
  assert.deepEqual(special(page), [0, 0, 1, 2, 0]);
  assert.deepEqual(items(page), [[...tid(1, 0), ...u16(8)], plain(2, 2)]);
  const child = btreePage([], { flags: LEAF | INCOMPLETE_SPLIT });
  redo(child, higher, 1);
  assert.deepEqual(special(child), [0, 0, 0, LEAF, 0]);
});

test("metapage cleanup restores the metapage; a page without btree's special area is refused", () => {
  const meta = new PageBuffer();
  redo(meta, btree(0xe0, [], [block(0, 0, { willInit: true, data: bytes(...META) })]));
  checkMeta(meta);
  const insert = btree(0x00, u16(1), [block(0, 5, { data: bytes(...plain(1, 1)) })]);
  assert.throws(() => {
    redo(newPage(8), insert);
  }, isLocatedCorruption);
});

test("a tuple whose header claims more than is stored, or less than a header, is refused", () => {
  const dedup = btree(0x60, u16(0), [block(0, 5)]);
  redo(btreePage([plain(1, 1)]), dedup);
  for (const size of [0, 7, 17, 0x1fff]) {
    const wrong = plain(1, 1);
    wrong.splice(6, 2, ...u16(size));
    assert.throws(
      () => {
        redo(btreePage([wrong]), dedup);
      },
      isLocatedCorruption,
      `${size}`,
    );
  }
  for (const [list, count] of [
    [0, 2],
    [7, 2],
    [0xffffffff, 2],
    [16, 0],
    [16, 3],
    [24, 2],
  ] as const) {
    const wrong = posting(1, [
      [1, 1],
      [2, 2],
    ]);
    wrong.splice(0, 6, ...tid(list, count | 0x2000));
    assert.throws(
      () => {
        redo(btreePage([wrong]), dedup);
      },
      isLocatedCorruption,
      `${list} ${count}`,
    );
  }
});
