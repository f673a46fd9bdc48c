/**
 * Pages and tuples of SP-GiST indexes. Little-endian, except that a block number within a TID is two 16-bit words, the
 * high one first. Source: PostgreSQL 14-18, src/include/access/spgist_private.h, src/backend/access/spgist/spgutils.c.
 *
 *   offset  size  field of the special area
 *     8184     2  flags              `SpgistFlag`
 *     8186     2  redirects          number of redirect tuples on the page
 *     8188     2  placeholders       number of placeholder tuples on the page
 *     8190     2  0xff82
 *
 *   offset  size  field of a tuple on a leaf, and of one that is redirect, dead or placeholder
 *        0     4  state (2 bits, `TupleState`), size (30 bits)
 *        4     2  number of the next tuple of the chain (14 bits), flags
 *        6     6  TID               of the heap tuple; of a redirect: where it leads
 *       12     4  xid               of a redirect
 *
 *   offset  size  field of an inner tuple
 *        0     4  state (2 bits), flag, number of nodes (13 bits), size of the prefix (16 bits)
 *        4     2  size
 *        8        prefix, then nodes: TID of what is below 6, size and flags u16, label
 */
import { corrupt } from "../../base/errors.ts";
import { deleteIndexItem, deleteIndexItems, insertItem, insertItemBytes } from "../page/items.ts";
import {
  type PageBuffer,
  itemLength,
  itemOffset,
  maxOffsetNumber,
  pageCorrupt,
  storedItemId,
} from "../page/layout.ts";
import type { BlockRef } from "../wal/record.ts";
import { INDEX_TUPLE_HEADER_SIZE, setTidBlock, tupleSize } from "./btree-tuple.ts";
import type { RedoContext } from "./context.ts";
import { checkRoom, initPage } from "./payload.ts";

export const SPGIST_SPECIAL_SIZE = 8;
const FLAGS_OFFSET = 8184;
const REDIRECTS_OFFSET = 8186;
const PLACEHOLDERS_OFFSET = 8188;
const PAGE_ID_OFFSET = 8190;
const PAGE_ID = 0xff82;
const NO_BLOCK = 0xffffffff;
/** Every tuple is at least as large as a dead one, so that it can become one. */
const DEAD_TUPLE_SIZE = 16;
const INNER_HEADER_SIZE = 8;
const STATE_MASK = 0x03;
const NEXT_MASK = 0x3fff;

export const SpgistFlag = { Leaf: 0x04, Nulls: 0x08 } as const;
export const TupleState = { Live: 0, Redirect: 1, Dead: 2, Placeholder: 3 } as const;

/** Where a redirect leads, and since which transaction. */
export interface Redirect {
  readonly block: number;
  readonly offsetNumber: number;
  readonly xid: number;
}

/** For tuples in place of which no redirect is left. */
export const NO_REDIRECT: Redirect = { block: NO_BLOCK, offsetNumber: 0, xid: 0 };

/** A place in a record's payload, or in a page: tuples are copied from there. */
export interface TupleSource {
  readonly bytes: Uint8Array;
  readonly offset: number;
  readonly size: number;
}

export function initSpgistPage(page: PageBuffer, block: BlockRef, flags: number): void {
  initPage(page, block, SPGIST_SPECIAL_SIZE);
  page.view.setUint16(FLAGS_OFFSET, flags, true);
  page.view.setUint16(PAGE_ID_OFFSET, PAGE_ID, true);
}

/** Size of a leaf tuple within a payload that ends at `end`. Throws `corrupt` if it does not fit. */
export function leafTupleSize(view: DataView, tuple: number, end: number): number {
  checkRoom(tuple, DEAD_TUPLE_SIZE, end);
  return checkedSize(view.getUint32(tuple, true) >>> 2, tuple, end);
}

/** Size of an inner tuple within a payload that ends at `end`. Throws `corrupt` if it does not fit. */
export function innerTupleSize(view: DataView, tuple: number, end: number): number {
  checkRoom(tuple, DEAD_TUPLE_SIZE, end);
  return checkedSize(view.getUint16(tuple + 4, true), tuple, end);
}

function checkedSize(size: number, tuple: number, end: number): number {
  if (size < DEAD_TUPLE_SIZE || size > end - tuple) {
    throw corrupt(`an SP-GiST tuple of ${size} bytes where ${end - tuple} are left`);
  }
  return size;
}

/** Where a tuple lies on the page. */
function tupleOffset(page: PageBuffer, offsetNumber: number): number {
  const id = storedItemId(page, offsetNumber);
  if (itemLength(id) < DEAD_TUPLE_SIZE) pageCorrupt(page, `item ${offsetNumber} is no SP-GiST tuple`);
  return itemOffset(id);
}

export function addRedirects(page: PageBuffer, count: number): void {
  page.view.setUint16(REDIRECTS_OFFSET, page.view.getUint16(REDIRECTS_OFFSET, true) + count, true);
}

export function addPlaceholders(page: PageBuffer, count: number): void {
  page.view.setUint16(PLACEHOLDERS_OFFSET, page.view.getUint16(PLACEHOLDERS_OFFSET, true) + count, true);
}

/** Puts a tuple in the place of a placeholder, or behind the last item. */
export function addOrReplaceTuple(page: PageBuffer, offsetNumber: number, source: TupleSource): void {
  if (offsetNumber >= 1 && offsetNumber <= maxOffsetNumber(page)) {
    const state = page.view.getUint8(tupleOffset(page, offsetNumber)) & STATE_MASK;
    if (state !== TupleState.Placeholder) {
      pageCorrupt(page, `item ${offsetNumber} is to be replaced, but is no placeholder`);
    }
    addPlaceholders(page, -1);
    deleteIndexItem(page, offsetNumber);
  }
  insertItemBytes(page, offsetNumber, source.bytes, source.offset, source.size);
}

/** Puts a tuple in the place of any other. */
export function replaceTuple(page: PageBuffer, offsetNumber: number, source: TupleSource): void {
  deleteIndexItem(page, offsetNumber);
  insertItemBytes(page, offsetNumber, source.bytes, source.offset, source.size);
}

function insertDeadTuple(page: PageBuffer, offsetNumber: number, state: number, redirect: Redirect): void {
  const { view } = page;
  const leads = state === TupleState.Redirect ? redirect : NO_REDIRECT;
  const at = insertItem(page, offsetNumber, DEAD_TUPLE_SIZE);
  view.setUint32(at, state | (DEAD_TUPLE_SIZE << 2), true);
  view.setUint16(at + 4, 0, true);
  setTidBlock(page, at + 6, leads.block);
  view.setUint16(at + 10, leads.offsetNumber, true);
  view.setUint32(at + 12, leads.xid, true);
  if (state === TupleState.Redirect) addRedirects(page, 1);
  else if (state === TupleState.Placeholder) addPlaceholders(page, 1);
}

/** Puts a redirect or a placeholder in the place of a tuple. */
export function replaceByDeadTuple(
  page: PageBuffer,
  offsetNumber: number,
  state: number,
  redirect: Redirect,
): void {
  deleteIndexItem(page, offsetNumber);
  insertDeadTuple(page, offsetNumber, state, redirect);
}

/**
 * Puts dead tuples in the place of `count` others, whose numbers stand in any order as u16 at `listOffset` of `list`:
 * one in state `first` for the first of the list, in state `rest` for all others.
 */
export function killTuples(
  page: PageBuffer,
  list: DataView,
  listOffset: number,
  count: number,
  states: { readonly first: number; readonly rest: number; readonly redirect: Redirect },
  context: RedoContext,
): void {
  if (count === 0) return;
  if (count > context.scratchOffsets.length) throw corrupt(`${count} tuples to be removed from one page`);
  const sorted = context.scratchOffsets.subarray(0, count);
  for (let i = 0; i < count; i++) sorted[i] = list.getUint16(listOffset + 2 * i, true);
  sorted.sort();
  const { view } = context.scratchTuple;
  for (let i = 0; i < count; i++) view.setUint16(2 * i, sorted[i] as number, true);
  deleteIndexItems(page, view, 0, count, context.scratchPage);
  const first = list.getUint16(listOffset, true);
  for (const offsetNumber of sorted) {
    const state = offsetNumber === first ? states.first : states.rest;
    insertDeadTuple(page, offsetNumber, state, states.redirect);
  }
}

/** Makes a redirect a placeholder; its xid stays. */
export function redirectToPlaceholder(page: PageBuffer, offsetNumber: number): void {
  const at = tupleOffset(page, offsetNumber);
  page.view.setUint8(at, (page.view.getUint8(at) & ~STATE_MASK) | TupleState.Placeholder);
  setTidBlock(page, at + 6, NO_BLOCK);
  page.view.setUint16(at + 10, 0, true);
}

/** Says which tuple of the page follows one in its chain. */
export function setNextTuple(page: PageBuffer, offsetNumber: number, next: number): void {
  const at = tupleOffset(page, offsetNumber) + 4;
  const flags = page.view.getUint16(at, true) & ~NEXT_MASK;
  page.view.setUint16(at, flags | (next & NEXT_MASK), true);
}

/** Points a node (counted from 0) of an inner tuple to another tuple. */
export function setNodeLink(
  page: PageBuffer,
  place: { readonly offsetNumber: number; readonly node: number },
  target: { readonly block: number; readonly offsetNumber: number },
): void {
  const { view } = page;
  const tuple = tupleOffset(page, place.offsetNumber);
  const end = tuple + itemLength(storedItemId(page, place.offsetNumber));
  let at = tuple + INNER_HEADER_SIZE + view.getUint16(tuple + 2, true);
  for (let node = 0; ; node++) {
    const size = at + INDEX_TUPLE_HEADER_SIZE > end ? 0 : tupleSize(view, at);
    if (size < INDEX_TUPLE_HEADER_SIZE || size > end - at) {
      pageCorrupt(page, `node ${node} of item ${place.offsetNumber} lies outside of it`);
    }
    if (node === place.node) break;
    at += size;
  }
  setTidBlock(page, at, target.block);
  view.setUint16(at + 4, target.offsetNumber, true);
}
