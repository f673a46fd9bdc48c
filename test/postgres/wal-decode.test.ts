import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { decodeRecord, recordCrcOk } from "../../src/postgres/wal/decode-record.ts";
import { WalRecord } from "../../src/postgres/wal/record.ts";
import { POSTGRES_14 } from "../../src/postgres/versions/postgres-14.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { SeededRandom } from "../support/random.ts";
import {
  buildRecord,
  type BlockSpec,
  type ImageSpec,
  type RecordSpec,
  sealRecord,
} from "../support/wal-builder.ts";

function decode(bytes: Uint8Array, version: PgVersion = POSTGRES_17): WalRecord {
  const record = new WalRecord();
  decodeRecord(
    record,
    bytes,
    new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
    0,
    bytes.length,
    version,
  );
  return record;
}

function isCorrupt(error: unknown): boolean {
  return error instanceof NeonError && error.code === ErrorCode.Corrupt;
}

/** What was decoded, in the words of the builder. */
function asSpec(record: WalRecord): object {
  const slice = (offset: number, length: number): Buffer =>
    Buffer.from(record.bytes.subarray(offset, offset + length));
  return {
    xid: record.xid,
    info: record.info,
    rmgr: record.rmgr,
    origin: record.origin,
    topXid: record.topXid,
    main: slice(record.mainOffset, record.mainLength),
    blocks: record.blocks.slice(0, record.blockCount).map((block) => ({
      id: block.id,
      fork: block.fork,
      relation: [block.spcOid, block.dbOid, block.relNumber],
      block: block.blockNumber,
      willInit: block.willInit,
      data: slice(block.dataOffset, block.dataLength),
      image: block.hasImage ? slice(block.imageOffset, block.imageLength) : undefined,
      info: block.imageInfo,
      apply: block.applyImage,
      hole: [block.holeOffset, block.holeLength],
    })),
  };
}

/** The same from the builder's input. */
function expected(spec: RecordSpec): object {
  let relation: readonly number[] = [];
  return {
    xid: spec.xid ?? 0,
    info: spec.info ?? 0,
    rmgr: spec.rmgr ?? 10,
    origin: spec.origin ?? 0,
    topXid: spec.topXid ?? 0,
    main: Buffer.from(spec.main ?? []),
    blocks: (spec.blocks ?? []).map((block) => {
      relation = block.relation ?? relation;
      const { image } = block;
      const plainHole = image && image.info < 4 ? 8192 - image.stored.length : 0;
      return {
        id: block.id,
        fork: block.fork ?? 0,
        relation: [...relation],
        block: block.block,
        willInit: block.willInit ?? false,
        data: Buffer.from(block.data ?? []),
        image: image && Buffer.from(image.stored),
        info: image?.info ?? 0,
        apply: ((image?.info ?? 0) & 2) !== 0,
        hole: [image?.holeOffset ?? 0, image?.holeLength ?? plainHole],
      };
    }),
  };
}

function randomImage(random: SeededRandom): ImageSpec {
  const apply = random.chance(0.5) ? 2 : 0;
  const holeOffset = random.between(24, 4000);
  switch (random.below(4)) {
    case 0:
      return { stored: random.bytes(8192), info: apply };
    case 1:
      return { stored: random.bytes(8192 - random.between(1, 4000)), info: apply | 1, holeOffset };
    case 2:
      return { stored: random.bytes(random.between(1, 8191)), info: apply | random.pick([4, 8, 16]) };
    default: {
      const info = apply | 1 | random.pick([4, 8, 16]);
      return {
        stored: random.bytes(random.between(1, 4000)),
        info,
        holeOffset,
        holeLength: random.between(1, 4000),
      };
    }
  }
}

function randomRecord(random: SeededRandom): RecordSpec {
  const blocks: BlockSpec[] = [];
  const ids = Array.from({ length: 33 }, (_, id) => id).filter(() => random.chance(0.08));
  for (const id of ids) {
    const fresh = blocks.length === 0 || random.chance(0.5);
    blocks.push({
      id,
      fork: random.below(4),
      ...(fresh && { relation: [random.u32(), random.u32(), random.u32()] as const }),
      block: random.u32(),
      willInit: random.chance(0.3),
      ...(random.chance(0.3) && { image: randomImage(random) }),
      ...(random.chance(0.5) && { data: random.bytes(random.between(1, 300)) }),
    });
  }
  return {
    xid: random.u32(),
    info: random.below(256),
    rmgr: random.below(256),
    blocks,
    ...(random.chance(0.2) && { origin: random.below(65536) }),
    ...(random.chance(0.2) && { topXid: random.u32() }),
    ...(random.chance(0.8) && { main: random.bytes(random.between(1, random.pick([20, 255, 256, 3000]))) }),
    longMain: random.chance(0.1),
  };
}

test("a record with every part is decoded", () => {
  const spec: RecordSpec = {
    xid: 0xfffffff0,
    info: 0xa1,
    rmgr: 11,
    origin: 0xfedc,
    topXid: 0x89abcdef,
    blocks: [
      { id: 0, relation: [1663, 5, 0xf0000001], block: 0xfffffffe, willInit: true, data: Buffer.from("abc") },
      { id: 2, fork: 2, block: 7, image: { stored: new Uint8Array(8000).fill(9), info: 3, holeOffset: 100 } },
      { id: 32, fork: 3, relation: [1664, 0, 1262], block: 0 },
    ],
    main: Buffer.from("the main data"),
  };
  const previous = 0x1f_ffff_ffff_fff8;
  const bytes = buildRecord(spec, previous);
  const record = decode(bytes);
  assert.deepEqual(asSpec(record), expected(spec));
  assert.equal(record.previousLsn, previous);
  assert.equal(record.length, bytes.length);
  assert.ok(recordCrcOk(bytes, 0, bytes.length));
});

test("a record of 24 bytes has nothing but its header", () => {
  const record = decode(buildRecord({ rmgr: 0, info: 0x40 }, 0));
  assert.equal(record.length, 24);
  assert.equal(record.blockCount, 0);
  assert.equal(record.mainLength, 0);
});

test("main data of 255 and of 256 bytes, and empty in the long form", () => {
  for (const [size, longMain] of [
    [255, false],
    [256, false],
    [0, true],
    [70000, false],
  ] as const) {
    const record = decode(buildRecord({ main: new Uint8Array(size).fill(7), longMain }, 8));
    assert.equal(record.mainLength, size);
    assert.equal(record.mainOffset + size, record.length);
  }
});

test("random records come back as built; the object is reused", (t) => {
  const random = SeededRandom.forTest(t);
  const record = new WalRecord();
  for (let i = 0; i < 2000; i++) {
    const spec = randomRecord(random);
    const built = buildRecord(spec, random.u32());
    // Somewhere inside a larger buffer, at odd offsets.
    const before = random.below(100);
    const bytes = Buffer.concat([random.bytes(before), built, random.bytes(random.below(20))]);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    decodeRecord(record, bytes, view, before, built.length, POSTGRES_17);
    assert.deepEqual(asSpec(record), expected(spec), `record ${i}`);
    if (i % 50 === 0) assert.ok(recordCrcOk(bytes, before, built.length));
  }
});

test("any flipped bit changes the checksum's verdict", () => {
  const bytes = buildRecord({ xid: 5, main: Buffer.from("some main data here") }, 0x1000);
  for (let bit = 32; bit < bytes.length * 8; bit++) {
    const at = bit >>> 3;
    bytes[at] = (bytes[at] as number) ^ (1 << (bit & 7));
    assert.equal(recordCrcOk(bytes, 0, bytes.length), false, `bit ${bit}`);
    bytes[at] = bytes[at] ^ (1 << (bit & 7));
  }
  assert.ok(recordCrcOk(bytes, 0, bytes.length));
});

const RELATION = [1663, 5, 16384] as const;
const FULL: ImageSpec = { stored: new Uint8Array(8192), info: 2 };

const MALFORMED: readonly (readonly [string, RecordSpec])[] = [
  [
    "block ids out of order",
    {
      blocks: [
        { id: 1, relation: RELATION, block: 0 },
        { id: 0, block: 1 },
      ],
    },
  ],
  [
    "the same block id twice",
    {
      blocks: [
        { id: 1, relation: RELATION, block: 0 },
        { id: 1, block: 1 },
      ],
    },
  ],
  ["the first block has no relation", { blocks: [{ id: 0, block: 1 }] }],
  ["block id 33", { blocks: [{ id: 33, relation: RELATION, block: 1 }] }],
  ["fork 4", { blocks: [{ id: 0, fork: 4, relation: RELATION, block: 1 }] }],
  ["data flag without data", { blocks: [{ id: 0, relation: RELATION, block: 1, data: new Uint8Array(0) }] }],
  [
    "an empty image",
    { blocks: [{ id: 0, relation: RELATION, block: 1, image: { stored: new Uint8Array(0), info: 2 } }] },
  ],
  [
    "a plain image that is too short",
    { blocks: [{ id: 0, relation: RELATION, block: 1, image: { stored: new Uint8Array(8000), info: 2 } }] },
  ],
  [
    "a plain image that is too long",
    { blocks: [{ id: 0, relation: RELATION, block: 1, image: { stored: new Uint8Array(8193), info: 2 } }] },
  ],
  [
    "a hole flag without hole",
    { blocks: [{ id: 0, relation: RELATION, block: 1, image: { ...FULL, info: 3, holeOffset: 10 } }] },
  ],
  [
    "a hole at 0",
    { blocks: [{ id: 0, relation: RELATION, block: 1, image: { stored: new Uint8Array(8000), info: 3 } }] },
  ],
  [
    "a hole beyond the page",
    {
      blocks: [
        {
          id: 0,
          relation: RELATION,
          block: 1,
          image: { stored: new Uint8Array(8000), info: 3, holeOffset: 8001 },
        },
      ],
    },
  ],
  [
    "a hole offset without hole",
    { blocks: [{ id: 0, relation: RELATION, block: 1, image: { ...FULL, holeOffset: 10 } }] },
  ],
  [
    "a compressed image as long as a page",
    { blocks: [{ id: 0, relation: RELATION, block: 1, image: { ...FULL, info: 6 } }] },
  ],
  [
    "a compressed image whose hole is empty",
    {
      blocks: [
        {
          id: 0,
          relation: RELATION,
          block: 1,
          image: { stored: new Uint8Array(9), info: 7, holeOffset: 9, holeLength: 0 },
        },
      ],
    },
  ],
];

for (const [name, spec] of MALFORMED) {
  test(`refused: ${name}`, () => {
    assert.throws(() => decode(buildRecord(spec, 8)), isCorrupt);
  });
}

test("the same specs are accepted when nothing is wrong with them", () => {
  decode(
    buildRecord(
      {
        blocks: [
          { id: 0, relation: RELATION, block: 0, image: FULL },
          { id: 1, block: 1 },
        ],
      },
      8,
    ),
  );
});

test("lengths that do not add up are refused, with the place", () => {
  const cases = [
    [255],
    [255, 5, 1, 2],
    [255, 1, 1, 2],
    [254, 1, 0, 0],
    [254, 255, 255, 255, 255, 1],
    [253, 1],
    [252, 0, 0, 0],
    [0],
    [0, 0, 0],
    [0, 0x20, 200, 0, 1, 2],
    [200, 1, 2],
  ];
  for (const body of cases) {
    const bytes = sealRecord(Buffer.from(body), {}, 8);
    assert.throws(
      () => decode(bytes),
      (error) => isCorrupt(error) && typeof (error as NeonError).data["offset"] === "number",
      `body ${body.join(" ")}`,
    );
  }
});

test("a length other than the record's own, and a range outside the buffer, are refused", () => {
  const bytes = buildRecord({ main: Buffer.from("12345678") }, 8);
  const record = new WalRecord();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const attempt = (offset: number, length: number): void =>
    decodeRecord(record, bytes, view, offset, length, POSTGRES_17);
  assert.throws(() => attempt(0, bytes.length - 1), isCorrupt);
  assert.throws(() => attempt(0, bytes.length + 1), isCorrupt);
  assert.throws(() => attempt(1, bytes.length), isCorrupt);
  assert.throws(() => attempt(0, 23), isCorrupt);
  assert.throws(() => attempt(-1, 24), isCorrupt);
  attempt(0, bytes.length);
});

test("damaged records give a typed error or a record whose parts lie within it", (t) => {
  const random = SeededRandom.forTest(t);
  const record = new WalRecord();
  let refused = 0;
  for (let i = 0; i < 20_000; i++) {
    const bytes = buildSmall(random);
    for (let flips = random.between(1, 4); flips > 0; flips--) {
      const at = random.between(4, bytes.length - 1);
      bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    try {
      decodeRecord(record, bytes, view, 0, bytes.length, POSTGRES_17);
    } catch (error) {
      if (!isCorrupt(error)) throw error;
      refused++;
      continue;
    }
    let total = 24;
    for (const block of record.blocks.slice(0, record.blockCount)) {
      assert.ok(block.imageOffset + block.imageLength <= bytes.length);
      assert.ok(block.dataOffset + block.dataLength <= bytes.length);
      assert.ok(block.holeOffset + block.holeLength <= 8192);
      total += block.imageLength + block.dataLength;
    }
    assert.ok(total + record.mainLength <= bytes.length);
    assert.equal(record.mainOffset + record.mainLength, bytes.length);
  }
  assert.ok(refused > 1000, `only ${refused} refused`);
});

/** A short record, quick to build: the checksum is not looked at. */
function buildSmall(random: SeededRandom): Buffer {
  return buildRecord(
    {
      blocks: [
        { id: 0, relation: RELATION, block: random.u32(), data: random.bytes(random.between(1, 20)) },
        {
          id: 1,
          block: 3,
          image: { stored: random.bytes(random.between(1, 40)), info: 5, holeOffset: 40, holeLength: 600 },
        },
      ],
      main: random.bytes(random.between(1, 30)),
    },
    random.u32(),
  );
}

test("another major version is another data object: image bits of 14", () => {
  const image: ImageSpec = { stored: new Uint8Array(50), info: 1 | 2 | 4, holeOffset: 30, holeLength: 99 };
  const bytes = buildRecord({ blocks: [{ id: 0, relation: RELATION, block: 1, image }] }, 8);
  const block = decode(bytes, POSTGRES_14).blocks[0];
  assert.equal(block?.applyImage, true);
  assert.equal(block?.holeLength, 99);
  const plain: ImageSpec = { ...FULL, info: 4 };
  const plainBytes = buildRecord({ blocks: [{ id: 0, relation: RELATION, block: 1, image: plain }] }, 8);
  assert.equal(decode(plainBytes, POSTGRES_14).blocks[0]?.applyImage, true);
  assert.throws(() => decode(plainBytes), isCorrupt);
});
