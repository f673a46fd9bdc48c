import assert from "node:assert/strict";
import { test } from "node:test";
import { AssertionError, ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { decodeIndexBlock } from "../../src/storage/index-block.ts";
import { IndexEncoder, encodeIndex } from "../../src/storage/index-encoder.ts";
import { decodeIndex } from "../../src/storage/index-file.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { MAX_KEY, MIN_KEY, compareToKey, nextKey } from "../../src/storage/key-range.ts";
import {
  decodeDirectory,
  decodeFooter,
  decodeHeader,
  encodeDirectory,
  encodeFooter,
  encodeHeader,
} from "../../src/storage/layer-codec.ts";
import {
  BLOCK_HEADER_SIZE,
  DIRECTORY_DATA_SIZE,
  DIRECTORY_FIXED_SIZE,
  DIRECTORY_INDEX_SIZE,
  FOOTER_SIZE,
  HEADER_SIZE,
  LayerKind,
} from "../../src/storage/layer-format.ts";
import { LayerWriter } from "../../src/storage/layer-writer.ts";
import { SeededRandom } from "../support/random.ts";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const sum = (...sizes: number[]) => sizes.reduce((total, size) => total + size, 0);

test("the sizes in the layout tables add up", () => {
  assert.equal(HEADER_SIZE, sum(8, 4, 2, 1, 1, 8, 8));
  assert.equal(BLOCK_HEADER_SIZE, sum(4, 4, 4, 4));
  assert.equal(DIRECTORY_FIXED_SIZE, sum(4, 4));
  assert.equal(DIRECTORY_DATA_SIZE, 4);
  assert.equal(DIRECTORY_INDEX_SIZE, sum(4, 18, 8));
  assert.equal(FOOTER_SIZE, sum(4, 4, 8, 8, 18, 18, 4, 4, 4, 8));
  const layout = { kind: LayerKind.Delta, startLsn: toLsn(1), endLsn: toLsn(2) };
  assert.equal(encodeHeader(layout).bytes.length, HEADER_SIZE);
  assert.equal(encodeFooter(FOOTER).length, FOOTER_SIZE);
});

const FOOTER = {
  directoryPosition: 0xf0000000,
  directorySize: 0x01000000,
  valueCount: 2 ** 40 + 1,
  keyCount: 3,
  range: { from: { ...MIN_KEY, relNumber: 0x80000001 }, to: MAX_KEY },
  seed: 0xdeadbeef,
};

test("header, directory and footer come back as they were", () => {
  const header = { kind: LayerKind.Image, startLsn: toLsn(0x12_80000001), endLsn: toLsn(0x12_80000001) };
  const { bytes, seed } = encodeHeader(header);
  assert.deepEqual(decodeHeader(bytes, "/x"), { ...header, seed });
  assert.deepEqual(decodeFooter(encodeFooter(FOOTER), 0xf1000000 + FOOTER_SIZE, "/x"), FOOTER);
  const firstKey: Key = {
    kind: 0xfe,
    spcOid: 0xfffffffe,
    dbOid: 5,
    relNumber: 7,
    fork: 3,
    block: 0x80000000,
  };
  const directory = decodeDirectory(
    encodeDirectory({
      dataStart: [32, 0x80000000],
      index: [{ position: 0x90000000, firstKey, firstLsn: toLsn(0x1f_ffff_ffff) }],
    }),
    0xa0000000,
    "/x",
  );
  assert.deepEqual([...directory.dataStart], [32, 0x80000000, 0x90000000]);
  assert.deepEqual([...directory.indexStart], [0x90000000, 0xa0000000]);
  assert.deepEqual(directory.firstKeys, [firstKey]);
  assert.deepEqual([...directory.firstLsns], [0x1f_ffff_ffff]);
});

test("versions and kinds that nobody knows are refused", () => {
  const { bytes } = encodeHeader({ kind: LayerKind.Delta, startLsn: toLsn(1), endLsn: toLsn(2) });
  assert.throws(() => decodeHeader(bytes.subarray(0, 31), "/x"), { code: ErrorCode.Corrupt });
  assert.throws(() => decodeHeader(new Uint8Array(32), "/x"), /\/x: header does not begin/);
});

/** The file, byte by byte, as `docs/formats/layer-file.md` describes it. */
test("a small layer has exactly these bytes", async () => {
  const files = new FaultyFiles({ random: () => 0 });
  const header = { kind: LayerKind.Delta, startLsn: toLsn(0x100), endLsn: toLsn(0x400) };
  await using writer = await LayerWriter.create("/x", header, files);
  const prefix = { kind: 1, spcOid: 2, dbOid: 3, relNumber: 4, fork: 0 };
  writer.beginKey(prefix, 5);
  writer.addValue(0x110, ValueFlag.Image, Uint8Array.of(0xaa, 0xbb), 0, 2);
  const place = writer.addValue(0x200, ValueFlag.Record, Uint8Array.of(0, 0xcc, 0), 1, 2);
  writer.beginKey(prefix, 6);
  writer.addValue(0x300, ValueFlag.Tombstone, Uint8Array.of(), 0, 0);
  writer.beginKey({ ...prefix, fork: 1 }, 0x80000000);
  writer.addReference(0x300, ValueFlag.Record | ValueFlag.WillInit, 1, place);
  const written = await writer.finish();
  assert.equal(written.valueCount, 4);
  assert.equal(written.keyCount, 3);
  const file = files.contentOf("/x");
  const seed = crcHex(file, 12, 32);
  const expected = `
    magic, crc, version, kind, zero:       4e454f4e4c415952 ${seed} 0100 01 00
    startLsn, endLsn:                      0001000000000000 0004000000000000
    data block, header:                    ${crcHex(file, 36, 51)} 03000000 20000000 ${seed}
    values:                                aabb cc
    index block, header:                   ${crcHex(file, 55, 139)} 48000000 33000000 ${seed}
    counts, start of data:                 04000000 03000000 02000000 00000000 00000000
    first run:                             01 00000002 00000003 00000004 00
    block 5, image at +10, record at +f0:  05 01 10 02 12 f001 01
    block 6, tombstone at +200:            01 38 8004 00
    second run:                            01 00000002 00000003 00000004 01
    block 2^31, record in block 0 at 2:    8080808008 b6 8004 01 00 02
    directory, header:                     ${crcHex(file, 143, 197)} 2a000000 8b000000 ${seed}
    counts, data block:                    01000000 01000000 20000000
    index block:                           33000000 01 00000002 00000003 00000004 00 00000005 1001000000000000
    footer, directory:                     8b000000 3a000000
    counts:                                0400000000000000 0300000000000000
    from:                                  01 00000002 00000003 00000004 00 00000005
    to:                                    01 00000002 00000003 00000004 01 80000001
    seed, crc, zero, magic:                ${seed} ${crcHex(file, 197, 261)} 00000000 4c415952454e4431`;
  assert.equal(hex(file), expected.replaceAll(/^.*: /gm, "").replaceAll(/\s/g, ""));
  assert.equal(written.sizeBytes, file.length);
});

/** CRC-32C of `bytes[start..end)`, bit by bit, as it stands in a file. */
function crcHex(bytes: Uint8Array, start: number, end: number): string {
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(start, end)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return hex(new Uint8Array(Uint32Array.of(~crc).buffer));
}

test("decoders answer any bytes with a result or a typed error", (t) => {
  const random = SeededRandom.forTest(t);
  const index = encodeIndexBlock();
  const bounds = { startLsn: 0x100, endLsn: 0x100000, dataCount: 3 };
  assert.equal(decodeIndexBlock(index, bounds).lsns.length, 5);
  let failures = 0;
  const attempt = (decode: () => unknown) => {
    try {
      decode();
    } catch (error) {
      failures++;
      assert.ok(error instanceof NeonError && error.code === ErrorCode.Corrupt, String(error));
    }
  };
  for (let i = 0; i < 20_000; i++) {
    attempt(() => decodeIndexBlock(mutate(index, random), bounds));
    attempt(() => decodeIndexBlock(random.bytes(random.below(100)), bounds));
    attempt(() => decodeDirectory(random.bytes(random.pick([7, 8, 12, 38, 42])), 1 << 20, "/x"));
  }
  assert.ok(failures > 10_000);
});

function encodeIndexBlock(): Uint8Array {
  const head = Uint8Array.from([5, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
  const prefix = [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4];
  const first = [...prefix, 0, 5, 0x01, 0x10, 2, 0x12, 0x80, 0x01, 1, 1, 0x02, 0x10, 1, 0x72, 9, 200, 1];
  const second = [...prefix, 1, 0x80, 0x80, 0x80, 0x80, 8, 0xb6, 0x80, 4, 1, 0, 2];
  return Uint8Array.from([...head, ...first, ...second]);
}

function mutate(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  const copy = bytes.slice(0, random.chance(0.2) ? random.below(bytes.length) : bytes.length);
  for (let i = random.between(1, 3); i > 0; i--) copy[random.below(copy.length)] = random.below(256);
  return copy;
}

test("the index file comes back as it was, and to the same bytes", async () => {
  const index = {
    startLsn: toLsn(0x10_00000000),
    durableLsn: toLsn(0x1f_ffffffff),
    nextFile: 12,
    layers: [
      {
        name: "00000001-10_0-1F_FFFFFFFF.delta",
        kind: LayerKind.Delta,
        startLsn: toLsn(0x10_00000000),
        endLsn: toLsn(0x1f_ffffffff),
        range: { from: { ...MIN_KEY, dbOid: 0x80000000 }, to: MAX_KEY },
        sizeBytes: 2 ** 32 + 5,
        valueCount: 77,
      },
    ],
  };
  const bytes = encodeIndex(index);
  assert.deepEqual(decodeIndex(bytes, "/x"), index);
  assert.equal(hex(encodeIndex(decodeIndex(bytes, "/x"))), hex(bytes));
  const encoder = new IndexEncoder();
  assert.equal(hex(await encoder.encode(index)), hex(bytes));
  const fewer = { ...index, layers: index.layers.slice(1) };
  assert.equal(hex(await encoder.encode(fewer)), hex(encodeIndex(fewer)));
  assert.equal(hex(await encoder.encode(index)), hex(bytes));
  assert.equal(
    (JSON.parse(new TextDecoder().decode(bytes)) as { magic: string }).magic,
    "neon-timeline-index",
  );
});

test("the next key carries over", () => {
  const key: Key = { kind: 1, spcOid: 2, dbOid: 3, relNumber: 0xffffffff, fork: 0xff, block: 0xffffffff };
  assert.deepEqual(nextKey(key), { kind: 1, spcOid: 2, dbOid: 4, relNumber: 0, fork: 0, block: 0 });
  assert.deepEqual(nextKey(MIN_KEY), { ...MIN_KEY, block: 1 });
  assert.deepEqual(nextKey(MAX_KEY), MAX_KEY);
  assert.ok(compareToKey(key, key.block, nextKey(key)) < 0);
});

test("values must belong to a key", async () => {
  const files = new FaultyFiles({ random: () => 0 });
  const header = { kind: LayerKind.Delta, startLsn: toLsn(1), endLsn: toLsn(4) };
  await using writer = await LayerWriter.create("/x", header, files);
  assert.throws(() => writer.addValue(2, ValueFlag.Image, new Uint8Array(1), 0, 1), AssertionError);
});
