/**
 * Redo of pruning, vacuuming and freezing heap pages as servers before 17 write it: three kinds of records, with the
 * numbers that one kind has since.
 * Source: PostgreSQL 14-16, src/backend/access/heap/{heapam,pruneheap}.c, src/include/access/heapam_xlog.h.
 */
import { repairFragmentation, truncateLinePointers } from "../page/compaction.ts";
import { ItemState, type PageBuffer } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import { HEAP_OP_MASK, SeparateHeap2Op } from "./heap-format.ts";
import {
  FREEZE_PLAN_SIZE,
  followFreezePlan,
  freezeTuple,
  setItemStates,
  setRedirections,
} from "./heap-prune.ts";
import { heapTuple } from "./heap-tuple.ts";
import { checkPayloadEnd, checkRoom, mainData } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";

/** Applies one of the three; its page gets the record's LSN. */
export function redoSeparatePrune(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): void {
  switch (record.info & HEAP_OP_MASK) {
    case SeparateHeap2Op.Prune:
      redoPrune(page, record, block, context);
      return;
    case SeparateHeap2Op.Vacuum:
      redoVacuum(page, record, block);
      return;
    case SeparateHeap2Op.FreezePage:
      if (context.version.redo.heapPrune === "freeze-plans") redoFreezePlans(page, record, block);
      else redoFreezeTuples(page, record, block);
      return;
    default:
      unknownRecord(record);
  }
}

/**
 * Main data: conflict horizon u32, number of redirections u16 4, of dead items u16 6. Block data: redirections (pairs
 * u16), dead items (u16), and for the rest unused items (u16).
 */
function redoPrune(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  const { view } = record;
  const main = mainData(record, 8);
  const end = block.dataOffset + block.dataLength;
  const dead = setRedirections(page, view, block.dataOffset, view.getUint16(main + 4, true), end);
  const unused = setItemStates(page, view, dead, view.getUint16(main + 6, true), end, ItemState.Dead);
  const last = setItemStates(page, view, unused, (end - unused) >> 1, end, ItemState.Unused);
  checkPayloadEnd(last, end);
  repairFragmentation(page, context.version.redo.pruneShortensLinePointers, context.scratchPage);
}

/** Main data: number of items u16. Block data: the items (u16), all dead, that become unused. */
function redoVacuum(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const count = record.view.getUint16(mainData(record, 2), true);
  const end = block.dataOffset + block.dataLength;
  const last = setItemStates(page, record.view, block.dataOffset, count, end, ItemState.Unused);
  checkPayloadEnd(last, end);
  truncateLinePointers(page);
}

/** Main data: conflict horizon u32, number of plans u16 4. Block data: the plans, then the numbers of their tuples. */
function redoFreezePlans(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view } = record;
  const planCount = view.getUint16(mainData(record, 6) + 4, true);
  const plans = block.dataOffset;
  const end = block.dataOffset + block.dataLength;
  checkRoom(plans, planCount * FREEZE_PLAN_SIZE, end);
  let at = plans + planCount * FREEZE_PLAN_SIZE;
  for (let plan = 0; plan < planCount; plan++) {
    at = followFreezePlan(page, view, plans + plan * FREEZE_PLAN_SIZE, at, end);
  }
  checkPayloadEnd(at, end);
}

/**
 * Main data: cutoff xid u32, number of tuples u16 4. Block data for each: xmax u32 0, number of the tuple u16 4, infomask2
 * u16 6, infomask u16 8, flags u8 10, a byte that means nothing.
 */
function redoFreezeTuples(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view } = record;
  const count = view.getUint16(mainData(record, 6) + 4, true);
  const end = block.dataOffset + block.dataLength;
  let at = block.dataOffset;
  checkRoom(at, count * FREEZE_PLAN_SIZE, end);
  for (let i = 0; i < count; i++, at += FREEZE_PLAN_SIZE) {
    const tuple = heapTuple(page, view.getUint16(at + 4, true));
    freezeTuple(page, tuple, view.getUint32(at, true), view, at + 6);
  }
  checkPayloadEnd(at, end);
}
