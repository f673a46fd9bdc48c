/** The file of replication origins' progress. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeOrigins, encodeOrigins } from "../../src/postgres/replication-origins.ts";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";

const ORIGINS = [
  { origin: 1, remoteLsn: 0x1_0000_0002n },
  { origin: 65534, remoteLsn: 0xffff_ffff_ffff_ffffn },
];

test("what is written is what is read, at the offsets of the format", () => {
  const bytes = encodeOrigins(ORIGINS);
  assert.equal(bytes.length, 40);
  assert.deepEqual([...bytes.subarray(0, 6)], [0xde, 0xda, 0x57, 0x12, 1, 0]);
  assert.deepEqual([...bytes.subarray(12, 22)], [2, 0, 0, 0, 1, 0, 0, 0, 0xfe, 0xff]);
  assert.deepEqual(decodeOrigins(bytes), ORIGINS);
  assert.deepEqual(decodeOrigins(encodeOrigins([])), []);
});

test("damage is found", () => {
  const bytes = encodeOrigins(ORIGINS);
  const isCorrupt = (error: unknown): boolean =>
    error instanceof NeonError && error.code === ErrorCode.Corrupt;
  for (let length = 0; length < bytes.length; length++) {
    assert.throws(() => decodeOrigins(bytes.subarray(0, length)), isCorrupt, `${length} bytes`);
  }
  for (let at = 0; at < bytes.length; at++) {
    const damaged = bytes.slice();
    damaged[at] = (damaged[at] ?? 0) ^ 0x10;
    assert.throws(() => decodeOrigins(damaged), isCorrupt, `byte ${at}`);
  }
});
