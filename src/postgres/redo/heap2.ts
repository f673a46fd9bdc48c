/**
 * Redo of the second set of heap records: prune and freeze, visible, multi-insert, lock of an updated tuple. The forms
 * of PostgreSQL 17 and later; before, pruning and freezing were other records with the same numbers.
 * Source: PostgreSQL 17, src/backend/access/heap/{heapam,pruneheap}.c, src/include/access/heapam_xlog.h.
 */
import { Fork } from "../constants.ts";
import { repairFragmentation, truncateLinePointers } from "../page/compaction.ts";
import { ItemState, type PageBuffer, existingItemId, setItemId } from "../page/layout.ts";
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

const PruneFlag = {
  /** Only with it may items be moved; otherwise the array of line pointers is just shortened. */
  CleanupLock: 0x04,
  HasFreezePlans: 0x10,
  HasRedirections: 0x20,
  HasDeadItems: 0x40,
  HasNowUnusedItems: 0x80,
} as const;

const FREEZE_PLAN_SIZE = 12;
/** What a freeze plan does to the field that held xvac in servers before 9.0. */
const FreezeFlag = { SetXvac: 0x02, ClearXvac: 0x04 } as const;
const FROZEN_XID = 2;

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
      redoPrune(page, record, block, context);
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
 * Main data: reason u8, flags u8. Block data, each part if its flag is set: freeze plans (count u16, 2 bytes, plans);
 * redirections (count u16, pairs u16 from, to); dead items (count u16, u16 each); unused items (likewise); then
 * for each plan in turn the numbers (u16) of the tuples that it freezes.
 */
function redoPrune(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  const flags = record.view.getUint8(mainData(record, 2) + 1);
  const { view } = record;
  const end = block.dataOffset + block.dataLength;
  let at = block.dataOffset;
  let plans = 0;
  let planCount = 0;
  if (flags & PruneFlag.HasFreezePlans) {
    checkRoom(at, 4, end);
    planCount = view.getUint16(at, true);
    plans = at + 4;
    checkRoom(plans, planCount * FREEZE_PLAN_SIZE, end);
    at = plans + planCount * FREEZE_PLAN_SIZE;
  }
  if (flags & PruneFlag.HasRedirections) at = redoRedirections(page, view, at, end);
  if (flags & PruneFlag.HasDeadItems) at = redoItemStates(page, view, at, end, ItemState.Dead);
  if (flags & PruneFlag.HasNowUnusedItems) at = redoItemStates(page, view, at, end, ItemState.Unused);
  if (flags & (PruneFlag.HasRedirections | PruneFlag.HasDeadItems | PruneFlag.HasNowUnusedItems)) {
    if (flags & PruneFlag.CleanupLock) {
      repairFragmentation(page, context.version.redo.pruneShortensLinePointers, context.scratchPage);
    } else {
      truncateLinePointers(page);
    }
  }
  for (let plan = 0; plan < planCount; plan++) {
    at = redoFreezePlan(page, view, plans + plan * FREEZE_PLAN_SIZE, at, end);
  }
  checkPayloadEnd(at, end);
}

/** Count and pairs; returns where they end. */
function redoRedirections(page: PageBuffer, view: DataView, start: number, end: number): number {
  checkRoom(start, 2, end);
  const count = view.getUint16(start, true);
  checkRoom(start + 2, count * 4, end);
  let at = start + 2;
  for (let i = 0; i < count; i++, at += 4) {
    const from = view.getUint16(at, true);
    const to = view.getUint16(at + 2, true);
    existingItemId(page, from);
    existingItemId(page, to);
    setItemId(page, from, to, ItemState.Redirect, 0);
  }
  return at;
}

/** Count and numbers of items that all get one state and lose their storage; returns where they end. */
function redoItemStates(page: PageBuffer, view: DataView, start: number, end: number, state: number): number {
  checkRoom(start, 2, end);
  const count = view.getUint16(start, true);
  checkRoom(start + 2, count * 2, end);
  let at = start + 2;
  for (let i = 0; i < count; i++, at += 2) {
    const offsetNumber = view.getUint16(at, true);
    existingItemId(page, offsetNumber);
    setItemId(page, offsetNumber, 0, state, 0);
  }
  return at;
}

/**
 * Plan: xmax u32 0, infomask2 u16 4, infomask u16 6, flags u8 8, tuple count u16 10. Applies it to the tuples whose
 * numbers start at `start`; returns where they end.
 */
function redoFreezePlan(page: PageBuffer, view: DataView, plan: number, start: number, end: number): number {
  const xmax = view.getUint32(plan, true);
  const infomask2 = view.getUint16(plan + 4, true);
  const infomask = view.getUint16(plan + 6, true);
  const flags = view.getUint8(plan + 8);
  const count = view.getUint16(plan + 10, true);
  checkRoom(start, count * 2, end);
  let at = start;
  for (let i = 0; i < count; i++, at += 2) {
    const tuple = heapTuple(page, view.getUint16(at, true));
    setXmax(page, tuple, xmax);
    if (flags & FreezeFlag.SetXvac) page.view.setUint32(tuple + 8, FROZEN_XID, true);
    if (flags & FreezeFlag.ClearXvac) page.view.setUint32(tuple + 8, 0, true);
    page.view.setUint16(tuple + 18, infomask2, true);
    page.view.setUint16(tuple + 20, infomask, true);
  }
  return at;
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
