/**
 * Redo of heap records: insert, delete, update, lock, confirm, inplace.
 * Source: PostgreSQL 17, src/backend/access/heap/heapam.c (18: heapam_xlog.c), src/include/access/heapam_xlog.h.
 */
import { Fork } from "../constants.ts";
import { type PageBuffer, copyBytes, itemLength, itemOffset, pageCorrupt } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import {
  TUPLE_HEADER_SIZE,
  WAL_HEADER_SIZE,
  addHeapTuple,
  addWholeHeapTuple,
  clearAllVisible,
  clearCommandId,
  heapTuple,
  heapTupleId,
  isXmaxLockedOnly,
  setCtid,
  setCtidMovedToOtherPartition,
  setHotUpdated,
  setPrunable,
  setXmax,
  setXmaxMeaning,
  setXmin,
} from "./heap-tuple.ts";
import { HEAP_INIT_PAGE, HEAP_OP_MASK, DeleteFlag, HeapOp, InsertFlag, UpdateFlag } from "./heap-format.ts";
import { blockData, findBlock, initPage, mainData, requireBlock, unexpectedBlock } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";
import { clearNamedVisibility } from "./visibility.ts";

/** Applies a heap record to one of its pages; returns whether the page gets the record's LSN. */
export function redoHeap(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  _context: RedoContext,
): boolean {
  if (block.fork === Fork.VisibilityMap) return clearNamedVisibility(page, record, block);
  const operation = record.info & HEAP_OP_MASK;
  if (operation === HeapOp.Update || operation === HeapOp.HotUpdate) {
    redoUpdate(page, record, block, operation === HeapOp.HotUpdate);
    return true;
  }
  if (block.id !== 0) unexpectedBlock(block);
  switch (operation) {
    case HeapOp.Insert:
      redoInsert(page, record, block);
      return true;
    case HeapOp.Delete:
      redoDelete(page, record, block);
      return true;
    case HeapOp.Confirm:
      redoConfirm(page, record, block);
      return true;
    case HeapOp.Lock:
      redoLock(page, record, block);
      return true;
    case HeapOp.Inplace:
      redoInplace(page, record, block);
      return true;
    default:
      return unknownRecord(record);
  }
}

/** Main data: offset number u16, flags u8. Block data: header (5 bytes), tuple from offset 23 on. */
function redoInsert(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const main = mainData(record, 3);
  const offsetNumber = record.view.getUint16(main, true);
  const flags = record.view.getUint8(main + 2);
  const data = blockData(block, WAL_HEADER_SIZE);
  if (record.info & HEAP_INIT_PAGE) initPage(page, block, 0);
  addWholeHeapTuple(
    page,
    offsetNumber,
    record.bytes,
    record.view,
    data,
    data + WAL_HEADER_SIZE,
    block.dataLength - WAL_HEADER_SIZE,
    record.xid,
    block.blockNumber,
  );
  if (flags & InsertFlag.AllVisibleCleared) clearAllVisible(page);
}

/** Main data: xmax u32, offset number u16, info bits u8, flags u8; then the old tuple, for logical decoding. */
function redoDelete(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const main = mainData(record, 8);
  const offsetNumber = record.view.getUint16(main + 4, true);
  const flags = record.view.getUint8(main + 7);
  const tuple = heapTuple(page, offsetNumber);
  setXmaxMeaning(page, tuple, record.view.getUint8(main + 6));
  setHotUpdated(page, tuple, false);
  if (flags & DeleteFlag.IsSuper) setXmin(page, tuple, 0);
  else setXmax(page, tuple, record.view.getUint32(main, true));
  clearCommandId(page, tuple);
  setPrunable(page, record.xid);
  if (flags & DeleteFlag.AllVisibleCleared) clearAllVisible(page);
  if (flags & DeleteFlag.PartitionMove) setCtidMovedToOtherPartition(page, tuple);
  else setCtid(page, tuple, block.blockNumber, offsetNumber);
}

/**
 * Main data: old xmax u32 0, old offset number u16 4, old info bits u8 6, flags u8 7, new xmax u32 8, new offset
 * number u16 12. Block 0 is the page of the new tuple, block 1 that of the old one if it is another.
 */
function redoUpdate(page: PageBuffer, record: WalRecord, block: BlockRef, isHot: boolean): void {
  const main = mainData(record, 14);
  const flags = record.view.getUint8(main + 7);
  if (block.id === 1) {
    redoUpdateOldTuple(page, record, main, requireBlock(record, 0).blockNumber, isHot, flags);
    return;
  }
  if (block.id !== 0) unexpectedBlock(block);
  if (findBlock(record, 1) === undefined) {
    redoUpdateOldTuple(page, record, main, block.blockNumber, isHot, flags);
    redoUpdateNewTuple(page, record, block, main, flags, record.view.getUint16(main + 4, true));
  } else {
    if (record.info & HEAP_INIT_PAGE) initPage(page, block, 0);
    redoUpdateNewTuple(page, record, block, main, flags, 0);
  }
}

function redoUpdateOldTuple(
  page: PageBuffer,
  record: WalRecord,
  main: number,
  newBlockNumber: number,
  isHot: boolean,
  flags: number,
): void {
  const tuple = heapTuple(page, record.view.getUint16(main + 4, true));
  setXmaxMeaning(page, tuple, record.view.getUint8(main + 6));
  setHotUpdated(page, tuple, isHot);
  setXmax(page, tuple, record.view.getUint32(main, true));
  clearCommandId(page, tuple);
  setCtid(page, tuple, newBlockNumber, record.view.getUint16(main + 12, true));
  setPrunable(page, record.xid);
  if (flags & UpdateFlag.OldAllVisibleCleared) clearAllVisible(page);
}

/**
 * Block data: prefix length u16 and suffix length u16, each if its flag is set; header (5 bytes); null bitmap and
 * padding; user data. Prefix and suffix come from the user data of the old tuple, `oldOffsetNumber` on the same
 * page (0: on another page, then there is neither).
 */
function redoUpdateNewTuple(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  main: number,
  flags: number,
  oldOffsetNumber: number,
): void {
  const { bytes, view } = record;
  const end = block.dataOffset + block.dataLength;
  const lengthsSize = (flags & UpdateFlag.PrefixFromOld ? 2 : 0) + (flags & UpdateFlag.SuffixFromOld ? 2 : 0);
  let at = blockData(block, lengthsSize + WAL_HEADER_SIZE);
  let prefix = 0;
  let suffix = 0;
  if (flags & UpdateFlag.PrefixFromOld) {
    prefix = view.getUint16(at, true);
    at += 2;
  }
  if (flags & UpdateFlag.SuffixFromOld) {
    suffix = view.getUint16(at, true);
    at += 2;
  }
  const header = at;
  const body = header + WAL_HEADER_SIZE;
  const bodyLength = end - body;
  const newOffsetNumber = view.getUint16(main + 12, true);
  const newXmax = view.getUint32(main + 8, true);
  const whole = bodyLength + prefix + suffix;
  // The old tuple is looked up first: adding an item moves none, but a damaged page must be found out beforehand.
  const old = prefix + suffix > 0 ? oldTupleForReuse(page, oldOffsetNumber, prefix, suffix) : 0;
  const bitmap = prefix > 0 ? bitmapLength(page, view.getUint8(header + 4), bodyLength) : 0;
  const tuple = addHeapTuple(
    page,
    newOffsetNumber,
    whole,
    view,
    header,
    record.xid,
    newXmax,
    block.blockNumber,
  );
  let target = tuple + TUPLE_HEADER_SIZE;
  copyBytes(page.bytes, target, bytes, body, bitmap);
  target += bitmap;
  if (prefix > 0) {
    const oldStart = itemOffset(old);
    const oldData = oldStart + page.view.getUint8(oldStart + 22);
    page.bytes.copyWithin(target, oldData, oldData + prefix);
    target += prefix;
  }
  copyBytes(page.bytes, target, bytes, body + bitmap, bodyLength - bitmap);
  if (suffix > 0) {
    const oldEnd = itemOffset(old) + itemLength(old);
    page.bytes.copyWithin(target + bodyLength - bitmap, oldEnd - suffix, oldEnd);
  }
  if (flags & UpdateFlag.NewAllVisibleCleared) clearAllVisible(page);
}

/** The line pointer of the old tuple, which must be long enough to give prefix and suffix. */
function oldTupleForReuse(page: PageBuffer, offsetNumber: number, prefix: number, suffix: number): number {
  if (offsetNumber === 0) pageCorrupt(page, "an update across pages takes bytes from the old tuple");
  const id = heapTupleId(page, offsetNumber);
  const dataStart = page.view.getUint8(itemOffset(id) + 22);
  if (dataStart < TUPLE_HEADER_SIZE || dataStart + Math.max(prefix, suffix) > itemLength(id)) {
    pageCorrupt(page, `an update takes ${prefix} and ${suffix} bytes from a tuple of ${itemLength(id)}`);
  }
  return id;
}

/** Bytes of null bitmap and padding at the start of a body, given the tuple's `hoff`. */
function bitmapLength(page: PageBuffer, hoff: number, bodyLength: number): number {
  const length = hoff - TUPLE_HEADER_SIZE;
  if (length < 0 || length > bodyLength)
    pageCorrupt(page, `user data at ${hoff} in a tuple that ends before`);
  return length;
}

/** Main data: offset number u16. A speculative insertion is confirmed. */
function redoConfirm(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const offsetNumber = record.view.getUint16(mainData(record, 2), true);
  setCtid(page, heapTuple(page, offsetNumber), block.blockNumber, offsetNumber);
}

/** Main data: xmax u32, offset number u16, info bits u8, flags u8. */
function redoLock(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const main = mainData(record, 8);
  const offsetNumber = record.view.getUint16(main + 4, true);
  const tuple = heapTuple(page, offsetNumber);
  setXmaxMeaning(page, tuple, record.view.getUint8(main + 6));
  if (isXmaxLockedOnly(page, tuple)) {
    setHotUpdated(page, tuple, false);
    setCtid(page, tuple, block.blockNumber, offsetNumber);
  }
  setXmax(page, tuple, record.view.getUint32(main, true));
  clearCommandId(page, tuple);
}

/** Main data: offset number u16 (18: more, for caches). Block data: the tuple's user data, of unchanged length. */
function redoInplace(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const offsetNumber = record.view.getUint16(mainData(record, 2), true);
  const id = heapTupleId(page, offsetNumber);
  const start = itemOffset(id);
  const dataStart = page.view.getUint8(start + 22);
  if (dataStart < TUPLE_HEADER_SIZE || itemLength(id) - dataStart !== block.dataLength) {
    pageCorrupt(page, `${block.dataLength} bytes are to replace ${itemLength(id) - dataStart} in place`);
  }
  copyBytes(page.bytes, start + dataStart, record.bytes, block.dataOffset, block.dataLength);
}
