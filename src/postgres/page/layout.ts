/**
 * The layout that all pages of relations share: a 24-byte header, an array of line pointers that grows upwards, a
 * hole, items that grow downwards, and a special area at the end. Little-endian, except that the LSN is two 32-bit
 * words, the high one first. Source: PostgreSQL 14-18, src/include/storage/bufpage.h and itemid.h.
 *
 *   offset  size  field
 *        0     4  LSN, high word
 *        4     4  LSN, low word
 *        8     2  checksum            0 until the page is written to a file of Postgres
 *       10     2  flags               `PageFlag`
 *       12     2  lower               end of the line pointers
 *       14     2  upper               start of the items; 0 on a page that was never initialised
 *       16     2  special             start of the special area
 *       18     2  size and layout     0x2004: 8192 bytes, layout 4
 *       20     4  prune xid           oldest xid whose removal might free space
 *       24        line pointers, 4 bytes each: offset 15 bits, state 2 bits, length 15 bits
 *
 * Functions here read and write fields. Those that follow an offset found on the page check it first, so that no page
 * and no record, however damaged, makes redo touch bytes outside of the area it is about: the answer is `corrupt`.
 */
import { assert, corrupt } from "../../base/errors.ts";
import { type Lsn, lsnFromWords, lsnHigh, lsnLow } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../constants.ts";

export const PAGE_HEADER_SIZE = 24;
export const ITEM_ID_SIZE = 4;
const SIZE_AND_LAYOUT = PAGE_SIZE | 4;

export const PageFlag = { HasFreeLines: 0x1, PageFull: 0x2, AllVisible: 0x4 } as const;

/** State of a line pointer. */
export const ItemState = { Unused: 0, Normal: 1, Redirect: 2, Dead: 3 } as const;

/** A page and the view to read it with; made once per slot of memory, not once per access. */
export class PageBuffer {
  readonly bytes: Uint8Array;
  readonly view: DataView;

  /** Uses `bytes` (8192 of them) without copying. */
  constructor(bytes: Uint8Array = new Uint8Array(PAGE_SIZE)) {
    assert(bytes.length === PAGE_SIZE, `a page has ${PAGE_SIZE} bytes, not ${bytes.length}`);
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, PAGE_SIZE);
  }
}

/** Rounded up to a multiple of 8: where Postgres lets items and structures start. */
export function maxAlign(size: number): number {
  return (size + 7) & ~7;
}

/** Throws `corrupt` for a page that is given with the fields that explain it. */
export function pageCorrupt(page: PageBuffer, message: string): never {
  throw corrupt(message, {
    lower: pageLower(page),
    upper: pageUpper(page),
    special: pageSpecial(page),
  });
}

export function pageLsn(page: PageBuffer): Lsn {
  return lsnFromWords(page.view.getUint32(0, true), page.view.getUint32(4, true));
}

export function setPageLsn(page: PageBuffer, lsn: Lsn): void {
  page.view.setUint32(0, lsnHigh(lsn), true);
  page.view.setUint32(4, lsnLow(lsn), true);
}

export function pageFlags(page: PageBuffer): number {
  return page.view.getUint16(10, true);
}

export function setPageFlags(page: PageBuffer, flags: number): void {
  page.view.setUint16(10, flags, true);
}

export function pageLower(page: PageBuffer): number {
  return page.view.getUint16(12, true);
}

export function setPageLower(page: PageBuffer, lower: number): void {
  page.view.setUint16(12, lower, true);
}

export function pageUpper(page: PageBuffer): number {
  return page.view.getUint16(14, true);
}

export function setPageUpper(page: PageBuffer, upper: number): void {
  page.view.setUint16(14, upper, true);
}

export function pageSpecial(page: PageBuffer): number {
  return page.view.getUint16(16, true);
}

export function pagePruneXid(page: PageBuffer): number {
  return page.view.getUint32(20, true);
}

export function setPagePruneXid(page: PageBuffer, xid: number): void {
  page.view.setUint32(20, xid, true);
}

/** True for a page that was never initialised (all zero, as left by extending a file). It carries no LSN. */
export function isNewPage(page: PageBuffer): boolean {
  return pageUpper(page) === 0;
}

/** Makes an empty page, whatever was there before. */
export function pageInit(page: PageBuffer, specialSize: number): void {
  const special = PAGE_SIZE - maxAlign(specialSize);
  page.bytes.fill(0);
  setPageLower(page, PAGE_HEADER_SIZE);
  setPageUpper(page, special);
  page.view.setUint16(16, special, true);
  page.view.setUint16(18, SIZE_AND_LAYOUT, true);
}

/** Throws `corrupt` unless the page is initialised and its areas lie in order within it. */
export function checkPageHeader(page: PageBuffer): void {
  const lower = pageLower(page);
  const upper = pageUpper(page);
  const special = pageSpecial(page);
  if (upper === 0) pageCorrupt(page, "the page to change was never initialised");
  if (lower < PAGE_HEADER_SIZE || lower > upper || upper > special || special > PAGE_SIZE || special & 7) {
    pageCorrupt(page, `the page header is damaged: lower ${lower}, upper ${upper}, special ${special}`);
  }
}

/** Throws `corrupt` unless the special area has exactly the size (a multiple of 8) that the kind of page asks for. */
export function checkSpecialSize(page: PageBuffer, size: number): void {
  if (pageSpecial(page) !== PAGE_SIZE - size) {
    pageCorrupt(page, `the special area has ${PAGE_SIZE - pageSpecial(page)} bytes, not ${size}`);
  }
}

/** Number of line pointers: the highest offset number in use. Needs a checked header. */
export function maxOffsetNumber(page: PageBuffer): number {
  const lower = pageLower(page);
  return lower <= PAGE_HEADER_SIZE ? 0 : (lower - PAGE_HEADER_SIZE) >>> 2;
}

/** Position of the line pointer with an offset number (from 1). */
export function itemIdPosition(offsetNumber: number): number {
  return PAGE_HEADER_SIZE - ITEM_ID_SIZE + offsetNumber * ITEM_ID_SIZE;
}

/** The raw line pointer; take it apart with `itemOffset`, `itemState` and `itemLength`. Unchecked. */
export function itemId(page: PageBuffer, offsetNumber: number): number {
  return page.view.getUint32(itemIdPosition(offsetNumber), true);
}

export function setItemId(
  page: PageBuffer,
  offsetNumber: number,
  offset: number,
  state: number,
  length: number,
): void {
  page.view.setUint32(itemIdPosition(offsetNumber), (offset | (state << 15) | (length << 17)) >>> 0, true);
}

export function itemOffset(id: number): number {
  return id & 0x7fff;
}

export function itemState(id: number): number {
  return (id >>> 15) & 3;
}

export function itemLength(id: number): number {
  return id >>> 17;
}

/** The raw line pointer; throws `corrupt` if the page has none of that number. */
export function existingItemId(page: PageBuffer, offsetNumber: number): number {
  const count = maxOffsetNumber(page);
  if (offsetNumber < 1 || offsetNumber > count) {
    pageCorrupt(page, `item ${offsetNumber} is wanted on a page with ${count}`);
  }
  return itemId(page, offsetNumber);
}

/**
 * The raw line pointer of an item with storage; throws `corrupt` if there is no such item, or if it does not lie
 * between the hole and the special area, its alignment padding included.
 */
export function storedItemId(page: PageBuffer, offsetNumber: number): number {
  const id = existingItemId(page, offsetNumber);
  const offset = itemOffset(id);
  const length = itemLength(id);
  if (length === 0 || offset < pageUpper(page) || offset + maxAlign(length) > pageSpecial(page)) {
    pageCorrupt(page, `item ${offsetNumber} has ${length} bytes at ${offset}, outside of the items`);
  }
  return id;
}

/** Below this size a loop beats making two views for `set`. */
const COPY_LOOP_MAX = 96;

/** Copies `length` bytes between buffers that do not overlap in these ranges. Bounds are the caller's business. */
export function copyBytes(
  target: Uint8Array,
  targetOffset: number,
  source: Uint8Array,
  sourceOffset: number,
  length: number,
): void {
  if (length <= COPY_LOOP_MAX) {
    for (let i = 0; i < length; i++) target[targetOffset + i] = source[sourceOffset + i] as number;
  } else {
    target.set(source.subarray(sourceOffset, sourceOffset + length), targetOffset);
  }
}
