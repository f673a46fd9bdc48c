/**
 * The `CheckPoint` structure: body of checkpoint records and part of pg_control. Little-endian, 88 bytes.
 * Source: PostgreSQL 14-18, src/include/catalog/pg_control.h, CheckPoint.
 *
 *   offset  size  field
 *        0     8  redoLsn
 *        8     4  timeline
 *       12     4  previousTimeline
 *       16     1  fullPageWrites
 *       20     4  walLevel           17 and later, else zero
 *       24     8  nextXid            epoch in the high half
 *       32     4  nextOid
 *       36     4  nextMulti
 *       40     4  nextMultiOffset
 *       44     4  oldestXid
 *       48     4  oldestXidDb
 *       52     4  oldestMulti
 *       56     4  oldestMultiDb
 *       64     8  timeSeconds        signed, since 1970
 *       72     4  oldestCommitTsXid
 *       76     4  newestCommitTsXid
 *       80     4  oldestActiveXid    0 in a shutdown checkpoint
 *   the rest is zero
 */
import { assert } from "../base/errors.ts";
import { ByteReader, ByteWriter } from "../base/bytes.ts";
import { corrupt } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import type { PgVersion } from "./versions/version.ts";

export const CHECKPOINT_SIZE = 88;

export interface CheckPoint {
  /** Where replay from this checkpoint begins. */
  readonly redoLsn: Lsn;
  readonly timeline: number;
  readonly previousTimeline: number;
  readonly fullPageWrites: boolean;
  /** 0 minimal, 1 replica, 2 logical; 0 where the version does not record it. */
  readonly walLevel: number;
  /** Full transaction id: epoch << 32 | xid. */
  readonly nextXid: bigint;
  readonly nextOid: number;
  readonly nextMulti: number;
  readonly nextMultiOffset: number;
  readonly oldestXid: number;
  readonly oldestXidDb: number;
  readonly oldestMulti: number;
  readonly oldestMultiDb: number;
  /** Seconds since 1970. */
  readonly timeSeconds: number;
  readonly oldestCommitTsXid: number;
  readonly newestCommitTsXid: number;
  readonly oldestActiveXid: number;
}

/** Reads the structure from `bytes[offset..offset+88)`. Throws `corrupt` when there are fewer bytes. */
export function decodeCheckPoint(bytes: Uint8Array, offset: number, version: PgVersion): CheckPoint {
  if (offset < 0 || bytes.length - offset < CHECKPOINT_SIZE)
    throw corrupt(`checkpoint is cut off at offset ${offset}`, { offset });
  const reader = new ByteReader(bytes, offset, offset + CHECKPOINT_SIZE);
  const redoLsn = reader.u64leLsn();
  const timeline = reader.u32le();
  const previousTimeline = reader.u32le();
  const fullPageWrites = reader.u8() !== 0;
  reader.skip(3);
  const walLevelField = reader.i32le();
  const nextXid = reader.u64le();
  const nextOid = reader.u32le();
  const nextMulti = reader.u32le();
  const nextMultiOffset = reader.u32le();
  const oldestXid = reader.u32le();
  const oldestXidDb = reader.u32le();
  const oldestMulti = reader.u32le();
  const oldestMultiDb = reader.u32le();
  reader.skip(4);
  const timeSeconds = Number(reader.i64le());
  const oldestCommitTsXid = reader.u32le();
  const newestCommitTsXid = reader.u32le();
  const oldestActiveXid = reader.u32le();
  return {
    redoLsn,
    timeline,
    previousTimeline,
    fullPageWrites,
    walLevel: version.checkpointHasWalLevel ? walLevelField : 0,
    nextXid,
    nextOid,
    nextMulti,
    nextMultiOffset,
    oldestXid,
    oldestXidDb,
    oldestMulti,
    oldestMultiDb,
    timeSeconds,
    oldestCommitTsXid,
    newestCommitTsXid,
    oldestActiveXid,
  };
}

/** The 88 bytes of the structure, padding zero. */
export function encodeCheckPoint(checkpoint: CheckPoint, version: PgVersion): Uint8Array {
  const bytes = new ByteWriter(CHECKPOINT_SIZE)
    .u64leLsn(checkpoint.redoLsn)
    .u32le(checkpoint.timeline)
    .u32le(checkpoint.previousTimeline)
    .u8(checkpoint.fullPageWrites ? 1 : 0)
    .zeros(3)
    .i32le(version.checkpointHasWalLevel ? checkpoint.walLevel : 0)
    .u64le(checkpoint.nextXid)
    .u32le(checkpoint.nextOid)
    .u32le(checkpoint.nextMulti)
    .u32le(checkpoint.nextMultiOffset)
    .u32le(checkpoint.oldestXid)
    .u32le(checkpoint.oldestXidDb)
    .u32le(checkpoint.oldestMulti)
    .u32le(checkpoint.oldestMultiDb)
    .zeros(4)
    .i64le(BigInt(checkpoint.timeSeconds))
    .u32le(checkpoint.oldestCommitTsXid)
    .u32le(checkpoint.newestCommitTsXid)
    .u32le(checkpoint.oldestActiveXid)
    .zeros(4)
    .finish();
  assert(bytes.length === CHECKPOINT_SIZE, "a checkpoint has 88 bytes");
  return bytes;
}
