/**
 * Headers of WAL pages. Little-endian. Source: PostgreSQL 14-18, src/include/access/xlog_internal.h.
 *
 *   offset  size  field
 *        0     2  magic            names the major version
 *        2     2  info             flags below
 *        4     4  timeline         number, 1 upward
 *        8     8  pageLsn          where this page starts
 *       16     4  remainingLength  bytes of a record begun on an earlier page; with 0x01
 *       20     4  (zero)
 *   only on the first page of a segment:
 *       24     8  systemId
 *       32     4  segmentSize
 *       36     4  pageSize
 */
import { corrupt, type NeonError } from "../../base/errors.ts";
import { formatLsn, lsnHigh, lsnLow, type Lsn } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../constants.ts";

export const SHORT_HEADER_SIZE = 24;
export const LONG_HEADER_SIZE = 40;

export const PageFlag = {
  /** The page begins with the rest of a record. */
  Continuation: 0x01,
  LongHeader: 0x02,
  /** No backup was running; set on practically every page. */
  BackupRemovable: 0x04,
  /** The record that an earlier page began was abandoned; this page starts afresh. */
  OverwriteContinuation: 0x08,
} as const;
const KNOWN_FLAGS = 0x0f;

/** What is known about a cluster's WAL and does not change from page to page. */
export interface WalIdentity {
  /** `xlp_magic`. */
  readonly magic: number;
  readonly segmentSize: number;
  /** Compared in long headers when known. */
  readonly systemId?: bigint | undefined;
}

/** Size of the header of the page that starts at `pageLsn`. */
export function pageHeaderSize(pageLsn: Lsn, segmentSize: number): number {
  return pageLsn % segmentSize === 0 ? LONG_HEADER_SIZE : SHORT_HEADER_SIZE;
}

/**
 * Checks the header in `view` at `offset` against what the page at `pageLsn` must say. The continuation flags and the
 * remaining length are the reader's to judge. Throws `corrupt` with the LSN.
 */
export function checkPageHeader(view: DataView, offset: number, pageLsn: Lsn, identity: WalIdentity): void {
  const magic = view.getUint16(offset, true);
  if (magic !== identity.magic) throw badPage(pageLsn, "magic", identity.magic, magic);
  const info = view.getUint16(offset + 2, true);
  if ((info & ~KNOWN_FLAGS) !== 0) throw badPage(pageLsn, "flags", KNOWN_FLAGS, info);
  const isLong = pageLsn % identity.segmentSize === 0;
  if (((info & PageFlag.LongHeader) !== 0) !== isLong)
    throw badPage(pageLsn, "long-header flag", isLong ? PageFlag.LongHeader : 0, info & PageFlag.LongHeader);
  const low = view.getUint32(offset + 8, true);
  const high = view.getUint32(offset + 12, true);
  if (low !== lsnLow(pageLsn) || high !== lsnHigh(pageLsn)) {
    const found = `${high.toString(16).toUpperCase()}/${low.toString(16).toUpperCase()}`;
    throw badPage(pageLsn, "address", formatLsn(pageLsn), found);
  }
  if (!isLong) return;
  const systemId = view.getBigUint64(offset + 24, true);
  if (identity.systemId !== undefined && systemId !== identity.systemId)
    throw badPage(pageLsn, "system identifier", identity.systemId.toString(), systemId.toString());
  const segmentSize = view.getUint32(offset + 32, true);
  if (segmentSize !== identity.segmentSize)
    throw badPage(pageLsn, "segment size", identity.segmentSize, segmentSize);
  const pageSize = view.getUint32(offset + 36, true);
  if (pageSize !== PAGE_SIZE) throw badPage(pageLsn, "page size", PAGE_SIZE, pageSize);
}

/** Writes the header of the page at `pageLsn` to `target[offset..]`; returns its size. */
export function encodePageHeader(
  target: Uint8Array,
  offset: number,
  pageLsn: Lsn,
  header: {
    readonly magic: number;
    readonly segmentSize: number;
    readonly systemId: bigint;
    readonly timeline: number;
    /** Bytes of the record begun earlier; 0 if the page starts with a record. */
    readonly remainingLength: number;
    /** The record begun earlier has no rest. */
    readonly overwrites?: boolean;
  },
): number {
  const size = pageHeaderSize(pageLsn, header.segmentSize);
  const view = new DataView(target.buffer, target.byteOffset + offset, size);
  const info =
    PageFlag.BackupRemovable |
    (header.remainingLength > 0 ? PageFlag.Continuation : 0) |
    (header.overwrites ? PageFlag.OverwriteContinuation : 0) |
    (size === LONG_HEADER_SIZE ? PageFlag.LongHeader : 0);
  view.setUint16(0, header.magic, true);
  view.setUint16(2, info, true);
  view.setUint32(4, header.timeline, true);
  view.setUint32(8, lsnLow(pageLsn), true);
  view.setUint32(12, lsnHigh(pageLsn), true);
  view.setUint32(16, header.remainingLength, true);
  view.setUint32(20, 0, true);
  if (size === LONG_HEADER_SIZE) {
    view.setBigUint64(24, header.systemId, true);
    view.setUint32(32, header.segmentSize, true);
    view.setUint32(36, PAGE_SIZE, true);
  }
  return size;
}

function badPage(pageLsn: Lsn, what: string, expected: number | string, found: number | string): NeonError {
  const lsn = formatLsn(pageLsn);
  return corrupt(`WAL page at ${lsn}: ${what} is ${found}, expected ${expected}`, { lsn, expected, found });
}
