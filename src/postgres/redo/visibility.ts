/**
 * The visibility map: fork 2 of a table, two bits per heap page (1 all-visible, 2 all-frozen), four heap pages per
 * byte, 32672 per map page, behind the page header.
 * Source: PostgreSQL 14-18, src/backend/access/heap/visibilitymap.c.
 *
 * Bits are set by one kind of record only (heap2 VISIBLE), which names the map page. They are cleared by heap records
 * with a flag that says so. Before 17.11 and 18.6 these records do not name the map page (the old form): whoever
 * indexes records by page asks `forEachImplicitVisibilityClear` which map pages they change, and applies them with
 * `redoImplicitVisibility`. Later records name it (the new form) unless its bits were clear already.
 */
import { PAGE_SIZE, Rmgr } from "../constants.ts";
import { PAGE_HEADER_SIZE, type PageBuffer, isNewPage, pageInit } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import {
  HEAP_OP_MASK,
  DeleteFlag,
  Heap2Op,
  HeapOp,
  InsertFlag,
  LockFlag,
  UpdateFlag,
} from "./heap-format.ts";
import { findBlock, mainData, requireBlock, unexpectedBlock } from "./payload.ts";
import { locateRecord } from "./record-errors.ts";

/** Heap pages whose bits are on one page of the map. */
export const HEAP_BLOCKS_PER_MAP_PAGE = (PAGE_SIZE - PAGE_HEADER_SIZE) * 4;

export const VisibilityBit = { AllVisible: 1, AllFrozen: 2, Both: 3 } as const;

/** The map page with the bits of a heap page. */
export function mapBlockOf(heapBlock: number): number {
  return Math.floor(heapBlock / HEAP_BLOCKS_PER_MAP_PAGE);
}

function mapByteOf(heapBlock: number): number {
  return PAGE_HEADER_SIZE + ((heapBlock % HEAP_BLOCKS_PER_MAP_PAGE) >>> 2);
}

function mapShiftOf(heapBlock: number): number {
  return 2 * (heapBlock & 3);
}

/** The bits of a heap page on its map page. */
export function visibilityBits(page: PageBuffer, heapBlock: number): number {
  return (page.view.getUint8(mapByteOf(heapBlock)) >>> mapShiftOf(heapBlock)) & VisibilityBit.Both;
}

/** Clears the bits in `mask`; returns whether any was set. Never moves the LSN of the page. */
export function clearVisibilityBits(page: PageBuffer, heapBlock: number, mask: number): boolean {
  const at = mapByteOf(heapBlock);
  const bits = mask << mapShiftOf(heapBlock);
  const old = page.view.getUint8(at);
  if ((old & bits) === 0) return false;
  page.view.setUint8(at, old & ~bits);
  return true;
}

/** Sets bits; returns whether anything changed. A page that was never initialised is made an empty map page first. */
export function setVisibilityBits(page: PageBuffer, heapBlock: number, bits: number): boolean {
  if (isNewPage(page)) pageInit(page, 0);
  if (visibilityBits(page, heapBlock) === bits) return false;
  const at = mapByteOf(heapBlock);
  page.view.setUint8(at, page.view.getUint8(at) | (bits << mapShiftOf(heapBlock)));
  return true;
}

/** Map pages that remain when a table is truncated to `heapBlocks` pages. */
export function mapPagesAfterTruncate(heapBlocks: number): number {
  return Math.ceil(heapBlocks / HEAP_BLOCKS_PER_MAP_PAGE);
}

/**
 * Clears on a map page the bits of all heap pages from `heapBlocks` on, as truncating the table does on the last page
 * of the map that remains. Does not move the LSN.
 */
export function truncateVisibilityPage(page: PageBuffer, heapBlocks: number): void {
  if (heapBlocks % HEAP_BLOCKS_PER_MAP_PAGE === 0 || isNewPage(page)) return;
  const at = mapByteOf(heapBlocks);
  const keep = (1 << mapShiftOf(heapBlocks)) - 1;
  page.view.setUint8(at, page.view.getUint8(at) & keep);
  page.bytes.fill(0, at + 1);
}

/** `relation` names the table (its `spcOid`, `dbOid`, `relNumber`); `mask` is of `VisibilityBit`. */
export type VisibilityClear = (relation: BlockRef, heapBlock: number, mask: number) => void;

/**
 * Calls `emit` for each heap page whose map bits a heap record clears without naming the map page. Throws `corrupt` with
 * the record's LSN.
 */
export function forEachImplicitVisibilityClear(record: WalRecord, emit: VisibilityClear): void {
  if (record.rmgr !== Rmgr.Heap && record.rmgr !== Rmgr.Heap2) return;
  try {
    implicitClears(record, emit);
  } catch (error) {
    throw locateRecord(error, record);
  }
}

function implicitClears(record: WalRecord, emit: VisibilityClear): void {
  if (record.rmgr === Rmgr.Heap) {
    const operation = record.info & HEAP_OP_MASK;
    if (operation === HeapOp.Update || operation === HeapOp.HotUpdate) {
      updateClears(record, emit);
      return;
    }
  }
  const mask = maskCleared(record);
  if (mask === 0 || findBlock(record, 1) !== undefined) return;
  const heap = requireBlock(record, 0);
  emit(heap, heap.blockNumber, mask);
}

/** The bits that a record about one heap page clears; 0 for other records. */
function maskCleared(record: WalRecord): number {
  const operation = record.info & HEAP_OP_MASK;
  if (record.rmgr === Rmgr.Heap) {
    if (operation === HeapOp.Insert) {
      const flags = record.view.getUint8(mainData(record, 3) + 2);
      return flags & InsertFlag.AllVisibleCleared ? VisibilityBit.Both : 0;
    }
    if (operation === HeapOp.Delete) {
      const flags = record.view.getUint8(mainData(record, 8) + 7);
      return flags & DeleteFlag.AllVisibleCleared ? VisibilityBit.Both : 0;
    }
    if (operation === HeapOp.Lock) return maskOfLock(record);
  } else if (record.rmgr === Rmgr.Heap2) {
    if (operation === Heap2Op.MultiInsert) {
      const flags = record.view.getUint8(mainData(record, 4));
      return flags & InsertFlag.AllVisibleCleared ? VisibilityBit.Both : 0;
    }
    if (operation === Heap2Op.LockUpdated) return maskOfLock(record);
  }
  return 0;
}

function maskOfLock(record: WalRecord): number {
  const flags = record.view.getUint8(mainData(record, 8) + 7);
  return flags & LockFlag.AllFrozenCleared ? VisibilityBit.AllFrozen : 0;
}

/** An update names none of the map pages, or all whose bits were not clear already (then nothing is implicit). */
function updateClears(record: WalRecord, emit: VisibilityClear): void {
  const flags = record.view.getUint8(mainData(record, 14) + 7);
  if ((flags & (UpdateFlag.OldAllVisibleCleared | UpdateFlag.NewAllVisibleCleared)) === 0) return;
  if (findBlock(record, 2) !== undefined || findBlock(record, 3) !== undefined) return;
  const newBlock = requireBlock(record, 0);
  const oldBlock = findBlock(record, 1) ?? newBlock;
  if (flags & UpdateFlag.OldAllVisibleCleared) emit(oldBlock, oldBlock.blockNumber, VisibilityBit.Both);
  if (flags & UpdateFlag.NewAllVisibleCleared) emit(newBlock, newBlock.blockNumber, VisibilityBit.Both);
}

/**
 * Applies to map page `mapBlock` (of the table that the record is about) what an old-form record clears on it.
 * Never moves the LSN.
 */
export function redoImplicitVisibility(page: PageBuffer, mapBlock: number, record: WalRecord): void {
  forEachImplicitVisibilityClear(record, (_relation, heapBlock, mask) => {
    if (mapBlockOf(heapBlock) === mapBlock) clearVisibilityBits(page, heapBlock, mask);
  });
}

/** Applies a new-form record to a map page that it names; the page gets the LSN only if a bit changed. */
export function clearNamedVisibility(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  const operation = record.info & HEAP_OP_MASK;
  if (record.rmgr === Rmgr.Heap && (operation === HeapOp.Update || operation === HeapOp.HotUpdate)) {
    return clearNamedByUpdate(page, record, block);
  }
  if (block.id !== 1) unexpectedBlock(block);
  const heap = requireBlock(record, 0);
  if (mapBlockOf(heap.blockNumber) !== block.blockNumber) unexpectedBlock(block);
  return clearVisibilityBits(page, heap.blockNumber, maskCleared(record));
}

/** Block 2 is the map page of the new tuple's page, perhaps of the old one's, too; block 3 that of the old one's. */
function clearNamedByUpdate(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  if (block.id !== 2 && block.id !== 3) unexpectedBlock(block);
  const flags = record.view.getUint8(mainData(record, 14) + 7);
  const newHeap = requireBlock(record, 0).blockNumber;
  const oldHeap = findBlock(record, 1)?.blockNumber ?? newHeap;
  let changed = false;
  if (flags & UpdateFlag.OldAllVisibleCleared && mapBlockOf(oldHeap) === block.blockNumber) {
    changed = clearVisibilityBits(page, oldHeap, VisibilityBit.Both);
  }
  if (
    block.id === 2 &&
    flags & UpdateFlag.NewAllVisibleCleared &&
    mapBlockOf(newHeap) === block.blockNumber
  ) {
    changed = clearVisibilityBits(page, newHeap, VisibilityBit.Both) || changed;
  }
  return changed;
}
