/**
 * Redo of the second set of heap records: visible, multi-insert, lock of an updated tuple. Pruning and freezing are in
 * `heap-prune.ts` and, for servers before 17, in `heap-prune-separate.ts`.
 * Source: PostgreSQL 14-18, src/backend/access/heap/heapam.c, src/include/access/heapam_xlog.h.
 */
import { Fork } from "../constants.ts";
import type { PageBuffer } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import {
  addWholeHeapTuple,
  clearAllVisible,
  heapTuple,
  setAllVisible,
  setXmax,
  setXmaxMeaning,
} from "./heap-tuple.ts";
import { HEAP_INIT_PAGE, HEAP_OP_MASK, Heap2Op, InsertFlag } from "./heap-format.ts";
import { redoPruneFreeze } from "./heap-prune.ts";
import { redoSeparatePrune } from "./heap-prune-separate.ts";
import {
  blockData,
  checkPayloadEnd,
  checkRoom,
  initPage,
  mainData,
  requireBlock,
  unexpectedBlock,
} from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";
import { VisibilityBit, clearNamedVisibility, mapBlockOf, setVisibilityBits } from "./visibility.ts";

/** Length (u16), infomask2, infomask, hoff in front of each tuple of a multi-insert. */
const MULTI_INSERT_HEADER_SIZE = 7;

/** Applies a heap2 record to one of its pages; returns whether the page gets the record's LSN. */
export function redoHeap2(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): boolean {
  const operation = record.info & HEAP_OP_MASK;
  if (operation === Heap2Op.Visible) return redoVisible(page, record, block, context);
  if (block.fork === Fork.VisibilityMap) return clearNamedVisibility(page, record, block);
  if (block.id !== 0) unexpectedBlock(block);
  switch (operation) {
    case Heap2Op.PruneOnAccess:
    case Heap2Op.PruneVacuumScan:
    case Heap2Op.PruneVacuumCleanup:
      if (context.version.redo.heapPrune === "combined") redoPruneFreeze(page, record, block, context);
      else redoSeparatePrune(page, record, block, context);
      return true;
    case Heap2Op.MultiInsert:
      redoMultiInsert(page, record, block);
      return true;
    case Heap2Op.LockUpdated:
      redoLockUpdated(page, record);
      return true;
    default:
      return unknownRecord(record);
  }
}

/**
 * Main data: conflict horizon u32, flags u8. Block 0 is the map page, block 1 the heap page. The heap page's LSN moves
 * only where hint bits are logged; that of the map page only if bits change.
 */
function redoVisible(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): boolean {
  const flags = record.view.getUint8(mainData(record, 5) + 4);
  if (block.id === 1 && block.fork !== Fork.VisibilityMap) {
    setAllVisible(page);
    return context.hintBitsLogged;
  }
  const heap = requireBlock(record, 1);
  if (
    block.id !== 0 ||
    block.fork !== Fork.VisibilityMap ||
    mapBlockOf(heap.blockNumber) !== block.blockNumber
  ) {
    unexpectedBlock(block);
  }
  return setVisibilityBits(page, heap.blockNumber, flags & VisibilityBit.Both);
}

/**
 * Main data: flags u8 0, count u16 2, then the offset numbers u16 unless the page is made anew (then they are 1, 2,
 * 3…). Block data: for each tuple, on a multiple of 2 from the start, its length u16, header (5 bytes), bytes from
 * offset 23 on.
 */
function redoMultiInsert(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { bytes, view } = record;
  const isInit = (record.info & HEAP_INIT_PAGE) !== 0;
  let main = mainData(record, 4);
  const flags = view.getUint8(main);
  const count = view.getUint16(main + 2, true);
  if (!isInit) main = mainData(record, 4 + 2 * count);
  const start = blockData(block, 0);
  const end = start + block.dataLength;
  if (isInit) initPage(page, block, 0);
  let at = start;
  for (let i = 0; i < count; i++) {
    at += (at - start) & 1;
    checkRoom(at, MULTI_INSERT_HEADER_SIZE, end);
    const length = view.getUint16(at, true);
    const body = at + MULTI_INSERT_HEADER_SIZE;
    checkRoom(body, length, end);
    const offsetNumber = isInit ? i + 1 : view.getUint16(main + 4 + 2 * i, true);
    addWholeHeapTuple(page, offsetNumber, bytes, view, at + 2, body, length, record.xid, block.blockNumber);
    at = body + length;
  }
  checkPayloadEnd(at, end);
  if (flags & InsertFlag.AllVisibleCleared) clearAllVisible(page);
  if (flags & InsertFlag.AllFrozenSet) setAllVisible(page);
}

/** Main data: xmax u32, offset number u16, info bits u8, flags u8. Touches neither ctid nor command id. */
function redoLockUpdated(page: PageBuffer, record: WalRecord): void {
  const main = mainData(record, 8);
  const tuple = heapTuple(page, record.view.getUint16(main + 4, true));
  setXmaxMeaning(page, tuple, record.view.getUint8(main + 6));
  setXmax(page, tuple, record.view.getUint32(main, true));
}
