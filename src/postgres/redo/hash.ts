/**
 * Redo of hash index records.
 * Source: PostgreSQL 17, src/backend/access/hash/hash_xlog.c, src/include/access/hash_xlog.h.
 */
import { corrupt } from "../../base/errors.ts";
import { deleteIndexItems, insertItemBytes } from "../page/items.ts";
import { type PageBuffer, checkPageHeader, checkSpecialSize } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import {
  addFirstBitmap,
  addOverflowPage,
  addTupleCount,
  initMetaPage,
  setFirstFree,
  setLastBucket,
  setMasks,
  setSplitPoint,
  setTupleCount,
} from "./hash-meta.ts";
import {
  HASH_SPECIAL_SIZE,
  HashFlag,
  NO_HASH_BLOCK,
  clearHashFlag,
  initBitmapPage,
  initHashPage,
  initLoneHashPage,
  setBitmapBit,
  setHashFlags,
  setHashNext,
  setHashPrevious,
} from "./hash-page.ts";
import { insertAlignedTuples } from "./index-tuples.ts";
import { blockData, checkRoom, findBlock, mainData, requireBlock, unexpectedBlock } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";

const HashOp = {
  InitMetaPage: 0x00,
  InitBitmapPage: 0x10,
  Insert: 0x20,
  AddOverflowPage: 0x30,
  SplitAllocatePage: 0x40,
  SplitPage: 0x50,
  SplitComplete: 0x60,
  MovePageContents: 0x70,
  SqueezePage: 0x80,
  Delete: 0x90,
  SplitCleanup: 0xa0,
  UpdateMetaPage: 0xb0,
  VacuumOnePage: 0xc0,
} as const;

/** Applies a hash record to one of its pages; returns whether the page gets the record's LSN. */
export function redoHash(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): boolean {
  if (!block.willInit) checkSpecialSize(page, HASH_SPECIAL_SIZE);
  switch (record.info & 0xf0) {
    case HashOp.InitMetaPage:
      return redoInitMetaPage(page, record, block);
    case HashOp.InitBitmapPage:
      return redoInitBitmapPage(page, record, block);
    case HashOp.Insert:
      return redoInsert(page, record, block);
    case HashOp.AddOverflowPage:
      return redoAddOverflowPage(page, record, block);
    case HashOp.SplitAllocatePage:
      return redoSplitAllocatePage(page, record, block);
    case HashOp.SplitPage:
      throw corrupt("a split of a hash bucket has a page without image");
    case HashOp.SplitComplete:
      return redoSplitComplete(page, record, block);
    case HashOp.MovePageContents:
      return redoMovePageContents(page, record, block, context);
    case HashOp.SqueezePage:
      return redoSqueezePage(page, record, block, context);
    case HashOp.Delete:
      return redoDelete(page, record, block, context);
    case HashOp.SplitCleanup:
      if (block.id !== 0) unexpectedBlock(block);
      clearHashFlag(page, HashFlag.NeedsSplitCleanup);
      return true;
    case HashOp.UpdateMetaPage:
      if (block.id !== 0) unexpectedBlock(block);
      setTupleCount(page, record.view.getFloat64(mainData(record, 8), true));
      return true;
    case HashOp.VacuumOnePage:
      return redoVacuumOnePage(page, record, block, context);
    default:
      return unknownRecord(record);
  }
}

/**
 * Splits set flags of a page even if its image has just been restored. (The image has them already; Postgres sets them
 * all the same.)
 */
export function finishHashImage(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const operation = record.info & 0xf0;
  const isEdited =
    operation === HashOp.SplitComplete || (operation === HashOp.SplitAllocatePage && block.id === 0);
  if (!isEdited) return;
  checkPageHeader(page);
  checkSpecialSize(page, HASH_SPECIAL_SIZE);
  if (operation === HashOp.SplitComplete) redoSplitComplete(page, record, block);
  else redoSplitAllocatePage(page, record, block);
}

/** Throws `corrupt` if the record makes a page anew without saying so. */
function checkInit(block: BlockRef): void {
  if (!block.willInit) throw corrupt("the record initialises a page without announcing it");
}

/** Main data: number of tuples f64 0, hash function u32 8, fill factor u16 12. */
function redoInitMetaPage(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  if (block.id !== 0) unexpectedBlock(block);
  checkInit(block);
  const main = mainData(record, 14);
  initMetaPage(page, {
    tupleCount: record.view.getFloat64(main, true),
    hashFunction: record.view.getUint32(main + 8, true),
    fillFactor: record.view.getUint16(main + 12, true),
  });
  return true;
}

/** Main data: size of the bitmap u16. Block 0: bitmap page; 1: metapage. */
function redoInitBitmapPage(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  const size = record.view.getUint16(mainData(record, 2), true);
  if (block.id === 0) {
    checkInit(block);
    initBitmapPage(page, size);
  } else if (block.id === 1) {
    addFirstBitmap(page);
  } else {
    unexpectedBlock(block);
  }
  return true;
}

/** Main data: offset number u16. Block 0: the page, with the tuple; 1: metapage. */
function redoInsert(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  const offsetNumber = record.view.getUint16(mainData(record, 2), true);
  if (block.id === 0) {
    insertItemBytes(page, offsetNumber, record.bytes, block.dataOffset, block.dataLength);
  } else if (block.id === 1) {
    addTupleCount(page, 1);
  } else {
    unexpectedBlock(block);
  }
  return true;
}

/**
 * Main data: size of a bitmap u16 0, whether a free page was found u8 2. Block 0: the overflow page (data: bucket
 * u32); 1: the page before it; 2: bitmap (data: bit u32); 3: new bitmap; 4: metapage (data: first free u32).
 */
function redoAddOverflowPage(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  const { view } = record;
  const main = mainData(record, 3);
  switch (block.id) {
    case 0:
      checkInit(block);
      initHashPage(page, {
        previous: requireBlock(record, 1).blockNumber,
        next: NO_HASH_BLOCK,
        bucket: view.getUint32(blockData(block, 4), true),
        flags: HashFlag.Overflow,
      });
      return true;
    case 1:
      setHashNext(page, requireBlock(record, 0).blockNumber);
      return true;
    case 2:
      setBitmapBit(page, view.getUint32(blockData(block, 4), true), true);
      return true;
    case 3:
      checkInit(block);
      initBitmapPage(page, view.getUint16(main, true));
      return true;
    case 4:
      setFirstFree(page, view.getUint32(blockData(block, 4), true));
      if (view.getUint8(main + 2) === 0) addOverflowPage(page, findBlock(record, 3)?.blockNumber);
      return true;
    default:
      return unexpectedBlock(block);
  }
}

const SplitFlag = { UpdateMasks: 0x01, UpdateSplitPoint: 0x02 } as const;

/**
 * Main data: new bucket u32 0, flags of the old bucket's page u16 4, of the new one's u16 6, what changes in the
 * metapage u8 8. Block 0: old bucket; 1: new bucket; 2: metapage (data: low and high mask u32, if flag 1; split point
 * and its spares u32, if flag 2).
 */
function redoSplitAllocatePage(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  const { view } = record;
  const main = mainData(record, 9);
  const bucket = view.getUint32(main, true);
  if (block.id === 0) {
    setHashFlags(page, view.getUint16(main + 4, true));
    setHashPrevious(page, bucket);
    return true;
  }
  if (block.id === 1) {
    checkInit(block);
    const flags = view.getUint16(main + 6, true);
    initHashPage(page, { previous: bucket, next: NO_HASH_BLOCK, bucket, flags });
    return true;
  }
  if (block.id !== 2) unexpectedBlock(block);
  const flags = view.getUint8(main + 8);
  let at = blockData(block, 0);
  const end = at + block.dataLength;
  setLastBucket(page, bucket);
  if (flags & SplitFlag.UpdateMasks) {
    checkRoom(at, 8, end);
    setMasks(page, view.getUint32(at, true), view.getUint32(at + 4, true));
    at += 8;
  }
  if (flags & SplitFlag.UpdateSplitPoint) {
    checkRoom(at, 8, end);
    setSplitPoint(page, view.getUint32(at, true), view.getUint32(at + 4, true));
  }
  return true;
}

/** Main data: flags of the old bucket's page u16, of the new one's u16. Block 0: old bucket; 1: new one. */
function redoSplitComplete(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  if (block.id > 1) unexpectedBlock(block);
  setHashFlags(page, record.view.getUint16(mainData(record, 4) + 2 * block.id, true));
  return true;
}

/** All of the block's data is numbers of items to be deleted, ascending u16. */
function deleteListed(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  const list = blockData(block, 0);
  if (block.dataLength & 1) throw corrupt(`a list of ${block.dataLength} bytes is no list of item numbers`);
  if (block.dataLength > 0) {
    deleteIndexItems(page, record.view, list, block.dataLength / 2, context.scratchPage);
  }
}

/** Puts the tuples of block 1 of a move or squeeze onto the page. */
function addListed(page: PageBuffer, record: WalRecord, block: BlockRef, count: number): void {
  if (count === 0) return;
  const start = blockData(block, 2);
  insertAlignedTuples(page, record, start, start + block.dataLength, count);
}

/**
 * Main data: number of tuples u16 0, whether they go to the bucket's first page u8 2. Block 0: the bucket's first page,
 * only locked; 1: page written to (data: see `insertAlignedTuples`); 2: page they leave (data: their numbers).
 */
function redoMovePageContents(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): boolean {
  const main = mainData(record, 3);
  switch (block.id) {
    case 0:
      return false;
    case 1:
      addListed(page, record, block, record.view.getUint16(main, true));
      return true;
    case 2:
      deleteListed(page, record, block, context);
      return true;
    default:
      return unexpectedBlock(block);
  }
}

/**
 * Main data: previous block u32 0, next block u32 4, number of tuples u16 8, whether the page written to is the bucket's
 * first u8 10, whether it is the one before the freed page u8 11. Block 0: the bucket's first page, only locked; 1: page
 * written to (data: see `insertAlignedTuples`); 2: overflow page that becomes free; 3: page before it; 4: page after it;
 * 5: bitmap (data: bit u32); 6: metapage (data: first free u32).
 */
function redoSqueezePage(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): boolean {
  const { view } = record;
  const main = mainData(record, 12);
  const next = view.getUint32(main + 4, true);
  switch (block.id) {
    case 0:
      return false;
    case 1: {
      const count = view.getUint16(main + 8, true);
      const isBeforeFreed = view.getUint8(main + 11) !== 0;
      addListed(page, record, block, count);
      if (isBeforeFreed) setHashNext(page, next);
      return count > 0 || isBeforeFreed || context.version.redo.hashSqueezeAlwaysStamps;
    }
    case 2:
      initLoneHashPage(page, 0);
      return true;
    case 3:
      setHashNext(page, next);
      return true;
    case 4:
      setHashPrevious(page, view.getUint32(main, true));
      return true;
    case 5:
      setBitmapBit(page, view.getUint32(blockData(block, 4), true), false);
      return true;
    case 6:
      setFirstFree(page, view.getUint32(blockData(block, 4), true));
      return true;
    default:
      return unexpectedBlock(block);
  }
}

/**
 * Main data: whether no dead tuples are left u8 0, whether it is the bucket's first page u8 1. Block 0: the bucket's
 * first page, only locked; 1: the page (data: numbers of the items).
 */
function redoDelete(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): boolean {
  const main = mainData(record, 2);
  if (block.id === 0) return false;
  if (block.id !== 1) unexpectedBlock(block);
  deleteListed(page, record, block, context);
  if (record.view.getUint8(main) !== 0) clearHashFlag(page, HashFlag.HasDeadTuples);
  return true;
}

/**
 * Main data: conflict xid u32 0, number of tuples u16 4 (in 14 and 15 the low half of an i32), catalog flag u8 6,
 * numbers of the items u16 from 8. Block 0: the page; 1: metapage.
 */
function redoVacuumOnePage(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): boolean {
  const { view } = record;
  const count = view.getUint16(mainData(record, 8) + 4, true);
  const list = mainData(record, 8 + 2 * count) + 8;
  if (block.id === 0) {
    if (count > 0) deleteIndexItems(page, view, list, count, context.scratchPage);
    clearHashFlag(page, HashFlag.HasDeadTuples);
  } else if (block.id === 1) {
    addTupleCount(page, -count);
  } else {
    unexpectedBlock(block);
  }
  return true;
}
