/**
 * Heap tuples as redo builds and changes them. Little-endian, except that a block number within a TID is two 16-bit
 * words, the high one first. Source: PostgreSQL 14-18, src/include/access/htup_details.h.
 *
 *   offset  size  field
 *        0     4  xmin
 *        4     4  xmax
 *        8     4  command id (or, in tuples of very old servers, xvac)
 *       12     6  ctid: block (high, low), offset number
 *       18     2  infomask2
 *       20     2  infomask
 *       22     1  hoff: where the user data starts
 *       23        null bitmap, padding, user data
 */
import { corrupt } from "../../base/errors.ts";
import { reserveItem } from "../page/items.ts";
import {
  ItemState,
  PageFlag,
  type PageBuffer,
  copyBytes,
  itemLength,
  itemOffset,
  itemState,
  pageCorrupt,
  pageFlags,
  pagePruneXid,
  setPageFlags,
  setPagePruneXid,
  storedItemId,
} from "../page/layout.ts";

export const TUPLE_HEADER_SIZE = 23;
/** infomask2, infomask and hoff, as WAL carries them in front of a tuple's bytes from offset 23 on. */
export const WAL_HEADER_SIZE = 5;
/** Line pointers that a heap page may have at most. */
const HEAP_ITEMS_MAX = 291;

const Infomask = {
  XmaxKeyShareLock: 0x0010,
  ComboCid: 0x0020,
  XmaxExclusiveLock: 0x0040,
  XmaxLockOnly: 0x0080,
  XmaxIsMulti: 0x1000,
  /** Everything that describes xmax. */
  XmaxBits: 0x1cd0,
  Moved: 0xc000,
} as const;
const Infomask2 = { KeysUpdated: 0x2000, HotUpdated: 0x4000 } as const;

/** Bits that say in WAL what xmax means. */
const InfoBits = { IsMulti: 1, LockOnly: 2, ExclusiveLock: 4, KeyShareLock: 8, KeysUpdated: 0x10 } as const;

/** The block and offset number of the ctid of a tuple that has moved to another partition. */
const MOVED_BLOCK = 0xffffffff;
const MOVED_OFFSET = 0xfffd;

const FIRST_NORMAL_XID = 3;

/** The raw line pointer of a tuple with a whole header. */
export function heapTupleId(page: PageBuffer, offsetNumber: number): number {
  const id = storedItemId(page, offsetNumber);
  if (itemState(id) !== ItemState.Normal || itemLength(id) < TUPLE_HEADER_SIZE) {
    pageCorrupt(page, `item ${offsetNumber} is no heap tuple`);
  }
  return id;
}

/** Where a tuple with a whole header starts. */
export function heapTuple(page: PageBuffer, offsetNumber: number): number {
  return itemOffset(heapTupleId(page, offsetNumber));
}

export function setXmin(page: PageBuffer, tuple: number, xid: number): void {
  page.view.setUint32(tuple, xid, true);
}

export function setXmax(page: PageBuffer, tuple: number, xid: number): void {
  page.view.setUint32(tuple + 4, xid, true);
}

/** Command ids are not replayed: zero, and no combined one. */
export function clearCommandId(page: PageBuffer, tuple: number): void {
  page.view.setUint32(tuple + 8, 0, true);
  page.view.setUint16(tuple + 20, page.view.getUint16(tuple + 20, true) & ~Infomask.ComboCid, true);
}

export function setCtid(page: PageBuffer, tuple: number, blockNumber: number, offsetNumber: number): void {
  page.view.setUint16(tuple + 12, blockNumber >>> 16, true);
  page.view.setUint16(tuple + 14, blockNumber & 0xffff, true);
  page.view.setUint16(tuple + 16, offsetNumber, true);
}

export function setCtidMovedToOtherPartition(page: PageBuffer, tuple: number): void {
  setCtid(page, tuple, MOVED_BLOCK, MOVED_OFFSET);
}

/** Forgets what xmax meant, and says anew what it means. */
export function setXmaxMeaning(page: PageBuffer, tuple: number, infoBits: number): void {
  let infomask = page.view.getUint16(tuple + 20, true) & ~(Infomask.XmaxBits | Infomask.Moved);
  let infomask2 = page.view.getUint16(tuple + 18, true) & ~Infomask2.KeysUpdated;
  if (infoBits & InfoBits.IsMulti) infomask |= Infomask.XmaxIsMulti;
  if (infoBits & InfoBits.LockOnly) infomask |= Infomask.XmaxLockOnly;
  if (infoBits & InfoBits.ExclusiveLock) infomask |= Infomask.XmaxExclusiveLock;
  if (infoBits & InfoBits.KeyShareLock) infomask |= Infomask.XmaxKeyShareLock;
  if (infoBits & InfoBits.KeysUpdated) infomask2 |= Infomask2.KeysUpdated;
  page.view.setUint16(tuple + 20, infomask, true);
  page.view.setUint16(tuple + 18, infomask2, true);
}

export function setHotUpdated(page: PageBuffer, tuple: number, value: boolean): void {
  const infomask2 = page.view.getUint16(tuple + 18, true);
  const bit = Infomask2.HotUpdated;
  page.view.setUint16(tuple + 18, value ? infomask2 | bit : infomask2 & ~bit, true);
}

/** True if xmax only locks the tuple. */
export function isXmaxLockedOnly(page: PageBuffer, tuple: number): boolean {
  const infomask = page.view.getUint16(tuple + 20, true);
  const kind = Infomask.XmaxIsMulti | Infomask.XmaxExclusiveLock | Infomask.XmaxKeyShareLock;
  return (infomask & Infomask.XmaxLockOnly) !== 0 || (infomask & kind) === Infomask.XmaxExclusiveLock;
}

/** Lets the page remember the oldest xid whose end may make pruning worth while. */
export function setPrunable(page: PageBuffer, xid: number): void {
  const old = pagePruneXid(page);
  if (old === 0 || xidPrecedes(xid, old)) setPagePruneXid(page, xid);
}

/** Order of 32-bit xids: around the circle for normal ones, by number for the special ones below 3. */
function xidPrecedes(a: number, b: number): boolean {
  if (a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID) return a < b;
  return ((a - b) | 0) < 0;
}

export function clearAllVisible(page: PageBuffer): void {
  setPageFlags(page, pageFlags(page) & ~PageFlag.AllVisible);
}

export function setAllVisible(page: PageBuffer): void {
  setPageFlags(page, pageFlags(page) | PageFlag.AllVisible);
}

/**
 * Adds a tuple of `TUPLE_HEADER_SIZE + bodyLength` bytes whose header is made of the five bytes at `header` in
 * `source` (see `WAL_HEADER_SIZE`) and the rest of the arguments, and returns where it starts. The caller writes
 * the body behind the header.
 */
export function addHeapTuple(
  page: PageBuffer,
  offsetNumber: number,
  bodyLength: number,
  source: DataView,
  header: number,
  xmin: number,
  xmax: number,
  blockNumber: number,
): number {
  if (offsetNumber > HEAP_ITEMS_MAX) {
    throw corrupt(`item ${offsetNumber} is to be added to a heap page, which has ${HEAP_ITEMS_MAX} at most`);
  }
  const tuple = reserveItem(page, offsetNumber, TUPLE_HEADER_SIZE + bodyLength);
  const view = page.view;
  view.setUint32(tuple, xmin, true);
  view.setUint32(tuple + 4, xmax, true);
  view.setUint32(tuple + 8, 0, true);
  setCtid(page, tuple, blockNumber, offsetNumber);
  view.setUint16(tuple + 18, source.getUint16(header, true), true);
  view.setUint16(tuple + 20, source.getUint16(header + 2, true) & ~Infomask.ComboCid, true);
  view.setUint8(tuple + 22, source.getUint8(header + 4));
  return tuple;
}

/** `addHeapTuple` with a body that stands in one piece in `bytes`, over which `view` lies. */
export function addWholeHeapTuple(
  page: PageBuffer,
  offsetNumber: number,
  bytes: Uint8Array,
  view: DataView,
  header: number,
  body: number,
  bodyLength: number,
  xmin: number,
  blockNumber: number,
): void {
  const tuple = addHeapTuple(page, offsetNumber, bodyLength, view, header, xmin, 0, blockNumber);
  copyBytes(page.bytes, tuple + TUPLE_HEADER_SIZE, bytes, body, bodyLength);
}
