/**
 * What a cluster consists of, as keys of the store. Everything a base backup needs is here, page or not.
 *
 *   kind  spcOid        dbOid  relNumber    fork  block          value
 *   0x00  tablespace    db     relation     fork  block number   page of a relation
 *   0x01  tablespace    db     relation     fork  0              size of that fork: blocks, u32 little-endian
 *   0x02  tablespace    db     0            0     0              a database's directory: its PG_VERSION file, or empty
 *   0x03  tablespace    db     0            0     0              relation map file (db 0: global/)
 *   0x04  tablespace    0      0            0     0              tablespace that was created: its location, UTF-8
 *   0x10  SLRU kind     0      0            0     page number    page of an SLRU
 *   0x12  0             0      epoch        0     xid            prepared transaction: the payload of its file
 *   0x13  0             0      0            0     origin         progress of a replication origin: LSN of its server, u64
 *   0x20  0             0      0            0     0              pg_control as imported
 *   0x21  0             0      0            0     0              checkpoint state (checkpoint-state.ts)
 *   0x22  0             0      window high  0     window low     where WAL records start (record-index.ts)
 *   0x23  0             0      0            0     second         commit records of that second since 1970
 *   0x24  0             0      0            0     0              the last record that is kept under no other key
 *   0x25  0             0      0            0     0              what there is of the last record that was cut off
 *
 * The free space map is not kept: WAL does not describe it, Postgres rebuilds it, and a stale one is worse than none.
 */
import { ByteReader, ByteWriter } from "../../base/bytes.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import type { Key, KeyPrefix } from "../../storage/key.ts";

export const Kind = {
  RelationBlock: 0x00,
  RelationSize: 0x01,
  Database: 0x02,
  RelationMap: 0x03,
  Tablespace: 0x04,
  SlruPage: 0x10,
  TwoPhase: 0x12,
  ReplicationOrigin: 0x13,
  ControlFile: 0x20,
  CheckpointState: 0x21,
  RecordIndex: 0x22,
  CommitTime: 0x23,
  OtherRecord: 0x24,
  CutOffRecord: 0x25,
} as const;

const U32_LIMIT = 2 ** 32;

export function key(kind: number, fields: Partial<Omit<Key, "kind">> = {}): Key {
  return { kind, spcOid: 0, dbOid: 0, relNumber: 0, fork: 0, block: 0, ...fields };
}

/** Half-open range of all keys of a kind. */
export function kindRange(kind: number): { from: Key; to: Key } {
  return { from: key(kind), to: key(kind + 1) };
}

/** Half-open range of all keys of one kind in one database of one tablespace. */
export function databaseRange(kind: number, spcOid: number, dbOid: number): { from: Key; to: Key } {
  const to =
    dbOid < U32_LIMIT - 1
      ? key(kind, { spcOid, dbOid: dbOid + 1 })
      : spcOid < U32_LIMIT - 1
        ? key(kind, { spcOid: spcOid + 1 })
        : key(kind + 1);
  return { from: key(kind, { spcOid, dbOid }), to };
}

/** The whole key space. */
export const FULL_RANGE: { from: Key; to: Key } = { from: key(0), to: key(0xff) };

/** Keys of which images are made. Of record starts and commit times, which come behind, every version is read. */
export const IMAGE_RANGE: { from: Key; to: Key } = { from: key(0), to: key(Kind.RecordIndex) };

export const CONTROL_FILE_KEY = key(Kind.ControlFile);
export const CHECKPOINT_STATE_KEY = key(Kind.CheckpointState);

export function slruPageKey(slru: number, pageNumber: number): Key {
  return key(Kind.SlruPage, { spcOid: slru, block: pageNumber });
}

/** A prepared transaction's key, by its full 64-bit xid. */
export function twoPhaseKey(fullXid: bigint): Key {
  return key(Kind.TwoPhase, { relNumber: Number(fullXid >> 32n), block: Number(fullXid & 0xffffffffn) });
}

export function originKey(origin: number): Key {
  return key(Kind.ReplicationOrigin, { block: origin });
}

export function encodeOriginProgress(remoteLsn: bigint): Uint8Array {
  return new ByteWriter(8).u64le(remoteLsn).finish();
}

export function decodeOriginProgress(bytes: Uint8Array): bigint {
  return new ByteReader(bytes).u64le();
}

/** WAL is divided into windows of this many bytes; each window's record starts are one value. */
export const RECORD_WINDOW_BYTES = 65536;

export function recordWindowKey(window: number): Key {
  return key(Kind.RecordIndex, { relNumber: Math.floor(window / U32_LIMIT), block: window % U32_LIMIT });
}

export function recordWindowOf(indexKey: Key): number {
  return indexKey.relNumber * U32_LIMIT + indexKey.block;
}

export function windowOfLsn(lsn: Lsn): number {
  return Math.floor(lsn / RECORD_WINDOW_BYTES);
}

export function windowStart(window: number): Lsn {
  return toLsn(window * RECORD_WINDOW_BYTES);
}

/** Second since 1970 that a commit at `unixMs` is filed under. */
export function commitSecond(unixMs: number): number {
  return Math.min(U32_LIMIT - 1, Math.max(0, Math.floor(unixMs / 1000)));
}

/** Half-open range of the commits of some seconds. */
export function commitRange(fromSecond: number, toSecond: number): { from: Key; to: Key } {
  return { from: key(Kind.CommitTime, { block: fromSecond }), to: key(Kind.CommitTime, { block: toSecond }) };
}

export function samePrefix(a: KeyPrefix, b: KeyPrefix): boolean {
  return (
    a.kind === b.kind &&
    a.spcOid === b.spcOid &&
    a.dbOid === b.dbOid &&
    a.relNumber === b.relNumber &&
    a.fork === b.fork
  );
}
