/** CRC-32C against published values and against a bit-by-bit computation. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32c, crc32cUpdate } from "../../src/base/crc32c.ts";
import { SeededRandom } from "../support/random.ts";

/** One bit at a time: slow and obviously right. */
function plain(bytes: Uint8Array): number {
  let c = -1;
  for (const byte of bytes) {
    c ^= byte;
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  }
  return (c ^ -1) >>> 0;
}

test("published values", () => {
  // RFC 3720, appendix B.4, and the usual check value.
  assert.equal(crc32c(new TextEncoder().encode("123456789")), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
  assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
});

test("every length, alignment and split gives what one bit at a time gives", (t) => {
  const random = SeededRandom.forTest(t);
  const buffer = random.bytes(5000);
  for (let i = 0; i < 300; i++) {
    const start = random.below(64);
    const end = start + random.below(i % 3 === 0 ? 4900 : 700);
    const expected = plain(buffer.subarray(start, end));
    assert.equal(crc32c(buffer, start, end), expected);
    const middle = start + random.below(end - start + 1);
    const pieces = crc32cUpdate(crc32cUpdate(-1, buffer, start, middle), buffer, middle, end);
    assert.equal((pieces ^ -1) >>> 0, expected);
  }
});

test("more than WebAssembly is given at a time", (t) => {
  const random = SeededRandom.forTest(t);
  const buffer = random.bytes(200_000);
  for (const length of [65_535, 65_536, 65_537, 65_552, 131_072, 131_088, 199_999]) {
    assert.equal(crc32c(buffer, 0, length), plain(buffer.subarray(0, length)), `${length} bytes`);
    assert.equal(crc32c(buffer, 1, length), plain(buffer.subarray(1, length)), `${length - 1} bytes`);
  }
});
