import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { formatLsn, toLsn } from "../../src/base/lsn.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { findEndOfWal } from "../../src/postgres/wal/end-of-wal.ts";
import { WalStream, type WalStreamOptions } from "../../src/postgres/wal/stream.ts";
import { SeededRandom } from "../support/random.ts";
import { type BuiltRecord, buildRecord, WalBuilder } from "../support/wal-builder.ts";

/** Smaller than any of Postgres', so that segment ends come soon. */
const SEGMENT = 64 * 8192;
const START = 5 * SEGMENT;
const AT_START = { start: START, segmentSize: SEGMENT };

interface Seen {
  readonly lsn: number;
  readonly endLsn: number;
  readonly bytes: Buffer;
}

function optionsOf(builder: WalBuilder, more: Partial<WalStreamOptions> = {}): WalStreamOptions {
  return {
    version: POSTGRES_17,
    segmentSize: builder.segmentSize,
    systemId: builder.systemId,
    startLsn: toLsn(builder.start),
    ...more,
  };
}

function drain(stream: WalStream, seen: Seen[]): void {
  for (let record = stream.next(); record; record = stream.next()) {
    const bytes = Buffer.from(record.bytes.subarray(record.offset, record.offset + record.length));
    seen.push({ lsn: record.lsn, endLsn: record.endLsn, bytes });
    assert.equal(stream.position, record.endLsn);
    assert.equal(stream.previousLsn, record.lsn);
  }
}

/** Feeds `bytes` in pieces of the sizes that `size` says; each piece is a buffer of its own, destroyed afterwards. */
function decodeAll(options: WalStreamOptions, bytes: Uint8Array, size: (at: number) => number): Seen[] {
  const stream = new WalStream(options);
  const seen: Seen[] = [];
  for (let at = 0; at < bytes.length;) {
    const piece = new Uint8Array(bytes.subarray(at, at + size(at)));
    stream.feed(toLsn(options.startLsn + at), piece);
    drain(stream, seen);
    piece.fill(0xee);
    at += piece.length;
  }
  return seen;
}

function check(seen: readonly Seen[], built: readonly BuiltRecord[]): void {
  assert.equal(seen.length, built.length);
  for (const [i, record] of built.entries()) {
    const found = seen[i];
    assert.equal(found?.lsn, record.lsn, `start of record ${i}`);
    assert.equal(found.endLsn, record.endLsn, `end of record ${i}`);
    assert.ok(found.bytes.equals(record.bytes), `bytes of record ${i}`);
  }
}

function corruptAt(lsn: number | undefined, text: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof NeonError, String(error));
    assert.equal(error.code, ErrorCode.Corrupt);
    assert.match(error.message, text);
    if (lsn !== undefined) assert.equal(error.data["lsn"], formatLsn(toLsn(lsn)));
    return true;
  };
}

const whole = (): number => Number.POSITIVE_INFINITY;

/** WAL with everything: small records, records over pages and over a segment, every alignment, a switch, an abandoned one. */
function variedWal(random: SeededRandom): WalBuilder {
  const segmentEnd = START + SEGMENT;
  const start = segmentEnd - 40 * 8192;
  const builder = new WalBuilder({ start, previous: start - 64, segmentSize: SEGMENT });
  const sizes = [0, 1, 2, 5, 6, 7, 50, 70, 100, 255, 256, 1000, 8000, 8192, 9000, 30_000];
  const addUntil = (lsn: number): void => {
    while (builder.position < lsn) builder.add({ xid: random.u32(), main: random.bytes(random.pick(sizes)) });
  };
  addUntil(start + 12 * 8192);
  builder.abandon({ main: random.bytes(20_000) }, 8192 + random.below(100));
  addUntil(start + 24 * 8192);
  builder.fillTo(segmentEnd - 32);
  builder.add({ main: random.bytes(9000) });
  addUntil(segmentEnd + 50 * 8192);
  builder.switchSegment(0xab);
  addUntil(segmentEnd + SEGMENT + 10 * 8192);
  return builder;
}

test("varied WAL decodes whole, and in any split", (t) => {
  const random = SeededRandom.forTest(t);
  const builder = variedWal(random);
  const bytes = builder.bytes;
  const options = optionsOf(builder, { previousLsn: toLsn(builder.start - 64) });
  check(decodeAll(options, bytes, whole), builder.records);
  for (let round = 0; round < 8; round++) {
    const most = random.pick([6, 40, 100, 1000, 8192, 50_000]);
    check(
      decodeAll(options, bytes, () => random.between(1, most)),
      builder.records,
    );
  }
});

test("byte by byte", (t) => {
  const random = SeededRandom.forTest(t);
  const builder = variedWal(random);
  check(
    decodeAll(optionsOf(builder), builder.bytes, () => 1),
    builder.records,
  );
});

test("feeding before the last bytes are consumed loses nothing", (t) => {
  const random = SeededRandom.forTest(t);
  const builder = new WalBuilder({ ...AT_START });
  for (let i = 0; i < 50; i++) builder.add({ main: random.bytes(random.below(2000)) });
  const bytes = builder.bytes;
  const stream = new WalStream(optionsOf(builder));
  for (let at = 0; at < bytes.length; at += 5000)
    stream.feed(toLsn(START + at), bytes.subarray(at, at + 5000));
  const seen: Seen[] = [];
  drain(stream, seen);
  check(seen, builder.records);
});

/** Distances from the page's end at which a record starts, or ends, that are worth a look. */
const DISTANCES = [0, 8, 16, 24, 32, 40, 112, 120, 4096];

for (const boundary of ["page", "segment"] as const) {
  const edge = boundary === "page" ? START + 3 * 8192 : START + SEGMENT;
  for (const distance of DISTANCES) {
    test(`a stream that starts ${distance} bytes before a ${boundary} boundary`, () => {
      for (const size of [0, 6, 8, 90, 100, 8144, 8200, 20_000]) {
        const first = new WalBuilder({ start: edge - 3 * 8192, segmentSize: SEGMENT });
        const last = first.fillTo(edge - distance);
        assert.equal(decodeAll(optionsOf(first), first.bytes, whole)[0]?.endLsn, edge - distance);
        const builder = new WalBuilder({ start: edge - distance, previous: last.lsn, segmentSize: SEGMENT });
        builder.add({ main: new Uint8Array(size) });
        builder.add({ main: new Uint8Array(3) });
        const options = optionsOf(builder, { previousLsn: toLsn(last.lsn) });
        check(decodeAll(options, builder.bytes, whole), builder.records);
        check(
          decodeAll(options, builder.bytes, () => 1),
          builder.records,
        );
      }
    });
  }
}

test("a record that ends with its page has the page boundary as its end", () => {
  const builder = new WalBuilder({ ...AT_START });
  builder.fillTo(START + 8192);
  const seen = decodeAll(optionsOf(builder), builder.bytes, whole);
  assert.equal(seen[0]?.endLsn, START + 8192);
  assert.equal(seen[0]?.lsn, START + 40);
});

test("after XLOG_SWITCH the end is the segment's end at once, and its rest is not looked at", () => {
  const builder = new WalBuilder({ ...AT_START });
  const before = builder.add({ main: Buffer.from("x") });
  builder.switchSegment(0xff);
  const after = builder.add({ main: Buffer.from("y") });
  const stream = new WalStream(optionsOf(builder));
  const seen: Seen[] = [];
  stream.feed(toLsn(START), builder.bytes.subarray(0, before.endLsn + 24 - START));
  drain(stream, seen);
  assert.equal(seen.length, 2);
  assert.equal(stream.position, START + SEGMENT);
  stream.feed(stream.fedLsn, builder.bytes.subarray(before.endLsn + 24 - START));
  drain(stream, seen);
  assert.equal(seen[2]?.lsn, after.lsn);
});

test("XLOG_SWITCH as the very last record of a segment", () => {
  const builder = new WalBuilder({ start: START + SEGMENT - 8192, segmentSize: SEGMENT });
  builder.fillTo(START + SEGMENT - 24);
  builder.switchSegment();
  builder.add({ main: Buffer.from("y") });
  check(decodeAll(optionsOf(builder), builder.bytes, whole), builder.records);
  check(
    decodeAll(optionsOf(builder), builder.bytes, () => 7),
    builder.records,
  );
});

test("bytes out of place are refused", () => {
  const builder = new WalBuilder({ ...AT_START });
  builder.add({ main: new Uint8Array(100) });
  const stream = new WalStream(optionsOf(builder));
  assert.throws(() => stream.feed(toLsn(START + 8), builder.bytes), corruptAt(START + 8, /expected/));
  stream.feed(toLsn(START), builder.bytes.subarray(0, 50));
  assert.throws(() => stream.feed(toLsn(START + 51), builder.bytes), corruptAt(START + 51, /expected/));
});

test("an abandoned record must be named by the record that follows", () => {
  for (const named of [undefined, START + 1024]) {
    const builder = new WalBuilder({ ...AT_START });
    builder.add({ main: new Uint8Array(10) });
    const { overwrite, abandonedLsn } = builder.abandon({ main: new Uint8Array(30_000) }, 9000, named);
    const run = (): Seen[] => decodeAll(optionsOf(builder), builder.bytes, () => 100);
    if (named === undefined) check(run(), builder.records);
    else
      assert.throws(
        run,
        corruptAt(overwrite.lsn, new RegExp(`abandoned record at ${formatLsn(toLsn(abandonedLsn))}`)),
      );
  }
});

test("the overwrite flag with an ordinary record behind it is refused", () => {
  const builder = new WalBuilder({ ...AT_START });
  builder.add({ main: new Uint8Array(10) });
  const { overwrite } = builder.abandon({ main: new Uint8Array(30_000) }, 9000);
  const bytes = builder.bytes;
  const ordinary = buildRecord({ rmgr: 10, main: new Uint8Array(16) }, builder.records[0]?.lsn ?? 0);
  ordinary.copy(bytes, overwrite.lsn - START);
  assert.throws(() => decodeAll(optionsOf(builder), bytes, whole), corruptAt(overwrite.lsn, /abandoned/));
});

/** Two small records, one over pages, one small: with the place to damage. */
function damaged(edit: (bytes: Buffer, builder: WalBuilder) => void, more: Partial<WalStreamOptions> = {}) {
  const builder = new WalBuilder({ ...AT_START });
  builder.add({ xid: 1, main: Buffer.from("one") });
  builder.add({ xid: 2, main: new Uint8Array(10_000).fill(2) });
  builder.add({ xid: 3, main: Buffer.from("three") });
  const bytes = builder.bytes;
  edit(bytes, builder);
  const stream = new WalStream(optionsOf(builder, more));
  stream.feed(toLsn(START), bytes);
  return { stream, records: builder.records };
}

const PAGE_EDITS: readonly (readonly [string, number, number, (b: Buffer, at: number) => void, RegExp])[] = [
  ["magic", 0, 0, (b, at) => b.writeUInt16LE(0xd110, at), /magic/],
  ["unknown flag", 0, 2, (b, at) => b.writeUInt16LE(0x16, at), /flags/],
  ["missing long header", 0, 2, (b, at) => b.writeUInt16LE(0x04, at), /long-header/],
  ["needless long header", 8192, 2, (b, at) => b.writeUInt16LE(0x07, at), /long-header/],
  ["address, low", 8192, 8, (b, at) => b.writeUInt32LE(START, at), /address/],
  ["address, high", 8192, 12, (b, at) => b.writeUInt32LE(0xffffffff, at), /address/],
  ["timeline 0", 0, 4, (b, at) => b.writeUInt32LE(0, at), /timeline/],
  ["timeline going back", 0, 4, (b, at) => b.writeUInt32LE(2, at), /timeline 1 after 2/],
  ["remaining length", 8192, 16, (b, at) => b.writeUInt32LE(b.readUInt32LE(at) + 1, at), /left, expected/],
  ["no continuation", 8192, 2, (b, at) => b.writeUInt16LE(0x04, at), /no continuation/],
  ["continuation of nothing", 0, 2, (b, at) => b.writeUInt16LE(0x07, at), /did not begin/],
  ["system identifier", 0, 24, (b, at) => b.writeUInt8(1, at), /system identifier/],
  ["segment size", 0, 32, (b, at) => b.writeUInt32LE(2 * SEGMENT, at), /segment size/],
  ["page size", 0, 36, (b, at) => b.writeUInt32LE(4096, at), /page size/],
];

for (const [name, page, offset, edit] of PAGE_EDITS) {
  const message = PAGE_EDITS.find((entry) => entry[0] === name)?.[4] ?? /never/;
  test(`a damaged page header: ${name}`, () => {
    const { stream } = damaged((bytes) => edit(bytes, page + offset));
    const drainIt = (): void => drain(stream, []);
    const lsn = name === "timeline going back" ? START + 8192 : START + page;
    assert.throws(drainIt, corruptAt(lsn, message));
  });
}

test("an unknown system identifier is not compared", () => {
  const { stream, records } = damaged((bytes) => bytes.writeUInt8(1, 24), { systemId: undefined });
  const seen: Seen[] = [];
  drain(stream, seen);
  check(seen, records);
});

const RECORD_EDITS: readonly (readonly [string, 0 | 1 | 2, number, RegExp])[] = [
  ["length 0", 2, 0, /length/],
  ["checksum", 0, 20, /checksum/],
  ["body", 2, 27, /checksum/],
  ["link of a record over pages", 1, 8, /link/],
  ["resource manager of a record over pages", 1, 17, /resource manager/],
];

for (const [name, index, offset, message] of RECORD_EDITS) {
  test(`a damaged record: ${name}`, () => {
    const { stream, records } = damaged((bytes, builder) => {
      const at = (builder.records[index]?.lsn ?? 0) - START + offset;
      if (name === "length 0") bytes.writeUInt32LE(0, at);
      else bytes.writeUInt8((bytes[at] as number) ^ 0x60, at);
    });
    const seen: Seen[] = [];
    const drainIt = (): void => drain(stream, seen);
    assert.throws(drainIt, corruptAt(records[index]?.lsn, message));
    assert.equal(seen.length, index, "records before are given out");
    const end = index === 0 ? START : records[index - 1]?.endLsn;
    assert.equal(stream.position, end, "position stays at the last good record");
    assert.throws(drainIt, corruptAt(records[index]?.lsn, message), "stays failed");
  });
}

test("a record with a right checksum but a wrong link is refused, first or later", () => {
  const builder = new WalBuilder({ ...AT_START, previous: START - 8 });
  builder.add({ main: Buffer.from("a") });
  const run = (previousLsn: number | undefined): Seen[] => {
    const previous = previousLsn === undefined ? {} : { previousLsn: toLsn(previousLsn) };
    return decodeAll(optionsOf(builder, previous), builder.bytes, whole);
  };
  check(run(START - 8), builder.records);
  check(run(undefined), builder.records);
  assert.throws(() => run(START - 16), corruptAt(START + 40, /link .* expected/));

  const forward = new WalBuilder({ ...AT_START, previous: START + 100_000 });
  forward.add({ main: Buffer.from("a") });
  assert.throws(
    () => decodeAll(optionsOf(forward), forward.bytes, whole),
    corruptAt(START + 40, /less than/),
  );

  const second = new WalBuilder({ ...AT_START });
  second.add({ main: Buffer.from("a") });
  second.addBytes(buildRecord({ main: Buffer.from("b") }, START));
  assert.throws(
    () => decodeAll(optionsOf(second), second.bytes, whole),
    corruptAt(second.records[1]?.lsn, /link/),
  );
});

test("a link beyond 2^53 is a typed error with a place", () => {
  const builder = new WalBuilder({ ...AT_START });
  const bytes = buildRecord({ main: Buffer.from("a") }, 0);
  bytes.writeUInt32LE(0xffffffff, 12);
  builder.addBytes(bytes);
  const long = new WalBuilder({ ...AT_START });
  const longBytes = buildRecord({ main: new Uint8Array(10_000) }, 0);
  longBytes.writeUInt32LE(0xffffffff, 12);
  long.addBytes(longBytes);
  for (const made of [builder, long]) {
    assert.throws(
      () => decodeAll(optionsOf(made), made.bytes, whole),
      (error) =>
        error instanceof NeonError &&
        error.code === ErrorCode.Corrupt &&
        typeof error.data["lsn"] === "string",
    );
  }
});

test("a record that claims 1 GB costs no memory before its bytes come", () => {
  const builder = new WalBuilder({ ...AT_START });
  const bytes = buildRecord({ main: new Uint8Array(9000) }, 0);
  bytes.writeUInt32LE(1000 * 1024 * 1024, 0);
  builder.addBytes(bytes);
  const stream = new WalStream(optionsOf(builder));
  const before = process.memoryUsage().arrayBuffers;
  stream.feed(toLsn(START), builder.bytes.subarray(0, 8000));
  assert.equal(stream.next(), undefined);
  assert.ok(process.memoryUsage().arrayBuffers - before < 10_000_000);
  stream.feed(stream.fedLsn, builder.bytes.subarray(8000));
  assert.throws(() => stream.next(), corruptAt(START + 8192, /left, expected/));
});

test("a length above the version's limit is refused at once", () => {
  const builder = new WalBuilder({ ...AT_START });
  const bytes = buildRecord({ main: new Uint8Array(9000) }, 0);
  bytes.writeUInt32LE(POSTGRES_17.walRecordLengthMax + 1, 0);
  builder.addBytes(bytes);
  assert.throws(() => decodeAll(optionsOf(builder), builder.bytes, whole), corruptAt(START + 40, /length/));
});

test("custom resource managers pass where the version has them", () => {
  const builder = new WalBuilder({ ...AT_START });
  builder.add({ rmgr: 128 });
  check(decodeAll(optionsOf(builder), builder.bytes, whole), builder.records);
  const version = { ...POSTGRES_17, customRmgrs: false };
  assert.throws(
    () => decodeAll(optionsOf(builder, { version }), builder.bytes, whole),
    corruptAt(START + 40, /128/),
  );
  const unknown = new WalBuilder({ ...AT_START });
  unknown.add({ rmgr: 22 });
  assert.throws(() => decodeAll(optionsOf(unknown), unknown.bytes, whole), corruptAt(START + 40, /22/));
});

test("flipped bits: typed errors only, and never a record that was not written", (t) => {
  const random = SeededRandom.forTest(t);
  const builder = new WalBuilder({ ...AT_START });
  for (let i = 0; i < 40; i++) builder.add({ main: random.bytes(random.pick([1, 30, 200, 3000])) });
  const bytes = builder.bytes;
  let failed = 0;
  for (let round = 0; round < 1500; round++) {
    const copy = Buffer.from(bytes);
    const at = random.below(copy.length);
    copy[at] = (copy[at] as number) ^ (1 << random.below(8));
    const stream = new WalStream(optionsOf(builder));
    const seen: Seen[] = [];
    try {
      stream.feed(toLsn(START), copy);
      drain(stream, seen);
    } catch (error) {
      if (!(error instanceof NeonError) || error.code !== ErrorCode.Corrupt) throw error;
      failed++;
    }
    // The last record may be shortened by its own length field; what was given out is what was built.
    check(seen, builder.records.slice(0, seen.length));
  }
  assert.ok(failed > 1200, `only ${failed} of 1500 noticed`);
});

test("random bytes: typed errors only", (t) => {
  const random = SeededRandom.forTest(t);
  for (let round = 0; round < 300; round++) {
    const builder = new WalBuilder({ ...AT_START });
    builder.add({ main: random.bytes(100) });
    const garbage = random.bytes(random.below(20_000));
    const bytes = Buffer.concat([builder.bytes, garbage]);
    try {
      decodeAll(optionsOf(builder), bytes, () => random.between(1, 9000));
    } catch (error) {
      if (!(error instanceof NeonError) || error.code !== ErrorCode.Corrupt) throw error;
    }
  }
});

test("cut anywhere, the end of WAL is the end of the last whole record", (t) => {
  const random = SeededRandom.forTest(t);
  const builder = new WalBuilder({ ...AT_START });
  for (let i = 0; i < 30; i++) builder.add({ main: random.bytes(random.pick([1, 30, 200, 3000, 9000])) });
  const bytes = builder.bytes;
  for (let round = 0; round < 300; round++) {
    const cut = random.below(bytes.length + 1);
    const kept = builder.records.filter((record) => START + cut >= record.lsn + flatLength(record));
    const stream = new WalStream(optionsOf(builder));
    stream.feed(toLsn(START), bytes.subarray(0, cut));
    drain(stream, []);
    assert.equal(stream.position, kept.at(-1)?.endLsn ?? START);
  }
});

/** Bytes from a record's start to its last byte, page headers in between included. */
function flatLength(record: BuiltRecord): number {
  const padding = (8 - (record.bytes.length % 8)) % 8;
  return record.endLsn - padding - record.lsn;
}

test("findEndOfWal: zeros, garbage, half records, old bytes and nothing end the WAL without error", async (t) => {
  const random = SeededRandom.forTest(t);
  const builder = variedWal(random);
  const good = builder.bytes;
  const half = new WalBuilder({
    start: builder.position,
    previous: builder.records.at(-1)?.lsn ?? 0,
    segmentSize: SEGMENT,
  });
  half.add({ main: random.bytes(5000) });
  // Bytes of an earlier use of the file: whole records with right checksums, at the wrong place.
  const old = new WalBuilder({
    start: builder.position - SEGMENT,
    previous: builder.position - SEGMENT - 64,
    segmentSize: SEGMENT,
  });
  for (let i = 0; i < 20; i++) old.add({ main: random.bytes(900) });
  const tails: readonly (readonly [string, Uint8Array, boolean])[] = [
    ["nothing", new Uint8Array(0), false],
    ["zeros", new Uint8Array(50_000), true],
    ["garbage", random.bytes(50_000), true],
    ["half a record", half.bytes.subarray(0, 3000), false],
    [
      "half a record, then zeros",
      Buffer.concat([half.bytes.subarray(0, 3000), new Uint8Array(50_000)]),
      true,
    ],
    ["old bytes", old.bytes, true],
  ];
  for (const [name, tail, isInvalid] of tails) {
    const bytes = Buffer.concat([good, tail]);
    const options = optionsOf(builder, { previousLsn: toLsn(builder.start - 64) });
    const found = await findEndOfWal(options, (lsn) => {
      const at = lsn - builder.start;
      return bytes.subarray(at, at + random.between(1, 30_000));
    });
    assert.equal(found.endLsn, builder.position, name);
    assert.equal(found.previousLsn, builder.records.at(-1)?.lsn, name);
    assert.equal(found.recordCount, builder.records.length, name);
    assert.equal(found.invalid !== undefined, isInvalid, name);
  }
});

test("findEndOfWal: an error of the reader is passed on; no WAL at all ends where it starts", async () => {
  const builder = new WalBuilder({ ...AT_START });
  const options = optionsOf(builder);
  const empty = await findEndOfWal(options, () => undefined);
  assert.deepEqual([empty.endLsn, empty.previousLsn, empty.recordCount], [START, 0, 0]);
  const failure = new NeonError(ErrorCode.Resource, "disk");
  await assert.rejects(
    findEndOfWal(options, () => Promise.reject(failure)),
    (error) => error === failure,
  );
});
