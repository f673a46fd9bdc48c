import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { type CheckPoint, decodeCheckPoint, encodeCheckPoint } from "../../src/postgres/checkpoint.ts";
import {
  cleanShutdown,
  ClusterState,
  parseControlFile,
  renderControlFile,
  type ServerParameters,
} from "../../src/postgres/control-file.ts";
import { POSTGRES_16 } from "../../src/postgres/versions/postgres-16.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { SeededRandom } from "../support/random.ts";
import { slowCrc32c } from "../support/wal-builder.ts";

/** Every field different, most above 2^31. */
const CHECKPOINT: CheckPoint = {
  redoLsn: toLsn(0x1f_f234_5678_9ab8),
  timeline: 0x80000001,
  previousTimeline: 0x80000002,
  fullPageWrites: true,
  walLevel: 2,
  nextXid: 0xfedc_ba98_7654_3210n,
  nextOid: 0x80000003,
  nextMulti: 0x80000004,
  nextMultiOffset: 0x80000005,
  oldestXid: 0x80000006,
  oldestXidDb: 0x80000007,
  oldestMulti: 0x80000008,
  oldestMultiDb: 0x80000009,
  timeSeconds: 1_800_000_000,
  oldestCommitTsXid: 0x8000000a,
  newestCommitTsXid: 0x8000000b,
  oldestActiveXid: 0x8000000c,
};

/** CHECKPOINT by hand, field by field from the layout of the C structure. */
const CHECKPOINT_HEX =
  "b89a785634f21f00" +
  "01000080" +
  "02000080" +
  "01000000" +
  "02000000" +
  "1032547698badcfe" +
  "03000080" +
  "04000080" +
  "05000080" +
  "06000080" +
  "07000080" +
  "08000080" +
  "09000080" +
  "00000000" +
  "00d2496b00000000" +
  "0a000080" +
  "0b000080" +
  "0c000080" +
  "00000000";

const PARAMETERS: ServerParameters = {
  walLevel: 2,
  walLogHints: true,
  maxConnections: 101,
  maxWorkerProcesses: 102,
  maxWalSenders: 103,
  maxPreparedTransactions: 104,
  maxLocksPerTransaction: 105,
  trackCommitTimestamp: true,
};

function isError(code: ErrorCode, text: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof NeonError && error.code === code && text.test(error.message);
}

/** A pg_control as another program would make it. */
function build(edit: (bytes: Buffer) => void = () => undefined): Buffer {
  const bytes = Buffer.alloc(8192);
  bytes.writeBigUInt64LE(0xf123456789abcdefn, 0);
  bytes.writeUInt32LE(1700, 8);
  bytes.writeUInt32LE(202406281, 12);
  bytes.writeInt32LE(6, 16);
  bytes.writeBigInt64LE(1_700_000_000n, 24);
  bytes.writeBigUInt64LE(0x1234_5678n, 32);
  Buffer.from(CHECKPOINT_HEX, "hex").copy(bytes, 40);
  bytes.writeBigUInt64LE(1234n, 128);
  bytes.writeBigUInt64LE(0x2_0000_0008n, 136);
  bytes.writeUInt32LE(3, 144);
  bytes.writeBigUInt64LE(0x2_0000_0010n, 152);
  bytes.writeBigUInt64LE(0x2_0000_0018n, 160);
  bytes[168] = 1;
  for (const [i, value] of [1, 0, 100, 8, 10, 2, 64].entries()) bytes.writeInt32LE(value, 172 + 4 * i);
  bytes.writeUInt32LE(8, 204);
  bytes.writeDoubleLE(1234567, 208);
  for (const [i, value] of [8192, 131072, 8192, 16777216, 64, 32, 1996, 2048].entries())
    bytes.writeUInt32LE(value, 216 + 4 * i);
  bytes[248] = 1;
  bytes.writeUInt32LE(1, 252);
  bytes.fill(0xab, 256, 288);
  edit(bytes);
  bytes.writeUInt32LE(slowCrc32c(bytes.subarray(0, 288)), 288);
  return bytes;
}

test("a checkpoint is read and written field by field", () => {
  const bytes = Buffer.from(CHECKPOINT_HEX, "hex");
  assert.equal(bytes.length, 88);
  assert.deepEqual(decodeCheckPoint(bytes, 0, POSTGRES_17), CHECKPOINT);
  assert.equal(Buffer.from(encodeCheckPoint(CHECKPOINT, POSTGRES_17)).toString("hex"), CHECKPOINT_HEX);
  assert.deepEqual(decodeCheckPoint(Buffer.concat([Buffer.alloc(7), bytes]), 7, POSTGRES_17), CHECKPOINT);
});

test("before 17 a checkpoint has no wal_level", () => {
  const old = POSTGRES_16;
  assert.equal(decodeCheckPoint(Buffer.from(CHECKPOINT_HEX, "hex"), 0, old).walLevel, 0);
  assert.equal(encodeCheckPoint(CHECKPOINT, old)[20], 0);
});

test("a checkpoint that is cut off is a typed error", () => {
  const bytes = Buffer.from(CHECKPOINT_HEX, "hex");
  assert.throws(
    () => decodeCheckPoint(bytes.subarray(1), 0, POSTGRES_17),
    isError(ErrorCode.Corrupt, /cut off/),
  );
  assert.throws(() => decodeCheckPoint(bytes, 1, POSTGRES_17), isError(ErrorCode.Corrupt, /cut off/));
});

test("every field of pg_control", () => {
  assert.deepEqual(parseControlFile(build()), {
    version: POSTGRES_17,
    systemId: 0xf123456789abcdefn,
    state: ClusterState.InProduction,
    timeSeconds: 1_700_000_000,
    checkpointLsn: 0x1234_5678,
    checkpoint: CHECKPOINT,
    unloggedLsn: 1234,
    minRecoveryPoint: 0x2_0000_0008,
    minRecoveryTimeline: 3,
    backupStartPoint: 0x2_0000_0010,
    backupEndPoint: 0x2_0000_0018,
    backupEndRequired: true,
    parameters: {
      walLevel: 1,
      walLogHints: false,
      maxConnections: 100,
      maxWorkerProcesses: 8,
      maxWalSenders: 10,
      maxPreparedTransactions: 2,
      maxLocksPerTransaction: 64,
      trackCommitTimestamp: false,
    },
    walSegmentSize: 16777216,
    dataChecksums: true,
  });
});

test("the 296 bytes that matter are enough", () => {
  assert.equal(parseControlFile(build().subarray(0, 296)).walSegmentSize, 16777216);
  assert.throws(() => parseControlFile(build().subarray(0, 295)), isError(ErrorCode.Corrupt, /295 bytes/));
});

test("a flipped bit anywhere is noticed", () => {
  const bytes = build();
  for (let at = 0; at < 292; at++) {
    for (const bit of [1, 128]) {
      const copy = Buffer.from(bytes);
      copy[at] = (copy[at] ?? 0) ^ bit;
      const expected = at >= 8 && at < 16 ? ErrorCode.Unsupported : ErrorCode.Corrupt;
      assert.throws(() => parseControlFile(copy), isError(expected, /./), `byte ${at}`);
    }
  }
});

test("other versions and builds are refused by name", () => {
  const cases: readonly (readonly [RegExp, (bytes: Buffer) => void])[] = [
    [/version/, (b) => b.writeUInt32LE(1300, 8)],
    [/version/, (b) => b.writeUInt32LE(202406282, 12)],
    [/alignment/, (b) => b.writeUInt32LE(4, 204)],
    [/floating-point/, (b) => b.writeDoubleLE(7654321, 208)],
    [/page size 4096/, (b) => b.writeUInt32LE(4096, 216)],
    [/relation segment/, (b) => b.writeUInt32LE(1, 220)],
    [/WAL page size/, (b) => b.writeUInt32LE(16384, 224)],
    [/segment size/, (b) => b.writeUInt32LE(0, 228)],
    [/segment size/, (b) => b.writeUInt32LE(3 * 1024 * 1024, 228)],
    [/segment size/, (b) => b.writeUInt32LE(512 * 1024, 228)],
    [/segment size/, (b) => b.writeUInt32LE(2 ** 31, 228)],
  ];
  for (const [text, edit] of cases)
    assert.throws(() => parseControlFile(build(edit)), isError(ErrorCode.Unsupported, text), String(text));
});

test("without changes rendering reproduces the file; junk after the structure is dropped", () => {
  const bytes = build();
  assert.ok(Buffer.from(renderControlFile(bytes, {})).equals(bytes));
  const junk = Buffer.concat([bytes.subarray(0, 292), Buffer.alloc(400, 7)]);
  assert.ok(Buffer.from(renderControlFile(junk, {})).equals(bytes));
});

test("each change changes its field and nothing else", () => {
  const template = build();
  const before = parseControlFile(template);
  const changes = {
    state: ClusterState.ShutDown,
    timeSeconds: 1,
    checkpointLsn: toLsn(0x1_8000_0000),
    checkpoint: { ...CHECKPOINT, nextOid: 1 },
    unloggedLsn: toLsn(1000),
    minRecoveryPoint: toLsn(0),
    minRecoveryTimeline: 0,
    backupStartPoint: toLsn(0),
    backupEndPoint: toLsn(0),
    backupEndRequired: false,
    parameters: PARAMETERS,
  };
  for (const [name, value] of Object.entries(changes))
    assert.deepEqual(parseControlFile(renderControlFile(template, { [name]: value })), {
      ...before,
      [name]: value,
    });
  assert.deepEqual(parseControlFile(renderControlFile(template, changes)), { ...before, ...changes });
});

test("cleanShutdown: clean, at the record, nothing left of recovery or backup", () => {
  const lsn = CHECKPOINT.redoLsn;
  const file = parseControlFile(renderControlFile(build(), cleanShutdown(lsn, CHECKPOINT, PARAMETERS)));
  assert.equal(file.state, ClusterState.ShutDown);
  assert.equal(file.checkpointLsn, lsn);
  assert.equal(file.timeSeconds, CHECKPOINT.timeSeconds);
  assert.deepEqual(file.parameters, PARAMETERS);
  assert.deepEqual(
    [
      file.unloggedLsn,
      file.minRecoveryPoint,
      file.minRecoveryTimeline,
      file.backupStartPoint,
      file.backupEndPoint,
      file.backupEndRequired,
    ],
    [1000, 0, 0, 0, 0, false],
  );
  assert.deepEqual(
    parseControlFile(renderControlFile(build(), cleanShutdown(lsn, CHECKPOINT))).parameters,
    parseControlFile(build()).parameters,
  );
  assert.throws(() => cleanShutdown(toLsn(8), CHECKPOINT), /own redo point/);
});

test("random bytes give typed errors only", (t) => {
  const random = SeededRandom.forTest(t);
  for (let round = 0; round < 500; round++) {
    const bytes = random.bytes(random.pick([0, 100, 295, 296, 8192]));
    assert.throws(
      () => parseControlFile(bytes),
      (error) => error instanceof NeonError,
    );
  }
});
