import assert from "node:assert/strict";
import { test } from "node:test";
import { zstdCompressSync } from "node:zlib";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { decodeRecord } from "../../src/postgres/wal/decode-record.ts";
import { restoreBlockImage } from "../../src/postgres/wal/image.ts";
import { decompressLz4Block } from "../../src/postgres/wal/lz4.ts";
import { decompressPglz } from "../../src/postgres/wal/pglz.ts";
import { type BlockRef, WalRecord } from "../../src/postgres/wal/record.ts";
import { SeededRandom } from "../support/random.ts";
import { buildRecord, type ImageSpec } from "../support/wal-builder.ts";

const PAGE = 8192;

function isCorrupt(error: unknown): boolean {
  return error instanceof NeonError && error.code === ErrorCode.Corrupt;
}

/** The longest earlier occurrence (within `reach`) of what follows `at`, by trying all. */
function findCopy(
  bytes: Uint8Array,
  at: number,
  reach: number,
  longest: number,
): { distance: number; length: number } {
  let best = { distance: 0, length: 0 };
  for (let distance = 1; distance <= Math.min(at, reach); distance++) {
    let length = 0;
    while (
      length < longest &&
      at + length < bytes.length &&
      bytes[at + length] === bytes[at + length - distance]
    )
      length++;
    if (length > best.length) best = { distance, length };
  }
  return best;
}

/** A plain pglz compressor. */
function compressPglz(bytes: Uint8Array): Buffer {
  const out: number[] = [];
  let at = 0;
  while (at < bytes.length) {
    const controlAt = out.length;
    out.push(0);
    for (let item = 0; item < 8 && at < bytes.length; item++) {
      const { distance, length } = findCopy(bytes, at, 600, 273);
      if (length < 3) {
        out.push(bytes[at++] ?? 0);
        continue;
      }
      out[controlAt] = (out[controlAt] ?? 0) | (1 << item);
      const high = (distance >> 4) & 0xf0;
      if (length >= 18) out.push(high | 15, distance & 255, length - 18);
      else out.push(high | (length - 3), distance & 255);
      at += length;
    }
  }
  return Buffer.from(out);
}

/** What follows a token whose half is 15. */
function lengthBytes(value: number): number[] {
  const more: number[] = [];
  for (let left = value - 15; left >= 0; left -= 255) more.push(Math.min(left, 255));
  return more;
}

/** A plain LZ4 block compressor. */
function compressLz4(bytes: Uint8Array): Buffer {
  const out: number[] = [];
  let literals: number[] = [];
  let at = 0;
  while (at < bytes.length) {
    const { distance, length } =
      at + 12 < bytes.length ? findCopy(bytes, at, 700, bytes.length - at - 5) : { distance: 0, length: 0 };
    if (length < 4) {
      literals.push(bytes[at++] ?? 0);
      continue;
    }
    out.push(
      (Math.min(literals.length, 15) << 4) | Math.min(length - 4, 15),
      ...lengthBytes(literals.length),
      ...literals,
    );
    out.push(distance & 255, distance >> 8, ...lengthBytes(length - 4));
    literals = [];
    at += length;
  }
  out.push(Math.min(literals.length, 15) << 4, ...lengthBytes(literals.length), ...literals);
  return Buffer.from(out);
}

/** Bytes with repetitions of many lengths and distances. */
function compressible(random: SeededRandom, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  let at = 0;
  while (at < size) {
    const count = Math.min(random.between(1, random.pick([3, 20, 400])), size - at);
    if (at > 0 && random.chance(0.6)) {
      const distance = random.between(1, Math.min(at, random.pick([1, 2, 10, 600])));
      for (let i = 0; i < count; i++, at++) bytes[at] = bytes[at - distance] ?? 0;
    } else {
      bytes.set(random.bytes(count), at);
      at += count;
    }
  }
  return bytes;
}

const METHODS = [
  ["pglz", 4, compressPglz, decompressPglz],
  ["lz4", 8, compressLz4, decompressLz4Block],
] as const;

for (const [name, , compress, decompress] of METHODS) {
  test(`${name}: what was compressed comes back, at any place`, (t) => {
    const random = SeededRandom.forTest(t);
    for (const size of [0, 1, 2, 3, 12, 13, 18, 100, 300, 1000, 3000]) {
      if (size === 0 && name === "pglz") continue;
      const bytes = size < 20 ? new Uint8Array(size).fill(7) : compressible(random, size);
      const packed = compress(bytes);
      const padded = Buffer.concat([random.bytes(5), packed, random.bytes(3)]);
      const target = new Uint8Array(size + 10).fill(0xcc);
      decompress(padded, 5, 5 + packed.length, target, size);
      assert.deepEqual(target.subarray(0, size), bytes);
      assert.ok(
        target.subarray(size).every((byte) => byte === 0xcc),
        "nothing is written beyond the output",
      );
    }
  });

  test(`${name}: cut, longer, shorter or damaged input is a typed error or fills the output exactly`, (t) => {
    const random = SeededRandom.forTest(t);
    const bytes = compressible(random, 1500);
    const packed = compress(bytes);
    const target = new Uint8Array(1600);
    const attempt = (input: Uint8Array, size: number): void =>
      decompress(input, 0, input.length, target, size);
    for (let cut = 0; cut < packed.length; cut++)
      assert.throws(() => attempt(packed.subarray(0, cut), 1500), isCorrupt, `cut at ${cut}`);
    // One byte less would do for pglz, whose last copy may reach too far.
    assert.throws(() => attempt(packed, 1000), isCorrupt);
    assert.throws(() => attempt(packed, 1501), isCorrupt);
    assert.throws(() => attempt(Buffer.concat([packed, Buffer.from([0])]), 1500), isCorrupt);
    for (let round = 0; round < 5000; round++) {
      const copy = Buffer.from(packed);
      for (let flips = random.between(1, 3); flips > 0; flips--) {
        const at = random.below(copy.length);
        copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8));
      }
      target.fill(0xcc, 1500);
      try {
        attempt(copy, 1500);
      } catch (error) {
        if (!isCorrupt(error)) throw error;
      }
      assert.ok(
        target.subarray(1500).every((byte) => byte === 0xcc),
        "nothing is written beyond the output",
      );
    }
    for (let round = 0; round < 3000; round++) {
      try {
        attempt(random.bytes(random.below(60)), 1500);
      } catch (error) {
        if (!isCorrupt(error)) throw error;
      }
    }
  });
}

function unpacked(decompress: typeof decompressPglz, input: number[], size: number): string {
  const target = new Uint8Array(size);
  decompress(Uint8Array.from(input), 0, input.length, target, size);
  return Buffer.from(target).toString("latin1");
}

test("pglz: known bytes", () => {
  // Literals a b c, then a copy of 9 from 3 back, then literal !
  assert.equal(unpacked(decompressPglz, [0b01000, 97, 98, 99, 0x06, 3, 33], 13), "abcabcabcabc!");
  // A copy of 18 + 2 from 1 back.
  assert.equal(unpacked(decompressPglz, [0b10, 120, 0x0f, 1, 2], 21), "x".repeat(21));
  // A copy that would write more than there is room for is cut.
  assert.equal(unpacked(decompressPglz, [0b10, 120, 0x0f, 1, 255], 5), "xxxxx");
  // Distances use twelve bits: 4095 is the largest.
  assert.throws(() => unpacked(decompressPglz, [0b10, 120, 0xf0, 255], 5), isCorrupt);
  assert.throws(() => unpacked(decompressPglz, [0b10, 120, 0x00, 0], 5), isCorrupt);
});

test("lz4: known bytes", () => {
  // Three literals, a copy of 9 from 3 back, then one literal.
  assert.equal(unpacked(decompressLz4Block, [0x35, 97, 98, 99, 3, 0, 0x10, 33], 13), "abcabcabcabc!");
  // A copy of 15 + 255 + 1 + 4 from 1 back, and an empty end.
  assert.equal(unpacked(decompressLz4Block, [0x1f, 120, 1, 0, 255, 1, 0x00], 276), "x".repeat(276));
});

/** A record with one image, decoded. */
function recordWith(image: ImageSpec): { record: WalRecord; block: BlockRef } {
  const bytes = buildRecord(
    { rmgr: 0, info: 0xb0, blocks: [{ id: 0, relation: [1663, 5, 16384], block: 9, image }] },
    64,
  );
  const record = new WalRecord();
  decodeRecord(
    record,
    bytes,
    new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
    0,
    bytes.length,
    POSTGRES_17,
  );
  const [block] = record.blocks;
  assert.ok(block);
  return { record, block };
}

test("images with and without hole, plain and compressed, are restored whole", (t) => {
  const random = SeededRandom.forTest(t);
  const kinds: readonly (readonly [number, (bytes: Uint8Array) => Uint8Array])[] = [
    [0, (bytes) => bytes],
    [4, compressPglz],
    [8, compressLz4],
    [16, (bytes) => zstdCompressSync(bytes)],
  ];
  for (const [compression, compress] of kinds) {
    for (const [holeOffset, holeLength] of [
      [0, 0],
      [24, 1],
      [40, 4000],
      [4000, 4192],
      [1, 8190],
      [3000, 3000],
    ] as const) {
      if (compression !== 0 && holeLength === 8190) continue;
      const page = compressible(random, PAGE);
      page.fill(0, holeOffset, holeOffset + holeLength);
      const content = Buffer.concat([page.subarray(0, holeOffset), page.subarray(holeOffset + holeLength)]);
      const hasHole = holeLength > 0;
      const { record, block } = recordWith({
        stored: compress(content),
        info: 2 | compression | (hasHole ? 1 : 0),
        holeOffset,
        ...(hasHole && compression !== 0 && { holeLength }),
      });
      const target = new Uint8Array(PAGE).fill(0xdd);
      restoreBlockImage(record, block, POSTGRES_17, target);
      assert.deepEqual(target, page, `compression ${compression}, hole ${holeOffset}+${holeLength}`);
    }
  }
});

test("an image that does not decompress names the record", () => {
  const short = zstdCompressSync(new Uint8Array(100));
  const bomb = zstdCompressSync(new Uint8Array(50_000_000));
  const cases: readonly (readonly [string, Uint8Array, number])[] = [
    ["pglz garbage", new Uint8Array(100).fill(0xff), 4],
    ["lz4 garbage", new Uint8Array(100).fill(0xff), 8],
    ["zstd garbage", new Uint8Array(100).fill(0xff), 16],
    ["zstd of fewer bytes", short, 16],
    ["zstd of far more bytes", bomb, 16],
    ["two methods at once", short, 12],
  ];
  for (const [name, stored, compression] of cases) {
    const { record, block } = recordWith({ stored, info: 2 | compression });
    assert.throws(
      () => restoreBlockImage(record, block, POSTGRES_17, new Uint8Array(PAGE)),
      (error) => isCorrupt(error) && typeof (error as NeonError).data["lsn"] === "string",
      name,
    );
  }
});
