import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import {
  compactItems,
  repairFragmentation,
  truncateLinePointers,
} from "../../src/postgres/page/compaction.ts";
import {
  deleteIndexItem,
  deleteIndexItems,
  deleteItemKeepingNumbers,
  insertItemBytes,
  overwriteIndexItem,
  reserveItem,
} from "../../src/postgres/page/items.ts";
import {
  ItemState,
  PageBuffer,
  checkPageHeader,
  isNewPage,
  itemId,
  itemLength,
  itemOffset,
  itemState,
  maxAlign,
  maxOffsetNumber,
  pageFlags,
  pageInit,
  pageLower,
  pageLsn,
  pageSpecial,
  pageUpper,
  setItemId,
  setPageLsn,
  setPageUpper,
  storedItemId,
} from "../../src/postgres/page/layout.ts";
import { SeededRandom } from "../support/random.ts";
import { addItems, newPage } from "./redo-builder.ts";

const isCorrupt = (error: unknown): boolean => error instanceof NeonError && error.code === ErrorCode.Corrupt;

/** The items as bytes; undefined for line pointers without storage. */
function contents(page: PageBuffer): (string | undefined)[] {
  return Array.from({ length: maxOffsetNumber(page) }, (_, i) => {
    const id = itemId(page, i + 1);
    const start = itemOffset(id);
    if (itemLength(id) === 0) return undefined;
    return Buffer.from(page.bytes.subarray(start, start + itemLength(id))).toString("latin1");
  });
}

function offsets(page: PageBuffer): number[] {
  return Array.from({ length: maxOffsetNumber(page) }, (_, i) => itemOffset(itemId(page, i + 1)));
}

const item = (letter: string, size: number): number[] => new Array<number>(size).fill(letter.charCodeAt(0));
const listOf = (...numbers: number[]): DataView => new DataView(Uint16Array.from(numbers).buffer);

test("an initialised page has header, hole and special area; a zero page is new", () => {
  const page = new PageBuffer(new Uint8Array(8192).fill(0xff));
  pageInit(page, 13);
  assert.equal(pageLower(page), 24);
  assert.equal(pageUpper(page), 8176);
  assert.equal(pageSpecial(page), 8176);
  assert.deepEqual(
    [...page.bytes.subarray(0, 24)],
    [...new Uint8Array(12), 24, 0, 0xf0, 0x1f, 0xf0, 0x1f, 4, 0x20, 0, 0, 0, 0],
  );
  checkPageHeader(page);
  assert(isNewPage(new PageBuffer()));
  assert.throws(() => {
    checkPageHeader(new PageBuffer());
  }, isCorrupt);
});

test("the LSN is two words, the high one first, each little-endian", () => {
  const page = newPage(0);
  setPageLsn(page, toLsn(0x12_89abcdef));
  assert.deepEqual([...page.bytes.subarray(0, 8)], [0x12, 0, 0, 0, 0xef, 0xcd, 0xab, 0x89]);
  assert.equal(pageLsn(page), 0x12_89abcdef);
});

test("a header whose areas are out of order is found out", () => {
  for (const [at, value] of [
    [12, 20],
    [12, 8190],
    [14, 8191],
    [16, 8186],
    [16, 9000],
  ] as const) {
    const page = newPage(8);
    page.view.setUint16(at, value, true);
    assert.throws(
      () => {
        checkPageHeader(page);
      },
      isCorrupt,
      `${at}: ${value}`,
    );
  }
});

test("inserting in front moves line pointers, not items; sizes are rounded up to 8 in the page only", () => {
  const page = newPage(16);
  addItems(page, [item("a", 10), item("b", 16)]);
  insertItemBytes(page, 1, Uint8Array.from(item("c", 3)), 0, 3);
  assert.deepEqual(contents(page), ["ccc", "a".repeat(10), "b".repeat(16)]);
  assert.deepEqual(offsets(page), [8176 - 16 - 16 - 8, 8176 - 16, 8176 - 32]);
  assert.equal(pageLower(page), 36);
  assert.equal(pageUpper(page), 8136);
});

test("an unused line pointer is used again, one in use never", () => {
  const page = newPage(0);
  addItems(page, [item("a", 8), item("b", 8), item("c", 8)]);
  deleteItemKeepingNumbers(page, 2);
  assert.throws(() => reserveItem(page, 1, 8), isCorrupt);
  const at = reserveItem(page, 2, 24);
  assert.equal(at, 8192 - 16 - 24);
  assert.equal(maxOffsetNumber(page), 3);
  assert.equal(pageLower(page), 36);
  assert.throws(() => reserveItem(page, 5, 8), isCorrupt);
  assert.throws(() => reserveItem(page, 0, 8), isCorrupt);
  assert.equal(reserveItem(page, 4, 8), at - 8);
});

test("an item fits to the last byte and no further", () => {
  const page = newPage(0);
  assert.throws(() => reserveItem(page, 1, 8165), isCorrupt);
  assert.equal(reserveItem(page, 1, 8160), 32);
  assert.throws(() => {
    insertItemBytes(page, 1, new Uint8Array(8), 0, 8);
  }, isCorrupt);
  assert.throws(() => reserveItem(page, 2, 0), isCorrupt);
  assert.equal(maxOffsetNumber(page), 1);
});

test("deleting one item moves up what is stored below it", () => {
  const page = newPage(0);
  addItems(page, [item("a", 8), item("b", 16), item("c", 24)]);
  deleteIndexItem(page, 2);
  assert.deepEqual(contents(page), ["a".repeat(8), "c".repeat(24)]);
  assert.deepEqual(offsets(page), [8184, 8160]);
  assert.equal(pageUpper(page), 8160);
});

test("deleting without compaction keeps numbers, except that of the last", () => {
  const page = newPage(0);
  addItems(page, [item("a", 8), item("b", 16), item("c", 24)]);
  deleteItemKeepingNumbers(page, 1);
  assert.deepEqual(contents(page), [undefined, "b".repeat(16), "c".repeat(24)]);
  deleteItemKeepingNumbers(page, 3);
  assert.deepEqual(contents(page), [undefined, "b".repeat(16)]);
  assert.equal(pageUpper(page), 8192 - 16);
});

test("deleting two items keeps the physical order, deleting three packs in the order of numbers", () => {
  const build = () => {
    const page = newPage(0);
    for (const letter of "edcba") insertItemBytes(page, 1, Uint8Array.from(item(letter, 8)), 0, 8);
    return page;
  };
  const scratch = new PageBuffer();
  const two = build();
  deleteIndexItems(two, listOf(2, 4), 0, 2, scratch);
  assert.deepEqual(contents(two), ["aaaaaaaa", "cccccccc", "eeeeeeee"]);
  assert.deepEqual(offsets(two), [8168, 8176, 8184]);
  const three = build();
  deleteIndexItems(three, listOf(1, 3, 4), 0, 3, scratch);
  assert.deepEqual(contents(three), ["bbbbbbbb", "eeeeeeee"]);
  assert.deepEqual(offsets(three), [8184, 8176]);
  const all = build();
  deleteIndexItems(all, listOf(1, 2, 3, 4, 5), 0, 5, scratch);
  assert.equal(pageUpper(all), 8192);
  assert.equal(pageLower(all), 24);
});

test("deleting items that do not exist, or not in ascending order, is refused", () => {
  for (const numbers of [[1, 2, 9], [3, 2, 1], [1, 1, 2], [9], [0], [2, 9]]) {
    const page = newPage(0);
    addItems(page, [item("a", 8), item("b", 8), item("c", 8)]);
    assert.throws(
      () => {
        deleteIndexItems(page, listOf(...numbers), 0, numbers.length, new PageBuffer());
      },
      isCorrupt,
      numbers.join(" "),
    );
  }
});

test("overwriting with less or more moves what is stored below", () => {
  const page = newPage(0);
  addItems(page, [item("a", 16), item("b", 16), item("c", 16)]);
  setItemId(page, 2, itemOffset(itemId(page, 2)), ItemState.Dead, 16);
  overwriteIndexItem(page, 2, Uint8Array.from(item("x", 5)), 0, 5);
  assert.deepEqual(contents(page), ["a".repeat(16), "xxxxx", "c".repeat(16)]);
  assert.equal(itemState(itemId(page, 2)), ItemState.Dead);
  assert.equal(pageUpper(page), 8192 - 40);
  overwriteIndexItem(page, 2, Uint8Array.from(item("y", 40)), 0, 40);
  assert.deepEqual(contents(page), ["a".repeat(16), "y".repeat(40), "c".repeat(16)]);
  assert.equal(pageUpper(page), 8192 - 72);
  assert.throws(() => {
    overwriteIndexItem(page, 1, new Uint8Array(8192), 0, 8150);
  }, isCorrupt);
});

test("repair packs items in the order of their numbers and gives up unused numbers at the end", () => {
  const build = () => {
    const page = newPage(0);
    addItems(page, [item("a", 8), item("b", 8), item("c", 8), item("d", 8), item("e", 8)]);
    setItemId(page, 2, 0, ItemState.Unused, 0);
    setItemId(page, 3, 4, ItemState.Redirect, 0);
    setItemId(page, 5, 0, ItemState.Unused, 0);
    return page;
  };
  const page = build();
  repairFragmentation(page, true, new PageBuffer());
  assert.deepEqual(contents(page), ["a".repeat(8), undefined, undefined, "d".repeat(8)]);
  assert.deepEqual(offsets(page), [8184, 0, 4, 8176]);
  assert.equal(pageFlags(page), 1);
  const old = build();
  repairFragmentation(old, false, new PageBuffer());
  assert.equal(maxOffsetNumber(old), 5);
  const empty = newPage(0);
  addItems(empty, [item("a", 8)]);
  setItemId(empty, 1, 0, ItemState.Unused, 0);
  repairFragmentation(empty, true, new PageBuffer());
  assert.equal(pageLower(empty), 24);
  assert.equal(pageFlags(empty), 0);
});

test("truncating line pointers never gives up the first", () => {
  const page = newPage(0);
  addItems(page, [item("a", 8), item("b", 8), item("c", 8)]);
  for (const number of [1, 3]) setItemId(page, number, 0, ItemState.Unused, 0);
  truncateLinePointers(page);
  assert.equal(maxOffsetNumber(page), 2);
  assert.equal(pageFlags(page), 1);
  setItemId(page, 2, 0, ItemState.Unused, 0);
  truncateLinePointers(page);
  assert.equal(maxOffsetNumber(page), 1);
  assert.equal(pageFlags(page), 1);
  setItemId(page, 1, 0, ItemState.Dead, 0);
  truncateLinePointers(page);
  assert.equal(maxOffsetNumber(page), 1);
  assert.equal(pageFlags(page), 0);
});

test("an item outside of the items area, or overlapping ones that do not fit, are found out", () => {
  for (const [offset, length] of [
    [100, 8],
    [8190, 8],
    [0, 8],
    [8184, 0],
    [32767, 32767],
  ] as const) {
    const page = newPage(0);
    addItems(page, [item("a", 8)]);
    setItemId(page, 1, offset, ItemState.Normal, length);
    assert.throws(() => storedItemId(page, 1), isCorrupt, `${offset} ${length}`);
  }
  const page = newPage(0);
  addItems(page, [item("a", 8), item("b", 8)]);
  setPageUpper(page, 2000);
  for (const number of [1, 2]) setItemId(page, number, 2000, ItemState.Normal, 6000);
  assert.throws(() => {
    compactItems(page, new PageBuffer());
  }, isCorrupt);
});

test("any sequence of changes leaves the page as a list of byte strings would be", (t) => {
  const random = SeededRandom.forTest(t);
  for (let round = 0; round < 60; round++) {
    const page = newPage(random.pick([0, 8, 16]));
    const scratch = new PageBuffer();
    const model: string[] = [];
    for (let step = 0; step < 120; step++) {
      const size = random.between(1, 200);
      const text = String.fromCharCode(random.between(32, 126)).repeat(size);
      const data = Uint8Array.from(Buffer.from(text, "latin1"));
      const choice = random.below(10);
      const free = pageUpper(page) - pageLower(page) - 4;
      if (choice < 5 || model.length === 0) {
        if (maxAlign(size) > free) continue;
        const at = random.between(0, model.length);
        insertItemBytes(page, at + 1, data, 0, size);
        model.splice(at, 0, text);
      } else if (choice < 7) {
        const at = random.below(model.length);
        if (maxAlign(size) - maxAlign((model[at] as string).length) > free) continue;
        overwriteIndexItem(page, at + 1, data, 0, size);
        model[at] = text;
      } else if (choice < 9) {
        const at = random.below(model.length);
        deleteIndexItem(page, at + 1);
        model.splice(at, 1);
      } else {
        const gone = model.map((_, i) => i).filter(() => random.chance(0.3));
        deleteIndexItems(page, listOf(...gone.map((i) => i + 1)), 0, gone.length, scratch);
        for (const i of gone.reverse()) model.splice(i, 1);
      }
      checkPageHeader(page);
      assert.deepEqual(contents(page), model);
      const used = model.reduce((sum, part) => sum + maxAlign(part.length), 0);
      assert.equal(pageUpper(page), pageSpecial(page) - used);
    }
  }
});
