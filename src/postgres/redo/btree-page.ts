/**
 * The special area of a btree page, 16 bytes at the end of the page, little-endian.
 * Source: PostgreSQL 14-18, src/include/access/nbtree.h, BTPageOpaqueData.
 *
 *   offset  size  field
 *     8176     4  previous block     0 if none
 *     8180     4  next block         0 if none: this is the rightmost page of its level
 *     8184     4  level              0 for leaves
 *     8188     2  flags              `BtreeFlag`
 *     8190     2  vacuum cycle id
 */
import { PAGE_SIZE } from "../constants.ts";
import type { PageBuffer } from "../page/layout.ts";

export const SPECIAL_SIZE = 16;
export const SPECIAL_OFFSET = PAGE_SIZE - SPECIAL_SIZE;
/** In place of a sibling: there is none. */
export const NO_BLOCK = 0;

export const BtreeFlag = {
  Leaf: 0x01,
  Root: 0x02,
  Deleted: 0x04,
  Meta: 0x08,
  HalfDead: 0x10,
  SplitEnd: 0x20,
  HasGarbage: 0x40,
  IncompleteSplit: 0x80,
  HasFullXid: 0x100,
} as const;

export function setPreviousBlock(page: PageBuffer, blockNumber: number): void {
  page.view.setUint32(SPECIAL_OFFSET, blockNumber, true);
}

export function nextBlock(page: PageBuffer): number {
  return page.view.getUint32(SPECIAL_OFFSET + 4, true);
}

export function setNextBlock(page: PageBuffer, blockNumber: number): void {
  page.view.setUint32(SPECIAL_OFFSET + 4, blockNumber, true);
}

export function setLevel(page: PageBuffer, level: number): void {
  page.view.setUint32(SPECIAL_OFFSET + 8, level, true);
}

export function setFlags(page: PageBuffer, flags: number): void {
  page.view.setUint16(SPECIAL_OFFSET + 12, flags, true);
}

export function clearFlag(page: PageBuffer, flag: number): void {
  setFlags(page, page.view.getUint16(SPECIAL_OFFSET + 12, true) & ~flag);
}

export function setCycleId(page: PageBuffer, cycleId: number): void {
  page.view.setUint16(SPECIAL_OFFSET + 14, cycleId, true);
}

/** Number of the first item that is no high key: the rightmost page of a level has none. */
export function firstDataKey(page: PageBuffer): number {
  return nextBlock(page) === NO_BLOCK ? 1 : 2;
}
