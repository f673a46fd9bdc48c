/**
 * Index tuples in the payloads of hash, GIN and GiST records. The header is that of `btree-tuple.ts`: TID 6 bytes, then
 * size and flags u16.
 */
import { corrupt } from "../../base/errors.ts";
import { insertItem } from "../page/items.ts";
import { type PageBuffer, copyBytes, maxOffsetNumber } from "../page/layout.ts";
import type { WalRecord } from "../wal/record.ts";
import { INDEX_TUPLE_HEADER_SIZE, payloadTupleSize, tupleSize } from "./btree-tuple.ts";
import { checkPayloadEnd, checkRoom } from "./payload.ts";

/** The size, as it is, of a tuple within a payload that ends at `end`. Throws `corrupt` if it does not fit. */
export function packedTupleSize(view: DataView, tuple: number, end: number): number {
  checkRoom(tuple, INDEX_TUPLE_HEADER_SIZE, end);
  const size = tupleSize(view, tuple);
  if (size < INDEX_TUPLE_HEADER_SIZE || size > end - tuple) {
    throw corrupt(`an index tuple of ${size} bytes where ${end - tuple} are left`);
  }
  return size;
}

/** Appends the tuples that fill a payload from `start` to `end`, one right behind the other; returns how many. */
export function appendPackedTuples(page: PageBuffer, record: WalRecord, start: number, end: number): number {
  let count = 0;
  for (let at = start; at < end; count++) {
    const size = packedTupleSize(record.view, at, end);
    const target = insertItem(page, maxOffsetNumber(page) + 1, size);
    copyBytes(page.bytes, target, record.bytes, at, size);
    at += size;
  }
  return count;
}

/**
 * Inserts tuples at given positions. Payload: `count` offset numbers u16, then the tuples, each in its size rounded up
 * to 8, which it takes on the page, too.
 */
export function insertAlignedTuples(
  page: PageBuffer,
  record: WalRecord,
  start: number,
  end: number,
  count: number,
): void {
  const { view, bytes } = record;
  checkRoom(start, 2 * count, end);
  let at = start + 2 * count;
  for (let i = 0; i < count; i++) {
    const size = payloadTupleSize(view, at, end);
    const target = insertItem(page, view.getUint16(start + 2 * i, true), size);
    copyBytes(page.bytes, target, bytes, at, size);
    at += size;
  }
  checkPayloadEnd(at, end);
}
