/**
 * A decoded WAL record. One object is filled again for every record, so that decoding allocates nothing; what
 * outlives the next `next()` or `decodeRecord` must be copied. All offsets are absolute positions in `bytes`.
 *
 * Source: PostgreSQL 17, src/include/access/xlogrecord.h, XLogRecord, XLogRecordBlockHeader, XLogRecordBlockImageHeader.
 */
import { INVALID_LSN, type Lsn } from "../../base/lsn.ts";

export class BlockRef {
  /** Block reference id, 0 to 32, strictly increasing within a record. */
  id = 0;
  fork = 0;
  spcOid = 0;
  dbOid = 0;
  relNumber = 0;
  blockNumber = 0;
  /** The page is rebuilt from nothing by this record. */
  willInit = false;
  hasImage = false;
  /** The image is to be restored by redo (otherwise it is there for consistency checking only). */
  applyImage = false;
  /** Raw `bimg_info` bits; their meaning is in `PgVersion.image`. */
  imageInfo = 0;
  imageOffset = 0;
  imageLength = 0;
  holeOffset = 0;
  holeLength = 0;
  /** Payload of this block; length 0 when there is none. */
  dataOffset = 0;
  dataLength = 0;
}

export class WalRecord {
  /** Holds the whole record, contiguous, header included, at `offset`. */
  bytes: Uint8Array = EMPTY;
  view: DataView = EMPTY_VIEW;
  offset = 0;
  /** `xl_tot_len`. */
  length = 0;
  /** Where the record starts in the WAL. */
  lsn: Lsn = INVALID_LSN;
  /** What redo stamps on pages: the end, rounded up to 8 (after XLOG_SWITCH: the next segment's start). */
  endLsn: Lsn = INVALID_LSN;
  xid = 0;
  /** Start of the record before this one. */
  previousLsn: Lsn = INVALID_LSN;
  /** `xl_info`: the high four bits belong to the resource manager. */
  info = 0;
  rmgr = 0;
  /** Replication origin, 0 if none. */
  origin = 0;
  /** Top-level xid logged with a subtransaction's record, 0 if none. */
  topXid = 0;
  mainOffset = 0;
  mainLength = 0;
  /** Only the first `blockCount` are valid; the array is reused. */
  readonly blocks: BlockRef[] = [];
  blockCount = 0;
  /**
   * Of the record that declares another one missing: what there is of that, page headers left out, up to the page on which
   * this one starts. Undefined for all others.
   */
  cutOff: Uint8Array | undefined = undefined;
}

const EMPTY = new Uint8Array(0);
const EMPTY_VIEW = new DataView(EMPTY.buffer);
