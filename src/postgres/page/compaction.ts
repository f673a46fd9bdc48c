/**
 * Packing the items of a page, and shortening its array of line pointers.
 * Source: PostgreSQL 14-18, src/backend/storage/page/bufpage.c.
 */
import {
  ITEM_ID_SIZE,
  ItemState,
  PAGE_HEADER_SIZE,
  PageFlag,
  type PageBuffer,
  itemId,
  itemLength,
  itemOffset,
  itemState,
  maxAlign,
  maxOffsetNumber,
  pageCorrupt,
  pageFlags,
  pageLower,
  pageSpecial,
  setItemId,
  setPageFlags,
  setPageLower,
  setPageUpper,
  storedItemId,
} from "./layout.ts";

/**
 * Packs all items with storage against the special area, in the order of their numbers. Needs a checked header;
 * `scratch` is overwritten.
 */
export function compactItems(page: PageBuffer, scratch: PageBuffer): void {
  const count = maxOffsetNumber(page);
  const lower = pageLower(page);
  let upper = pageSpecial(page);
  scratch.bytes.set(page.bytes);
  for (let number = 1; number <= count; number++) {
    if (itemLength(itemId(page, number)) === 0) continue;
    const id = storedItemId(page, number);
    const offset = itemOffset(id);
    const size = maxAlign(itemLength(id));
    upper -= size;
    if (upper < lower) pageCorrupt(page, "the items overlap: together they do not fit into the page");
    if (upper !== offset) page.bytes.set(scratch.bytes.subarray(offset, offset + size), upper);
    setItemId(page, number, upper, itemState(id), itemLength(id));
  }
  setPageUpper(page, upper);
}

/**
 * What pruning a heap page does after it has changed line pointers: packs the items and, from PostgreSQL 15 on
 * (`shortensArray`), gives up unused line pointers at the end of the array. `scratch` is overwritten.
 */
export function repairFragmentation(page: PageBuffer, shortensArray: boolean, scratch: PageBuffer): void {
  const count = maxOffsetNumber(page);
  let lastUsed = 0;
  let unused = 0;
  for (let number = 1; number <= count; number++) {
    if (itemState(itemId(page, number)) === ItemState.Unused) {
      setItemId(page, number, 0, ItemState.Unused, 0);
      unused++;
    } else {
      lastUsed = number;
    }
  }
  compactItems(page, scratch);
  if (shortensArray) {
    setPageLower(page, PAGE_HEADER_SIZE + lastUsed * ITEM_ID_SIZE);
    unused -= count - lastUsed;
  }
  setHasFreeLines(page, unused > 0);
}

/** What the second pass of vacuum does: gives up unused line pointers at the end, but never the first one. */
export function truncateLinePointers(page: PageBuffer): void {
  const count = maxOffsetNumber(page);
  let keep = count;
  while (keep > 1 && itemState(itemId(page, keep)) === ItemState.Unused) keep--;
  let hasUnused = false;
  for (let number = 1; number <= keep && !hasUnused; number++) {
    hasUnused = itemState(itemId(page, number)) === ItemState.Unused;
  }
  setPageLower(page, pageLower(page) - (count - keep) * ITEM_ID_SIZE);
  setHasFreeLines(page, hasUnused);
}

function setHasFreeLines(page: PageBuffer, value: boolean): void {
  const flags = pageFlags(page);
  setPageFlags(page, value ? flags | PageFlag.HasFreeLines : flags & ~PageFlag.HasFreeLines);
}
