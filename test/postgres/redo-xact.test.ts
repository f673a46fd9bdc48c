import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { Rmgr } from "../../src/postgres/constants.ts";
import { parseXactRecord } from "../../src/postgres/redo/xact.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { bytes, isLocatedCorruption, makeRecord, u16, u32 } from "./redo-builder.ts";

const withStatsOf = (size: 0 | 12 | 16): PgVersion => ({
  ...POSTGRES_17,
  redo: { ...POSTGRES_17.redo, droppedStatsEntrySize: size },
});

/** 2024-02-29 12:34:56.789 UTC in microseconds since 2000, in two words. */
const TIME_MS = Date.UTC(2024, 1, 29, 12, 34, 56, 789);
const MICROSECONDS = BigInt(TIME_MS - Date.UTC(2000, 0, 1)) * 1000n;
const TIME = [...u32(Number(MICROSECONDS & 0xffffffffn)), ...u32(Number(MICROSECONDS >> 32n))];

const xact = (info: number, main: number[], xid = 700, origin?: number) =>
  makeRecord({
    rmgr: Rmgr.Xact,
    info,
    xid,
    main: bytes(...main),
    ...(origin === undefined ? {} : { origin }),
  });

const SUBXIDS = [...u32(2), ...u32(701), ...u32(0xfffffffe)];
const RELATIONS = [...u32(1), ...u32(1663), ...u32(5), ...u32(16400)];
const STATS = [...u32(1), ...u32(2), ...u32(5), ...u32(16400)];
const INVALIDATIONS = [...u32(1), ...new Array<number>(16).fill(7)];
const GID = [...Buffer.from("transaction one\0")];
const ORIGIN = [...u32(0x1000), ...u32(0x2), ...TIME];

test("a plain commit has a time and nothing else", () => {
  const commit = parseXactRecord(xact(0x00, TIME), POSTGRES_17);
  assert.deepEqual(commit, {
    kind: "commit",
    xid: 700,
    subxids: [],
    droppedRelations: [],
    timestamp: TIME_MS,
    twophaseXid: 0,
    globalId: undefined,
    origin: undefined,
    prepared: undefined,
  });
});

test("a commit with every part", () => {
  const main = [
    ...TIME,
    ...u32(0x1ef | 0xe0000000),
    ...u32(5),
    ...u32(1663),
    ...SUBXIDS,
    ...RELATIONS,
    ...STATS,
  ];
  const commit = parseXactRecord(xact(0x80, [...main, ...INVALIDATIONS, ...ORIGIN], 700, 3), POSTGRES_17);
  assert.deepEqual(commit.subxids, [701, 0xfffffffe]);
  assert.deepEqual(commit.droppedRelations, [{ spcOid: 1663, dbOid: 5, relNumber: 16400 }]);
  assert.deepEqual(commit.origin, { lsn: 0x2_0000_1000n, timestamp: TIME_MS });
  assert.equal(commit.xid, 700);
});

test("the end of a prepared transaction is about that one, and an abort has no invalidations", () => {
  const flags = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x20;
  const front = [...TIME, ...u32(flags), ...u32(5), ...u32(1663), ...SUBXIDS, ...RELATIONS];
  const back = [...u32(650), ...GID, ...ORIGIN];
  const commit = parseXactRecord(xact(0x30 | 0x80, [...front, ...INVALIDATIONS, ...back], 0), POSTGRES_17);
  assert.deepEqual(
    [commit.kind, commit.xid, commit.twophaseXid, commit.globalId],
    ["commit_prepared", 650, 650, "transaction one"],
  );
  const abort = parseXactRecord(xact(0x40 | 0x80, [...front, ...back], 0), POSTGRES_17);
  assert.deepEqual([abort.kind, abort.xid, abort.globalId], ["abort_prepared", 650, "transaction one"]);
  assert.equal(abort.origin?.lsn, 0x2_0000_1000n);
  const plain = parseXactRecord(xact(0x20, TIME, 651), POSTGRES_17);
  assert.deepEqual([plain.kind, plain.xid], ["abort", 651]);
});

test("entries about dropped statistics have the size of the version", () => {
  const main = (entry: number) => [
    ...TIME,
    ...u32(0x100 | 0x10),
    ...u32(1),
    ...new Array<number>(entry).fill(1),
    ...u32(9),
  ];
  for (const size of [12, 16] as const) {
    assert.equal(parseXactRecord(xact(0xb0, main(size), 0), withStatsOf(size)).xid, 9);
    assert.throws(
      () => parseXactRecord(xact(0xb0, main(28 - size), 0), withStatsOf(size)),
      isLocatedCorruption,
    );
  }
  assert.throws(() => parseXactRecord(xact(0xb0, main(12), 0), withStatsOf(0)), isLocatedCorruption);
});

test("times before 2000 and fractions of a millisecond", () => {
  const before = parseXactRecord(xact(0x00, [...u32(0xffffffff), ...u32(0xffffffff)]), POSTGRES_17);
  assert.equal(before.timestamp, Date.UTC(2000, 0, 1) - 0.001);
});

/** The state of a prepared transaction as PREPARE carries it. */
function prepareState(hasStats: boolean, edit: { length?: number; subxids?: number } = {}): number[] {
  const align = (list: number[]) => {
    while (list.length % 8 !== 0) list.push(0);
    return list;
  };
  const tail = [
    ...align([...GID]),
    ...align([...u32(701), ...u32(702), ...u32(703)]),
    ...align([...u32(1663), ...u32(5), ...u32(100)]),
    ...align([...u32(1663), ...u32(5), ...u32(200), ...u32(1663), ...u32(5), ...u32(201)]),
    ...new Array<number>(24).fill(9),
  ];
  const size = (hasStats ? 72 : 64) + tail.length;
  const counts = [...u32(edit.subxids ?? 3), ...u32(1), ...u32(2)];
  const stats = hasStats ? [...u32(0), ...u32(0)] : [];
  const head = [
    ...u32(0x57f94534),
    ...u32(edit.length ?? size + 4),
    ...u32(700),
    ...u32(5),
    ...TIME,
    ...u32(10),
  ];
  return [...head, ...counts, ...stats, ...u32(0), 0, 0, ...u16(GID.length), ...ORIGIN, ...tail];
}

test("prepare names what will be dropped, in the layouts with and without statistics", () => {
  for (const size of [12, 0] as const) {
    const prepare = parseXactRecord(xact(0x10, prepareState(size !== 0), 700), withStatsOf(size));
    assert.deepEqual(prepare.kind, "prepare");
    assert.deepEqual([prepare.xid, prepare.subxids, prepare.timestamp], [700, [701, 702, 703], TIME_MS]);
    assert.equal(prepare.globalId, "transaction one");
    assert.equal(prepare.origin, undefined);
    assert.deepEqual(prepare.droppedRelations, []);
    assert.deepEqual(prepare.prepared, {
      database: 5,
      droppedOnCommit: [{ spcOid: 1663, dbOid: 5, relNumber: 100 }],
      droppedOnAbort: [200, 201].map((relNumber) => ({ spcOid: 1663, dbOid: 5, relNumber })),
    });
  }
});

test("a prepared state with another length, magic or count is refused", () => {
  const states = [
    prepareState(true, { length: 9 }),
    prepareState(true, { subxids: 0xffffffff }),
    prepareState(true),
  ];
  (states[2] as number[])[0] = 0;
  for (const state of states) {
    assert.throws(() => parseXactRecord(xact(0x10, state), POSTGRES_17), isLocatedCorruption);
  }
});

test("an assignment lists subtransactions; invalidations say nothing to us; 0x70 is unknown", () => {
  const assignment = parseXactRecord(xact(0x50, [...u32(9), ...u32(2), ...u32(10), ...u32(11)]), POSTGRES_17);
  assert.deepEqual([assignment.kind, assignment.xid, assignment.subxids], ["assignment", 9, [10, 11]]);
  assert.equal(parseXactRecord(xact(0x60, INVALIDATIONS), POSTGRES_17).kind, "invalidations");
  const unsupported = (error: unknown) => error instanceof NeonError && error.code === ErrorCode.Unsupported;
  assert.throws(() => parseXactRecord(xact(0x70, []), POSTGRES_17), unsupported);
  assert.throws(() => parseXactRecord(xact(0x80, [...TIME, ...u32(0x200)]), POSTGRES_17), unsupported);
});

test("a record cut anywhere is corrupt, and says so", () => {
  const main = [...TIME, ...u32(0x1ef), ...u32(5), ...u32(1663), ...SUBXIDS, ...RELATIONS, ...STATS];
  const whole = [...main, ...INVALIDATIONS, ...ORIGIN];
  for (let length = 0; length < whole.length; length++) {
    const record = xact(0x80, whole.slice(0, length));
    assert.throws(() => parseXactRecord(record, POSTGRES_17), isLocatedCorruption, `${length}`);
  }
  assert.throws(() => parseXactRecord(xact(0x80, [...whole, 0]), POSTGRES_17), isLocatedCorruption);
  const named = [...TIME, ...u32(0x90), ...u32(650), ...GID.slice(0, -1)];
  assert.throws(() => parseXactRecord(xact(0xb0, named, 0), POSTGRES_17), isLocatedCorruption);
  const state = prepareState(true);
  for (let length = 0; length < state.length; length += 3) {
    assert.throws(
      () => parseXactRecord(xact(0x10, state.slice(0, length)), POSTGRES_17),
      isLocatedCorruption,
    );
  }
});

test("a count beyond the record, or the wrong kind of end, is corrupt", () => {
  for (const count of [3, 0x7fffffff, 0xffffffff]) {
    const main = [...TIME, ...u32(0x02), ...u32(count), ...u32(1), ...u32(2)];
    assert.throws(() => parseXactRecord(xact(0x80, main), POSTGRES_17), isLocatedCorruption);
  }
  assert.throws(() => parseXactRecord(xact(0x30, TIME), POSTGRES_17), isLocatedCorruption);
  assert.throws(
    () => parseXactRecord(xact(0x80, [...TIME, ...u32(0x10), ...u32(9)]), POSTGRES_17),
    isLocatedCorruption,
  );
});

test("the LSN of another server may be any number", () => {
  const far = [...TIME, ...u32(0x20), ...u32(0), ...u32(0xffffffff), ...TIME];
  assert.equal(parseXactRecord(xact(0x80, far), POSTGRES_17).origin?.lsn, 0xffff_ffff_0000_0000n);
});
