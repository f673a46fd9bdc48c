/**
 * Pages of GIN indexes: the special area of 8 bytes, the metapage, and the pages of posting trees ("data pages").
 * Little-endian, except that a block number within a TID or posting item is two 16-bit words, the high one first.
 * Source: PostgreSQL 14-18, src/include/access/ginblock.h.
 *
 *   offset  size  field
 *     8184     4  right link         block of the right sibling; none: 0xffffffff
 *     8188     2  count              posting items of an inner data page; in the pending list, heap rows begun
 *     8190     2  flags              `GinFlag`
 *
 * Entry pages and those of the pending list hold ordinary items. Data pages have a right bound (TID) at 24 and their
 * content from 32 on: leaves compressed posting lists, inner pages posting items of 10 bytes (child block, TID).
 */
import { corrupt } from "../../base/errors.ts";
import {
  PAGE_HEADER_SIZE,
  type PageBuffer,
  copyBytes,
  pageCorrupt,
  pageUpper,
  setPageLower,
} from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import { initPage } from "./payload.ts";

export const GIN_SPECIAL_SIZE = 8;
export const NO_GIN_BLOCK = 0xffffffff;
export const META_DATA_SIZE = 56;
export const POSTING_ITEM_SIZE = 10;
/** Where the content of a data page starts. */
export const DATA_OFFSET = 32;
const SPECIAL_OFFSET = 8184;

export const GinFlag = {
  Data: 0x01,
  Leaf: 0x02,
  Deleted: 0x04,
  Meta: 0x08,
  List: 0x10,
  ListFullRow: 0x20,
  IncompleteSplit: 0x40,
  Compressed: 0x80,
} as const;

/** Makes the page anew, without a right sibling. */
export function initGinPage(page: PageBuffer, block: BlockRef, flags: number): void {
  initPage(page, block, GIN_SPECIAL_SIZE);
  setRightLink(page, NO_GIN_BLOCK);
  setGinFlags(page, flags);
}

/** Makes the page the metapage, with the 56 bytes of fields that WAL carries as they are on the page. */
export function initGinMeta(page: PageBuffer, block: BlockRef, record: WalRecord, fields: number): void {
  initGinPage(page, block, GinFlag.Meta);
  copyBytes(page.bytes, PAGE_HEADER_SIZE, record.bytes, fields, META_DATA_SIZE);
  setPageLower(page, PAGE_HEADER_SIZE + META_DATA_SIZE);
}

export function setRightLink(page: PageBuffer, block: number): void {
  page.view.setUint32(SPECIAL_OFFSET, block, true);
}

export function ginCount(page: PageBuffer): number {
  return page.view.getUint16(SPECIAL_OFFSET + 4, true);
}

export function setGinCount(page: PageBuffer, count: number): void {
  page.view.setUint16(SPECIAL_OFFSET + 4, count, true);
}

export function ginFlags(page: PageBuffer): number {
  return page.view.getUint16(SPECIAL_OFFSET + 6, true);
}

export function setGinFlags(page: PageBuffer, flags: number): void {
  page.view.setUint16(SPECIAL_OFFSET + 6, flags, true);
}

/** Says how many bytes of content a data page has. Throws `corrupt` if that is more than it has room for. */
export function setDataSize(page: PageBuffer, size: number): void {
  checkDataSize(page, size);
  setPageLower(page, DATA_OFFSET + size);
}

/** Throws `corrupt` if a data page has no room for so much content. */
export function checkDataSize(page: PageBuffer, size: number): void {
  if (DATA_OFFSET + size > pageUpper(page)) {
    pageCorrupt(page, `${size} bytes are to be put on a data page without room for them`);
  }
}

/** Where the posting item with a number (from 1) lies, on a page with `count` of them or about to have. */
function postingItem(page: PageBuffer, offsetNumber: number, count: number): number {
  if (offsetNumber < 1 || offsetNumber > count) {
    pageCorrupt(page, `posting item ${offsetNumber} is wanted on a page with ${count}`);
  }
  checkDataSize(page, count * POSTING_ITEM_SIZE);
  return DATA_OFFSET + (offsetNumber - 1) * POSTING_ITEM_SIZE;
}

/** Points an existing posting item to another child. `child` is where the block number stands, as on the page. */
export function setPostingItemChild(
  page: PageBuffer,
  offsetNumber: number,
  record: WalRecord,
  child: number,
): void {
  const at = postingItem(page, offsetNumber, ginCount(page));
  copyBytes(page.bytes, at, record.bytes, child, 4);
}

/** Inserts a posting item from a record, moving those from its number on up. */
export function insertPostingItem(
  page: PageBuffer,
  offsetNumber: number,
  record: WalRecord,
  source: number,
): void {
  const count = ginCount(page) + 1;
  const at = postingItem(page, offsetNumber, count);
  const end = DATA_OFFSET + (count - 1) * POSTING_ITEM_SIZE;
  page.bytes.copyWithin(at + POSTING_ITEM_SIZE, at, end);
  copyBytes(page.bytes, at, record.bytes, source, POSTING_ITEM_SIZE);
  setGinCount(page, count);
  setDataSize(page, count * POSTING_ITEM_SIZE);
}

export function deletePostingItem(page: PageBuffer, offsetNumber: number): void {
  const count = ginCount(page);
  const at = postingItem(page, offsetNumber, count);
  page.bytes.copyWithin(at, at + POSTING_ITEM_SIZE, DATA_OFFSET + count * POSTING_ITEM_SIZE);
  setGinCount(page, count - 1);
  setDataSize(page, (count - 1) * POSTING_ITEM_SIZE);
}

/** Throws `corrupt` unless the page is a data page of the kind that the record changes. */
export function checkDataPage(page: PageBuffer, isLeaf: boolean): void {
  const flags = ginFlags(page) & (GinFlag.Data | GinFlag.Leaf);
  if (flags !== (GinFlag.Data | (isLeaf ? GinFlag.Leaf : 0))) {
    throw corrupt(`the page is no ${isLeaf ? "leaf" : "inner page"} of a posting tree`, {
      flags: ginFlags(page),
    });
  }
}
