/**
 * Redo of GIN index records.
 * Source: PostgreSQL 17, src/backend/access/gin/ginxlog.c, src/include/access/ginxlog.h.
 */
import { corrupt } from "../../base/errors.ts";
import { deleteIndexItem, insertItemBytes } from "../page/items.ts";
import {
  type PageBuffer,
  checkSpecialSize,
  copyBytes,
  itemLength,
  itemOffset,
  pageCorrupt,
  setPagePruneXid,
  storedItemId,
} from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import { INDEX_TUPLE_HEADER_SIZE } from "./btree-tuple.ts";
import type { RedoContext } from "./context.ts";
import {
  DATA_OFFSET,
  GIN_SPECIAL_SIZE,
  GinFlag,
  META_DATA_SIZE,
  NO_GIN_BLOCK,
  POSTING_ITEM_SIZE,
  checkDataPage,
  deletePostingItem,
  ginCount,
  ginFlags,
  initGinMeta,
  initGinPage,
  insertPostingItem,
  setDataSize,
  setGinCount,
  setGinFlags,
  setPostingItemChild,
  setRightLink,
} from "./gin-page.ts";
import { recompressLeaf } from "./gin-posting.ts";
import { appendPackedTuples, packedTupleSize } from "./index-tuples.ts";
import { blockData, checkPayloadEnd, mainData, unexpectedBlock } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";

const GinOp = {
  CreatePostingTree: 0x10,
  Insert: 0x20,
  Split: 0x30,
  VacuumPage: 0x40,
  DeletePage: 0x50,
  UpdateMetaPage: 0x60,
  InsertListPage: 0x70,
  DeleteListPage: 0x80,
  VacuumDataLeafPage: 0x90,
} as const;

/** Applies a GIN record to one of its pages; returns whether the page gets the record's LSN (always). */
export function redoGin(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): boolean {
  if (!block.willInit) checkSpecialSize(page, GIN_SPECIAL_SIZE);
  switch (record.info & 0xf0) {
    case GinOp.CreatePostingTree:
      redoCreatePostingTree(page, record, block);
      return true;
    case GinOp.Insert:
      redoInsert(page, record, block, context);
      return true;
    case GinOp.Split:
      redoSplit(page, block);
      return true;
    case GinOp.VacuumPage:
      throw corrupt("vacuum of an entry page has no image");
    case GinOp.DeletePage:
      redoDeletePage(page, record, block);
      return true;
    case GinOp.UpdateMetaPage:
      redoUpdateMetaPage(page, record, block);
      return true;
    case GinOp.InsertListPage:
      redoInsertListPage(page, record, block);
      return true;
    case GinOp.DeleteListPage:
      if (block.id === 0) initGinMeta(page, block, record, mainData(record, META_DATA_SIZE));
      else initGinPage(page, block, GinFlag.Deleted);
      return true;
    case GinOp.VacuumDataLeafPage:
      if (block.id !== 0) unexpectedBlock(block);
      redoLeaf(page, record, block, context);
      return true;
    default:
      return unknownRecord(record);
  }
}

/** Main data: size u32, then so many bytes of posting lists. Block 0: the root. */
function redoCreatePostingTree(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  if (block.id !== 0) unexpectedBlock(block);
  const size = record.view.getUint32(mainData(record, 4), true);
  const lists = mainData(record, 4 + size) + 4;
  initGinPage(page, block, GinFlag.Data | GinFlag.Leaf | GinFlag.Compressed);
  setDataSize(page, size);
  copyBytes(page.bytes, DATA_OFFSET, record.bytes, lists, size);
}

const InsertFlag = { IsData: 0x01, IsLeaf: 0x02 } as const;

/**
 * Main data: flags u16 0; if it is no leaf, left child block (high, low u16) 2, right child block 6. Block 0: the page;
 * 1: the left child, whose split is complete now.
 */
function redoInsert(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  const flags = record.view.getUint16(mainData(record, 2), true);
  const isLeaf = (flags & InsertFlag.IsLeaf) !== 0;
  if (block.id === 1 && !isLeaf) {
    completeSplit(page);
    return;
  }
  if (block.id !== 0) unexpectedBlock(block);
  const rightChild = isLeaf ? undefined : mainData(record, 10) + 6;
  if (!(flags & InsertFlag.IsData)) insertEntry(page, record, block, rightChild);
  else if (rightChild === undefined) redoLeaf(page, record, block, context);
  else insertDownlink(page, record, block, rightChild);
}

function completeSplit(page: PageBuffer): void {
  setGinFlags(page, ginFlags(page) & ~GinFlag.IncompleteSplit);
}

function redoLeaf(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  checkDataPage(page, true);
  const start = blockData(block, 2);
  recompressLeaf(page, record, start, start + block.dataLength, context.scratchPage);
}

/**
 * Block data: offset number u16 0, whether the item there goes first u8 2, the tuple from 4. Above leaf level the item
 * there is pointed to the right child instead, and the new one before it leads to the left one.
 */
function insertEntry(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  rightChild: number | undefined,
): void {
  const { view, bytes } = record;
  const data = blockData(block, 4);
  const end = data + block.dataLength;
  const offsetNumber = view.getUint16(data, true);
  const size = packedTupleSize(view, data + 4, end);
  checkPayloadEnd(data + 4 + size, end);
  if (rightChild !== undefined) {
    const id = storedItemId(page, offsetNumber);
    if (itemLength(id) < INDEX_TUPLE_HEADER_SIZE) pageCorrupt(page, "a downlink is too short");
    copyBytes(page.bytes, itemOffset(id), bytes, rightChild, 4);
    page.view.setUint16(itemOffset(id) + 4, 0, true);
  }
  if (view.getUint8(data + 2) !== 0) deleteIndexItem(page, offsetNumber);
  insertItemBytes(page, offsetNumber, bytes, data + 4, size);
}

/** Block data: offset number u16, a posting item. The one that has the number so far is pointed to the right child. */
function insertDownlink(page: PageBuffer, record: WalRecord, block: BlockRef, rightChild: number): void {
  checkDataPage(page, false);
  const data = blockData(block, 2 + POSTING_ITEM_SIZE);
  const offsetNumber = record.view.getUint16(data, true);
  setPostingItemChild(page, offsetNumber, record, rightChild);
  insertPostingItem(page, offsetNumber, record, data + 2);
}

/** Blocks 0 to 2, the halves and perhaps a new root, always have images; 3: a child whose split is complete now. */
function redoSplit(page: PageBuffer, block: BlockRef): void {
  if (block.id < 3) throw corrupt("a split of a GIN page has a page without image");
  if (block.id > 3) unexpectedBlock(block);
  completeSplit(page);
}

/**
 * Main data: posting item number in the parent u16 0, right sibling u32 4, xid u32 8. Block 0: the page; 1: parent; 2:
 * left sibling.
 */
function redoDeletePage(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view } = record;
  const main = mainData(record, 12);
  switch (block.id) {
    case 0:
      setGinFlags(page, ginFlags(page) | GinFlag.Deleted);
      setPagePruneXid(page, view.getUint32(main + 8, true));
      return;
    case 1:
      checkDataPage(page, false);
      deletePostingItem(page, view.getUint16(main, true));
      return;
    case 2:
      setRightLink(page, view.getUint32(main + 4, true));
      return;
    default:
      unexpectedBlock(block);
  }
}

/**
 * Main data: locator 12 bytes, metapage fields 56 bytes from 16, former tail u32 72, its new right link u32 76, number
 * of tuples i32 80. Block 0: metapage; 1: tail of the pending list (data: the tuples), or former tail.
 */
function redoUpdateMetaPage(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view } = record;
  const main = mainData(record, 84);
  if (block.id === 0) {
    initGinMeta(page, block, record, main + 16);
    return;
  }
  if (block.id !== 1) unexpectedBlock(block);
  const count = view.getInt32(main + 80, true);
  if (count > 0) {
    appendList(page, record, block, count);
    setGinCount(page, ginCount(page) + 1);
  } else {
    setRightLink(page, view.getUint32(main + 76, true));
  }
}

/** Appends the tuples of the block's data to a page of the pending list. */
function appendList(page: PageBuffer, record: WalRecord, block: BlockRef, count: number): void {
  const start = blockData(block, 0);
  const added = appendPackedTuples(page, record, start, start + block.dataLength);
  if (added !== count) throw corrupt(`${count} tuples for the pending list, ${added} in the block data`);
}

/** Main data: right sibling u32, number of tuples i32. Block 0: new page of the pending list (data: the tuples). */
function redoInsertListPage(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  if (block.id !== 0) unexpectedBlock(block);
  const main = mainData(record, 8);
  const rightLink = record.view.getUint32(main, true);
  const isLast = rightLink === NO_GIN_BLOCK;
  initGinPage(page, block, isLast ? GinFlag.List | GinFlag.ListFullRow : GinFlag.List);
  setRightLink(page, rightLink);
  setGinCount(page, isLast ? 1 : 0);
  appendList(page, record, block, record.view.getInt32(main + 4, true));
}
