/** The counters of a checkpoint: how xids advance, what is stored. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { redoCheckpointState } from "../../src/pageserver/ingest/checkpoint-redo.ts";
import { CheckpointState, compareXids } from "../../src/pageserver/ingest/checkpoint-state.ts";
import { checkSupported } from "../../src/pageserver/ingest/ingest-rmgr.ts";
import { Rmgr } from "../../src/postgres/constants.ts";
import { SUPPORTED_VERSIONS } from "../../src/postgres/versions/versions.ts";
import { makeRecord } from "../postgres/redo-builder.ts";

test("xids are compared on a circle", () => {
  assert.ok(compareXids(3, 4) < 0);
  assert.ok(compareXids(0xffff_fff0, 10) < 0);
  assert.ok(compareXids(10, 0xffff_fff0) > 0);
  assert.equal(compareXids(0x8000_0000, 0x8000_0000), 0);
});

test("the next xid moves past what was seen, never back, and counts epochs", () => {
  const state = new CheckpointState();
  state.nextXid = 1000;
  assert.equal(state.advancePastXid(999), false);
  assert.equal(state.advancePastXid(1000), true);
  assert.equal(state.nextXid, 1001);
  assert.equal(state.advancePastXid(2), false, "special xids do not count");
  state.nextXid = 0xffff_fffe;
  assert.equal(state.advancePastXid(0xffff_ffff), true);
  assert.equal(state.nextXid, 3, "after the last xid comes the first normal one");
  assert.equal(state.nextXidEpoch, 1);
  assert.equal(state.nextFullXid, (1n << 32n) | 3n);
});

test("the epoch of an xid near the counter", () => {
  const state = new CheckpointState();
  state.nextXidEpoch = 5;
  state.nextXid = 100;
  assert.equal(state.epochOf(99), 5);
  assert.equal(state.epochOf(100), 5, "given out, not seen yet");
  assert.equal(state.epochOf(0xffff_ff00), 4, "from before the turn");
  state.nextXid = 0xffff_ff00;
  assert.equal(state.epochOf(5), 6, "given out after the turn, not seen yet");
  state.nextXidEpoch = 0;
  state.nextXid = 100;
  assert.throws(() => state.epochOf(0xffff_ff00), /xid 4294967040 cannot have been given out/);
});

test("multixacts only move forward", () => {
  const state = new CheckpointState();
  state.nextMulti = 10;
  state.nextMultiOffset = 20;
  assert.equal(state.advanceMultis(9, 20), false);
  assert.equal(state.advanceMultis(11, 19), true);
  assert.deepEqual([state.nextMulti, state.nextMultiOffset], [11, 20]);
});

test("times of commits: from the next xid on, the newest only moves forward, none when switched off", () => {
  const state = new CheckpointState();
  state.nextXid = 1000;
  assert.equal(state.advanceNewestCommitTs(1000), false, "not kept yet");
  state.switchCommitTimestamps(true);
  assert.deepEqual([state.oldestCommitTsXid, state.newestCommitTsXid], [1000, 1000]);
  assert.equal(state.advanceNewestCommitTs(0), false);
  assert.equal(state.advanceNewestCommitTs(999), false);
  assert.equal(state.advanceNewestCommitTs(1005), true);
  state.nextXid = 2000;
  state.switchCommitTimestamps(true);
  assert.deepEqual([state.oldestCommitTsXid, state.newestCommitTsXid], [1000, 1005], "already on");
  state.switchCommitTimestamps(false);
  assert.deepEqual([state.oldestCommitTsXid, state.newestCommitTsXid], [0, 0]);
  assert.equal(state.trackCommitTimestamp, false);
});

test("what is stored is what is read, each field for itself", () => {
  const state = new CheckpointState();
  let value = 0x8000_0001;
  for (const field of [
    "nextXid",
    "nextOid",
    "nextMulti",
    "nextMultiOffset",
    "oldestXid",
    "oldestMulti",
  ] as const) {
    state[field] = value++;
  }
  state.timeUnixSeconds = 1_800_000_000;
  state.maxConnections = 123;
  state.walLogHints = true;
  state.fullPageWrites = false;
  const bytes = state.encode();
  assert.equal(bytes.length, 92);
  assert.deepEqual(CheckpointState.decode(bytes), state);
  // By the documented offsets, without our own writer.
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  assert.equal(view.getUint32(12, true), state.nextXid);
  assert.equal(view.getUint32(36, true), state.oldestMulti);
  assert.equal(view.getBigInt64(52, true), 1_800_000_000n);
  assert.equal(view.getInt32(60, true), 123);
  assert.deepEqual([bytes[84], bytes[86]], [1, 0]);
});

test("damaged bytes are refused", () => {
  const bytes = new CheckpointState().encode();
  assert.throws(() => CheckpointState.decode(bytes.subarray(0, 91)), { code: "corrupt" });
  assert.throws(() => CheckpointState.decode(bytes.map((byte, i) => (i === 0 ? 2 : byte))), {
    code: "corrupt",
  });
});

test("Xlog NOOP, which no server writes, is taken in and changes nothing", () => {
  for (const version of SUPPORTED_VERSIONS) {
    const record = makeRecord({ rmgr: Rmgr.Xlog, info: 0x20, main: new Uint8Array(0) });
    checkSupported(record, version);
    const state = new CheckpointState();
    const before = state.encode();
    assert.equal(redoCheckpointState(state, record, version), false);
    assert.deepEqual(state.encode(), before);
  }
});
