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
  copyBytes,
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
 * `scratch` is overwritten. Items that lie next to each other in that order are moved together, as most of them do.
 */
export function compactItems(page: PageBuffer, scratch: PageBuffer): void {
  const count = maxOffsetNumber(page);
  const lower = pageLower(page);
  let upper = pageSpecial(page);
  scratch.bytes.set(page.bytes);
  let runStart = 0;
  let runLength = 0;
  for (let number = 1; number <= count; number++) {
    if (itemLength(itemId(page, number)) === 0) continue;
    const id = storedItemId(page, number);
    const offset = itemOffset(id);
    const size = maxAlign(itemLength(id));
    if (offset + size !== runStart) {
      moveRun(page, scratch, { from: runStart, to: upper, length: runLength });
      runLength = 0;
    }
    runStart = offset;
    runLength += size;
    upper -= size;
    if (upper < lower) pageCorrupt(page, "the items overlap: together they do not fit into the page");
    if (upper !== offset) setItemId(page, number, upper, itemState(id), itemLength(id));
  }
  moveRun(page, scratch, { from: runStart, to: upper, length: runLength });
  setPageUpper(page, upper);
}

/** Copies a run of items to its new place; where it is there already, there is nothing to do. */
function moveRun(
  page: PageBuffer,
  scratch: PageBuffer,
  run: { readonly from: number; readonly to: number; readonly length: number },
): void {
  if (run.length === 0 || run.from === run.to) return;
  copyBytes(page.bytes, run.to, scratch.bytes, run.from, run.length);
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
