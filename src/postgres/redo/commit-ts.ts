/**
 * Redo of pages of pg_commit_ts, the time of every commit, which Postgres keeps while `track_commit_timestamp` is on:
 * ten bytes per xid, 819 xids per page, no page header. There is no record that sets a time: it comes from the commit.
 *
 *   offset  size  field
 *        0     8  time, microseconds since 2000
 *        8     2  replication origin, 0 if there is none
 *
 * Source: PostgreSQL 14-18, src/backend/access/transam/commit_ts.c; xact.c, RecordTransactionCommit.
 */
import { PAGE_SIZE, Rmgr } from "../constants.ts";
import type { PgVersion } from "../versions/version.ts";
import type { WalRecord } from "../wal/record.ts";
import { PayloadCursor } from "./payload-cursor.ts";
import { unknownRecord } from "./record-errors.ts";
import { segmentPrecedes } from "./slru-order.ts";
import { type XactRecord, parseXactRecord } from "./xact.ts";

const ENTRY_SIZE = 10;
const TIME_SIZE = 8;
const XIDS_PER_PAGE = Math.floor(PAGE_SIZE / ENTRY_SIZE);
const FIRST_NORMAL_XID = 3;
/** The origin of a session whose changes are not to be replicated: its times are its own. */
const DO_NOT_REPLICATE = 0xffff;
const CommitTsOp = { ZeroPage: 0x00, Truncate: 0x10 } as const;

/** The page with the time of an xid. */
export function commitTsPageOf(xid: number): number {
  return Math.floor(xid / XIDS_PER_PAGE);
}

function isCommit(xact: XactRecord): boolean {
  return (xact.kind === "commit" || xact.kind === "commit_prepared") && xact.xid >= FIRST_NORMAL_XID;
}

/** The newest xid that a record gives a time to, or 0 if it is no commit. */
export function newestTimedXid(xact: XactRecord): number {
  return isCommit(xact) ? (xact.subxids.at(-1) ?? xact.xid) : 0;
}

/** Calls `emit` once for each page on which a commit sets times. */
export function commitTsPagesOfXact(xact: XactRecord, emit: (pageNumber: number) => void): void {
  if (!isCommit(xact)) return;
  const pages = new Set([commitTsPageOf(xact.xid)]);
  for (const xid of xact.subxids) pages.add(commitTsPageOf(xid));
  for (const pageNumber of pages) emit(pageNumber);
}

/** The page that a COMMIT_TS record makes anew, or undefined if it is of another kind. */
export function commitTsZeroedPage(record: WalRecord, version: PgVersion): number | undefined {
  if (record.rmgr !== Rmgr.CommitTs || (record.info & 0xf0) !== CommitTsOp.ZeroPage) return undefined;
  return new PayloadCursor(record).slruPage(version);
}

export interface CommitTsTruncation {
  /** Segments that lie wholly before it go: see `isCommitTsSegmentRemoved`. */
  readonly cutoffPage: number;
  readonly oldestXid: number;
}

/** What a COMMIT_TS record removes, or undefined if it is of another kind. */
export function commitTsTruncation(record: WalRecord, version: PgVersion): CommitTsTruncation | undefined {
  if (record.rmgr !== Rmgr.CommitTs || (record.info & 0xf0) !== CommitTsOp.Truncate) return undefined;
  const cursor = new PayloadCursor(record);
  return { cutoffPage: cursor.slruPage(version), oldestXid: cursor.u32() };
}

/** True if truncation to `cutoffPage` removes a segment (32 pages). */
export function isCommitTsSegmentRemoved(segment: number, cutoffPage: number): boolean {
  return segmentPrecedes(segment, cutoffPage, XIDS_PER_PAGE, FIRST_NORMAL_XID);
}

/**
 * Applies a record of XACT or COMMIT_TS to a page of pg_commit_ts (8192 bytes), as far as it is about it. Throws
 * `corrupt` for a damaged record, `unsupported` for one that cannot touch pg_commit_ts.
 */
export function redoCommitTsPage(
  page: Uint8Array,
  pageNumber: number,
  record: WalRecord,
  version: PgVersion,
): void {
  if (record.rmgr === Rmgr.CommitTs) {
    if (commitTsZeroedPage(record, version) === pageNumber) page.fill(0);
    return;
  }
  if (record.rmgr !== Rmgr.Xact) unknownRecord(record);
  const xact = parseXactRecord(record, version);
  if (!isCommit(xact)) return;
  const entry = entryOf(record, xact);
  for (const xid of [xact.xid, ...xact.subxids]) {
    if (commitTsPageOf(xid) === pageNumber) page.set(entry, (xid % XIDS_PER_PAGE) * ENTRY_SIZE);
  }
}

/**
 * What the commit of a replicated transaction says about its time on the other server counts, if it says anything:
 * where it does not, the server takes its own, although it would not do so in recovery.
 */
function entryOf(record: WalRecord, xact: XactRecord): Uint8Array {
  const end = record.mainOffset + record.mainLength;
  const own = record.bytes.subarray(record.mainOffset, record.mainOffset + TIME_SIZE);
  const theirs = record.bytes.subarray(end - TIME_SIZE, end);
  const isReplicated = xact.origin !== undefined && record.origin !== DO_NOT_REPLICATE;
  const entry = new Uint8Array(ENTRY_SIZE);
  entry.set(isReplicated && theirs.some((byte) => byte !== 0) ? theirs : own);
  entry[TIME_SIZE] = record.origin & 0xff;
  entry[TIME_SIZE + 1] = record.origin >> 8;
  return entry;
}
