/**
 * Masks: what may differ between a page that redo made and the page that the server had. Hint bits, the bytes of the
 * hole and the like are not in the WAL. Exactly what Postgres masks for wal_consistency_checking.
 * Source: PostgreSQL 14-18, src/backend/access/common/bufmask.c and the *_mask functions of the resource managers.
 */
import { PAGE_SIZE, Rmgr } from "../constants.ts";
import {
  ItemState,
  PAGE_HEADER_SIZE,
  PageFlag,
  type PageBuffer,
  itemId,
  itemIdPosition,
  itemLength,
  itemOffset,
  itemState,
  maxAlign,
  maxOffsetNumber,
  pageCorrupt,
  pageFlags,
  pageLower,
  pageSpecial,
  pageUpper,
  setPageFlags,
  setPageLower,
  setPagePruneXid,
  setPageUpper,
} from "../page/layout.ts";
import { TUPLE_HEADER_SIZE, setCtid } from "./heap-tuple.ts";

/**
 * Changes `page` (a copy!) so that it equals any other right version of the same page, of the kind that `rmgr`
 * writes. Resource managers without a mask leave it as it is. Throws `corrupt` if the page's header makes no sense.
 */
export function maskPage(rmgr: number, page: PageBuffer, blockNumber: number): void {
  switch (rmgr) {
    case Rmgr.Heap:
    case Rmgr.Heap2:
      maskHints(page);
      maskHole(page);
      maskHeapTuples(page, blockNumber);
      return;
    case Rmgr.Btree:
      maskHints(page);
      maskHole(page);
      maskBtree(page);
      return;
    case Rmgr.Hash:
      maskHints(page);
      maskHole(page);
      maskHash(page);
      return;
    case Rmgr.Gin:
      maskHints(page);
      maskGin(page);
      return;
    case Rmgr.Gist:
      maskHints(page);
      maskHole(page);
      maskGist(page);
      return;
    case Rmgr.Spgist:
      maskHints(page);
      if (pageLower(page) >= PAGE_HEADER_SIZE) maskHole(page);
      return;
    case Rmgr.Brin:
      maskHints(page);
      maskBrin(page);
      return;
    case Rmgr.Seq:
    case Rmgr.Generic:
      maskLsnAndChecksum(page);
      maskHole(page);
      return;
    default:
  }
}

function maskLsnAndChecksum(page: PageBuffer): void {
  page.bytes.fill(0, 0, 10);
}

/** LSN, checksum and the hints in the page header. */
function maskHints(page: PageBuffer): void {
  maskLsnAndChecksum(page);
  setPagePruneXid(page, 0);
  const hints = PageFlag.PageFull | PageFlag.HasFreeLines | PageFlag.AllVisible;
  setPageFlags(page, pageFlags(page) & ~hints);
}

function maskHole(page: PageBuffer): void {
  const lower = pageLower(page);
  const upper = pageUpper(page);
  const special = pageSpecial(page);
  if (lower > upper || special < upper || lower < PAGE_HEADER_SIZE || special > PAGE_SIZE) {
    pageCorrupt(page, `the page header is damaged: lower ${lower}, upper ${upper}, special ${special}`);
  }
  page.bytes.fill(0, lower, upper);
}

/** Everything behind the header, and where the hole begins and ends: for pages whose content means nothing. */
function maskContent(page: PageBuffer): void {
  page.bytes.fill(0, PAGE_HEADER_SIZE);
  setPageLower(page, 0);
  setPageUpper(page, 0);
}

/** The states of line pointers: in indexes, "dead" is a hint. */
function maskItemStates(page: PageBuffer): void {
  const count = maxOffsetNumber(page);
  for (let number = 1; number <= count; number++) {
    page.view.setUint32(itemIdPosition(number), (itemId(page, number) & ~(3 << 15)) >>> 0, true);
  }
}

const HEAP_XMIN_FROZEN = 0x0300;
/** All bits of infomask about transactions: hints and more. */
const HEAP_XACT_BITS = 0xfff0;
/** xmax committed, xmax invalid. */
const HEAP_XMAX_HINTS = 0x0c00;
/** The offset number in ctid of a tuple whose insertion is not confirmed yet: the rest is a token then. */
const SPECULATIVE_OFFSET = 0xfffe;

function maskHeapTuples(page: PageBuffer, blockNumber: number): void {
  const count = maxOffsetNumber(page);
  const { view } = page;
  for (let number = 1; number <= count; number++) {
    const id = itemId(page, number);
    const offset = itemOffset(id);
    const length = itemLength(id);
    if (offset + maxAlign(length) > PAGE_SIZE) pageCorrupt(page, `item ${number} ends behind the page`);
    if (itemState(id) === ItemState.Normal) {
      if (offset + TUPLE_HEADER_SIZE > PAGE_SIZE) pageCorrupt(page, `item ${number} is no heap tuple`);
      const infomask = view.getUint16(offset + 20, true);
      const isFrozen = (infomask & HEAP_XMIN_FROZEN) === HEAP_XMIN_FROZEN;
      view.setUint16(offset + 20, infomask & ~(isFrozen ? HEAP_XMAX_HINTS : HEAP_XACT_BITS), true);
      view.setUint32(offset + 8, 0, true);
      if (view.getUint16(offset + 16, true) === SPECULATIVE_OFFSET) {
        setCtid(page, offset, blockNumber, number);
      }
    }
    if (length > 0) page.bytes.fill(0, offset + length, offset + maxAlign(length));
  }
}

/** Special area: flags u16 at 8188, cycle id u16 at 8190. */
function maskBtree(page: PageBuffer): void {
  const LEAF = 0x01;
  const SPLIT_END = 0x20;
  const HAS_GARBAGE = 0x40;
  const flags = page.view.getUint16(8188, true);
  if (flags & LEAF) maskItemStates(page);
  page.view.setUint16(8188, flags & ~(SPLIT_END | HAS_GARBAGE), true);
  page.view.setUint16(8190, 0, true);
}

/** Special area: flags u16 at 8188, whose low four bits are the kind of page. */
function maskHash(page: PageBuffer): void {
  const KIND = 0x0f;
  const UNUSED = 0;
  const OVERFLOW = 1;
  const BUCKET = 2;
  const HAS_DEAD_TUPLES = 0x80;
  const flags = page.view.getUint16(8188, true);
  const kind = flags & KIND;
  if (kind === UNUSED) {
    maskContent(page);
    // The content mask reaches over the special area; the kind stays what it was: unused.
    return;
  }
  if (kind === OVERFLOW || kind === BUCKET) maskItemStates(page);
  page.view.setUint16(8188, flags & ~HAS_DEAD_TUPLES, true);
}

/** Special area: flags u16 at 8190. */
function maskGin(page: PageBuffer): void {
  const DELETED = 0x04;
  if (page.view.getUint16(8190, true) & DELETED) maskContent(page);
  else if (pageLower(page) > PAGE_HEADER_SIZE) maskHole(page);
}

/** Special area: NSN at 8176, flags u16 at 8188. */
function maskGist(page: PageBuffer): void {
  const LEAF = 0x01;
  const FOLLOW_RIGHT = 0x08;
  const HAS_GARBAGE = 0x10;
  const flags = page.view.getUint16(8188, true);
  page.bytes.fill(0, 8176, 8184);
  if (flags & LEAF) maskItemStates(page);
  page.view.setUint16(8188, (flags | FOLLOW_RIGHT) & ~HAS_GARBAGE, true);
}

/** Special area: flags u16 at 8188, kind of page u16 at 8190. */
function maskBrin(page: PageBuffer): void {
  const META = 0xf091;
  const REGULAR = 0xf093;
  const EVACUATE = 0x01;
  const kind = page.view.getUint16(8190, true);
  if (kind === REGULAR || (kind === META && pageLower(page) > PAGE_HEADER_SIZE)) maskHole(page);
  page.view.setUint16(8188, page.view.getUint16(8188, true) & ~EVACUATE, true);
}
