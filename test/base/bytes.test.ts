/** Cursors over bytes: growth, and that writer and reader agree. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ByteReader, ByteWriter } from "../../src/base/bytes.ts";
import { toLsn } from "../../src/base/lsn.ts";

/** Each way to write, with the way to read it back. */
const WAYS: readonly [
  string,
  (writer: ByteWriter) => ByteWriter,
  (reader: ByteReader) => unknown,
  unknown,
][] = [
  ["u8", (w) => w.u8(0xfe), (r) => r.u8(), 0xfe],
  ["u16le", (w) => w.u16le(0xfedc), (r) => r.u16le(), 0xfedc],
  ["u16be", (w) => w.u16be(0xfedc), (r) => r.u16be(), 0xfedc],
  ["u32le", (w) => w.u32le(0xfedcba98), (r) => r.u32le(), 0xfedcba98],
  ["u32be", (w) => w.u32be(0xfedcba98), (r) => r.u32be(), 0xfedcba98],
  ["i16be", (w) => w.i16be(-2), (r) => r.i16be(), -2],
  ["i32le", (w) => w.i32le(-3), (r) => r.i32le(), -3],
  ["i32be", (w) => w.i32be(-3), (r) => r.i32be(), -3],
  ["u64le", (w) => w.u64le(2n ** 63n), (r) => r.u64le(), 2n ** 63n],
  ["i64le", (w) => w.i64le(-5n), (r) => r.i64le(), -5n],
  ["u64be", (w) => w.u64be(2n ** 63n), (r) => r.u64be(), 2n ** 63n],
  ["i64be", (w) => w.i64be(-5n), (r) => r.i64be(), -5n],
  ["u64leLsn", (w) => w.u64leLsn(toLsn(2 ** 40 + 1)), (r) => r.u64leLsn(), 2 ** 40 + 1],
  ["u64beLsn", (w) => w.u64beLsn(toLsn(2 ** 40 + 1)), (r) => r.u64beLsn(), 2 ** 40 + 1],
  ["bytes", (w) => w.bytes(new Uint8Array([1, 2, 3])), (r) => [...r.copy(3)], [1, 2, 3]],
  ["zeros", (w) => w.zeros(3), (r) => [...r.copy(3)], [0, 0, 0]],
  ["utf8", (w) => w.utf8("ä€"), (r) => r.utf8(5), "ä€"],
  ["cstring", (w) => w.cstring("ä€"), (r) => r.cstring(), "ä€"],
];

void test("a writer grows at any value", async (t) => {
  for (const [name, write, read, expected] of WAYS) {
    await t.test(name, () => {
      for (let capacity = 0; capacity < 12; capacity++) {
        const writer = new ByteWriter(capacity);
        for (let i = 0; i < 4; i++) write(writer);
        const reader = new ByteReader(writer.finish());
        for (let i = 0; i < 4; i++) assert.deepEqual(read(reader), expected, `capacity ${capacity}`);
        assert.equal(reader.remaining, 0);
      }
    });
  }
});
