/** Records that are cut short or damaged, on pages that may be damaged, too: see redo-mangler.ts for real ones. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { PAGE_SIZE, Rmgr } from "../../src/postgres/constants.ts";
import { PageBuffer } from "../../src/postgres/page/layout.ts";
import { redoBlock } from "../../src/postgres/redo/apply.ts";
import { RedoContext } from "../../src/postgres/redo/context.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { BlockRef, WalRecord } from "../../src/postgres/wal/record.ts";
import { SeededRandom } from "../support/random.ts";
import { type RecordSpec } from "../support/wal-builder.ts";
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

interface Sample {
  readonly name: string;
  readonly page: () => PageBuffer;
  readonly record: RecordSpec;
  /** Index of the block to redo. */
  readonly index?: number;
  /** Main data shorter than this is refused (it may be longer: what follows is not ours). */
  readonly mainNeeded: number;
  /** Any shorter block data is refused. */
  readonly dataNeeded: number;
}

const tuple = (data: number[]) => [
  ...u32(5),
  ...u32(0),
  ...u32(0),
  ...tid(1, 1),
  ...u16(1),
  ...u16(0x802),
  24,
  0,
  ...data,
];
const key = (n: number) => [...tid(n, 1), ...u16(16), ...new Array<number>(8).fill(n)];
const listed = (n: number) => [
  ...tid(16, 0x2002),
  ...u16(0x2020),
  ...new Array<number>(8).fill(n),
  ...tid(n, 1),
  ...tid(n, 2),
  0,
  0,
  0,
  0,
];
const header = [...u16(1), ...u16(0x802), 24];

function heapPage(): PageBuffer {
  const page = newPage(0);
  addItems(page, [tuple([1, 2, 3, 4, 5, 6]), tuple([7, 8]), tuple([9])]);
  return page;
}

function leafPage(): PageBuffer {
  const page = newPage(16);
  addItems(page, [key(99), key(1), listed(2), key(2), key(3)]);
  page.view.setUint32(8180, 7, true);
  page.view.setUint16(8188, 1, true);
  return page;
}

const heapMain = [...u32(7), ...u16(1), 0, 0];
const updateMain = (flags: number) => [...u32(7), ...u16(1), 0, flags, ...u32(0), ...u16(4)];
const meta = new Array<number>(28).fill(1);

function sample(
  name: string,
  page: () => PageBuffer,
  [rmgr, info]: readonly [number, number],
  main: number[],
  data: number[],
  needed: readonly [number, number] = [main.length, data.length],
): Sample {
  const content = data.length > 0 ? { data: bytes(...data) } : {};
  const blocks = [block(0, 1, content)];
  if (name === "btree split") blocks.push(block(1, 2, { willInit: true }));
  const record = { rmgr, info, xid: 700, main: bytes(...main), blocks };
  return { name, page, record, mainNeeded: needed[0], dataNeeded: needed[1] };
}

/** One plan for one tuple; item 1 redirected to 2, 3 dead, 1 unused after all; then the tuple of the plan. */
const pruneData = [
  ...[...u16(1), 0, 0, ...u32(0), ...u16(1), ...u16(2), 0, 0, ...u16(1)],
  ...[...u16(1), ...u16(1), ...u16(2)],
  ...[...u16(1), ...u16(3)],
  ...[...u16(1), ...u16(1)],
  ...u16(2),
];

const SAMPLES: readonly Sample[] = [
  sample("heap insert", heapPage, [Rmgr.Heap, 0x00], [...u16(4), 0], [...header, 0, 1], [3, 5]),
  sample("heap delete", heapPage, [Rmgr.Heap, 0x10], heapMain, []),
  sample(
    "heap update",
    heapPage,
    [Rmgr.Heap, 0x20],
    updateMain(0x60),
    [...u16(3), ...u16(2), ...header, 0, 9],
    [14, 10],
  ),
  sample("heap confirm", heapPage, [Rmgr.Heap, 0x50], u16(1), []),
  sample("heap lock", heapPage, [Rmgr.Heap, 0x60], heapMain, []),
  sample("heap inplace", heapPage, [Rmgr.Heap, 0x70], u16(1), [1, 2, 3, 4, 5, 6]),
  sample("heap2 prune", heapPage, [Rmgr.Heap2, 0x20], [0, 0xf4], pruneData),
  sample(
    "heap2 multi-insert",
    heapPage,
    [Rmgr.Heap2, 0x50],
    [0, 0, ...u16(2), ...u16(4), ...u16(5)],
    [...u16(1), ...header, 0, ...u16(2), ...header, 0, 1],
  ),
  sample("heap2 lock", heapPage, [Rmgr.Heap2, 0x60], heapMain, []),
  sample("btree insert", leafPage, [Rmgr.Btree, 0x00], u16(3), key(2), [2, 1]),
  sample("btree posting", leafPage, [Rmgr.Btree, 0x50], u16(4), [...u16(1), ...key(2)], [2, 8]),
  sample(
    "btree split",
    leafPage,
    [Rmgr.Btree, 0x30],
    [...u32(0), ...u16(4), ...u16(4), ...u16(1)],
    [...key(2), ...key(88)],
  ),
  sample("btree dedup", leafPage, [Rmgr.Btree, 0x60], u16(1), [...u16(3), ...u16(2)]),
  sample(
    "btree delete",
    leafPage,
    [Rmgr.Btree, 0x70],
    [...u32(0), ...u16(1), ...u16(1)],
    [...u16(2), ...u16(3), ...u16(1), ...u16(0)],
  ),
  sample(
    "btree vacuum",
    leafPage,
    [Rmgr.Btree, 0xc0],
    [...u16(3), ...u16(1)],
    [...u16(2), ...u16(4), ...u16(5), ...u16(3), ...u16(1), ...u16(0)],
  ),
  sample(
    "generic",
    heapPage,
    [Rmgr.Generic, 0x00],
    [],
    [...u16(100), ...u16(2), 1, 2, ...u16(200), ...u16(1), 5],
    [0, 0],
  ),
];

const INITIALISING: readonly Sample[] = [
  sample("heap insert", heapPage, [Rmgr.Heap, 0x80], [...u16(1), 0], [...header, 0, 1], [3, 5]),
  sample("multi-insert", heapPage, [Rmgr.Heap2, 0xd0], [0, 0, ...u16(1)], [...u16(1), ...header, 0]),
  sample("btree metapage", leafPage, [Rmgr.Btree, 0xe0], [], meta),
  sample(
    "btree new root",
    leafPage,
    [Rmgr.Btree, 0xa0],
    [...u32(1), ...u32(1)],
    [...key(1), ...key(2)],
    [8, 0],
  ),
  sample("btree unlink", leafPage, [Rmgr.Btree, 0x80], new Array<number>(36).fill(0), []),
  sample("btree half-dead", leafPage, [Rmgr.Btree, 0xb0], new Array<number>(20).fill(0), []),
  sample(
    "sequence",
    leafPage,
    [Rmgr.Seq, 0x00],
    [...u32(1), ...u32(2), ...u32(3), ...tuple([1])],
    [],
    [35, 0],
  ),
].map((initialising) => ({
  ...initialising,
  record: {
    ...initialising.record,
    blocks: (initialising.record.blocks ?? []).map((ref) => ({ ...ref, willInit: true })),
  },
}));

const ALL = [...SAMPLES, ...INITIALISING];

test("each sample is right as it is", () => {
  for (const { page, record } of ALL) redo(page(), makeRecord(record));
});

test("main data or block data cut anywhere is corrupt, with kind and LSN", () => {
  for (const { name, page, record, mainNeeded, dataNeeded } of ALL) {
    for (let length = 0; length < mainNeeded; length++) {
      const cut = makeRecord(record);
      cut.mainLength = length;
      assert.throws(
        () => {
          redo(page(), cut);
        },
        isLocatedCorruption,
        `${name}, main data ${length}`,
      );
    }
    for (let length = 0; length < dataNeeded; length++) {
      const cut = makeRecord(record);
      (cut.blocks[0] as BlockRef).dataLength = length;
      assert.throws(
        () => {
          redo(page(), cut);
        },
        isLocatedCorruption,
        `${name}, block data ${length}`,
      );
    }
  }
});

test("items beyond those of the page are corrupt", () => {
  const samples: [string, () => PageBuffer, readonly [number, number], number[], number[]][] = [
    ["insert", heapPage, [Rmgr.Heap, 0x00], [...u16(5), 0], [...header, 0]],
    ["insert over another", heapPage, [Rmgr.Heap, 0x00], [...u16(3), 0], [...header, 0]],
    ["delete", heapPage, [Rmgr.Heap, 0x10], [...u32(7), ...u16(4), 0, 0], []],
    ["delete item 0", heapPage, [Rmgr.Heap, 0x10], [...u32(7), ...u16(0), 0, 0], []],
    ["confirm", heapPage, [Rmgr.Heap, 0x50], u16(0xffff), []],
    ["btree insert", leafPage, [Rmgr.Btree, 0x00], u16(7), key(1)],
    ["btree insert too large", leafPage, [Rmgr.Btree, 0x00], u16(1), new Array<number>(8100).fill(0)],
    ["btree posting", leafPage, [Rmgr.Btree, 0x50], u16(0), [...u16(1), ...key(2)]],
    ["btree split", leafPage, [Rmgr.Btree, 0x40], [...u32(0), ...u16(9), ...u16(9), ...u16(0)], key(88)],
    ["btree vacuum", leafPage, [Rmgr.Btree, 0xc0], [...u16(1), ...u16(0)], u16(6)],
  ];
  for (const [name, page, kind, main, data] of samples) {
    const { record } = sample(name, page, kind, main, data);
    assert.throws(
      () => {
        redo(page(), makeRecord(record));
      },
      isLocatedCorruption,
      name,
    );
  }
});

test("block references that a kind of record does not have are corrupt", () => {
  for (const { name, page, record } of ALL) {
    if (record.rmgr === Rmgr.Generic) continue;
    const main = record.main ?? bytes();
    const blocks = record.blocks ?? [];
    const odd = makeRecord({ ...record, main, blocks: [...blocks, block(9, 3)] });
    assert.throws(
      () => {
        redo(page(), odd, blocks.length);
      },
      isLocatedCorruption,
      name,
    );
  }
});

const GUARD_SIZE = 64;

test("damaged records on damaged pages end in success, `corrupt` or `unsupported`, within the page", (t) => {
  const random = SeededRandom.forTest(t);
  const memory = new Uint8Array(PAGE_SIZE + 2 * GUARD_SIZE).fill(0xa5);
  const page = new PageBuffer(memory.subarray(GUARD_SIZE, GUARD_SIZE + PAGE_SIZE));
  const context = new RedoContext({ version: POSTGRES_17, hintBitsLogged: true });
  let refused = 0;
  for (let round = 0; round < 20_000; round++) {
    const { page: makePage, record: spec } = random.pick(ALL);
    const record = makeRecord(spec);
    damageRecord(record, random);
    page.bytes.set(makePage().bytes);
    if (random.chance(0.5)) damagePage(page, random);
    try {
      redoBlock(page, record, 0, context);
    } catch (error) {
      refused++;
      const isTyped =
        error instanceof NeonError &&
        (error.code === ErrorCode.Corrupt || error.code === ErrorCode.Unsupported);
      if (!isTyped) throw error;
    }
    for (let i = 0; i < GUARD_SIZE; i++) assert(memory[i] === 0xa5 && memory[memory.length - 1 - i] === 0xa5);
  }
  t.diagnostic(`${refused} of 20000 refused`);
  assert(refused > 2000 && refused < 18_000);
});

function damageRecord(record: WalRecord, random: SeededRandom): void {
  const first = record.blocks[0] as BlockRef;
  for (let i = random.below(3); i > 0; i--) {
    const [start, length] = random.chance(0.5)
      ? [record.mainOffset, record.mainLength]
      : [first.dataOffset, first.dataLength];
    if (length > 0)
      record.bytes[start + random.below(length)] = random.pick([0, 1, 2, 255, random.below(256)]);
  }
  if (random.chance(0.1)) record.info = random.below(256);
  if (random.chance(0.05))
    record.rmgr = random.pick([Rmgr.Heap, Rmgr.Heap2, Rmgr.Btree, Rmgr.Seq, Rmgr.Generic]);
  if (random.chance(0.1)) first.willInit = !first.willInit;
  if (random.chance(0.1)) first.id = random.below(5);
  if (random.chance(0.05)) first.fork = 2;
}

function damagePage(page: PageBuffer, random: SeededRandom): void {
  for (let i = random.between(1, 3); i > 0; i--) {
    const at = random.pick([12 + random.below(8), 24 + random.below(24), PAGE_SIZE - 1 - random.below(200)]);
    page.bytes[at] = random.pick([0, 1, 255, random.below(256)]);
  }
}
