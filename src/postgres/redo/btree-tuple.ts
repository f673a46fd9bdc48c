/**
 * Index tuples of btree pages, and posting lists: tuples that stand for many heap tuples with one key. Little-endian,
 * except that a block number within a TID is two 16-bit words, the high one first.
 * Source: PostgreSQL 14-18, src/include/access/{itup,nbtree}.h, src/backend/access/nbtree/nbtdedup.c.
 *
 *   offset  size  field
 *        0     6  TID: block (high, low), offset number
 *        6     2  size (13 bits) and flags; 0x2000: the TID has another meaning
 *        8        key
 *
 * In a posting list the TID's block is the offset of the list within the tuple (always after the key, a multiple of
 * 8) and the TID's offset number is the number of TIDs, with flag 0x2000.
 */
import { corrupt } from "../../base/errors.ts";
import { insertItem } from "../page/items.ts";
import {
  type PageBuffer,
  copyBytes,
  itemLength,
  itemOffset,
  maxAlign,
  maxOffsetNumber,
} from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import { blockData } from "./payload.ts";

export const TID_SIZE = 6;
export const INDEX_TUPLE_HEADER_SIZE = 8;
const SIZE_MASK = 0x1fff;
const TID_IS_SPECIAL = 0x2000;
const POSTING_FLAG = 0x2000;
const POSTING_COUNT_MASK = 0x0fff;

/** The size that a tuple's header claims. */
export function tupleSize(view: DataView, tuple: number): number {
  return view.getUint16(tuple + 6, true) & SIZE_MASK;
}

/** The size, rounded up to 8, of a tuple within a payload that ends at `end`. Throws `corrupt` if it does not fit. */
export function payloadTupleSize(view: DataView, tuple: number, end: number): number {
  if (tuple + INDEX_TUPLE_HEADER_SIZE > end) throw corrupt("an index tuple has no whole header");
  const size = maxAlign(tupleSize(view, tuple));
  if (size < INDEX_TUPLE_HEADER_SIZE || size > end - tuple) {
    throw corrupt(`an index tuple of ${size} bytes where ${end - tuple} are left`);
  }
  return size;
}

export function setTidBlock(page: PageBuffer, tuple: number, blockNumber: number): void {
  page.view.setUint16(tuple, blockNumber >>> 16, true);
  page.view.setUint16(tuple + 2, blockNumber & 0xffff, true);
}

function tidBlock(view: DataView, tuple: number): number {
  return ((view.getUint16(tuple, true) << 16) | view.getUint16(tuple + 2, true)) >>> 0;
}

export function isPosting(view: DataView, tuple: number): boolean {
  return (
    (view.getUint16(tuple + 6, true) & TID_IS_SPECIAL) !== 0 &&
    (view.getUint16(tuple + 4, true) & POSTING_FLAG) !== 0
  );
}

/** Number of TIDs: 1 for a tuple that is no posting list. */
export function tidCount(view: DataView, tuple: number): number {
  return isPosting(view, tuple) ? view.getUint16(tuple + 4, true) & POSTING_COUNT_MASK : 1;
}

/** Where the TIDs start, relative to the tuple: 0 for one that is no posting list. */
export function tidsOffset(view: DataView, tuple: number): number {
  return isPosting(view, tuple) ? tidBlock(view, tuple) : 0;
}

/** Size of a tuple without its posting list. */
export function keySize(view: DataView, tuple: number): number {
  return isPosting(view, tuple) ? tidBlock(view, tuple) : tupleSize(view, tuple);
}

/** Throws `corrupt` unless the tuple, stored in `length` bytes, holds what its header says. */
export function checkTuple(view: DataView, tuple: number, length: number): void {
  const size = length < INDEX_TUPLE_HEADER_SIZE ? 0 : tupleSize(view, tuple);
  if (size < INDEX_TUPLE_HEADER_SIZE || size > length) {
    throw corrupt(`an index tuple of ${size} bytes is stored in ${length}`);
  }
  if (!isPosting(view, tuple)) return;
  const key = tidBlock(view, tuple);
  const count = tidCount(view, tuple);
  if (key < INDEX_TUPLE_HEADER_SIZE || count < 1 || key + count * TID_SIZE > size) {
    throw corrupt(`a posting list of ${count} TIDs at ${key} in an index tuple of ${size} bytes`);
  }
}

/**
 * Puts the TID of the tuple at `newTuple` into the posting list at `posting` (stored in `length` bytes), at `position`;
 * the list's last TID, which has no room any more, becomes that of the new tuple.
 */
export function swapPosting(
  list: PageBuffer,
  posting: number,
  length: number,
  position: number,
  target: PageBuffer,
  newTuple: number,
): void {
  checkTuple(list.view, posting, length);
  const count = tidCount(list.view, posting);
  if (!isPosting(list.view, posting) || position < 1 || position >= count) {
    throw corrupt(`position ${position} in a posting list of ${count} TIDs`);
  }
  const at = posting + tidBlock(list.view, posting) + position * TID_SIZE;
  const last = posting + tidBlock(list.view, posting) + (count - 1) * TID_SIZE;
  const lastHigh = list.view.getUint32(last, true);
  const lastLow = list.view.getUint16(last + 4, true);
  list.bytes.copyWithin(at + TID_SIZE, at, last);
  copyBytes(list.bytes, at, target.bytes, newTuple, TID_SIZE);
  target.view.setUint32(newTuple, lastHigh, true);
  target.view.setUint16(newTuple + 4, lastLow, true);
}

/** The size of a tuple that stands for `count` TIDs. */
export function postingSize(key: number, count: number): number {
  return count > 1 ? maxAlign(key + count * TID_SIZE) : key;
}

/**
 * Writes the header of a tuple that stands for `count` TIDs, after its `key` bytes have been copied to it. The TIDs
 * come behind the key, or, if it is only one, in the place of the tuple's TID; this returns where.
 */
export function finishPostingHeader(page: PageBuffer, tuple: number, key: number, count: number): number {
  const flags = page.view.getUint16(tuple + 6, true) & ~(SIZE_MASK | TID_IS_SPECIAL);
  const size = postingSize(key, count);
  if (count === 1) {
    page.view.setUint16(tuple + 6, flags | size, true);
    return tuple;
  }
  page.view.setUint16(tuple + 6, flags | size | TID_IS_SPECIAL, true);
  setTidBlock(page, tuple, key);
  page.view.setUint16(tuple + 4, count | POSTING_FLAG, true);
  return tuple + key;
}

/**
 * Forms in `target`, from its start, the posting list of an item without the TIDs whose positions (ascending u16)
 * start at `removed`; returns its size.
 */
export function formPostingWithout(
  page: PageBuffer,
  id: number,
  list: DataView,
  removed: number,
  removedCount: number,
  target: PageBuffer,
): number {
  const tuple = itemOffset(id);
  checkTuple(page.view, tuple, itemLength(id));
  const count = tidCount(page.view, tuple);
  if (!isPosting(page.view, tuple) || removedCount >= count) {
    throw corrupt(`${removedCount} TIDs are to be removed from a list of ${count}`);
  }
  const key = keySize(page.view, tuple);
  const kept = count - removedCount;
  const size = postingSize(key, kept);
  target.bytes.fill(0, 0, maxAlign(size));
  copyBytes(target.bytes, 0, page.bytes, tuple, key);
  let at = finishPostingHeader(target, 0, key, kept);
  let next = 0;
  for (let i = 0; i < count; i++) {
    if (next < removedCount && list.getUint16(removed + 2 * next, true) === i) {
      next++;
      continue;
    }
    // Should the positions not be ascending, then more than `kept` remain; what is too much is not written.
    if (i - next < kept) copyBytes(target.bytes, at, page.bytes, tuple + key + i * TID_SIZE, TID_SIZE);
    at += TID_SIZE;
  }
  if (next !== removedCount) throw corrupt(`of ${removedCount} TIDs to be removed only ${next} exist`);
  return size;
}

/**
 * Puts all items of a payload on an empty page. The payload has them in reverse: its last one becomes item 1. Each
 * takes its size rounded up to 8, on the page as in the payload.
 */
export function restoreItems(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  offsets: Uint32Array,
): void {
  let at = blockData(block, 0);
  const end = at + block.dataLength;
  let count = 0;
  while (at < end) {
    if (count === offsets.length) throw corrupt(`more than ${count} index tuples for one page`);
    offsets[count++] = at;
    at += payloadTupleSize(record.view, at, end);
  }
  let upTo = end;
  while (count > 0) {
    const start = offsets[--count] as number;
    const size = upTo - start;
    const target = insertItem(page, maxOffsetNumber(page) + 1, size);
    copyBytes(page.bytes, target, record.bytes, start, size);
    upTo = start;
  }
}
