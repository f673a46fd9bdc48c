/** Layout of page stream messages, by the sizes and tags that other clients know, and noise. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ByteWriter } from "../../src/base/bytes.ts";
import { NeonError } from "../../src/base/errors.ts";
import { MAX_LSN } from "../../src/base/lsn.ts";
import {
  AnswerWriter,
  type StreamVersion,
  decodeStreamRequest,
} from "../../src/pageserver/service/libpq/pagestream-format.ts";
import { FrameReader } from "../../src/pgwire/frame.ts";
import { SeededRandom } from "../support/random.ts";

function request(version: StreamVersion, tag: number, body: (writer: ByteWriter) => ByteWriter): Uint8Array {
  const writer = new ByteWriter().u8(tag);
  if (version === 3) writer.u64be(0xfedcba9876543210n);
  writer.u64be(2n ** 64n - 1n).u64be(0x12345678n);
  return body(writer).finish();
}

const fork = (w: ByteWriter): ByteWriter => w.u32be(1663).u32be(5).u32be(0xfffffff0).u8(2);

void test("requests of both versions", () => {
  for (const version of [2, 3] as const) {
    const extra = version === 3 ? 8 : 0;
    const page = request(version, 2, (w) => fork(w).u32be(0xfffffffe));
    assert.equal(page.length, 34 + extra);
    const decoded = decodeStreamRequest(page, version);
    assert.ok(decoded.kind === "page");
    assert.deepEqual(
      [decoded.lsn, decoded.notModifiedSince, decoded.block, decoded.fork],
      [MAX_LSN, 0x12345678, 0xfffffffe, { spcOid: 1663, dbOid: 5, relNumber: 0xfffffff0, fork: 2 }],
    );
    assert.equal(decodeStreamRequest(request(version, 0, fork), version).kind, "exists");
    assert.equal(decodeStreamRequest(request(version, 1, fork), version).kind, "nblocks");
    const size = request(version, 3, (w) => w.u32be(5));
    assert.equal(size.length, 21 + extra);
    assert.equal(decodeStreamRequest(size, version).kind, "db-size");
    const slru = request(version, 4, (w) => w.u8(2).u32be(7));
    assert.equal(slru.length, 22 + extra);
    assert.equal(decodeStreamRequest(slru, version).kind, "slru");
    assert.equal(
      decodeStreamRequest(
        request(version, 4, (w) => w.u8(3).u32be(7)),
        version,
      ).kind,
      "bad",
    );
    assert.throws(() => decodeStreamRequest(page.subarray(0, -1), version), NeonError);
    assert.throws(() => decodeStreamRequest(Buffer.concat([page, Buffer.of(0)]), version), NeonError);
  }
});

void test("answers of both versions", () => {
  const page = new Uint8Array(8192).fill(7);
  for (const version of [2, 3] as const) {
    const sent = request(version, 2, (w) => fork(w).u32be(9));
    const decoded = decodeStreamRequest(sent, version);
    assert.ok(decoded.kind !== "bad");
    const writer = new AnswerWriter(version);
    const echo = version === 3 ? sent.length - 1 : 0;
    // Each behind the others in one buffer, which has to grow meanwhile.
    writer.slru(decoded, new Array<Uint8Array>(40).fill(page));
    writer.exists(decoded, true);
    writer.blocks(decoded, 2 ** 32 - 1);
    writer.page(decoded, page);
    writer.error(decoded, "no");
    writer.databaseSize(decoded, 2 ** 40);
    writer.slru(decoded, [page, page]);
    const sizes: [number, number][] = [
      [105, 1 + echo + 4 + 40 * 8192],
      [100, 1 + echo + 1],
      [101, 1 + echo + 4],
      [102, 1 + echo + 8192],
      [103, 1 + (version === 3 ? 24 : 0) + 3],
      [104, 1 + echo + 8],
      [105, 1 + echo + 4 + 2 * 8192],
    ];
    const { frames, onWritten } = writer.take();
    const reader = new FrameReader();
    reader.feed(frames);
    const answers = sizes.map(([tag, length]): [Uint8Array, number, number] => {
      const frame = reader.next();
      assert.equal(frame?.type, "d".charCodeAt(0));
      return [new Uint8Array(frame.body), tag, length];
    });
    assert.equal(reader.next(), undefined);
    onWritten();
    writer.exists(decoded, false);
    assert.equal(writer.take().frames.length, 5 + 1 + echo + 1);
    answers.shift();
    for (const [bytes, tag, length] of answers) {
      assert.deepEqual([bytes[0], bytes.length], [tag, length]);
      if (version === 3) assert.deepEqual(bytes.subarray(1, 25), sent.subarray(1, 25));
    }
    // Sizes that other clients count on.
    if (version === 2) assert.equal(answers[2]?.[0].length, 8193);
    else assert.equal(answers[2]?.[0].length, 1 + 24 + 13 + 4 + 8192);
  }
});

void test("noise is refused or answered, never anything else", (t) => {
  const random = SeededRandom.forTest(t);
  for (let round = 0; round < 20_000; round++) {
    const bytes = Uint8Array.from({ length: random.below(60) }, () => random.below(256));
    if (random.below(2) === 0 && bytes.length > 0) bytes[0] = random.below(6);
    try {
      decodeStreamRequest(bytes, random.below(2) === 0 ? 2 : 3);
    } catch (error) {
      assert.ok(error instanceof NeonError, `round ${round}: ${String(error)}`);
    }
  }
});
