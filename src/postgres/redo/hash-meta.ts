/**
 * The metapage of a hash index, behind the page header. Little-endian.
 * Source: PostgreSQL 14-18, src/include/access/hash.h, HashMetaPageData; src/backend/access/hash/hashutil.c.
 *
 *   offset  size  field
 *       24     4  magic              0x6440640
 *       28     4  version            4
 *       32     8  number of tuples   f64
 *       40     2  fill factor        tuples per bucket
 *       42     2  size of a bucket page, in bytes
 *       44     2  size of a bitmap, in bytes
 *       46     2  log2 of its bits
 *       48     4  last bucket
 *       52     4  high mask          over the whole table
 *       56     4  low mask           over its lower half
 *       60     4  split point        index into `spares`
 *       64     4  first free         lowest overflow page that may be free
 *       68     4  number of bitmaps
 *       72     4  hash function      oid
 *       76   392  spares             98 times u32: overflow pages before each split point
 *      468  4096  bitmaps            1024 times u32: their blocks
 */
import { corrupt } from "../../base/errors.ts";
import { type PageBuffer, pageCorrupt, setPageLower } from "../page/layout.ts";
import { BITMAP_SIZE, HashFlag, initLoneHashPage } from "./hash-page.ts";

const MAGIC = 0x6440640;
const VERSION = 4;
const BUCKET_PAGE_SIZE = 8152;
const BITMAP_SHIFT = 15;
const LOWER = 4568;
const SPARES_MAX = 98;
const BITMAPS_MAX = 1024;
const BUCKETS_MAX = 0x4000_0000;
/** Up to here a split point doubles the table; from here on it takes four to do so. */
const ONE_PHASE_GROUPS = 10;

const Meta = {
  Magic: 24,
  Version: 28,
  TupleCount: 32,
  FillFactor: 40,
  BucketPageSize: 42,
  BitmapSize: 44,
  BitmapShift: 46,
  LastBucket: 48,
  HighMask: 52,
  LowMask: 56,
  SplitPoint: 60,
  FirstFree: 64,
  BitmapCount: 68,
  HashFunction: 72,
  Spares: 76,
  Bitmaps: 468,
} as const;

/** Smallest power of two, as an exponent, that is not below `n`. */
function ceilLog2(n: number): number {
  return n < 2 ? 0 : 32 - Math.clz32(n - 1);
}

/** The split point at which a table of so many buckets is. */
export function splitPointOf(bucketCount: number): number {
  const group = ceilLog2(bucketCount);
  if (group < ONE_PHASE_GROUPS) return group;
  return ONE_PHASE_GROUPS + 4 * (group - ONE_PHASE_GROUPS) + (((bucketCount - 1) >>> (group - 3)) & 3);
}

/** How many buckets there are once a split point is complete. */
export function bucketsAt(splitPoint: number): number {
  if (splitPoint < ONE_PHASE_GROUPS) return 2 ** splitPoint;
  const half = 2 ** (ONE_PHASE_GROUPS + ((splitPoint - ONE_PHASE_GROUPS) >>> 2) - 1);
  return half + (half / 4) * (((splitPoint - ONE_PHASE_GROUPS) & 3) + 1);
}

function bucketsFor(tupleCount: number, fillFactor: number): number {
  const wanted = tupleCount / fillFactor;
  if (Number.isNaN(wanted)) throw corrupt(`a hash index for ${tupleCount} tuples, ${fillFactor} per bucket`);
  if (wanted <= 2) return 2;
  return wanted >= BUCKETS_MAX ? BUCKETS_MAX : bucketsAt(splitPointOf(Math.trunc(wanted)));
}

/** The metapage of an index made for `tupleCount` tuples. */
export function initMetaPage(
  page: PageBuffer,
  options: { readonly tupleCount: number; readonly hashFunction: number; readonly fillFactor: number },
): void {
  const { view } = page;
  const bucketCount = bucketsFor(options.tupleCount, options.fillFactor);
  const splitPoint = splitPointOf(bucketCount);
  const highMask = 2 ** (32 - Math.clz32(bucketCount)) - 1;
  initLoneHashPage(page, HashFlag.Meta);
  view.setUint32(Meta.Magic, MAGIC, true);
  view.setUint32(Meta.Version, VERSION, true);
  view.setUint16(Meta.FillFactor, options.fillFactor, true);
  view.setUint16(Meta.BucketPageSize, BUCKET_PAGE_SIZE, true);
  view.setUint16(Meta.BitmapSize, BITMAP_SIZE, true);
  view.setUint16(Meta.BitmapShift, BITMAP_SHIFT, true);
  view.setUint32(Meta.LastBucket, bucketCount - 1, true);
  view.setUint32(Meta.HighMask, highMask, true);
  view.setUint32(Meta.LowMask, highMask >>> 1, true);
  view.setUint32(Meta.SplitPoint, splitPoint, true);
  view.setUint32(Meta.HashFunction, options.hashFunction, true);
  view.setUint32(Meta.Spares + 4 * splitPoint, 1, true);
  setPageLower(page, LOWER);
}

export function addTupleCount(page: PageBuffer, difference: number): void {
  setTupleCount(page, page.view.getFloat64(Meta.TupleCount, true) + difference);
}

export function setTupleCount(page: PageBuffer, count: number): void {
  page.view.setFloat64(Meta.TupleCount, count, true);
}

export function setFirstFree(page: PageBuffer, bit: number): void {
  page.view.setUint32(Meta.FirstFree, bit, true);
}

/** Adds the index's first bitmap page, which follows the buckets. */
export function addFirstBitmap(page: PageBuffer): void {
  addBitmap(page, page.view.getUint32(Meta.LastBucket, true) + 2);
}

/** Counts an overflow page at the current split point, and the bitmap page that had to be added for it, if any. */
export function addOverflowPage(page: PageBuffer, bitmapBlock: number | undefined): void {
  const splitPoint = page.view.getUint32(Meta.SplitPoint, true);
  const at = spare(page, splitPoint);
  const added = bitmapBlock === undefined ? 1 : 2;
  page.view.setUint32(at, page.view.getUint32(at, true) + added, true);
  if (bitmapBlock !== undefined) addBitmap(page, bitmapBlock);
}

function addBitmap(page: PageBuffer, block: number): void {
  const count = page.view.getUint32(Meta.BitmapCount, true);
  if (count >= BITMAPS_MAX) pageCorrupt(page, `a bitmap page is to be added to ${count}`);
  page.view.setUint32(Meta.Bitmaps + 4 * count, block, true);
  page.view.setUint32(Meta.BitmapCount, count + 1, true);
}

function spare(page: PageBuffer, splitPoint: number): number {
  if (splitPoint >= SPARES_MAX) pageCorrupt(page, `split point ${splitPoint} of ${SPARES_MAX}`);
  return Meta.Spares + 4 * splitPoint;
}

export function setLastBucket(page: PageBuffer, bucket: number): void {
  page.view.setUint32(Meta.LastBucket, bucket, true);
}

export function setMasks(page: PageBuffer, lowMask: number, highMask: number): void {
  page.view.setUint32(Meta.LowMask, lowMask, true);
  page.view.setUint32(Meta.HighMask, highMask, true);
}

export function setSplitPoint(page: PageBuffer, splitPoint: number, spares: number): void {
  page.view.setUint32(spare(page, splitPoint), spares, true);
  page.view.setUint32(Meta.SplitPoint, splitPoint, true);
}
