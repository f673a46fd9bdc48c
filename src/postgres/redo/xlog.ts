/**
 * Redo of the blocks of XLOG records: full page images. Restoring an applied image is the same for all resource
 * managers and has happened before; what arrives here are blocks without one.
 * Source: PostgreSQL 14-18, src/backend/access/transam/xlog.c, xlog_redo.
 */
import { corrupt } from "../../base/errors.ts";
import { type Lsn, lsnFromWords } from "../../base/lsn.ts";
import { Rmgr } from "../constants.ts";
import type { PageBuffer } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import { mainData } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";

const XlogOp = { FullPageImageForHint: 0xa0, FullPageImage: 0xb0, OverwriteContrecord: 0xd0 } as const;

/**
 * Where a record began that a crash has cut off and that this record (OVERWRITE_CONTRECORD) declares missing; undefined
 * for any other record.
 */
export function abandonedLsn(record: WalRecord): Lsn | undefined {
  if (record.rmgr !== Rmgr.Xlog || (record.info & 0xf0) !== XlogOp.OverwriteContrecord) return undefined;
  const at = mainData(record, 8);
  return lsnFromWords(record.view.getUint32(at + 4, true), record.view.getUint32(at, true));
}

/** Returns whether the page gets the record's LSN. */
export function redoXlog(
  _page: PageBuffer,
  record: WalRecord,
  _block: BlockRef,
  _context: RedoContext,
): boolean {
  switch (record.info & 0xf0) {
    case XlogOp.FullPageImageForHint:
      // A hint that needed no image: the record is there for consistency checking only.
      return false;
    case XlogOp.FullPageImage:
      throw corrupt("a full page image record has a block without image");
    default:
      return unknownRecord(record);
  }
}
