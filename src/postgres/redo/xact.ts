/**
 * Reads transaction records: commit, abort, prepare and the end of a prepared transaction. Little-endian; all parts
 * are packed without alignment, except in the state that PREPARE carries.
 * Source: PostgreSQL 14-18, src/include/access/xact.h, src/backend/access/rmgrdesc/xactdesc.c, transam/twophase.c.
 *
 *   part                                        bytes     present if
 *   time, microseconds since 2000               8         always
 *   xinfo                                       4         info has 0x80
 *   database, tablespace                        8         xinfo 0x001
 *   count, xids of subtransactions              4 + 4n    xinfo 0x002
 *   count, dropped relations                    4 + 12n   xinfo 0x004
 *   count, dropped statistics                   4 + 12n   xinfo 0x100 (18: 4 + 16n)
 *   count, invalidation messages (commit only)  4 + 16n   xinfo 0x008
 *   xid of the prepared transaction             4         xinfo 0x010
 *   its global id, NUL-terminated               any       xinfo 0x080 and 0x010
 *   origin's LSN, time                          16        xinfo 0x020
 */
import type { PgVersion } from "../versions/version.ts";
import type { WalRecord } from "../wal/record.ts";
import { PayloadCursor } from "./payload-cursor.ts";
import { unknownRecord } from "./record-errors.ts";

export const XactOp = {
  Commit: 0x00,
  Prepare: 0x10,
  Abort: 0x20,
  CommitPrepared: 0x30,
  AbortPrepared: 0x40,
  Assignment: 0x50,
  Invalidations: 0x60,
} as const;
export const XACT_OP_MASK = 0x70;
const HAS_XINFO = 0x80;

const XINFO = {
  Database: 0x001,
  Subxids: 0x002,
  DroppedRelations: 0x004,
  Invalidations: 0x008,
  Twophase: 0x010,
  Origin: 0x020,
  GlobalId: 0x080,
  DroppedStats: 0x100,
} as const;
/** The parts above, and bits that come without one: 0x040, and the highest three for caches and synchronous commit. */
const XINFO_KNOWN = 0xe00001ff;
const INVALIDATION_SIZE = 16;
const RELATION_SIZE = 12;

const TWOPHASE_MAGIC = 0x57f94534;
const TWOPHASE_HEADER_SIZE = 72;
/** Before 15 there are no counts of dropped statistics. */
const TWOPHASE_HEADER_SIZE_WITHOUT_STATS = 64;
/** The state's length counts the checksum that its file has and the record has not. */
const TWOPHASE_CHECKSUM_SIZE = 4;

export interface RelationLocator {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
}

/** What ends, or is prepared, and what goes with it. Owns its content. */
export interface XactRecord {
  readonly kind:
    "commit" | "abort" | "prepare" | "commit_prepared" | "abort_prepared" | "assignment" | "invalidations";
  /** The transaction that the record is about: of a prepared one, its own xid and not that of whoever ends it. */
  readonly xid: number;
  readonly subxids: readonly number[];
  /** Relations that are gone from here on, with all forks. For "prepare" see `prepared`. */
  readonly droppedRelations: readonly RelationLocator[];
  /** Milliseconds since 1970, with a fraction; of "prepare" the time of preparing; 0 where there is none. */
  readonly timestamp: number;
  /** The xid of a prepared transaction that ends here, else 0. */
  readonly twophaseXid: number;
  /** Global id of a prepared transaction, where the record names it. */
  readonly globalId: string | undefined;
  /** Progress of replication from another server, whose LSN it is. */
  readonly origin: { readonly lsn: bigint; readonly timestamp: number } | undefined;
  readonly prepared: PreparedState | undefined;
}

/** What PREPARE promises for later. */
export interface PreparedState {
  readonly database: number;
  readonly droppedOnCommit: readonly RelationLocator[];
  readonly droppedOnAbort: readonly RelationLocator[];
}

const NOTHING: readonly never[] = [];

/** Reads a record of the transaction manager. Throws `corrupt` if its parts do not fit it, `unsupported` if unknown. */
export function parseXactRecord(record: WalRecord, version: PgVersion): XactRecord {
  switch (record.info & XACT_OP_MASK) {
    case XactOp.Commit:
      return parseEnd(record, version, "commit");
    case XactOp.Abort:
      return parseEnd(record, version, "abort");
    case XactOp.CommitPrepared:
      return parseEnd(record, version, "commit_prepared");
    case XactOp.AbortPrepared:
      return parseEnd(record, version, "abort_prepared");
    case XactOp.Prepare:
      return parsePrepare(record, version);
    case XactOp.Assignment:
      return parseAssignment(record);
    case XactOp.Invalidations:
      return { ...EMPTY, kind: "invalidations", xid: record.xid };
    default:
      return unknownRecord(record);
  }
}

const EMPTY: Omit<XactRecord, "kind" | "xid"> = {
  subxids: NOTHING,
  droppedRelations: NOTHING,
  timestamp: 0,
  twophaseXid: 0,
  globalId: undefined,
  origin: undefined,
  prepared: undefined,
};

type EndKind = "commit" | "abort" | "commit_prepared" | "abort_prepared";

function parseEnd(record: WalRecord, version: PgVersion, kind: EndKind): XactRecord {
  const cursor = new PayloadCursor(record);
  const timestamp = cursor.postgresTime();
  const xinfo = record.info & HAS_XINFO ? cursor.u32() : 0;
  if ((xinfo & ~XINFO_KNOWN) !== 0) unknownRecord(record);
  if (xinfo & XINFO.Database) cursor.skip(8);
  const subxids = xinfo & XINFO.Subxids ? readXids(cursor, cursor.count(4)) : NOTHING;
  const droppedRelations =
    xinfo & XINFO.DroppedRelations ? readRelations(cursor, cursor.count(RELATION_SIZE)) : NOTHING;
  if (xinfo & XINFO.DroppedStats) {
    const size = version.redo.droppedStatsEntrySize;
    if (size === 0) throw cursor.corrupt("dropped statistics, which this version does not have");
    cursor.skip(cursor.count(size) * size);
  }
  const isCommit = kind === "commit" || kind === "commit_prepared";
  if (isCommit && xinfo & XINFO.Invalidations)
    cursor.skip(cursor.count(INVALIDATION_SIZE) * INVALIDATION_SIZE);
  const twophaseXid = xinfo & XINFO.Twophase ? cursor.u32() : 0;
  const globalId = twophaseXid !== 0 && xinfo & XINFO.GlobalId ? cursor.cstring() : undefined;
  const origin = xinfo & XINFO.Origin ? { lsn: cursor.u64(), timestamp: cursor.postgresTime() } : undefined;
  cursor.checkEnd();
  const isPrepared = kind === "commit_prepared" || kind === "abort_prepared";
  if (isPrepared !== (twophaseXid !== 0)) {
    throw cursor.corrupt(
      isPrepared ? "no xid of the prepared transaction" : "an xid of a prepared transaction",
    );
  }
  const xid = isPrepared ? twophaseXid : record.xid;
  return {
    kind,
    xid,
    subxids,
    droppedRelations,
    timestamp,
    twophaseXid,
    globalId,
    origin,
    prepared: undefined,
  };
}

/**
 * The state of a prepared transaction: a header, then parts that each start at a multiple of 8: global id, xids of
 * subtransactions, relations to drop on commit and on abort; what follows is for the server alone. All of it
 * together is what the server keeps in a file, where a CRC-32C follows.
 */
function parsePrepare(record: WalRecord, version: PgVersion): XactRecord {
  const cursor = new PayloadCursor(record);
  const hasStats = version.redo.droppedStatsEntrySize !== 0;
  if (cursor.u32() !== TWOPHASE_MAGIC)
    throw cursor.corrupt("the state of a prepared transaction has another magic");
  const totalLength = cursor.u32();
  if (totalLength !== record.mainLength + TWOPHASE_CHECKSUM_SIZE) {
    throw cursor.corrupt(`the state of a prepared transaction claims ${totalLength} bytes`);
  }
  const xid = cursor.u32();
  const database = cursor.u32();
  const timestamp = cursor.postgresTime();
  cursor.skip(4);
  const subxidCount = cursor.u32();
  const commitCount = cursor.u32();
  const abortCount = cursor.u32();
  if (hasStats) cursor.skip(8);
  cursor.skip(5);
  cursor.skip(1);
  const globalIdSize = cursor.u16();
  cursor.seek(hasStats ? TWOPHASE_HEADER_SIZE - 16 : TWOPHASE_HEADER_SIZE_WITHOUT_STATS - 16);
  const origin = { lsn: cursor.u64(), timestamp: cursor.postgresTime() };
  const globalId = cursor.cstringOf(globalIdSize);
  cursor.align();
  const subxids = readXids(cursor, cursor.checkedCount(subxidCount, 4));
  cursor.align();
  const droppedOnCommit = readRelations(cursor, cursor.checkedCount(commitCount, RELATION_SIZE));
  cursor.align();
  const droppedOnAbort = readRelations(cursor, cursor.checkedCount(abortCount, RELATION_SIZE));
  return {
    ...EMPTY,
    kind: "prepare",
    xid,
    subxids,
    timestamp,
    globalId,
    origin: record.origin !== 0 ? origin : undefined,
    prepared: { database, droppedOnCommit, droppedOnAbort },
  };
}

/** Main data: top-level xid u32, count i32, xids of its subtransactions. */
function parseAssignment(record: WalRecord): XactRecord {
  const cursor = new PayloadCursor(record);
  const xid = cursor.u32();
  return { ...EMPTY, kind: "assignment", xid, subxids: readXids(cursor, cursor.count(4)) };
}

function readXids(cursor: PayloadCursor, count: number): number[] {
  const xids: number[] = [];
  for (let i = 0; i < count; i++) xids.push(cursor.u32());
  return xids;
}

function readRelations(cursor: PayloadCursor, count: number): RelationLocator[] {
  const relations: RelationLocator[] = [];
  for (let i = 0; i < count; i++) {
    relations.push({ spcOid: cursor.u32(), dbOid: cursor.u32(), relNumber: cursor.u32() });
  }
  return relations;
}
