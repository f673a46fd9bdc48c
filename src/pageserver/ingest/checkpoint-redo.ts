/**
 * What each WAL record does to the checkpoint state. Source: facts of PostgreSQL 14-18's xlog_redo, xact_redo,
 * clog_redo, multixact_redo, commit_ts_redo and standby_redo, as far as they move the counters of a checkpoint.
 */
import { CHECKPOINT_SIZE, decodeCheckPoint } from "../../postgres/checkpoint.ts";
import { Rmgr } from "../../postgres/constants.ts";
import { clogTruncation } from "../../postgres/redo/clog.ts";
import { commitTsTruncation, newestTimedXid } from "../../postgres/redo/commit-ts.ts";
import { mainData } from "../../postgres/redo/payload.ts";
import { parseXactRecord } from "../../postgres/redo/xact.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import { type CheckpointState, compareXids } from "./checkpoint-state.ts";

const XlogInfo = {
  CheckpointShutdown: 0x00,
  CheckpointOnline: 0x10,
  NextOid: 0x30,
  ParameterChange: 0x60,
  FullPageWritesChange: 0x80,
  EndOfRecovery: 0x90,
} as const;
const MULTIXACT_CREATE_ID = 0x20;
const MULTIXACT_TRUNCATE_ID = 0x30;
const STANDBY_RUNNING_XACTS = 0x10;

/** Applies a record. True if the state changed, so that the record belongs to the state's history. */
export function redoCheckpointState(state: CheckpointState, record: WalRecord, version: PgVersion): boolean {
  const moved = record.xid !== 0 && state.advancePastXid(record.xid);
  switch (record.rmgr) {
    case Rmgr.Xlog:
      return redoXlog(state, record, version) || moved;
    case Rmgr.Xact:
      return redoXact(state, record, version) || moved;
    case Rmgr.Clog:
      return redoClog(state, record, version) || moved;
    case Rmgr.Multixact:
      return redoMultixact(state, record) || moved;
    case Rmgr.CommitTs:
      return redoCommitTs(state, record, version) || moved;
    case Rmgr.Standby:
      return redoStandby(state, record) || moved;
    default:
      return moved;
  }
}

function redoXlog(state: CheckpointState, record: WalRecord, version: PgVersion): boolean {
  const { view } = record;
  switch (record.info & 0xf0) {
    case XlogInfo.CheckpointShutdown:
      state.assign(decodeCheckPoint(record.bytes, mainData(record, CHECKPOINT_SIZE), version));
      return true;
    case XlogInfo.CheckpointOnline:
      state.advance(decodeCheckPoint(record.bytes, mainData(record, CHECKPOINT_SIZE), version));
      return true;
    case XlogInfo.NextOid:
      state.nextOid = view.getUint32(mainData(record, 4), true);
      return true;
    case XlogInfo.ParameterChange: {
      const at = mainData(record, 26);
      state.maxConnections = view.getInt32(at, true);
      state.maxWorkerProcesses = view.getInt32(at + 4, true);
      state.maxWalSenders = view.getInt32(at + 8, true);
      state.maxPreparedTransactions = view.getInt32(at + 12, true);
      state.maxLocksPerTransaction = view.getInt32(at + 16, true);
      state.walLevel = view.getInt32(at + 20, true);
      state.walLogHints = view.getUint8(at + 24) !== 0;
      state.switchCommitTimestamps(view.getUint8(at + 25) !== 0);
      return true;
    }
    case XlogInfo.FullPageWritesChange:
      state.fullPageWrites = view.getUint8(mainData(record, 1)) !== 0;
      return true;
    case XlogInfo.EndOfRecovery:
      state.timelineNumber = view.getUint32(mainData(record, 12) + 8, true);
      return true;
    default:
      return false;
  }
}

/** The setting of `track_commit_timestamp` in a change of parameters, undefined in any other record. */
export function tracksCommitTimestamps(record: WalRecord): boolean | undefined {
  if (record.rmgr !== Rmgr.Xlog || (record.info & 0xf0) !== XlogInfo.ParameterChange) return undefined;
  return record.view.getUint8(mainData(record, 26) + 25) !== 0;
}

function redoXact(state: CheckpointState, record: WalRecord, version: PgVersion): boolean {
  const xact = parseXactRecord(record, version);
  let moved = false;
  for (const xid of xact.subxids) {
    if (state.advancePastXid(xid)) moved = true;
  }
  if (state.advanceNewestCommitTs(newestTimedXid(xact))) moved = true;
  return (xact.twophaseXid !== 0 && state.advancePastXid(xact.twophaseXid)) || moved;
}

function redoClog(state: CheckpointState, record: WalRecord, version: PgVersion): boolean {
  const truncation = clogTruncation(record, version);
  if (truncation === undefined) return false;
  state.oldestXid = truncation.oldestXid;
  state.oldestXidDb = truncation.oldestXidDb;
  return true;
}

function redoCommitTs(state: CheckpointState, record: WalRecord, version: PgVersion): boolean {
  const truncation = commitTsTruncation(record, version);
  if (truncation === undefined || state.oldestCommitTsXid === 0) return false;
  if (compareXids(state.oldestCommitTsXid, truncation.oldestXid) >= 0) return false;
  state.oldestCommitTsXid = truncation.oldestXid;
  return true;
}

function redoMultixact(state: CheckpointState, record: WalRecord): boolean {
  const { view } = record;
  switch (record.info & 0xf0) {
    case MULTIXACT_CREATE_ID: {
      const at = mainData(record, 12);
      const memberCount = view.getInt32(at + 8, true);
      mainData(record, 12 + 8 * Math.max(0, memberCount));
      const nextOffset = (view.getUint32(at + 4, true) + memberCount) >>> 0;
      let moved = state.advanceMultis(nextMultiAfter(view.getUint32(at, true)), nextOffset);
      for (let i = 0; i < memberCount; i++) {
        if (state.advancePastXid(view.getUint32(at + 12 + 8 * i, true))) moved = true;
      }
      return moved;
    }
    case MULTIXACT_TRUNCATE_ID: {
      const at = mainData(record, 20);
      const oldest = view.getUint32(at + 8, true);
      if (compareXids(state.oldestMulti, oldest) >= 0) return false;
      state.oldestMultiDb = view.getUint32(at, true);
      state.oldestMulti = oldest;
      return true;
    }
    default:
      return false;
  }
}

function nextMultiAfter(multi: number): number {
  return (multi + 1) >>> 0;
}

function redoStandby(state: CheckpointState, record: WalRecord): boolean {
  if ((record.info & 0xf0) !== STANDBY_RUNNING_XACTS) return false;
  const nextXid = record.view.getUint32(mainData(record, 16) + 12, true);
  return state.advancePastXid((nextXid - 1) >>> 0);
}
