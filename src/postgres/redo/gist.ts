/**
 * Redo of GiST index records. The special area of a page, 16 bytes, little-endian, except that the NSN (the LSN of the
 * last split) is like the page's LSN two words, the high one first:
 *
 *   offset  size  field
 *     8176     8  NSN
 *     8184     4  right link         block of the right sibling; none: 0xffffffff
 *     8188     2  flags              `GistFlag`
 *     8190     2  0xff81
 *
 * Source: PostgreSQL 17, src/backend/access/gist/gistxlog.c, src/include/access/{gist,gistxlog}.h.
 */
import { corrupt } from "../../base/errors.ts";
import { lsnHigh, lsnLow } from "../../base/lsn.ts";
import { deleteIndexItem, deleteIndexItems, overwriteIndexItem } from "../page/items.ts";
import {
  PAGE_HEADER_SIZE,
  type PageBuffer,
  checkPageHeader,
  checkSpecialSize,
  copyBytes,
  setPageLower,
} from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import { appendPackedTuples, packedTupleSize } from "./index-tuples.ts";
import { blockData, checkPayloadEnd, initPage, mainData, requireBlock, unexpectedBlock } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";

const SPECIAL_SIZE = 16;
const SPECIAL_OFFSET = 8176;
const PAGE_ID = 0xff81;
const NO_BLOCK = 0xffffffff;
const ROOT_BLOCK = 0;

const GistFlag = {
  Leaf: 0x01,
  Deleted: 0x02,
  TuplesDeleted: 0x04,
  FollowRight: 0x08,
  HasGarbage: 0x10,
} as const;

const GistOp = {
  PageUpdate: 0x00,
  Delete: 0x10,
  PageReuse: 0x20,
  PageSplit: 0x30,
  PageDelete: 0x60,
  AssignLsn: 0x70,
} as const;

/** Applies a GiST record to one of its pages; returns whether the page gets the record's LSN (always). */
export function redoGist(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): boolean {
  if (!block.willInit) checkSpecialSize(page, SPECIAL_SIZE);
  switch (record.info & 0xf0) {
    case GistOp.PageUpdate:
      if (block.id === 0) updatePage(page, record, block, context);
      else if (block.id === 1) clearFollowRight(page, record);
      else unexpectedBlock(block);
      return true;
    case GistOp.Delete:
      if (block.id !== 0) unexpectedBlock(block);
      deleteItems(page, record, context);
      return true;
    case GistOp.PageSplit:
      if (block.id === 0) clearFollowRight(page, record);
      else fillSplitPage(page, record, block);
      return true;
    case GistOp.PageDelete:
      deletePage(page, record, block);
      return true;
    default:
      // Reuse of a page and assignment of an LSN have no blocks.
      return unknownRecord(record);
  }
}

/**
 * The left child of a split that is complete now is changed after its image has been restored: the server sets the NSN
 * when it knows the record's LSN, and so after it has taken the image.
 */
export function finishGistImage(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const operation = record.info & 0xf0;
  const isLeftChild =
    (operation === GistOp.PageUpdate && block.id === 1) || (operation === GistOp.PageSplit && block.id === 0);
  if (!isLeftChild) return;
  checkPageHeader(page);
  checkSpecialSize(page, SPECIAL_SIZE);
  clearFollowRight(page, record);
}

function gistFlags(page: PageBuffer): number {
  return page.view.getUint16(SPECIAL_OFFSET + 12, true);
}

function setGistFlags(page: PageBuffer, flags: number): void {
  page.view.setUint16(SPECIAL_OFFSET + 12, flags, true);
}

/** Both halves of a split have got their downlinks: searches need not follow the right link any more. */
function clearFollowRight(page: PageBuffer, record: WalRecord): void {
  page.view.setUint32(SPECIAL_OFFSET, lsnHigh(record.endLsn), true);
  page.view.setUint32(SPECIAL_OFFSET + 4, lsnLow(record.endLsn), true);
  setGistFlags(page, gistFlags(page) & ~GistFlag.FollowRight);
}

/**
 * Main data: number of items to delete u16, of tuples to insert u16. Block data: numbers of the items, ascending u16;
 * the tuples. One for one is an item replaced in its place.
 */
function updatePage(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  const { view } = record;
  const main = mainData(record, 4);
  const deleted = view.getUint16(main, true);
  const inserted = view.getUint16(main + 2, true);
  const list = blockData(block, 2 * deleted);
  const end = list + block.dataLength;
  const tuples = list + 2 * deleted;
  if (deleted === 1 && inserted === 1) {
    const size = packedTupleSize(view, tuples, end);
    checkPayloadEnd(tuples + size, end);
    overwriteIndexItem(page, view.getUint16(list, true), record.bytes, tuples, size);
    return;
  }
  if (deleted > 0) {
    deleteIndexItems(page, view, list, deleted, context.scratchPage);
    const flags = gistFlags(page);
    if (flags & GistFlag.Leaf) setGistFlags(page, flags | GistFlag.TuplesDeleted);
  }
  const added = appendPackedTuples(page, record, tuples, end);
  if (added !== inserted) throw corrupt(`${inserted} tuples to insert, ${added} in the block data`);
}

/**
 * Main data: conflict xid u32 0, number of items u16 4, and from 8 (before 16: from 6) their numbers, ascending u16.
 *
 * Recovery of Postgres sets the flag "tuples deleted" here, the server that writes the record does not. Nobody reads
 * it; our pages are like the server's.
 */
function deleteItems(page: PageBuffer, record: WalRecord, context: RedoContext): void {
  const { gistDeleteListOffset } = context.version.redo;
  const count = record.view.getUint16(mainData(record, gistDeleteListOffset) + 4, true);
  const list = mainData(record, gistDeleteListOffset + 2 * count) + gistDeleteListOffset;
  if (count > 0) deleteIndexItems(page, record.view, list, count, context.scratchPage);
  setGistFlags(page, gistFlags(page) & ~GistFlag.HasGarbage);
}

/**
 * Main data: right link of the page that was split u32 0, its NSN u64 8 (here the low word first), whether it was a
 * leaf u8 16, number of pages u16 18, whether searches must follow right links u8 20. Block data of each page, from
 * block 1 on: number of tuples i32, the tuples. If the root was split, it is the first, and the others are its children.
 */
function fillSplitPage(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view } = record;
  const main = mainData(record, 21);
  const pageCount = view.getUint16(main + 18, true);
  if (block.id > pageCount) unexpectedBlock(block);
  const data = blockData(block, 4);
  const count = view.getInt32(data, true);
  const isRoot = block.blockNumber === ROOT_BLOCK;
  const isLast = block.id === pageCount;
  initPage(page, block, SPECIAL_SIZE);
  page.view.setUint16(SPECIAL_OFFSET + 14, PAGE_ID, true);
  const added = appendPackedTuples(page, record, data + 4, data + block.dataLength);
  if (added !== count) throw corrupt(`${count} tuples for a page of a split, ${added} in the block data`);

  let flags = view.getUint8(main + 16) !== 0 && !isRoot ? GistFlag.Leaf : 0;
  let rightLink = NO_BLOCK;
  if (!isRoot) {
    const isRootSplit = requireBlock(record, 1).blockNumber === ROOT_BLOCK;
    const follows = !isLast && !isRootSplit && view.getUint8(main + 20) !== 0;
    if (follows) flags |= GistFlag.FollowRight;
    rightLink = isLast ? view.getUint32(main, true) : requireBlock(record, block.id + 1).blockNumber;
  }
  page.view.setUint32(SPECIAL_OFFSET, view.getUint32(main + 12, true), true);
  page.view.setUint32(SPECIAL_OFFSET + 4, view.getUint32(main + 8, true), true);
  page.view.setUint32(SPECIAL_OFFSET + 8, rightLink, true);
  setGistFlags(page, flags);
}

/** Main data: xid of the deletion u64 0, number of the downlink u16 8. Block 0: the page; 1: its parent. */
function deletePage(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const main = mainData(record, 10);
  if (block.id === 0) {
    setGistFlags(page, gistFlags(page) | GistFlag.Deleted);
    setPageLower(page, PAGE_HEADER_SIZE + 8);
    copyBytes(page.bytes, PAGE_HEADER_SIZE, record.bytes, main, 8);
  } else if (block.id === 1) {
    deleteIndexItem(page, record.view.getUint16(main + 8, true));
  } else {
    unexpectedBlock(block);
  }
}
