/**
 * Redo of pages of pg_xact, the status of every transaction: two bits per xid, 32768 xids per page, no page header.
 * Source: PostgreSQL 14-18, src/backend/access/transam/clog.c.
 */
import { unreachable } from "../../base/errors.ts";
import { PAGE_SIZE, Rmgr } from "../constants.ts";
import type { PgVersion } from "../versions/version.ts";
import type { WalRecord } from "../wal/record.ts";
import { PayloadCursor } from "./payload-cursor.ts";
import { segmentPrecedes } from "./slru-order.ts";
import { unknownRecord } from "./record-errors.ts";
import { type XactRecord, parseXactRecord } from "./xact.ts";

const XIDS_PER_PAGE = PAGE_SIZE * 4;
const FIRST_NORMAL_XID = 3;
const ClogOp = { ZeroPage: 0x00, Truncate: 0x10 } as const;

/** Two bits each. */
export const XidStatus = { InProgress: 0, Committed: 1, Aborted: 2, SubCommitted: 3 } as const;

/** The page with the status of an xid. */
export function clogPageOf(xid: number): number {
  return Math.floor(xid / XIDS_PER_PAGE);
}

/** The status (`XidStatus`) of an xid on its page. */
export function xidStatus(page: Uint8Array, xid: number): number {
  const index = xid % XIDS_PER_PAGE;
  return ((page[index >>> 2] ?? 0) >>> (2 * (index & 3))) & 3;
}

function setXidStatus(page: Uint8Array, xid: number, status: number): void {
  const index = xid % XIDS_PER_PAGE;
  const shift = 2 * (index & 3);
  page[index >>> 2] = ((page[index >>> 2] ?? 0) & ~(3 << shift)) | (status << shift);
}

/** What becomes of a transaction and its subtransactions, or undefined if the record decides nothing. */
function statusOf(xact: XactRecord): number | undefined {
  switch (xact.kind) {
    case "commit":
    case "commit_prepared":
      return XidStatus.Committed;
    case "abort":
    case "abort_prepared":
      return XidStatus.Aborted;
    case "prepare":
    case "assignment":
    case "invalidations":
      return undefined;
    default:
      return unreachable(xact.kind);
  }
}

/** Calls `emit` once for each page whose content the end of a transaction changes. */
export function clogPagesOfXact(xact: XactRecord, emit: (pageNumber: number) => void): void {
  if (statusOf(xact) === undefined || xact.xid < FIRST_NORMAL_XID) return;
  const first = clogPageOf(xact.xid);
  emit(first);
  if (xact.subxids.length === 0) return;
  const seen = new Set([first]);
  for (const xid of xact.subxids) {
    const pageNumber = clogPageOf(xid);
    if (seen.has(pageNumber)) continue;
    seen.add(pageNumber);
    emit(pageNumber);
  }
}

/** The page that a CLOG record makes anew, or undefined if it is of another kind. */
export function clogZeroedPage(record: WalRecord, version: PgVersion): number | undefined {
  if (record.rmgr !== Rmgr.Clog || (record.info & 0xf0) !== ClogOp.ZeroPage) return undefined;
  return new PayloadCursor(record).slruPage(version);
}

export interface ClogTruncation {
  /** Segments that lie wholly before it go: see `isClogSegmentRemoved`. */
  readonly cutoffPage: number;
  readonly oldestXid: number;
  readonly oldestXidDb: number;
}

/** What a CLOG record removes, or undefined if it is of another kind. */
export function clogTruncation(record: WalRecord, version: PgVersion): ClogTruncation | undefined {
  if (record.rmgr !== Rmgr.Clog || (record.info & 0xf0) !== ClogOp.Truncate) return undefined;
  const cursor = new PayloadCursor(record);
  const cutoffPage = cursor.slruPage(version);
  return { cutoffPage, oldestXid: cursor.u32(), oldestXidDb: cursor.u32() };
}

/** True if truncation to `cutoffPage` removes a segment (32 pages). */
export function isClogSegmentRemoved(segment: number, cutoffPage: number): boolean {
  return segmentPrecedes(segment, cutoffPage, XIDS_PER_PAGE, FIRST_NORMAL_XID);
}

/**
 * Applies a record of XACT or CLOG to a page of pg_xact (8192 bytes), as far as it is about it. Throws `corrupt` for a
 * damaged record, `unsupported` for one that cannot touch pg_xact.
 */
export function redoClogPage(
  page: Uint8Array,
  pageNumber: number,
  record: WalRecord,
  version: PgVersion,
): void {
  if (record.rmgr === Rmgr.Clog) {
    if (clogZeroedPage(record, version) === pageNumber) page.fill(0);
    return;
  }
  if (record.rmgr !== Rmgr.Xact) unknownRecord(record);
  const xact = parseXactRecord(record, version);
  const status = statusOf(xact);
  if (status === undefined || xact.xid < FIRST_NORMAL_XID) return;
  if (clogPageOf(xact.xid) === pageNumber) setXidStatus(page, xact.xid, status);
  for (const xid of xact.subxids) {
    if (clogPageOf(xid) === pageNumber) setXidStatus(page, xid, status);
  }
}
