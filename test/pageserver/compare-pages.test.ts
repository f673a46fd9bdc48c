/** What may differ between a page of a server and ours, and what may not. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Fork } from "../../src/postgres/constants.ts";
import { PageBuffer, pageInit } from "../../src/postgres/page/layout.ts";
import { comparePages } from "../../src/pageserver/verify/compare-pages.ts";

type Change = (page: PageBuffer) => void;

/** The first difference of two pages that are made alike and then changed. */
function compare(make: Change, theirs: Change, ours: Change, about: object = {}): number | undefined {
  const [left, right] = [new PageBuffer(), new PageBuffer()];
  for (const page of [left, right]) make(page);
  theirs(left);
  ours(right);
  return comparePages(left, right, { dbOid: 5, fork: Fork.Main, block: 7, madeBy: "primary", ...about });
}

const nothing: Change = () => undefined;
const set =
  (at: number, value: number): Change =>
  (page) => {
    page.bytes[at] = value;
  };
const withSpecial =
  (size: number, id: number): Change =>
  (page) => {
    pageInit(page, size);
    page.view.setUint16(8190, id, true);
  };

test("pages that were never written to are equal, whatever is missing", () => {
  const empty: Change = (page) => pageInit(page, 0);
  assert.equal(compare(nothing, nothing, nothing), undefined);
  // A server may set up a page and put nothing on it; we know only of pages that were logged.
  assert.equal(compare(nothing, empty, nothing), undefined);
  assert.equal(compare(nothing, nothing, empty), 12);
  assert.equal(compare(nothing, withSpecial(16, 0), nothing), 12);
});

test("hints of a heap may differ, its tuples may not", () => {
  const heap: Change = (page) => {
    pageInit(page, 0);
    page.bytes.fill(7, 8000);
    page.view.setUint16(14, 8000, true);
  };
  for (const at of [0, 7, 8, 9, 20, 23])
    assert.equal(compare(heap, set(at, 1), set(at, 2)), undefined, `byte ${at}`);
  // In the hole there is nothing.
  assert.equal(compare(heap, set(5000, 1), nothing), undefined);
  assert.equal(compare(heap, set(8100, 1), nothing), 8100);
  assert.throws(() => compare(heap, set(13, 0x60), nothing), /header is damaged/);
});

test("the kind of an index is told from its special area", () => {
  // A hint in the flags of each kind: it may differ only if the kind is recognised.
  for (const [size, id, hintAt, hint] of [
    [16, 0x0000, 8188, 0x40],
    [16, 0xff80, 8188, 0x80],
    [16, 0xff81, 8188, 0x10],
    [8, 0xf093, 8188, 0x01],
  ] as const) {
    const make = withSpecial(size, id);
    const flag: Change = (page) => {
      // A bucket of a hash index, whose flags count.
      if (id === 0xff80) for (const each of [page]) each.bytes[hintAt] = 2;
    };
    const both: Change = (page) => {
      make(page);
      flag(page);
    };
    const hinted: Change = (page) => {
      page.bytes[hintAt] = (page.bytes[hintAt] ?? 0) | hint;
    };
    assert.equal(
      compare(both, hinted, nothing),
      undefined,
      `special area of ${size} with ${id.toString(16)}`,
    );
    assert.notEqual(compare(both, set(8184, 0x55), nothing), undefined, "what is no hint");
  }
});

test("replay may have noted on a GiST page that tuples were deleted", () => {
  const make = withSpecial(16, 0xff81);
  for (const madeBy of ["primary", "recovery"]) {
    assert.equal(compare(make, set(8188, 0x05), set(8188, 0x01), { madeBy }), undefined);
    // Not the other way round, and no other flag.
    assert.equal(compare(make, set(8188, 0x01), set(8188, 0x05), { madeBy }), 8188);
    assert.equal(compare(make, set(8188, 0x07), set(8188, 0x01), { madeBy }), 8188);
  }
});

test("what a sequence has logged ahead may differ", () => {
  const sequence: Change = (page) => {
    pageInit(page, 8);
    page.view.setUint32(8184, 0x1717, true);
    page.view.setUint16(12, 28, true);
    page.view.setUint16(14, 8120, true);
    page.view.setUint32(24, 8120 | (1 << 15) | (41 << 17), true);
  };
  assert.equal(compare(sequence, set(8120 + 24, 32), set(8120 + 24, 64)), undefined);
  assert.equal(compare(sequence, set(8120 + 20, 1), nothing), 8120 + 20);
});

test("bits of a visibility map may be missing where a database was copied, but never too many", () => {
  const map: Change = (page) => {
    pageInit(page, 0);
    page.bytes[100] = 0x0f;
  };
  const inDatabase = (dbOid: number) => ({ dbOid, fork: Fork.VisibilityMap });
  assert.equal(compare(map, nothing, nothing, inDatabase(5)), undefined);
  assert.equal(compare(map, nothing, set(100, 0x03), inDatabase(5)), 100);
  assert.equal(compare(map, nothing, set(100, 0x03), inDatabase(16400)), undefined);
  assert.equal(compare(map, nothing, set(100, 0x1f), inDatabase(16400)), 100);
  assert.equal(compare(map, set(100, 0), nothing, inDatabase(16400)), 100);

  // A recovery that was started again has lost some; one that was not has what we have.
  for (const madeBy of ["recovery", "restarted-recovery"]) {
    const about = { ...inDatabase(16400), madeBy };
    assert.equal(compare(map, nothing, nothing, about), undefined);
    assert.equal(compare(map, nothing, set(100, 0x03), about), 100);
    assert.equal(compare(map, set(100, 0x03), nothing, about), madeBy === "recovery" ? 100 : undefined);
    assert.equal(compare(map, set(100, 0x13), nothing, about), 100);
  }
});
