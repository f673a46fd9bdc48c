/**
 * Redo of pruning and freezing heap pages, as PostgreSQL 17 and later write it: one record for both. What a line pointer
 * or a tuple becomes is the same in the records of older servers (`heap-prune-separate.ts`).
 * Source: PostgreSQL 17, src/backend/access/heap/{heapam,pruneheap}.c, src/include/access/heapam_xlog.h.
 */
import { repairFragmentation, truncateLinePointers } from "../page/compaction.ts";
import { ItemState, type PageBuffer, existingItemId, setItemId } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import { heapTuple, setXmax } from "./heap-tuple.ts";
import { checkPayloadEnd, checkRoom, mainData } from "./payload.ts";

const PruneFlag = {
  /** Only with it may items be moved; otherwise the array of line pointers is just shortened. */
  CleanupLock: 0x04,
  HasFreezePlans: 0x10,
  HasRedirections: 0x20,
  HasDeadItems: 0x40,
  HasNowUnusedItems: 0x80,
} as const;

/** Of a plan, and of what older servers say about one tuple. */
export const FREEZE_PLAN_SIZE = 12;
/** What a freeze plan does to the field that held xvac in servers before 9.0. */
const FreezeFlag = { SetXvac: 0x02, ClearXvac: 0x04 } as const;
const FROZEN_XID = 2;

/**
 * Main data: reason u8, flags u8. Block data, each part if its flag is set: freeze plans (count u16, 2 bytes, plans);
 * redirections (count u16, pairs u16 from, to); dead items (count u16, u16 each); unused items (likewise); then
 * for each plan in turn the numbers (u16) of the tuples that it freezes.
 */
export function redoPruneFreeze(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): void {
  const flags = record.view.getUint8(mainData(record, 2) + 1);
  const { view } = record;
  const end = block.dataOffset + block.dataLength;
  let at = block.dataOffset;
  const plans = at + 4;
  let planCount = 0;
  const count = (): number => {
    checkRoom(at, 2, end);
    return view.getUint16(at, true);
  };
  if (flags & PruneFlag.HasFreezePlans) {
    planCount = count();
    checkRoom(plans, planCount * FREEZE_PLAN_SIZE, end);
    at = plans + planCount * FREEZE_PLAN_SIZE;
  }
  if (flags & PruneFlag.HasRedirections) at = setRedirections(page, view, at + 2, count(), end);
  if (flags & PruneFlag.HasDeadItems) at = setItemStates(page, view, at + 2, count(), end, ItemState.Dead);
  if (flags & PruneFlag.HasNowUnusedItems)
    at = setItemStates(page, view, at + 2, count(), end, ItemState.Unused);
  if (flags & (PruneFlag.HasRedirections | PruneFlag.HasDeadItems | PruneFlag.HasNowUnusedItems)) {
    if (flags & PruneFlag.CleanupLock) {
      repairFragmentation(page, context.version.redo.pruneShortensLinePointers, context.scratchPage);
    } else {
      truncateLinePointers(page);
    }
  }
  for (let plan = 0; plan < planCount; plan++) {
    at = followFreezePlan(page, view, plans + plan * FREEZE_PLAN_SIZE, at, end);
  }
  checkPayloadEnd(at, end);
}

/** Pairs from, to (u16 each); returns where they end. */
export function setRedirections(
  page: PageBuffer,
  view: DataView,
  start: number,
  count: number,
  end: number,
): number {
  checkRoom(start, count * 4, end);
  let at = start;
  for (let i = 0; i < count; i++, at += 4) {
    const from = view.getUint16(at, true);
    const to = view.getUint16(at + 2, true);
    existingItemId(page, from);
    existingItemId(page, to);
    setItemId(page, from, to, ItemState.Redirect, 0);
  }
  return at;
}

/** Numbers (u16) of items that all get one state and lose their storage; returns where they end. */
export function setItemStates(
  page: PageBuffer,
  view: DataView,
  start: number,
  count: number,
  end: number,
  state: number,
): number {
  checkRoom(start, count * 2, end);
  let at = start;
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
export function followFreezePlan(
  page: PageBuffer,
  view: DataView,
  plan: number,
  start: number,
  end: number,
): number {
  const count = view.getUint16(plan + 10, true);
  checkRoom(start, count * 2, end);
  let at = start;
  for (let i = 0; i < count; i++, at += 2) {
    const tuple = heapTuple(page, view.getUint16(at, true));
    freezeTuple(page, tuple, view.getUint32(plan, true), view, plan + 4);
  }
  return at;
}

/** `masks`: infomask2 u16, infomask u16, flags u8. */
export function freezeTuple(
  page: PageBuffer,
  tuple: number,
  xmax: number,
  view: DataView,
  masks: number,
): void {
  const flags = view.getUint8(masks + 4);
  setXmax(page, tuple, xmax);
  if (flags & FreezeFlag.SetXvac) page.view.setUint32(tuple + 8, FROZEN_XID, true);
  if (flags & FreezeFlag.ClearXvac) page.view.setUint32(tuple + 8, 0, true);
  page.view.setUint16(tuple + 18, view.getUint16(masks, true), true);
  page.view.setUint16(tuple + 20, view.getUint16(masks + 2, true), true);
}
