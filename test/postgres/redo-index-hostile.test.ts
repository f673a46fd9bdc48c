/** Hash, GIN, GiST, SP-GiST and BRIN records that are cut short or damaged, on pages that may be damaged, too. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { PAGE_SIZE, Rmgr } from "../../src/postgres/constants.ts";
import { PageBuffer, setPageLower } from "../../src/postgres/page/layout.ts";
import { redoBlock } from "../../src/postgres/redo/apply.ts";
import { RedoContext } from "../../src/postgres/redo/context.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { BlockRef, WalRecord } from "../../src/postgres/wal/record.ts";
import { SeededRandom } from "../support/random.ts";
import type { BlockSpec, RecordSpec } from "../support/wal-builder.ts";
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
  /** Which of the record's blocks is redone. */
  readonly index: number;
  /** Main data, and data of the block, shorter than this are refused. */
  readonly mainNeeded: number;
  readonly dataNeeded: number;
}

const zeros = (count: number): number[] => new Array<number>(count).fill(0);
const tuple = (n: number): number[] => [...tid(n, 1), ...u16(16), ...new Array<number>(8).fill(n)];
const leaf = (n: number, state = 0): number[] => [
  ...u32((16 << 2) | state),
  ...u16(0),
  ...tid(n, 1),
  ...u32(n),
];
const node = (n: number): number[] => [...tid(n, 1), ...u16(16), ...zeros(8)];
const inner = [...u32(2 << 3), ...u16(40), 0, 0, ...node(1), ...node(2)];
const segment = (n: number): number[] => [...tid(n, 1), ...u16(2), 1, 1];
const postingItem = (n: number): number[] => [...tid(n, 0).slice(0, 4), ...tid(n, 1)];

function specialPage(size: number, words: readonly number[], tuples: number[][]): PageBuffer {
  const page = newPage(size);
  addItems(page, tuples);
  words.forEach((word, i) => {
    page.view.setUint16(PAGE_SIZE - size + 2 * i, word, true);
  });
  return page;
}

function dataPage(flags: number, count: number, content: number[]): PageBuffer {
  const page = specialPage(8, [0, 0, count, flags], []);
  page.bytes.set(content, 32);
  setPageLower(page, 32 + content.length);
  return page;
}

const hashPage = () => specialPage(16, [0, 0, 0, 0, 0, 0, 2, 0xff80], [1, 2, 3].map(tuple));
const metaPage = () => {
  const page = specialPage(16, [0, 0, 0, 0, 0, 0, 8, 0xff80], []);
  setPageLower(page, 4568);
  return page;
};
const entryPage = () => specialPage(8, [0, 0, 0, 2], [1, 2, 3].map(tuple));
const postingLeaf = () => dataPage(0x83, 0, [...segment(1), ...segment(2)]);
const postingInner = () => dataPage(0x01, 2, [...postingItem(1), ...postingItem(2)]);
const gistPage = () => specialPage(16, [0, 0, 0, 0, 0, 0, 1, 0xff81], [1, 2, 3].map(tuple));
const spgistLeaf = () => specialPage(8, [4, 1, 1, 0xff82], [leaf(1), leaf(2, 1), leaf(3), leaf(4, 3)]);
const spgistInner = () => specialPage(8, [0, 0, 0, 0xff82], [inner]);
const brinPage = () => specialPage(8, [0, 0, 0, 0xf093], [1, 2, 3].map(tuple));
const revmapPage = () => specialPage(8, [0, 0, 0, 0xf092], []);

type Kind = readonly [rmgr: number, info: number];

/** The record's block `id` is redone; `others` are there for their block numbers. */
function sample(
  name: string,
  page: () => PageBuffer,
  [rmgr, info]: Kind,
  main: number[],
  id: number,
  more: { data?: number[]; others?: number[]; init?: boolean; needed?: readonly [number, number] } = {},
): Sample {
  const own: BlockSpec = block(id, 9, {
    ...(more.data ? { data: bytes(...more.data) } : {}),
    willInit: more.init ?? false,
  });
  const blocks = [own, ...(more.others ?? []).map((other) => block(other, 20 + other))].sort(
    (a, b) => a.id - b.id,
  );
  const [mainNeeded, dataNeeded] = more.needed ?? [main.length, more.data?.length ?? 0];
  const record = { rmgr, info, xid: 700, main: bytes(...main), blocks };
  return { name, page, record, index: blocks.indexOf(own), mainNeeded, dataNeeded };
}

const state = [...u32(700), 0, 0, 0, 0];
const moved = [...u16(1), ...tuple(7)];
const moveLeafs = [
  ...[...u16(1), 0, 0, 0, 0, ...u16(1), ...u16(1), 0, 0, ...state],
  ...[...u16(3), ...u16(4), ...u16(5), ...leaf(7), ...leaf(8)],
];
const picksplit = [
  ...[0, 0, ...u16(2), ...u16(2), 0, 0, ...u16(2), 0, 0, 0, 0, ...u16(1), ...u16(1), 0, 0, ...state],
  ...[...u16(3), ...u16(1), ...u16(1), ...u16(4), 0, 1, ...inner, ...leaf(21), ...leaf(22)],
];
const vacuumLeaf = [
  ...[...u16(1), ...u16(1), ...u16(1), ...u16(1), ...state],
  ...[...u16(1), ...u16(2), ...u16(3), ...u16(1), ...u16(1), ...u16(3)],
];

const HASH: readonly Sample[] = [
  sample("hash metapage", hashPage, [Rmgr.Hash, 0x00], [...zeros(12), ...u16(10)], 0, { init: true }),
  sample("hash bitmap", hashPage, [Rmgr.Hash, 0x10], u16(4096), 0, { init: true }),
  sample("hash first bitmap", metaPage, [Rmgr.Hash, 0x10], u16(4096), 1),
  sample("hash insert", hashPage, [Rmgr.Hash, 0x20], u16(2), 0, { data: tuple(7), needed: [2, 1] }),
  sample("hash overflow", hashPage, [Rmgr.Hash, 0x30], zeros(3), 0, {
    data: u32(1),
    others: [1],
    init: true,
  }),
  sample("hash before overflow", hashPage, [Rmgr.Hash, 0x30], zeros(3), 1, { others: [0] }),
  sample("hash bit", hashPage, [Rmgr.Hash, 0x30], zeros(3), 2, { data: u32(1) }),
  sample("hash more bitmaps", metaPage, [Rmgr.Hash, 0x30], zeros(3), 4, { data: u32(1), others: [3] }),
  sample("hash old bucket", hashPage, [Rmgr.Hash, 0x40], zeros(9), 0),
  sample("hash new bucket", hashPage, [Rmgr.Hash, 0x40], zeros(9), 1, { init: true }),
  sample("hash split", metaPage, [Rmgr.Hash, 0x40], [...zeros(8), 3], 2, { data: zeros(16) }),
  sample("hash split end", hashPage, [Rmgr.Hash, 0x60], zeros(4), 1),
  sample("hash move", hashPage, [Rmgr.Hash, 0x70], [...u16(1), 0], 1, { data: moved }),
  sample("hash moved", hashPage, [Rmgr.Hash, 0x70], [...u16(1), 0], 2, { data: u16(2), needed: [3, 0] }),
  sample("hash squeeze", hashPage, [Rmgr.Hash, 0x80], [...zeros(8), ...u16(1), 0, 1], 1, { data: moved }),
  sample("hash free bit", hashPage, [Rmgr.Hash, 0x80], zeros(12), 5, { data: u32(1) }),
  sample("hash delete", hashPage, [Rmgr.Hash, 0x90], [1, 1], 1, { data: u16(3), needed: [2, 0] }),
  sample("hash count", metaPage, [Rmgr.Hash, 0xb0], zeros(8), 0),
  sample("hash vacuum page", hashPage, [Rmgr.Hash, 0xc0], [...zeros(4), ...u16(1), 0, 0, ...u16(2)], 0),
];

const GIN: readonly Sample[] = [
  sample("gin tree", entryPage, [Rmgr.Gin, 0x10], [...u32(10), ...segment(1)], 0, { init: true }),
  sample("gin entry", entryPage, [Rmgr.Gin, 0x20], u16(2), 0, { data: [...u16(2), 1, 0, ...tuple(9)] }),
  sample("gin downlink", entryPage, [Rmgr.Gin, 0x20], zeros(10), 0, { data: [...u16(2), 0, 0, ...tuple(9)] }),
  sample("gin posting item", postingInner, [Rmgr.Gin, 0x20], [...u16(1), ...zeros(8)], 0, {
    data: [...u16(2), ...postingItem(5)],
  }),
  sample("gin leaf", postingLeaf, [Rmgr.Gin, 0x20], u16(3), 0, {
    data: [...u16(3), 0, 4, ...u16(1), ...tid(1, 9), 1, 3, ...segment(2), 2, 2, ...segment(3)],
  }),
  sample("gin vacuum leaf", postingLeaf, [Rmgr.Gin, 0x90], [], 0, { data: [...u16(1), 1, 1] }),
  sample("gin child", postingLeaf, [Rmgr.Gin, 0x20], zeros(10), 1, { needed: [2, 0] }),
  sample("gin deleted item", postingInner, [Rmgr.Gin, 0x50], [...u16(1), ...zeros(10)], 1),
  sample("gin meta", entryPage, [Rmgr.Gin, 0x60], zeros(88), 0, { init: true, needed: [84, 0] }),
  sample("gin list", entryPage, [Rmgr.Gin, 0x60], [...zeros(80), ...u32(1), ...zeros(4)], 1, {
    data: tuple(9),
    needed: [84, 16],
  }),
  sample("gin list page", entryPage, [Rmgr.Gin, 0x70], [...zeros(4), ...u32(1)], 0, {
    data: tuple(9),
    init: true,
  }),
  sample("gin list deleted", entryPage, [Rmgr.Gin, 0x80], zeros(64), 0, { init: true, needed: [56, 0] }),
];

const GIST: readonly Sample[] = [
  sample("gist overwrite", gistPage, [Rmgr.Gist, 0x00], [...u16(1), ...u16(1)], 0, {
    data: [...u16(2), ...tuple(9)],
  }),
  sample("gist update", gistPage, [Rmgr.Gist, 0x00], [...u16(2), ...u16(1)], 0, {
    data: [...u16(1), ...u16(2), ...tuple(9)],
  }),
  sample("gist delete", gistPage, [Rmgr.Gist, 0x10], [...zeros(4), ...u16(1), 0, 0, ...u16(2)], 0),
  sample("gist split", gistPage, [Rmgr.Gist, 0x30], [...zeros(18), ...u16(1), 0], 1, {
    data: [...u32(1), ...tuple(9)],
    init: true,
  }),
  sample("gist page delete", gistPage, [Rmgr.Gist, 0x60], [...zeros(8), ...u16(2)], 1),
];

const SPGIST: readonly Sample[] = [
  sample(
    "spgist add leaf",
    spgistLeaf,
    [Rmgr.Spgist, 0x10],
    [0, 0, ...u16(4), ...u16(1), ...zeros(4), ...leaf(9)],
    0,
  ),
  sample("spgist new leaf", spgistLeaf, [Rmgr.Spgist, 0x10], [1, 0, ...u16(1), ...zeros(6), ...leaf(9)], 0, {
    init: true,
  }),
  sample("spgist link", spgistInner, [Rmgr.Spgist, 0x10], [...zeros(6), ...u16(1), ...u16(1)], 1, {
    others: [0],
  }),
  sample("spgist moved", spgistLeaf, [Rmgr.Spgist, 0x20], moveLeafs, 0, { others: [1], needed: [26, 0] }),
  sample("spgist move", spgistLeaf, [Rmgr.Spgist, 0x20], moveLeafs, 1),
  sample("spgist move link", spgistInner, [Rmgr.Spgist, 0x20], moveLeafs, 2, {
    others: [1],
    needed: [26, 0],
  }),
  sample("spgist add node", spgistInner, [Rmgr.Spgist, 0x30], [...u16(1), ...zeros(18), ...inner], 0),
  sample(
    "spgist split",
    spgistInner,
    [Rmgr.Spgist, 0x40],
    [...u16(1), ...u16(2), 0, 1, ...inner, ...inner],
    0,
  ),
  sample("spgist pick source", spgistLeaf, [Rmgr.Spgist, 0x50], picksplit, 0, { others: [2] }),
  sample("spgist pick target", spgistLeaf, [Rmgr.Spgist, 0x50], picksplit, 1, { others: [2] }),
  sample("spgist pick inner", spgistInner, [Rmgr.Spgist, 0x50], picksplit, 2, { needed: [78, 0] }),
  sample("spgist pick parent", spgistInner, [Rmgr.Spgist, 0x50], picksplit, 3, {
    others: [2],
    needed: [78, 0],
  }),
  sample("spgist vacuum leaf", spgistLeaf, [Rmgr.Spgist, 0x60], vacuumLeaf, 0),
  sample("spgist vacuum root", spgistLeaf, [Rmgr.Spgist, 0x70], [...u16(1), ...zeros(10), ...u16(2)], 0),
  sample(
    "spgist redirect",
    spgistLeaf,
    [Rmgr.Spgist, 0x80],
    [...u16(1), ...u16(4), ...zeros(6), ...u16(2)],
    0,
  ),
];

const BRIN: readonly Sample[] = [
  sample("brin meta", brinPage, [Rmgr.Brin, 0x80], zeros(6), 0, { init: true }),
  sample("brin insert", brinPage, [Rmgr.Brin, 0x10], [...zeros(8), ...u16(4)], 0, {
    data: tuple(9),
    needed: [10, 1],
  }),
  sample("brin map", revmapPage, [Rmgr.Brin, 0x10], [...zeros(4), ...u32(1), ...u16(4)], 1, { others: [0] }),
  sample("brin update", brinPage, [Rmgr.Brin, 0x20], [...u16(1), ...zeros(12)], 2),
  sample("brin overwrite", brinPage, [Rmgr.Brin, 0x30], u16(2), 0, { data: tuple(9), needed: [2, 1] }),
  sample("brin extend", brinPage, [Rmgr.Brin, 0x40], zeros(4), 0),
  sample("brin desummarize", brinPage, [Rmgr.Brin, 0x50], [...zeros(8), ...u16(2)], 1),
];

const ALL = [...HASH, ...GIN, ...GIST, ...SPGIST, ...BRIN];

test("each sample is right as it is", () => {
  for (const { name, page, record, index } of ALL) {
    assert.doesNotThrow(() => {
      redo(page(), makeRecord(record), index);
    }, name);
  }
});

test("main data or block data cut anywhere is corrupt, with kind and LSN", () => {
  for (const { name, page, record, index, mainNeeded, dataNeeded } of ALL) {
    const cuts: [string, number, (cut: WalRecord, length: number) => void][] = [
      ["main data", mainNeeded, (cut, length) => (cut.mainLength = length)],
      ["block data", dataNeeded, (cut, length) => ((cut.blocks[index] as BlockRef).dataLength = length)],
    ];
    for (const [what, needed, shorten] of cuts) {
      for (let length = 0; length < needed; length++) {
        const cut = makeRecord(record);
        shorten(cut, length);
        assert.throws(
          () => {
            redo(page(), cut, index);
          },
          isLocatedCorruption,
          `${name}, ${what} ${length}`,
        );
      }
    }
  }
});

test("block references that a kind of record does not have are corrupt", () => {
  for (const { name, page, record } of ALL) {
    const blocks = record.blocks ?? [];
    const isList = record.rmgr === Rmgr.Gin && record.info === 0x80;
    if (isList) continue;
    const odd = makeRecord({ ...record, blocks: [...blocks, block(9, 3)] });
    assert.throws(
      () => {
        redo(page(), odd, blocks.length);
      },
      isLocatedCorruption,
      name,
    );
  }
});

test("pages of another kind are corrupt", () => {
  for (const { name, record, index } of ALL) {
    if (record.blocks?.[index]?.willInit) continue;
    assert.throws(
      () => {
        redo(newPage(24), makeRecord(record), index);
      },
      isLocatedCorruption,
      name,
    );
  }
});

const GUARD_SIZE = 64;
const ROUNDS = 30_000;

test("damaged records on damaged pages end in success, `corrupt` or `unsupported`, within the page", (t) => {
  const random = SeededRandom.forTest(t);
  const memory = new Uint8Array(PAGE_SIZE + 2 * GUARD_SIZE).fill(0xa5);
  const page = new PageBuffer(memory.subarray(GUARD_SIZE, GUARD_SIZE + PAGE_SIZE));
  const context = new RedoContext({ version: POSTGRES_17, hintBitsLogged: true });
  let refused = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const { page: makePage, record: spec, index } = random.pick(ALL);
    const record = makeRecord(spec);
    damageRecord(record, record.blocks[index] as BlockRef, random);
    page.bytes.set((random.chance(0.9) ? makePage : random.pick(ALL).page)().bytes);
    if (random.chance(0.5)) damagePage(page, random);
    try {
      redoBlock(page, record, index, context);
    } catch (error) {
      refused++;
      const isTyped =
        error instanceof NeonError &&
        (error.code === ErrorCode.Corrupt || error.code === ErrorCode.Unsupported);
      if (!isTyped) throw error;
    }
    for (let i = 0; i < GUARD_SIZE; i++) assert(memory[i] === 0xa5 && memory[memory.length - 1 - i] === 0xa5);
  }
  t.diagnostic(`${refused} of ${ROUNDS} refused`);
  assert(refused > ROUNDS / 10 && refused < ROUNDS - ROUNDS / 10);
});

function damageRecord(record: WalRecord, ref: BlockRef, random: SeededRandom): void {
  for (let i = random.below(3); i > 0; i--) {
    const [start, length] = random.chance(0.5)
      ? [record.mainOffset, record.mainLength]
      : [ref.dataOffset, ref.dataLength];
    if (length > 0)
      record.bytes[start + random.below(length)] = random.pick([0, 1, 2, 255, random.below(256)]);
  }
  if (random.chance(0.1)) record.info = random.below(256);
  if (random.chance(0.05))
    record.rmgr = random.pick([Rmgr.Hash, Rmgr.Gin, Rmgr.Gist, Rmgr.Spgist, Rmgr.Brin]);
  if (random.chance(0.1)) ref.willInit = !ref.willInit;
  if (random.chance(0.1)) ref.id = random.below(7);
  if (random.chance(0.1)) record.mainLength = random.below(record.mainLength + 1);
  if (random.chance(0.1)) ref.dataLength = random.below(ref.dataLength + 1);
}

function damagePage(page: PageBuffer, random: SeededRandom): void {
  for (let i = random.between(1, 3); i > 0; i--) {
    const at = random.pick([12 + random.below(8), 24 + random.below(60), PAGE_SIZE - 1 - random.below(200)]);
    page.bytes[at] = random.pick([0, 1, 255, random.below(256)]);
  }
}
