/**
 * Redo of btree records: dispatch and the small changes. Splits and deduplication, which rebuild a page, are in
 * `btree-rebuild.ts`.
 * Source: PostgreSQL 17, src/backend/access/nbtree/nbtxlog.c, src/include/access/nbtxlog.h.
 */
import { PAGE_SIZE } from "../constants.ts";
import {
  deleteIndexItem,
  deleteIndexItems,
  insertItem,
  insertItemBytes,
  overwriteIndexItem,
} from "../page/items.ts";
import {
  PAGE_HEADER_SIZE,
  type PageBuffer,
  checkSpecialSize,
  copyBytes,
  itemLength,
  itemOffset,
  pageCorrupt,
  setPageLower,
  storedItemId,
} from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import {
  BtreeFlag,
  SPECIAL_SIZE,
  clearFlag,
  setFlags,
  setLevel,
  setNextBlock,
  setPreviousBlock,
} from "./btree-page.ts";
import { redoDedup, redoSplit } from "./btree-rebuild.ts";
import { TID_SIZE, formPostingWithout, restoreItems, setTidBlock, swapPosting } from "./btree-tuple.ts";
import type { RedoContext } from "./context.ts";
import { blockData, checkPayloadEnd, checkRoom, initPage, mainData, unexpectedBlock } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";

const BtreeOp = {
  InsertLeaf: 0x00,
  InsertUpper: 0x10,
  InsertMeta: 0x20,
  SplitLeft: 0x30,
  SplitRight: 0x40,
  InsertPosting: 0x50,
  Dedup: 0x60,
  Delete: 0x70,
  UnlinkPage: 0x80,
  UnlinkPageMeta: 0x90,
  NewRoot: 0xa0,
  MarkPageHalfDead: 0xb0,
  Vacuum: 0xc0,
  ReusePage: 0xd0,
  MetaCleanup: 0xe0,
} as const;

/** Applies a btree record to one of its pages; returns whether the page gets the record's LSN (always). */
export function redoBtree(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): boolean {
  if (!block.willInit) checkSpecialSize(page, SPECIAL_SIZE);
  const operation = record.info & 0xf0;
  switch (operation) {
    case BtreeOp.InsertLeaf:
    case BtreeOp.InsertUpper:
    case BtreeOp.InsertMeta:
    case BtreeOp.InsertPosting:
      redoInsert(page, record, block, operation === BtreeOp.InsertPosting);
      return true;
    case BtreeOp.SplitLeft:
    case BtreeOp.SplitRight:
      redoSplit(page, record, block, operation === BtreeOp.SplitLeft, context);
      return true;
    case BtreeOp.Dedup:
      redoDedup(page, record, block, context);
      return true;
    case BtreeOp.Delete:
      redoDelete(page, record, block, mainData(record, 8) + 4, context);
      return true;
    case BtreeOp.Vacuum:
      redoDelete(page, record, block, mainData(record, 4), context);
      if (context.version.redo.btreeVacuumClearsCycleId) page.view.setUint16(PAGE_SIZE - 2, 0, true);
      return true;
    case BtreeOp.UnlinkPage:
    case BtreeOp.UnlinkPageMeta:
      redoUnlinkPage(page, record, block);
      return true;
    case BtreeOp.NewRoot:
      redoNewRoot(page, record, block, context);
      return true;
    case BtreeOp.MarkPageHalfDead:
      redoMarkPageHalfDead(page, record, block);
      return true;
    case BtreeOp.MetaCleanup:
      if (block.id !== 0) unexpectedBlock(block);
      restoreMeta(page, record, block);
      return true;
    default:
      return unknownRecord(record);
  }
}

/** Main data: offset number u16. Block 0: the tuple; block 1: child whose split is complete now; block 2: metapage. */
function redoInsert(page: PageBuffer, record: WalRecord, block: BlockRef, isPosting: boolean): void {
  if (block.id === 1) clearFlag(page, BtreeFlag.IncompleteSplit);
  else if (block.id === 2) restoreMeta(page, record, block);
  else if (block.id !== 0) unexpectedBlock(block);
  else {
    const offsetNumber = record.view.getUint16(mainData(record, 2), true);
    if (isPosting) insertIntoPosting(page, record, block, offsetNumber);
    else insertItemBytes(page, offsetNumber, record.bytes, block.dataOffset, block.dataLength);
  }
}

/**
 * Block data: position in the posting list u16, the new tuple. Its TID goes into the list of the tuple before, whose
 * last TID the new tuple gets in exchange.
 */
function insertIntoPosting(page: PageBuffer, record: WalRecord, block: BlockRef, offsetNumber: number): void {
  const data = blockData(block, 2 + TID_SIZE);
  const size = block.dataLength - 2;
  const posting = storedItemId(page, offsetNumber - 1);
  const start = itemOffset(posting);
  const at = insertItem(page, offsetNumber, size);
  copyBytes(page.bytes, at, record.bytes, data + 2, size);
  swapPosting(page, start, itemLength(posting), record.view.getUint16(data, true), page, at);
}

/**
 * `counts` (within the main data): deleted u16, updated u16. Block data: numbers of deleted items u16, of updated
 * ones u16, then for each updated item a count u16 and positions u16 in its posting list that go.
 */
function redoDelete(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  counts: number,
  context: RedoContext,
): void {
  if (block.id !== 0) unexpectedBlock(block);
  const { view } = record;
  const deleted = view.getUint16(counts, true);
  const updated = view.getUint16(counts + 2, true);
  const data = blockData(block, 2 * (deleted + updated));
  const end = block.dataOffset + block.dataLength;
  let at = data + 2 * (deleted + updated);
  for (let i = 0; i < updated; i++) {
    checkRoom(at, 2, end);
    const count = view.getUint16(at, true);
    checkRoom(at + 2, 2 * count, end);
    const offsetNumber = view.getUint16(data + 2 * (deleted + i), true);
    const size = formPostingWithout(
      page,
      storedItemId(page, offsetNumber),
      view,
      at + 2,
      count,
      context.scratchTuple,
    );
    overwriteIndexItem(page, offsetNumber, context.scratchTuple.bytes, 0, size);
    at += 2 + 2 * count;
  }
  if (deleted + updated > 0) checkPayloadEnd(at, end);
  if (deleted > 0) deleteIndexItems(page, view, data, deleted, context.scratchPage);
  clearFlag(page, BtreeFlag.HasGarbage);
}

/**
 * Main data: left sibling u32 0, right sibling u32 4, level u32 8, safe xid u64 16, and for the half-dead leaf below an
 * internal page its left sibling u32 24, right sibling u32 28, top parent u32 32. Block 0: the page; 1: left
 * sibling; 2: right sibling; 3: the leaf; 4: metapage.
 */
function redoUnlinkPage(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view } = record;
  const main = mainData(record, 36);
  const left = view.getUint32(main, true);
  const right = view.getUint32(main + 4, true);
  switch (block.id) {
    case 0: {
      const level = view.getUint32(main + 8, true);
      initPage(page, block, SPECIAL_SIZE);
      setPreviousBlock(page, left);
      setNextBlock(page, right);
      setLevel(page, level);
      setFlags(page, BtreeFlag.Deleted | BtreeFlag.HasFullXid | (level === 0 ? BtreeFlag.Leaf : 0));
      setPageLower(page, PAGE_HEADER_SIZE + 8);
      copyBytes(page.bytes, PAGE_HEADER_SIZE, record.bytes, main + 16, 8);
      return;
    }
    case 1:
      setNextBlock(page, right);
      return;
    case 2:
      setPreviousBlock(page, left);
      return;
    case 3:
      makeHalfDead(page, record, block, main + 24);
      return;
    case 4:
      restoreMeta(page, record, block);
      return;
    default:
      unexpectedBlock(block);
  }
}

/** Main data: root block u32, level u32. Block 0: the root, with its items above leaf level; 1: left child; 2: metapage. */
function redoNewRoot(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  const level = record.view.getUint32(mainData(record, 8) + 4, true);
  switch (block.id) {
    case 0:
      initPage(page, block, SPECIAL_SIZE);
      setLevel(page, level);
      setFlags(page, BtreeFlag.Root | (level === 0 ? BtreeFlag.Leaf : 0));
      if (level > 0) restoreItems(page, record, block, context.scratchOffsets);
      return;
    case 1:
      clearFlag(page, BtreeFlag.IncompleteSplit);
      return;
    case 2:
      restoreMeta(page, record, block);
      return;
    default:
      unexpectedBlock(block);
  }
}

/**
 * Main data: offset number in the parent u16 0, leaf u32 4, left sibling u32 8, right sibling u32 12, top parent u32
 * 16. Block 0: the leaf; 1: the parent, whose downlink to the leaf is pointed to its right sibling, and that
 * sibling's own downlink removed.
 */
function redoMarkPageHalfDead(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const main = mainData(record, 20);
  if (block.id === 0) {
    makeHalfDead(page, record, block, main + 8);
    return;
  }
  if (block.id !== 1) unexpectedBlock(block);
  const offsetNumber = record.view.getUint16(main, true);
  const item = storedItemId(page, offsetNumber);
  const next = storedItemId(page, offsetNumber + 1);
  if (itemLength(item) < TID_SIZE || itemLength(next) < TID_SIZE)
    pageCorrupt(page, "a downlink is too short");
  page.bytes.copyWithin(itemOffset(item), itemOffset(next), itemOffset(next) + 4);
  deleteIndexItem(page, offsetNumber + 1);
}

/** `links`: left sibling u32, right sibling u32, top parent u32. The one item left names the top parent. */
function makeHalfDead(page: PageBuffer, record: WalRecord, block: BlockRef, links: number): void {
  const { view } = record;
  initPage(page, block, SPECIAL_SIZE);
  setPreviousBlock(page, view.getUint32(links, true));
  setNextBlock(page, view.getUint32(links + 4, true));
  setFlags(page, BtreeFlag.HalfDead | BtreeFlag.Leaf);
  const tuple = insertItem(page, 1, 8);
  setTidBlock(page, tuple, view.getUint32(links + 8, true));
  page.view.setUint16(tuple + 4, 0, true);
  page.view.setUint16(tuple + 6, 0x2008, true);
}

const META_MAGIC = 0x053162;
const META_DATA_SIZE = 28;
/** version, root, level, fastroot, fastlevel, deleted pages: one block of the payload, and likewise on the page. */
const META_FIELDS_SIZE = 24;

/** Block data: the six fields above (u32 each), whether all columns' equality is image equality (u8), 3 bytes. */
function restoreMeta(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const data = blockData(block, META_DATA_SIZE);
  initPage(page, block, SPECIAL_SIZE);
  const { view } = page;
  view.setUint32(PAGE_HEADER_SIZE, META_MAGIC, true);
  copyBytes(page.bytes, PAGE_HEADER_SIZE + 4, record.bytes, data, META_FIELDS_SIZE);
  view.setFloat64(PAGE_HEADER_SIZE + 32, -1, true);
  view.setUint8(PAGE_HEADER_SIZE + 40, record.view.getUint8(data + META_FIELDS_SIZE));
  setFlags(page, BtreeFlag.Meta);
  setPageLower(page, PAGE_HEADER_SIZE + 48);
}
