/**
 * Redo of generic records, which extensions write: pieces of bytes to put over a page.
 * Source: PostgreSQL 14-18, src/backend/access/transam/generic_xlog.c.
 */
import { corrupt } from "../../base/errors.ts";
import { PAGE_SIZE } from "../constants.ts";
import { type PageBuffer, checkPageHeader, copyBytes, pageLower, pageUpper } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import { blockData } from "./payload.ts";

const PIECE_HEADER_SIZE = 4;

/**
 * Block data: pieces of offset u16, length u16, bytes. Afterwards the hole is zeroed. Returns whether the page gets
 * the record's LSN.
 */
export function redoGeneric(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  _context: RedoContext,
): boolean {
  let at = blockData(block, 0);
  const end = at + block.dataLength;
  while (at < end) {
    if (at + PIECE_HEADER_SIZE > end) throw corrupt("a piece of a generic record has no whole header");
    const offset = record.view.getUint16(at, true);
    const length = record.view.getUint16(at + 2, true);
    at += PIECE_HEADER_SIZE;
    if (length > end - at || offset + length > PAGE_SIZE) {
      throw corrupt(`a piece of ${length} bytes for offset ${offset} does not fit page or record`);
    }
    copyBytes(page.bytes, offset, record.bytes, at, length);
    at += length;
  }
  checkPageHeader(page);
  page.bytes.fill(0, pageLower(page), pageUpper(page));
  return true;
}
