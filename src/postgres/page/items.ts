/**
 * Adding, removing and replacing items on a page, with exactly the placement that Postgres chooses: later records
 * name items by offset number, and comparison with real pages needs equal offsets.
 * Source: PostgreSQL 14-18, src/backend/storage/page/bufpage.c.
 *
 * All functions need a page whose header has been checked, and throw `corrupt` for what does not fit it.
 */
import {
  ITEM_ID_SIZE,
  ItemState,
  PAGE_HEADER_SIZE,
  type PageBuffer,
  copyBytes,
  itemId,
  itemIdPosition,
  itemLength,
  itemOffset,
  itemState,
  maxAlign,
  maxOffsetNumber,
  pageCorrupt,
  pageLower,
  pageUpper,
  setItemId,
  setPageLower,
  setPageUpper,
  storedItemId,
} from "./layout.ts";
import { compactItems } from "./compaction.ts";

/**
 * Makes room for an item in a line pointer that is unused, or in the first one past the end; returns where its
 * `size` bytes start. The caller writes them.
 */
export function reserveItem(page: PageBuffer, offsetNumber: number, size: number): number {
  const limit = maxOffsetNumber(page) + 1;
  if (offsetNumber < 1 || offsetNumber > limit) {
    pageCorrupt(page, `item ${offsetNumber} is to be added to a page with ${limit - 1}`);
  }
  let lower = pageLower(page);
  if (offsetNumber === limit) {
    lower += ITEM_ID_SIZE;
  } else {
    const id = itemId(page, offsetNumber);
    if (itemState(id) !== ItemState.Unused || itemLength(id) !== 0) {
      pageCorrupt(page, `item ${offsetNumber} is to be added but exists already`);
    }
  }
  return takeSpace(page, offsetNumber, size, lower);
}

/**
 * Makes room for an item at an offset number, moving the line pointers from there on up by one; returns where its
 * `size` bytes start. The caller writes them.
 */
export function insertItem(page: PageBuffer, offsetNumber: number, size: number): number {
  const limit = maxOffsetNumber(page) + 1;
  if (offsetNumber < 1 || offsetNumber > limit) {
    pageCorrupt(page, `item ${offsetNumber} is to be inserted into a page with ${limit - 1}`);
  }
  const lower = pageLower(page) + ITEM_ID_SIZE;
  checkSpace(page, size, lower);
  if (offsetNumber < limit) {
    const from = itemIdPosition(offsetNumber);
    page.bytes.copyWithin(from + ITEM_ID_SIZE, from, itemIdPosition(limit));
  }
  return takeSpace(page, offsetNumber, size, lower);
}

/** `insertItem` and a copy of the item's bytes. */
export function insertItemBytes(
  page: PageBuffer,
  offsetNumber: number,
  source: Uint8Array,
  sourceOffset: number,
  size: number,
): void {
  const at = insertItem(page, offsetNumber, size);
  copyBytes(page.bytes, at, source, sourceOffset, size);
}

function checkSpace(page: PageBuffer, size: number, lower: number): void {
  if (size < 1 || lower > pageUpper(page) - maxAlign(size)) {
    pageCorrupt(page, `an item of ${size} bytes is to be added to a page without room for it`);
  }
}

function takeSpace(page: PageBuffer, offsetNumber: number, size: number, lower: number): number {
  checkSpace(page, size, lower);
  const upper = pageUpper(page) - maxAlign(size);
  setItemId(page, offsetNumber, upper, ItemState.Normal, size);
  setPageLower(page, lower);
  setPageUpper(page, upper);
  return upper;
}

/** Removes an item and its line pointer; items stored below it move up. */
export function deleteIndexItem(page: PageBuffer, offsetNumber: number): void {
  const id = storedItemId(page, offsetNumber);
  const count = maxOffsetNumber(page);
  const from = itemIdPosition(offsetNumber);
  page.bytes.copyWithin(from, from + ITEM_ID_SIZE, itemIdPosition(count + 1));
  setPageLower(page, pageLower(page) - ITEM_ID_SIZE);
  closeGap(page, itemOffset(id), maxAlign(itemLength(id)), false);
}

/**
 * Removes an item but keeps the line pointer as an unused one, so that the numbers of later items do not change; only
 * if it is the last one is the line pointer removed, too. BRIN pages are used like this.
 */
export function deleteItemKeepingNumbers(page: PageBuffer, offsetNumber: number): void {
  const id = storedItemId(page, offsetNumber);
  if (offsetNumber < maxOffsetNumber(page)) setItemId(page, offsetNumber, 0, ItemState.Unused, 0);
  else setPageLower(page, pageLower(page) - ITEM_ID_SIZE);
  closeGap(page, itemOffset(id), maxAlign(itemLength(id)), true);
}

/** Moves what is stored below `offset` up by `size` bytes, and the line pointers to it along. */
function closeGap(page: PageBuffer, offset: number, size: number, storedOnly: boolean): void {
  const upper = pageUpper(page);
  page.bytes.copyWithin(upper + size, upper, offset);
  setPageUpper(page, upper + size);
  moveItems(page, offset, size, storedOnly);
}

/** Adds `distance` (it may be negative) to the offset of every item at or below `offset`. */
function moveItems(page: PageBuffer, offset: number, distance: number, storedOnly: boolean): void {
  const count = maxOffsetNumber(page);
  for (let number = 1; number <= count; number++) {
    const id = itemId(page, number);
    const start = itemOffset(id);
    if (start > offset || (storedOnly && itemLength(id) === 0)) continue;
    setItemId(page, number, start + distance, itemState(id), itemLength(id));
  }
}

/**
 * Removes `count` items, whose numbers stand as ascending u16 at `listOffset` of `list`. Up to two are removed one by
 * one, which keeps the others in their physical order; for more, all that remain are packed in the order of
 * their numbers. `scratch` is overwritten.
 */
export function deleteIndexItems(
  page: PageBuffer,
  list: DataView,
  listOffset: number,
  count: number,
  scratch: PageBuffer,
): void {
  if (count <= 2) {
    for (let i = count - 1; i >= 0; i--) deleteIndexItem(page, list.getUint16(listOffset + 2 * i, true));
    return;
  }
  const last = maxOffsetNumber(page);
  let removed = 0;
  let kept = 0;
  for (let number = 1; number <= last; number++) {
    const id = storedItemId(page, number);
    if (removed < count && number === list.getUint16(listOffset + 2 * removed, true)) {
      removed++;
      continue;
    }
    kept++;
    page.view.setUint32(itemIdPosition(kept), id, true);
  }
  if (removed !== count) pageCorrupt(page, `of ${count} items to be deleted only ${removed} exist`);
  setPageLower(page, PAGE_HEADER_SIZE + kept * ITEM_ID_SIZE);
  compactItems(page, scratch);
}

/**
 * Puts other bytes in the place of an item, keeping its number and state; items stored below it move by the
 * difference in size.
 */
export function overwriteIndexItem(
  page: PageBuffer,
  offsetNumber: number,
  source: Uint8Array,
  sourceOffset: number,
  size: number,
): void {
  const id = storedItemId(page, offsetNumber);
  const offset = itemOffset(id);
  const upper = pageUpper(page);
  const gained = maxAlign(itemLength(id)) - maxAlign(size);
  if (size < 1 || upper + gained < pageLower(page)) {
    pageCorrupt(page, `item ${offsetNumber} is to grow to ${size} bytes on a page without room for it`);
  }
  if (gained !== 0) {
    page.bytes.copyWithin(upper + gained, upper, offset);
    setPageUpper(page, upper + gained);
    moveItems(page, offset, gained, true);
  }
  setItemId(page, offsetNumber, offset + gained, itemState(id), size);
  copyBytes(page.bytes, offset + gained, source, sourceOffset, size);
}
