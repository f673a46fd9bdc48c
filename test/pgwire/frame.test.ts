import assert from "node:assert/strict";
import { test } from "node:test";
import { NeonError } from "../../src/base/errors.ts";
import { FrameReader } from "../../src/pgwire/frame.ts";

function frame(type: string, body: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(5 + body.length);
  bytes.write(type, 0, "latin1");
  bytes.writeUInt32BE(4 + body.length, 1);
  bytes.set(body, 5);
  return bytes;
}

function counted(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => i % 251);
}

const BODIES = [0, 1, 4, 5, 300, 70_000].map((length) => counted(length));
const STREAM = Buffer.concat(BODIES.map((body) => frame("d", body)));

function readAll(reader: FrameReader, pieces: readonly Uint8Array[]): Uint8Array[] {
  const bodies: Uint8Array[] = [];
  for (const piece of pieces) {
    reader.feed(piece);
    for (let found = reader.next(); found; found = reader.next()) {
      assert.equal(found.type, "d".charCodeAt(0));
      bodies.push(new Uint8Array(found.body));
    }
  }
  return bodies;
}

void test("frames come out the same however the bytes arrive", () => {
  assert.deepEqual(readAll(new FrameReader(), [STREAM]), BODIES);
  const single = Array.from({ length: STREAM.length }, (_, i) => STREAM.subarray(i, i + 1));
  assert.deepEqual(readAll(new FrameReader(), single), BODIES);
  for (let cut = 0; cut <= 40; cut++) {
    assert.deepEqual(readAll(new FrameReader(), [STREAM.subarray(0, cut), STREAM.subarray(cut)]), BODIES);
  }
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < STREAM.length; at += 8191) pieces.push(STREAM.subarray(at, at + 8191));
  assert.deepEqual(readAll(new FrameReader(), pieces), BODIES);
});

void test("a frame that lies whole in the bytes fed is a view of them", () => {
  const reader = new FrameReader();
  reader.feed(STREAM);
  for (let found = reader.next(); found; found = reader.next())
    assert.equal(found.body.buffer, STREAM.buffer);
});

void test("lengths that cannot be are refused, before memory is spent on them", () => {
  for (const claimed of [0, 3, 0x7fffffff, 0x80000000, 0xffffffff, 2 ** 20 + 5]) {
    const head = Buffer.from([0x64, 0, 0, 0, 0]);
    head.writeUInt32BE(claimed, 1);
    for (const pieces of [[head], [head.subarray(0, 2), head.subarray(2)]]) {
      const reader = new FrameReader();
      const read = (): unknown => readAll(reader, pieces);
      assert.throws(read, (error) => error instanceof NeonError && error.data["length"] === claimed);
    }
  }
});

void test("memory follows what has arrived, not what was claimed", () => {
  const before = process.memoryUsage().arrayBuffers;
  const readers = Array.from({ length: 200 }, () => {
    const reader = new FrameReader();
    const head = Buffer.from([0x64, 0, 0, 0, 0, 1]);
    head.writeUInt32BE(2 ** 20, 1);
    reader.feed(head);
    assert.equal(reader.next(), undefined);
    return reader;
  });
  const spent = process.memoryUsage().arrayBuffers - before;
  assert.ok(spent < 2 ** 20, `${spent} bytes for ${readers.length} readers`);
});
