/**
 * Messages of streaming replication, inside CopyData. Big-endian; times in microseconds since 2000-01-01 UTC.
 * Source: PostgreSQL 17 documentation, "Streaming Replication Protocol".
 *
 *   XLogData          offset  size  field
 *                          0     1  'w'
 *                          1     8  start LSN of the WAL in this message
 *                          9     8  end of WAL on the server
 *                         17     8  the server's clock
 *                         25        WAL
 *   Primary keepalive      0     1  'k'
 *                          1     8  end of WAL on the server
 *                          9     8  the server's clock
 *                         17     1  1 if a status is wanted at once
 *   Standby status         0     1  'r'
 *                          1     8  end of WAL received
 *                          9     8  end of WAL made durable
 *                         17     8  end of WAL applied
 *                         25     8  the client's clock
 *                         33     1  1 if a keepalive is wanted at once
 *   Hot standby feedback   0     1  'h', of which nothing is of interest here
 */
import { ByteReader, ByteWriter } from "../base/bytes.ts";
import { corrupt } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";

/** Milliseconds from 1970 to Postgres' epoch, 2000-01-01. */
const POSTGRES_EPOCH_MS = 946_684_800_000;
const XLOG_DATA = 0x77;
const KEEPALIVE = 0x6b;
const STANDBY_STATUS = 0x72;
const HOT_STANDBY_FEEDBACK = 0x68;
const XLOG_DATA_HEAD_SIZE = 25;

export type ReplicationMessage =
  | {
      readonly kind: "wal";
      readonly lsn: Lsn;
      readonly serverEndLsn: Lsn;
      /** View of the frame. */
      readonly bytes: Uint8Array;
    }
  | { readonly kind: "keepalive"; readonly serverEndLsn: Lsn; readonly replyRequested: boolean };

/** Decodes a CopyData body that a walsender sent. Throws `corrupt` on anything else. */
export function decodeReplicationMessage(body: Uint8Array): ReplicationMessage {
  const reader = new ByteReader(body);
  const type = reader.u8();
  switch (type) {
    case XLOG_DATA: {
      const lsn = reader.u64beLsn();
      const serverEndLsn = reader.u64beLsn();
      reader.skip(8);
      return { kind: "wal", lsn, serverEndLsn, bytes: reader.subarray(reader.remaining) };
    }
    case KEEPALIVE: {
      const serverEndLsn = reader.u64beLsn();
      reader.skip(8);
      return { kind: "keepalive", serverEndLsn, replyRequested: reader.u8() !== 0 };
    }
    default:
      throw corrupt(`replication message of type ${type}`, { type });
  }
}

export interface StandbyStatus {
  readonly writeLsn: Lsn;
  readonly flushLsn: Lsn;
  readonly applyLsn: Lsn;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
  readonly replyRequested: boolean;
}

/** A standby status as a whole CopyData frame. */
export function encodeStandbyStatus(status: StandbyStatus): Uint8Array {
  return new ByteWriter(64)
    .u8(0x64)
    .i32be(4 + 34)
    .u8(STANDBY_STATUS)
    .u64beLsn(status.writeLsn)
    .u64beLsn(status.flushLsn)
    .u64beLsn(status.applyLsn)
    .i64be(postgresTime(status.nowMs))
    .u8(status.replyRequested ? 1 : 0)
    .finish();
}

/** A piece of WAL as the payload of a CopyData. */
export function encodeXlogData(wal: {
  readonly lsn: Lsn;
  readonly bytes: Uint8Array;
  readonly serverEndLsn: Lsn;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
}): Uint8Array {
  const head = new ByteWriter(XLOG_DATA_HEAD_SIZE)
    .u8(XLOG_DATA)
    .u64beLsn(wal.lsn)
    .u64beLsn(wal.serverEndLsn)
    .i64be(postgresTime(wal.nowMs))
    .finish();
  const payload = new Uint8Array(head.length + wal.bytes.length);
  payload.set(head);
  payload.set(wal.bytes, head.length);
  return payload;
}

/** A keepalive of the server as the payload of a CopyData. */
export function encodeKeepalive(keepalive: {
  readonly serverEndLsn: Lsn;
  readonly nowMs: number;
  readonly replyRequested: boolean;
}): Uint8Array {
  return new ByteWriter(18)
    .u8(KEEPALIVE)
    .u64beLsn(keepalive.serverEndLsn)
    .i64be(postgresTime(keepalive.nowMs))
    .u8(keepalive.replyRequested ? 1 : 0)
    .finish();
}

export interface ReceivedStatus {
  readonly writeLsn: Lsn;
  readonly flushLsn: Lsn;
  readonly applyLsn: Lsn;
  readonly replyRequested: boolean;
}

/** What a client that receives WAL says; undefined for what is of no interest. Throws `corrupt` on anything else. */
export function decodeStandbyMessage(body: Uint8Array): ReceivedStatus | undefined {
  const reader = new ByteReader(body);
  const type = reader.u8();
  if (type === HOT_STANDBY_FEEDBACK) return undefined;
  if (type !== STANDBY_STATUS) throw corrupt(`message of type ${type} from a standby`, { type });
  const writeLsn = reader.u64beLsn();
  const flushLsn = reader.u64beLsn();
  const applyLsn = reader.u64beLsn();
  reader.skip(8);
  return { writeLsn, flushLsn, applyLsn, replyRequested: reader.u8() !== 0 };
}

function postgresTime(nowMs: number): bigint {
  return BigInt(Math.round(nowMs - POSTGRES_EPOCH_MS)) * 1000n;
}
