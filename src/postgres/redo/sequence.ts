/**
 * Redo of sequence records: the one page of a sequence is made anew each time.
 * Source: PostgreSQL 14-18, src/backend/commands/sequence.c.
 */
import { PAGE_SIZE } from "../constants.ts";
import { insertItemBytes } from "../page/items.ts";
import type { PageBuffer } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import { TUPLE_HEADER_SIZE } from "./heap-tuple.ts";
import { initPage, mainData, unexpectedBlock } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";

const SEQUENCE_LOG = 0x00;
const SEQUENCE_MAGIC = 0x1717;
const SPECIAL_SIZE = 8;
/** Tablespace, database and relation number in front of the tuple. */
const LOCATOR_SIZE = 12;

/** Main data: locator (12 bytes), the whole tuple. Returns whether the page gets the record's LSN. */
export function redoSequence(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  _context: RedoContext,
): boolean {
  if ((record.info & 0xf0) !== SEQUENCE_LOG) return unknownRecord(record);
  if (block.id !== 0) unexpectedBlock(block);
  const tuple = mainData(record, LOCATOR_SIZE + TUPLE_HEADER_SIZE) + LOCATOR_SIZE;
  initPage(page, block, SPECIAL_SIZE);
  page.view.setUint32(PAGE_SIZE - SPECIAL_SIZE, SEQUENCE_MAGIC, true);
  insertItemBytes(page, 1, record.bytes, tuple, record.mainLength - LOCATOR_SIZE);
  return true;
}
