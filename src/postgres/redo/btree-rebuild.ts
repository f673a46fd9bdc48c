/**
 * Redo of the btree records that rebuild a page item by item: split and deduplication. The new page is made aside, in
 * the scratch page, and copied over the old one, so flags and prune xid of the header become zero as in Postgres.
 * Source: PostgreSQL 14-18, src/backend/access/nbtree/nbtxlog.c, btree_xlog_split and btree_xlog_dedup; nbtdedup.c.
 */
import { corrupt } from "../../base/errors.ts";
import { insertItem, insertItemBytes } from "../page/items.ts";
import {
  type PageBuffer,
  copyBytes,
  itemLength,
  itemOffset,
  maxAlign,
  maxOffsetNumber,
  pageInit,
  storedItemId,
} from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import {
  BtreeFlag,
  NO_BLOCK,
  SPECIAL_OFFSET,
  SPECIAL_SIZE,
  clearFlag,
  firstDataKey,
  nextBlock,
  setCycleId,
  setFlags,
  setLevel,
  setNextBlock,
  setPreviousBlock,
} from "./btree-page.ts";
import {
  TID_SIZE,
  checkTuple,
  finishPostingHeader,
  keySize,
  payloadTupleSize,
  postingSize,
  restoreItems,
  swapPosting,
  tidCount,
  tidsOffset,
  tupleSize,
} from "./btree-tuple.ts";
import type { RedoContext } from "./context.ts";
import {
  blockData,
  checkPayloadEnd,
  findBlock,
  initPage,
  mainData,
  requireBlock,
  unexpectedBlock,
} from "./payload.ts";

/** Makes `scratch` an empty page with the special area of `page`. */
function startRebuild(page: PageBuffer, scratch: PageBuffer): void {
  pageInit(scratch, SPECIAL_SIZE);
  copyBytes(scratch.bytes, SPECIAL_OFFSET, page.bytes, SPECIAL_OFFSET, SPECIAL_SIZE);
}

/** Appends a copy of an item. */
function copyItem(page: PageBuffer, offsetNumber: number, target: PageBuffer): void {
  const id = storedItemId(page, offsetNumber);
  insertItemBytes(target, maxOffsetNumber(target) + 1, page.bytes, itemOffset(id), itemLength(id));
}

/**
 * Main data: level u32 0, first item that goes right u16 4, number of the new item u16 6, position in a posting
 * list u16 8 (0: none). Block 0: the page, which becomes the left one; 1: the right one, with its items; 2: the
 * former right sibling; 3: child whose split is complete now.
 */
export function redoSplit(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  newItemIsLeft: boolean,
  context: RedoContext,
): void {
  const main = mainData(record, 10);
  const level = record.view.getUint32(main, true);
  switch (block.id) {
    case 0:
      splitLeft(page, record, block, main, newItemIsLeft, context);
      return;
    case 1:
      initPage(page, block, SPECIAL_SIZE);
      setPreviousBlock(page, requireBlock(record, 0).blockNumber);
      setNextBlock(page, findBlock(record, 2)?.blockNumber ?? NO_BLOCK);
      setLevel(page, level);
      setFlags(page, level === 0 ? BtreeFlag.Leaf : 0);
      restoreItems(page, record, block, context.scratchOffsets);
      return;
    case 2:
      setPreviousBlock(page, requireBlock(record, 1).blockNumber);
      return;
    case 3:
      clearFlag(page, BtreeFlag.IncompleteSplit);
      return;
    default:
      unexpectedBlock(block);
  }
}

/**
 * Block data: the new item, if it goes left or is part of a posting list; the new high key of the left page. With
 * a posting list the item before the new one is replaced, too.
 */
function splitLeft(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  main: number,
  newItemIsLeft: boolean,
  context: RedoContext,
): void {
  const { bytes, view } = record;
  const firstRight = view.getUint16(main + 4, true);
  const newNumber = view.getUint16(main + 6, true);
  const position = view.getUint16(main + 8, true);
  const data = blockData(block, 0);
  const end = data + block.dataLength;
  const left = context.scratchPage;
  const posting = context.scratchTuple;
  const hasNewItem = newItemIsLeft || position !== 0;
  const newSize = hasNewItem ? payloadTupleSize(view, data, end) : 0;
  const highKey = data + newSize;
  const highKeySize = payloadTupleSize(view, highKey, end);
  checkPayloadEnd(highKey + highKeySize, end);

  const first = firstDataKey(page);
  startRebuild(page, left);
  insertItemBytes(left, 1, bytes, highKey, highKeySize);
  const replaced = position === 0 ? 0 : newNumber - 1;
  const newTuple = position === 0 ? 0 : swapAside(page, replaced, record, data, newSize, position, context);
  for (let number = first; number < firstRight; number++) {
    if (number === replaced) {
      const size = maxAlign(tupleSize(posting.view, 0));
      insertItemBytes(left, maxOffsetNumber(left) + 1, posting.bytes, 0, size);
      continue;
    }
    if (newItemIsLeft && number === newNumber) addNewItem(left, record, data, newSize, posting, newTuple);
    copyItem(page, number, left);
  }
  if (newItemIsLeft && firstRight === newNumber) addNewItem(left, record, data, newSize, posting, newTuple);

  setFlags(left, BtreeFlag.IncompleteSplit | (view.getUint32(main, true) === 0 ? BtreeFlag.Leaf : 0));
  setNextBlock(left, requireBlock(record, 1).blockNumber);
  setCycleId(left, 0);
  page.bytes.set(left.bytes);
}

/**
 * Makes in the scratch tuple, from its start, the posting list that replaces an item, and behind it the new item
 * with the TID that it gets in exchange; returns where the new item is.
 */
function swapAside(
  page: PageBuffer,
  replaced: number,
  record: WalRecord,
  newItem: number,
  newSize: number,
  position: number,
  context: RedoContext,
): number {
  const target = context.scratchTuple;
  const id = storedItemId(page, replaced);
  const length = itemLength(id);
  const newTuple = maxAlign(length);
  if (newTuple + newSize > target.bytes.length) throw corrupt("a posting list and a tuple exceed a page");
  target.bytes.fill(0, 0, newTuple);
  copyBytes(target.bytes, 0, page.bytes, itemOffset(id), length);
  copyBytes(target.bytes, newTuple, record.bytes, newItem, newSize);
  swapPosting(target, 0, length, position, target, newTuple);
  return newTuple;
}

/** Appends the new item: from the record, or from behind the posting list if it has got another TID there. */
function addNewItem(
  left: PageBuffer,
  record: WalRecord,
  newItem: number,
  newSize: number,
  posting: PageBuffer,
  newTuple: number,
): void {
  const number = maxOffsetNumber(left) + 1;
  if (newTuple === 0) insertItemBytes(left, number, record.bytes, newItem, newSize);
  else insertItemBytes(left, number, posting.bytes, newTuple, newSize);
}

/**
 * Main data: number of intervals u16. Block data: intervals of u16 first item, u16 count; the items of each become
 * one posting list.
 */
export function redoDedup(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  if (block.id !== 0) unexpectedBlock(block);
  const intervalCount = record.view.getUint16(mainData(record, 2), true);
  const intervals = blockData(block, 4 * intervalCount);
  const target = context.scratchPage;
  const first = firstDataKey(page);
  const last = maxOffsetNumber(page);
  startRebuild(page, target);
  if (nextBlock(page) !== NO_BLOCK) copyItem(page, 1, target);
  let interval = 0;
  let number = first;
  while (number <= last) {
    let count = 1;
    if (interval < intervalCount && record.view.getUint16(intervals + 4 * interval, true) === number) {
      count = Math.max(1, record.view.getUint16(intervals + 4 * interval + 2, true));
    }
    if (number + count - 1 > last)
      throw corrupt(`items ${number} to ${number + count - 1} of ${last} to merge`);
    if (count === 1) {
      copyTuple(page, number, target);
    } else {
      mergeItems(page, number, count, target);
      interval++;
    }
    number += count;
  }
  if (interval !== intervalCount)
    throw corrupt(`of ${intervalCount} intervals to merge only ${interval} were found`);
  clearFlag(target, BtreeFlag.HasGarbage);
  page.bytes.set(target.bytes);
}

/** Appends a copy of an item, as long as its tuple says. */
function copyTuple(page: PageBuffer, offsetNumber: number, target: PageBuffer): void {
  const id = storedItemId(page, offsetNumber);
  checkTuple(page.view, itemOffset(id), itemLength(id));
  const size = tupleSize(page.view, itemOffset(id));
  insertItemBytes(target, maxOffsetNumber(target) + 1, page.bytes, itemOffset(id), size);
}

/** Appends one tuple with the key of the first of some items and the TIDs of them all. */
function mergeItems(page: PageBuffer, offsetNumber: number, itemCount: number, target: PageBuffer): void {
  let tids = 0;
  for (let i = 0; i < itemCount; i++) {
    const id = storedItemId(page, offsetNumber + i);
    checkTuple(page.view, itemOffset(id), itemLength(id));
    tids += tidCount(page.view, itemOffset(id));
  }
  const base = itemOffset(storedItemId(page, offsetNumber));
  const key = keySize(page.view, base);
  const tuple = insertItem(target, maxOffsetNumber(target) + 1, postingSize(key, tids));
  copyBytes(target.bytes, tuple, page.bytes, base, key);
  let at = finishPostingHeader(target, tuple, key, tids);
  for (let i = 0; i < itemCount; i++) {
    const source = itemOffset(storedItemId(page, offsetNumber + i));
    const size = tidCount(page.view, source) * TID_SIZE;
    copyBytes(target.bytes, at, page.bytes, source + tidsOffset(page.view, source), size);
    at += size;
  }
}
