import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { Rmgr } from "../../src/postgres/constants.ts";
import {
  PageBuffer,
  itemId,
  itemLength,
  itemOffset,
  itemState,
  maxOffsetNumber,
  pageFlags,
  pageLsn,
  pagePruneXid,
  setPageFlags,
  setPagePruneXid,
} from "../../src/postgres/page/layout.ts";
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

const BLOCK = 0x12345;
const ALL_VISIBLE = 4;

/** A tuple with a header of 24 bytes and `data` behind it. */
function tuple(options: {
  xmin?: number;
  xmax?: number;
  cid?: number;
  infomask?: number;
  infomask2?: number;
  data?: readonly number[];
}): number[] {
  const { xmin = 100, xmax = 0, cid = 0, infomask = 0x0902, infomask2 = 2, data = [] } = options;
  return [
    ...u32(xmin),
    ...u32(xmax),
    ...u32(cid),
    ...tid(9, 9),
    ...u16(infomask2),
    ...u16(infomask),
    24,
    0,
    ...data,
  ];
}

function pageWith(...tuples: number[][]): PageBuffer {
  const page = newPage(0);
  addItems(page, tuples);
  return page;
}

/** The bytes of an item. */
function stored(page: PageBuffer, number: number): number[] {
  const id = itemId(page, number);
  return [...page.bytes.subarray(itemOffset(id), itemOffset(id) + itemLength(id))];
}

function heap(info: number, main: number[], blocks: RecordSpec["blocks"] = [block(0, BLOCK)], xid = 777) {
  return makeRecord({ rmgr: Rmgr.Heap, info, xid, main: bytes(...main), blocks });
}

function heap2(info: number, main: number[], blocks: RecordSpec["blocks"] = [block(0, BLOCK)], xid = 777) {
  return makeRecord({ rmgr: Rmgr.Heap2, info, xid, main: bytes(...main), blocks });
}

const header = (infomask2: number, infomask: number, hoff = 24) => [
  ...u16(infomask2),
  ...u16(infomask),
  hoff,
];

test("insert builds the tuple from header and bytes, and clears all-visible when told", () => {
  const data = bytes(...header(3, 0x0822), 0xaa, 1, 2, 3);
  const page = pageWith(tuple({}));
  setPageFlags(page, ALL_VISIBLE);
  redo(page, heap(0x00, [...u16(2), 0x01], [block(0, BLOCK, { data })]));
  // Command id zero and no combined one (0x20); xmax zero; ctid is the tuple itself.
  const expected = [
    ...u32(777),
    ...u32(0),
    ...u32(0),
    ...tid(BLOCK, 2),
    ...u16(3),
    ...u16(0x0802),
    24,
    0xaa,
    1,
    2,
    3,
  ];
  assert.deepEqual(stored(page, 2), expected);
  assert.equal(pageFlags(page), 0);
  assert.equal(pageLsn(page), END_LSN);
});

test("insert with init makes the page anew, whatever was there", () => {
  const page = new PageBuffer(new Uint8Array(8192).fill(0xee));
  const data = bytes(...header(1, 0x0800), 0, 9);
  redo(page, heap(0x80, [...u16(1), 0], [block(0, BLOCK, { data, willInit: true })]));
  assert.equal(maxOffsetNumber(page), 1);
  assert.equal(stored(page, 1).at(-1), 9);
  assert.equal(page.bytes[4000], 0);
});

test("init without announcing it, and announcing it without init, are refused", () => {
  const data = bytes(...header(1, 0x0800), 0, 9);
  const silent = heap(0x80, [...u16(1), 0], [block(0, BLOCK, { data })]);
  assert.throws(() => {
    redo(pageWith(tuple({})), silent);
  }, isLocatedCorruption);
  const empty = heap(0x00, [...u16(1), 0], [block(0, BLOCK, { data, willInit: true })]);
  assert.throws(() => {
    redo(pageWith(tuple({})), empty);
  }, isLocatedCorruption);
});

test("a heap page holds 291 items at most", () => {
  const page = newPage(0);
  const insert = (number: number) => {
    const data = bytes(...header(1, 0x0800, 23));
    redo(page, heap(0x00, [...u16(number), 0], [block(0, BLOCK, { data })]));
  };
  // Redirects need no storage, so that there is room for more numbers than tuples.
  for (let number = 1; number <= 291; number++) {
    insert(number);
    page.view.setUint32(20 + 4 * number, (1 | (2 << 15)) >>> 0, true);
    page.view.setUint16(14, 8192, true);
  }
  assert.throws(() => {
    insert(292);
  }, isLocatedCorruption);
});

test("delete says what xmax means, and forgets what it meant", () => {
  const page = pageWith(tuple({ cid: 5, infomask: 0xdcd0 | 0x2 | 0x20 | 0x2000, infomask2: 0x6002 }));
  setPageFlags(page, ALL_VISIBLE);
  // Info bits: multi 1, lock only 2, exclusive 4, key share 8, keys updated 0x10.
  redo(page, heap(0x10, [...u32(0xfffffff0), ...u16(1), 0x1b, 0x01]));
  const expected = tuple({
    xmax: 0xfffffff0,
    infomask: 0x1000 | 0x80 | 0x10 | 0x2 | 0x2000,
    infomask2: 0x2002,
  });
  expected.splice(12, 6, ...tid(BLOCK, 1));
  assert.deepEqual(stored(page, 1), expected);
  assert.equal(pageFlags(page), 0);
  assert.equal(pagePruneXid(page), 777);
});

test("delete of a speculative tuple clears xmin, a move to another partition leaves a marked ctid", () => {
  const page = pageWith(tuple({ xmax: 3 }), tuple({}));
  redo(page, heap(0x10, [...u32(1), ...u16(1), 0, 0x08]));
  assert.deepEqual(stored(page, 1).slice(0, 8), [...u32(0), ...u32(3)]);
  redo(page, heap(0x10, [...u32(1), ...u16(2), 0, 0x10]));
  assert.deepEqual(stored(page, 2).slice(12, 18), [0xff, 0xff, 0xff, 0xff, 0xfd, 0xff]);
});

test("prune xid keeps the oldest, around the circle of xids", () => {
  for (const [old, xid, expected] of [
    [0, 777, 777],
    [778, 777, 777],
    [776, 777, 776],
    [10, 0xfffffff0, 0xfffffff0],
    [0xfffffff0, 10, 0xfffffff0],
    [2, 777, 2],
  ] as const) {
    const page = pageWith(tuple({}));
    setPagePruneXid(page, old);
    redo(page, heap(0x10, [...u32(1), ...u16(1), 0, 0], [block(0, BLOCK)], xid));
    assert.equal(pagePruneXid(page), expected, `${old} ${xid}`);
  }
});

test("a HOT update takes front and back from the old tuple", () => {
  const old = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19];
  const page = pageWith(tuple({ infomask2: 2, data: old }));
  // Null bitmap (one byte at 23), then two bytes between 4 of the front and 3 of the back.
  const data = bytes(...u16(4), ...u16(3), ...header(0x8002, 0x2901, 24), 0x3f, 91, 92);
  const main = [...u32(777), ...u16(1), 0x00, 0x60, ...u32(0x99), ...u16(2)];
  redo(page, heap(0x40, main, [block(0, BLOCK, { data })]));
  const created = [
    ...u32(777),
    ...u32(0x99),
    ...u32(0),
    ...tid(BLOCK, 2),
    ...u16(0x8002),
    ...u16(0x2901),
    24,
    0x3f,
  ];
  assert.deepEqual(stored(page, 2), [...created, 10, 11, 12, 13, 91, 92, 17, 18, 19]);
  const replaced = tuple({ xmax: 777, infomask: 0x0102, infomask2: 0x4002, data: old });
  replaced.splice(12, 6, ...tid(BLOCK, 2));
  assert.deepEqual(stored(page, 1), replaced);
});

test("an update with only a suffix has bitmap and data in one piece", () => {
  const page = pageWith(tuple({ data: [1, 2, 3, 4] }));
  const data = bytes(...u16(2), ...header(2, 0x0800, 24), 0, 50, 51);
  redo(page, heap(0x20, [...u32(1), ...u16(1), 0, 0x40, ...u32(0), ...u16(2)], [block(0, BLOCK, { data })]));
  assert.deepEqual(stored(page, 2).slice(23), [0, 50, 51, 3, 4]);
});

test("an update across pages changes each page by itself", () => {
  const data = bytes(...header(2, 0x2802), 0, 7, 7);
  const main = [...u32(777), ...u16(1), 0x10, 0x03, ...u32(0), ...u16(1)];
  const record = heap(0x20 | 0x80, main, [block(0, 8, { data, willInit: true }), block(1, BLOCK)]);
  const newer = new PageBuffer();
  redo(newer, record, 0);
  assert.deepEqual(stored(newer, 1).slice(0, 18), [...u32(777), ...u32(0), ...u32(0), ...tid(8, 1)]);
  const older = pageWith(tuple({}));
  setPageFlags(older, ALL_VISIBLE);
  redo(older, record, 1);
  const expected = tuple({ xmax: 777, infomask: 0x0102, infomask2: 0x2002 });
  expected.splice(12, 6, ...tid(8, 1));
  assert.deepEqual(stored(older, 1), expected);
  assert.equal(pageFlags(older), 0);
});

test("an update that takes more from the old tuple than there is, or across pages, is refused", () => {
  const main = (flags: number) => [...u32(1), ...u16(1), 0, flags, ...u32(0), ...u16(2)];
  const cases: [number, Uint8Array][] = [
    [0x20, bytes(...u16(5), ...header(2, 0), 0)],
    [0x40, bytes(...u16(5), ...header(2, 0), 0)],
    [0x20, bytes(...u16(2), ...header(2, 0, 60), 0)],
    [0x20, bytes(...u16(2), ...header(2, 0, 3), 0)],
    [0x60, bytes(...u16(2), ...u16(2))],
  ];
  for (const [flags, data] of cases) {
    const record = heap(0x20, main(flags), [block(0, BLOCK, { data })]);
    assert.throws(() => {
      redo(pageWith(tuple({ data: [1, 2, 3, 4] })), record);
    }, isLocatedCorruption);
  }
  const data = bytes(...u16(2), ...header(2, 0), 0);
  const across = heap(0x20, main(0x20), [block(0, 8, { data }), block(1, BLOCK)]);
  assert.throws(() => {
    redo(pageWith(tuple({ data: [1, 2, 3, 4] })), across);
  }, isLocatedCorruption);
});

test("lock resets ctid and HOT only if nothing but a lock remains", () => {
  const updated = tuple({ xmax: 5, cid: 6, infomask: 0x0122, infomask2: 0x4002 });
  const only = pageWith(updated);
  redo(only, heap(0x60, [...u32(888), ...u16(1), 0x06, 0]));
  const locked = tuple({ xmax: 888, infomask: 0x0102 | 0x80 | 0x40, infomask2: 0x0002 });
  locked.splice(12, 6, ...tid(BLOCK, 1));
  assert.deepEqual(stored(only, 1), locked);
  const both = pageWith(updated);
  redo(both, heap(0x60, [...u32(888), ...u16(1), 0x01, 0]));
  assert.deepEqual(stored(both, 1), tuple({ xmax: 888, infomask: 0x1102, infomask2: 0x4002 }));
});

test("lock-only, or an exclusive lock in the form of old servers, count as locks; anything else does not", () => {
  for (const [infoBits, isLock] of [
    [0x02, true],
    [0x04, true],
    [0x06, true],
    [0x0a, true],
    [0x03, true],
    [0x05, false],
    [0x0c, false],
    [0x08, false],
    [0x10, false],
  ] as const) {
    const page = pageWith(tuple({ infomask2: 0x4002 }));
    redo(page, heap(0x60, [...u32(888), ...u16(1), infoBits, 0]));
    const hot = (page.view.getUint16(itemOffset(itemId(page, 1)) + 18, true) & 0x4000) !== 0;
    assert.equal(hot, !isLock, `${infoBits}`);
  }
});

test("lock of an updated tuple touches neither ctid, HOT bit nor command id", () => {
  const page = pageWith(tuple({ xmax: 5, cid: 6, infomask: 0x0902, infomask2: 0x6002 }));
  redo(page, heap2(0x60, [...u32(888), ...u16(1), 0x06, 0]));
  assert.deepEqual(
    stored(page, 1),
    tuple({ xmax: 888, cid: 6, infomask: 0x0102 | 0x80 | 0x40, infomask2: 0x4002 }),
  );
});

test("confirm puts the ctid in order; inplace replaces data of the same length only", () => {
  const page = pageWith(tuple({ data: [1, 2, 3] }));
  redo(page, heap(0x50, u16(1)));
  assert.deepEqual(stored(page, 1).slice(12, 18), tid(BLOCK, 1));
  redo(page, heap(0x70, u16(1), [block(0, BLOCK, { data: bytes(7, 8, 9) })]));
  assert.deepEqual(stored(page, 1).slice(24), [7, 8, 9]);
  for (const data of [bytes(1, 2), bytes(1, 2, 3, 4)]) {
    const record = heap(0x70, u16(1), [block(0, BLOCK, { data })]);
    assert.throws(() => {
      redo(page, record);
    }, isLocatedCorruption);
  }
});

test("multi-insert takes tuples from even offsets, numbers from the record or from 1 on", () => {
  const one = [...u16(2), ...header(1, 0x0800, 24), 0, 5];
  const two = [...u16(3), ...header(2, 0x0800, 24), 0, 6, 7];
  const data = bytes(...one, 0xff, ...two);
  const fresh = new PageBuffer();
  const init = heap2(0x50 | 0x80, [0x20, 0, ...u16(2)], [block(0, BLOCK, { data, willInit: true })]);
  redo(fresh, init);
  assert.deepEqual(
    [stored(fresh, 1).slice(23), stored(fresh, 2).slice(23)],
    [
      [0, 5],
      [0, 6, 7],
    ],
  );
  assert.equal(pageFlags(fresh), ALL_VISIBLE);
  const page = pageWith(tuple({}), tuple({}));
  page.view.setUint32(24, 0, true);
  const record = heap2(0x50, [0x01, 0, ...u16(2), ...u16(3), ...u16(1)], [block(0, BLOCK, { data })]);
  redo(page, record);
  assert.deepEqual(
    [stored(page, 3).slice(23), stored(page, 1).slice(23)],
    [
      [0, 5],
      [0, 6, 7],
    ],
  );
});

/** B0 data of a prune record; a part is there only if its list is given. */
function prune(
  lists: {
    plans?: { xmax: number; infomask2: number; infomask: number; flags: number; tuples: number[] }[];
    redirects?: [number, number][];
    dead?: number[];
    unused?: number[];
  },
  more = 0,
) {
  const { plans, redirects, dead, unused } = lists;
  const data: number[] = [];
  let flags = more;
  if (plans) {
    flags |= 0x10;
    data.push(...u16(plans.length), 0, 0);
    for (const plan of plans) {
      data.push(
        ...u32(plan.xmax),
        ...u16(plan.infomask2),
        ...u16(plan.infomask),
        plan.flags,
        0,
        ...u16(plan.tuples.length),
      );
    }
  }
  if (redirects) {
    flags |= 0x20;
    data.push(...u16(redirects.length), ...redirects.flatMap(([from, to]) => [...u16(from), ...u16(to)]));
  }
  if (dead) {
    flags |= 0x40;
    data.push(...u16(dead.length), ...dead.flatMap(u16));
  }
  if (unused) {
    flags |= 0x80;
    data.push(...u16(unused.length), ...unused.flatMap(u16));
  }
  for (const plan of plans ?? []) data.push(...plan.tuples.flatMap(u16));
  const content = data.length > 0 ? { data: bytes(...data) } : {};
  return heap2(0x20, [0xcc, flags], [block(0, BLOCK, content)]);
}

test("prune redirects, kills and frees items, packs the rest, and freezes what it is told", () => {
  const page = pageWith(...[1, 2, 3, 4, 5, 6].map((n) => tuple({ xmin: n, cid: 7, data: [n] })));
  const plans = [
    { xmax: 0, infomask2: 0x8003, infomask: 0x0b02, flags: 0x04, tuples: [4] },
    { xmax: 55, infomask2: 2, infomask: 0x0302, flags: 0x02, tuples: [2] },
  ];
  redo(page, prune({ plans, redirects: [[1, 2]], dead: [3], unused: [5, 6] }, 0x04));
  const states = [1, 2, 3, 4].map((number) => itemState(itemId(page, number)));
  assert.deepEqual(states, [2, 1, 3, 1]);
  assert.equal(maxOffsetNumber(page), 4);
  assert.equal(itemOffset(itemId(page, 1)), 2);
  assert.deepEqual([itemOffset(itemId(page, 2)), itemOffset(itemId(page, 4))], [8160, 8128]);
  const frozen = tuple({ xmin: 4, cid: 0, infomask2: 0x8003, infomask: 0x0b02, data: [4] });
  assert.deepEqual(stored(page, 4), frozen);
  const other = tuple({ xmin: 2, xmax: 55, cid: 2, infomask: 0x0302, data: [2] });
  assert.deepEqual(stored(page, 2), other);
});

test("without a cleanup lock prune moves nothing", () => {
  const page = pageWith(tuple({}), tuple({}), tuple({}));
  const before = itemId(page, 1);
  page.view.setUint32(28, (3 << 15) >>> 0, true);
  page.view.setUint32(32, (3 << 15) >>> 0, true);
  redo(page, prune({ unused: [2, 3] }));
  assert.equal(maxOffsetNumber(page), 1);
  assert.equal(itemId(page, 1), before);
});

test("prune lists that name missing items or do not fit the record are refused", () => {
  const wrong = [
    prune({ dead: [4] }),
    prune({ unused: [0] }),
    prune({ redirects: [[1, 9]] }),
    prune({}, 0x40),
  ];
  const plan = { xmax: 0, infomask2: 0, infomask: 0, flags: 0, tuples: [3] };
  wrong.push(prune({ plans: [{ ...plan, tuples: [9] }] }), prune({ plans: [plan], dead: [3] }, 0x04));
  for (const record of wrong) {
    assert.throws(() => {
      redo(pageWith(tuple({}), tuple({}), tuple({})), record);
    }, isLocatedCorruption);
  }
});

test("visible: the heap page's LSN moves only where hints are logged", () => {
  const blocks = [block(0, 0, { fork: 2 }), block(1, BLOCK % 32672)];
  const record = heap2(0x40, [...u32(0), 0x07], blocks);
  for (const hintBitsLogged of [true, false]) {
    const page = pageWith(tuple({}));
    redo(page, record, 1, hintBitsLogged);
    assert.equal(pageFlags(page), ALL_VISIBLE);
    assert.equal(pageLsn(page), hintBitsLogged ? END_LSN : 0);
  }
});

test("records that redo does not know are unsupported, and say what they are", () => {
  const specs: RecordSpec[] = [
    { rmgr: Rmgr.CommitTs, info: 0x20, blocks: [block(0, 1)] },
    {
      rmgr: Rmgr.CommitTs,
      info: 0x40,
      blocks: [block(0, 1, { image: { stored: new Uint8Array(8192), info: 0x02 } })],
    },
    { rmgr: Rmgr.ReplOrigin, info: 0x00, blocks: [block(0, 1)] },
    { rmgr: 200, info: 0x00, blocks: [block(0, 1)] },
    { rmgr: Rmgr.Heap2, info: 0x00, blocks: [block(0, 1)] },
    { rmgr: Rmgr.Btree, info: 0xf0, blocks: [block(0, 1)] },
    { rmgr: Rmgr.Xlog, info: 0x20, blocks: [block(0, 1)] },
  ];
  for (const spec of specs) {
    const page = spec.rmgr === Rmgr.Btree ? newPage(16) : newPage(0);
    assert.throws(
      () => {
        redo(page, makeRecord({ main: bytes(0, 0), ...spec }));
      },
      (error: unknown) =>
        error instanceof NeonError && error.code === ErrorCode.Unsupported && error.data["lsn"] === "7/1000",
      JSON.stringify(spec),
    );
  }
});

test("a sequence's page is made anew", () => {
  const page = new PageBuffer(new Uint8Array(8192).fill(0xee));
  const whole = tuple({ data: new Array<number>(17).fill(3) });
  const main = bytes(...u32(1663), ...u32(5), ...u32(16384), ...whole);
  redo(page, makeRecord({ rmgr: Rmgr.Seq, main, blocks: [block(0, 0, { willInit: true })] }));
  assert.deepEqual(stored(page, 1), whole);
  assert.equal(page.view.getUint32(8184, true), 0x1717);
  assert.equal(pageLsn(page), END_LSN);
});

test("generic pieces are put over the page, and the hole is zeroed afterwards", () => {
  const page = newPage(0);
  page.bytes.fill(0x55, 24, 8192);
  const piece = (offset: number, content: number[]) => [...u16(offset), ...u16(content.length), ...content];
  const data = bytes(...piece(12, [...u16(30), ...u16(8100)]), ...piece(24, [1, 2, 3]), ...piece(8191, [9]));
  redo(page, makeRecord({ rmgr: Rmgr.Generic, blocks: [block(0, 3, { data })] }));
  assert.deepEqual([...page.bytes.subarray(24, 32)], [1, 2, 3, 0x55, 0x55, 0x55, 0, 0]);
  assert.deepEqual([page.bytes[8099], page.bytes[8100], page.bytes[8191]], [0, 0x55, 9]);
  for (const bad of [piece(8191, [1, 2]), [0, 0, 5, 0, 1], [0, 0, 1], piece(14, u16(20))]) {
    const record = makeRecord({ rmgr: Rmgr.Generic, blocks: [block(0, 3, { data: bytes(...bad) })] });
    assert.throws(() => {
      redo(newPage(0), record);
    }, isLocatedCorruption);
  }
});

test("images: applied ones are restored and stamped, zero pages stay without LSN, others are left alone", () => {
  const content = pageWith(tuple({ data: [1] })).bytes.slice();
  const image = { stored: content, info: 0x02 };
  const page = new PageBuffer(new Uint8Array(8192).fill(0xee));
  redo(page, makeRecord({ rmgr: Rmgr.Xlog, info: 0xb0, blocks: [block(0, 1, { image })] }));
  assert.deepEqual(page.bytes.subarray(8), content.subarray(8));
  assert.equal(pageLsn(page), END_LSN);
  const zero = { stored: new Uint8Array(8192), info: 0x02 };
  redo(page, makeRecord({ rmgr: Rmgr.Xlog, info: 0xb0, blocks: [block(0, 1, { image: zero })] }));
  assert(page.bytes.every((byte) => byte === 0));
  const checked = { stored: content, info: 0x00 };
  redo(page, makeRecord({ rmgr: Rmgr.Xlog, info: 0xa0, blocks: [block(0, 1, { image: checked })] }));
  assert(page.bytes.every((byte) => byte === 0));
  const none = makeRecord({ rmgr: Rmgr.Xlog, info: 0xb0, blocks: [block(0, 1)] });
  assert.throws(() => {
    redo(page, none);
  }, isLocatedCorruption);
});

test("a page that does not exist cannot be changed", () => {
  assert.throws(() => {
    redo(new PageBuffer(), heap(0x50, u16(1)));
  }, isLocatedCorruption);
});
