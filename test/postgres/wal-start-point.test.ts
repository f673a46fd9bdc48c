import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../src/base/lsn.ts";
import { decodeCheckPoint } from "../../src/postgres/checkpoint.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import {
  segmentContent,
  synthesizeStart,
  type StartPointOptions,
} from "../../src/postgres/wal/start-point.ts";
import { WalStream } from "../../src/postgres/wal/stream.ts";
import { WalBuilder } from "../support/wal-builder.ts";

const SEGMENT = 1024 * 1024;
const SYSTEM_ID = 0xf123456789abcdefn;

const CHECKPOINT = {
  redoLsn: toLsn(0),
  timeline: 9,
  previousTimeline: 8,
  fullPageWrites: true,
  walLevel: 1,
  nextXid: 0x1_0000_0abcn,
  nextOid: 16400,
  nextMulti: 2,
  nextMultiOffset: 3,
  oldestXid: 730,
  oldestXidDb: 1,
  oldestMulti: 1,
  oldestMultiDb: 1,
  timeSeconds: 1_800_000_000,
  oldestCommitTsXid: 4,
  newestCommitTsXid: 5,
  oldestActiveXid: 700,
};

function optionsAt(lsn: number): StartPointOptions {
  return {
    lsn: toLsn(lsn),
    previousLsn: toLsn(lsn - 64),
    checkpoint: CHECKPOINT,
    version: POSTGRES_17,
    systemId: SYSTEM_ID,
    segmentSize: SEGMENT,
    timelineNumber: 1,
  };
}

/** Mid-page, page and segment boundaries, and every way of a record of 120 bytes to meet one. */
const START_LSNS = [
  3 * SEGMENT + 5 * 8192 + 800,
  3 * SEGMENT + 5 * 8192,
  ...[8, 16, 24, 112, 120, 128].map((distance) => 3 * SEGMENT + 5 * 8192 - distance),
  4 * SEGMENT,
  ...[8, 16, 24, 112, 120, 128].map((distance) => 4 * SEGMENT - distance),
  3 * SEGMENT + 5 * 8192 + 24,
  3 * SEGMENT + 40,
  3 * SEGMENT + 48,
  3 * SEGMENT + 4096,
  3 * SEGMENT + 8192,
];

for (const lsn of START_LSNS) {
  const place = `0x${lsn.toString(16)}`;
  test(`start point at ${place}: the WAL is what an independent writer makes of the same record`, () => {
    const point = synthesizeStart(optionsAt(lsn));
    const builder = new WalBuilder({
      start: lsn,
      previous: lsn - 64,
      segmentSize: SEGMENT,
      systemId: SYSTEM_ID,
    });
    const body = Buffer.alloc(88);
    body.writeBigUInt64LE(BigInt(point.recordLsn), 0);
    body.writeUInt32LE(1, 8);
    body.writeUInt32LE(1, 12);
    body[16] = 1;
    body.writeInt32LE(1, 20);
    body.writeBigUInt64LE(CHECKPOINT.nextXid, 24);
    for (const [i, value] of [16400, 2, 3, 730, 1, 1, 1].entries()) body.writeUInt32LE(value, 32 + 4 * i);
    body.writeBigInt64LE(1_800_000_000n, 64);
    body.writeUInt32LE(4, 72);
    body.writeUInt32LE(5, 76);
    const record = builder.add({ rmgr: 0, info: 0, main: body });
    assert.equal(point.recordLsn, record.lsn);
    assert.equal(point.endLsn, record.endLsn);
    assert.ok(Buffer.from(point.wal).equals(builder.bytes));
  });

  test(`start point at ${place}: the segment files hold it, with headers where Postgres looks`, () => {
    const point = synthesizeStart(optionsAt(lsn));
    const first = Math.floor(lsn / SEGMENT);
    const crosses = Math.floor((point.endLsn - 1) / SEGMENT) > first;
    assert.equal(point.segments.length, crosses ? 2 : 1);
    const files = point.segments.map((segment) => segmentContent(segment));
    const all = Buffer.concat(files);
    const start = point.segments[0]?.startLsn ?? 0;
    assert.equal(start, first * SEGMENT);
    assert.ok(all.subarray(lsn - start, point.endLsn - start).equals(point.wal));
    for (const file of files) {
      const header = Buffer.from(file.subarray(0, 40));
      assert.equal(header.readUInt16LE(0), 0xd116);
      assert.equal(header.readUInt16LE(2) & 2, 2);
      assert.equal(header.readBigUInt64LE(24), SYSTEM_ID);
    }
    const page = lsn - (lsn % 8192);
    assert.equal(all.readUInt16LE(page - start), 0xd116);
    assert.equal(all.readBigUInt64LE(page - start + 8), BigInt(page));
    if (page < lsn) {
      const headerSize = page % SEGMENT === 0 ? 40 : 24;
      const skipped = all.readUInt32LE(page - start + 16);
      assert.equal(page + headerSize + skipped, lsn, "tools skip to the record");
      assert.equal((all.readUInt16LE(page - start + 2) & 1) === 1, skipped > 0);
    }
    for (const segment of point.segments) {
      let end = 0;
      for (const { offset, bytes } of segment.regions) {
        assert.ok(offset >= end, "regions are ascending and apart");
        end = offset + bytes.length;
      }
      assert.ok(end <= segment.sizeBytes);
    }
  });

  test(`start point at ${place}: our own stream reads it back`, () => {
    const options = optionsAt(lsn);
    const point = synthesizeStart(options);
    const stream = new WalStream({
      version: POSTGRES_17,
      segmentSize: SEGMENT,
      systemId: SYSTEM_ID,
      startLsn: options.lsn,
      previousLsn: options.previousLsn,
    });
    stream.feed(options.lsn, point.wal);
    const record = stream.next();
    assert.ok(record);
    assert.equal(record.lsn, point.recordLsn);
    assert.equal(record.length, 114);
    assert.deepEqual(decodeCheckPoint(record.bytes, record.mainOffset, POSTGRES_17), point.checkpoint);
    assert.equal(point.checkpoint.redoLsn, point.recordLsn);
    assert.equal(point.checkpoint.oldestActiveXid, 0);
    assert.equal(stream.next(), undefined);
    assert.equal(stream.position, point.endLsn);
  });
}

test("the same options make the same bytes", () => {
  const options = optionsAt(4 * SEGMENT - 24);
  assert.deepEqual(synthesizeStart(options), synthesizeStart(options));
});

test("a place that is no record end is a bug of the caller", () => {
  assert.throws(() => synthesizeStart(optionsAt(3 * SEGMENT + 44)), /record end/);
  assert.throws(
    () => synthesizeStart({ ...optionsAt(4096 + SEGMENT), previousLsn: toLsn(2 * SEGMENT) }),
    /before the start/,
  );
});
