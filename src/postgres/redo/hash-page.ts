/**
 * Pages of hash indexes: the special area of 16 bytes, and the bitmap of overflow pages. Little-endian.
 * Source: PostgreSQL 14-18, src/include/access/hash.h, HashPageOpaqueData.
 *
 *   offset  size  field
 *     8176     4  previous block     of the same bucket; on a bucket's first page: the last bucket when it was split
 *     8180     4  next block         of the same bucket; none: 0xffffffff
 *     8184     4  bucket
 *     8188     2  flags              `HashFlag`
 *     8190     2  0xff80
 */
import { corrupt } from "../../base/errors.ts";
import { PAGE_HEADER_SIZE, type PageBuffer, pageInit, setPageLower } from "../page/layout.ts";

export const HASH_SPECIAL_SIZE = 16;
/** In place of a block or bucket: there is none. */
export const NO_HASH_BLOCK = 0xffffffff;
const SPECIAL_OFFSET = 8176;
const PAGE_ID = 0xff80;
/** Bytes of a bitmap page that are bitmap. */
export const BITMAP_SIZE = 4096;

/** The low four bits are the kind of page; 0 is one that is not in use. */
export const HashFlag = {
  Overflow: 0x01,
  Bucket: 0x02,
  Bitmap: 0x04,
  Meta: 0x08,
  BeingPopulated: 0x10,
  BeingSplit: 0x20,
  NeedsSplitCleanup: 0x40,
  HasDeadTuples: 0x80,
} as const;

export interface HashPageFields {
  readonly previous: number;
  readonly next: number;
  readonly bucket: number;
  readonly flags: number;
}

/** Makes the page anew, whether or not the record has announced that it would. */
export function initHashPage(page: PageBuffer, fields: HashPageFields): void {
  pageInit(page, HASH_SPECIAL_SIZE);
  setHashPrevious(page, fields.previous);
  setHashNext(page, fields.next);
  page.view.setUint32(SPECIAL_OFFSET + 8, fields.bucket, true);
  setHashFlags(page, fields.flags);
  page.view.setUint16(SPECIAL_OFFSET + 14, PAGE_ID, true);
}

/** A page without neighbours and bucket: one for bookkeeping or one that is not in use. */
export function initLoneHashPage(page: PageBuffer, flags: number): void {
  initHashPage(page, { previous: NO_HASH_BLOCK, next: NO_HASH_BLOCK, bucket: NO_HASH_BLOCK, flags });
}

export function setHashPrevious(page: PageBuffer, block: number): void {
  page.view.setUint32(SPECIAL_OFFSET, block, true);
}

export function setHashNext(page: PageBuffer, block: number): void {
  page.view.setUint32(SPECIAL_OFFSET + 4, block, true);
}

export function setHashFlags(page: PageBuffer, flags: number): void {
  page.view.setUint16(SPECIAL_OFFSET + 12, flags, true);
}

export function clearHashFlag(page: PageBuffer, flag: number): void {
  setHashFlags(page, page.view.getUint16(SPECIAL_OFFSET + 12, true) & ~flag);
}

/** A bitmap page with everything in use. `size` in bytes. */
export function initBitmapPage(page: PageBuffer, size: number): void {
  if (size > BITMAP_SIZE) throw corrupt(`a bitmap of ${size} bytes on a page for ${BITMAP_SIZE}`);
  initLoneHashPage(page, HashFlag.Bitmap);
  page.bytes.fill(0xff, PAGE_HEADER_SIZE, PAGE_HEADER_SIZE + size);
  setPageLower(page, PAGE_HEADER_SIZE + size);
}

/** Notes in a bitmap page whether an overflow page is in use. */
export function setBitmapBit(page: PageBuffer, bit: number, inUse: boolean): void {
  if (bit >= 8 * BITMAP_SIZE) throw corrupt(`bit ${bit} of a bitmap of ${8 * BITMAP_SIZE} bits`);
  const at = PAGE_HEADER_SIZE + (bit >>> 3);
  const mask = 1 << (bit & 7);
  const old = page.view.getUint8(at);
  page.view.setUint8(at, inUse ? old | mask : old & ~mask);
}
