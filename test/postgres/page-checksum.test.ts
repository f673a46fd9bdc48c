import assert from "node:assert/strict";
import { test } from "node:test";
import { pageChecksum } from "../../src/postgres/page/checksum.ts";
import { SeededRandom } from "../support/random.ts";

const SEEDS =
  "5b1f36e9 b8525960 02ab50aa 1de66d2a 79ff467a 9bb9f8a3 217e7cd2 83e13d2c f8d4474f e39eb970 42c6ae16 993216fa 7b093b5d 98daff3c f718902a 0b1c9cdb e58f764b 187636bc 5d7b3bb1 e73de7de 92bec979 cca6c0b2 304a0979 85aa43d4 783125bb 6ca8eaa2 e407eac6 4b5cfc3e 9fbf8c76 15ca20be f2ca9fd3 959bd756"
    .split(" ")
    .map((word) => BigInt(`0x${word}`));

/** The same sum in big integers, row after row as Postgres describes it. */
function plainChecksum(page: Uint8Array, blockNumber: number): number {
  const view = new DataView(page.slice().buffer);
  view.setUint16(8, 0, true);
  const sums = [...SEEDS];
  const feed = (column: number, word: bigint) => {
    const mixed = (sums[column] as bigint) ^ word;
    sums[column] = BigInt.asUintN(32, mixed * 16777619n) ^ (mixed >> 17n);
  };
  for (let i = 0; i < 2048; i++) feed(i % 32, BigInt(view.getUint32(i * 4, true)));
  for (let i = 0; i < 64; i++) feed(i % 32, 0n);
  const folded = sums.reduce((a, b) => a ^ b, 0n) ^ BigInt(blockNumber);
  return Number(folded % 65535n) + 1;
}

test("the checksum equals a plain computation, whatever the checksum field holds", (t) => {
  const random = SeededRandom.forTest(t);
  for (let round = 0; round < 8; round++) {
    const page = random.bytes(8192);
    const block = random.pick([0, 1, 131072, 0xffffffff]);
    const view = new DataView(page.buffer);
    const expected = plainChecksum(page, block);
    assert.equal(pageChecksum(view, block), expected);
    view.setUint16(8, random.below(65536), true);
    assert.equal(pageChecksum(view, block), expected);
    page[4000] = (page[4000] as number) ^ 1;
    assert.notEqual(pageChecksum(view, block), expected);
  }
});
