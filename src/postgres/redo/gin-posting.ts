/**
 * Compressed posting lists ("segments") on the leaves of GIN posting trees, and the record parts that change them.
 * Source: PostgreSQL 14-18, src/backend/access/gin/{ginpostinglist,ginxlog}.c, src/include/access/ginxlog.h.
 *
 *   offset  size  field
 *        0     6  first TID
 *        6     2  size of what follows, in bytes
 *        8        for each further TID the distance from the one before; one zero byte if the size is odd
 *
 * A TID counts as the number block * 2048 + offset number; a distance is written in groups of 7 bits, the lowest first,
 * and all bytes but the last have their high bit set. Numbers have 43 bits, which is why this is not 32-bit arithmetic.
 */
import { corrupt } from "../../base/errors.ts";
import { type PageBuffer, copyBytes, pageCorrupt, pageLower } from "../page/layout.ts";
import type { WalRecord } from "../wal/record.ts";
import { TID_SIZE } from "./btree-tuple.ts";
import {
  DATA_OFFSET,
  GinFlag,
  checkDataSize,
  ginCount,
  ginFlags,
  setDataSize,
  setGinCount,
  setGinFlags,
} from "./gin-page.ts";
import { checkPayloadEnd, checkRoom } from "./payload.ts";

const SEGMENT_HEADER_SIZE = 8;
const OFFSET_NUMBERS = 2048;
/** One more than the highest TID as a number. */
const TID_NUMBERS = 2 ** 43;
/** The most bytes that a distance takes. */
const DISTANCE_SIZE_MAX = 7;
/** Higher than any TID: what a list that has ended says. */
const END = Infinity;

const SegmentAction = { Delete: 1, Insert: 2, Replace: 3, AddItems: 4 } as const;

/** A TID as the number that posting lists are ordered by. */
function tidNumber(view: DataView, at: number): number {
  const block = view.getUint16(at, true) * 65536 + view.getUint16(at + 2, true);
  // An offset number above 2047 does not occur; its higher bits would count into the block.
  return block * OFFSET_NUMBERS + view.getUint16(at + 4, true);
}

/** Size of the segment at `at`, with its padding. Throws `corrupt` if it does not end at or before `end`. */
function segmentSize(view: DataView, at: number, end: number): number {
  checkRoom(at, SEGMENT_HEADER_SIZE, end);
  const bytes = view.getUint16(at + 6, true);
  const size = SEGMENT_HEADER_SIZE + bytes + (bytes & 1);
  checkRoom(at, size, end);
  return size;
}

/** Reads the TIDs of a segment, which has been checked to lie within `bytes`. */
class SegmentReader {
  /** The TID that comes next; `END` after the last one. */
  value: number;
  private readonly bytes: Uint8Array;
  private at: number;
  private readonly end: number;

  constructor(bytes: Uint8Array, view: DataView, segment: number) {
    this.bytes = bytes;
    this.value = tidNumber(view, segment);
    this.at = segment + SEGMENT_HEADER_SIZE;
    this.end = this.at + view.getUint16(segment + 6, true);
  }

  next(): void {
    if (this.at === this.end) {
      this.value = END;
      return;
    }
    let distance = 0;
    let unit = 1;
    for (let i = 0; ; i++) {
      if (i === DISTANCE_SIZE_MAX || this.at === this.end) {
        throw corrupt("a posting list has a distance that does not end");
      }
      const byte = this.bytes[this.at++] as number;
      distance += (byte & 0x7f) * unit;
      if (byte < 0x80) break;
      unit *= 128;
    }
    this.value += distance;
    if (this.value >= TID_NUMBERS) throw corrupt("a posting list leads beyond the last TID");
  }
}

/** Reads TIDs that stand one behind the other, as on pages of old and in records. */
class TidReader {
  value = END;
  private readonly view: DataView;
  private at: number;
  private readonly end: number;

  constructor(view: DataView, start: number, count: number) {
    this.view = view;
    this.at = start;
    this.end = start + count * TID_SIZE;
    this.next();
  }

  next(): void {
    if (this.at === this.end) {
      this.value = END;
      return;
    }
    this.value = tidNumber(this.view, this.at);
    this.at += TID_SIZE;
  }
}

/** Writes a segment to a page, never beyond `end`. */
class SegmentWriter {
  private readonly page: PageBuffer;
  private readonly start: number;
  private at: number;
  private readonly end: number;
  private last = 0;

  constructor(page: PageBuffer, start: number, end: number) {
    this.page = page;
    this.start = start;
    this.at = start;
    this.end = end;
  }

  /** Adds a TID, higher than the one before. */
  add(value: number): void {
    const { bytes } = this.page;
    if (this.at === this.start) {
      this.first(value);
      return;
    }
    let distance = value - this.last;
    this.last = value;
    if (distance <= 0) throw corrupt("the TIDs of a posting list are not ascending");
    if (this.end - this.at < DISTANCE_SIZE_MAX && this.end - this.at < sizeOfDistance(distance)) {
      pageCorrupt(this.page, "a posting list does not fit onto the page");
    }
    while (distance >= 0x80) {
      bytes[this.at++] = 0x80 | (distance % 128);
      distance = Math.floor(distance / 128);
    }
    bytes[this.at++] = distance;
  }

  private first(value: number): void {
    const { view } = this.page;
    if (this.end - this.at < SEGMENT_HEADER_SIZE) {
      pageCorrupt(this.page, "a posting list does not fit onto the page");
    }
    if (value >= TID_NUMBERS) throw corrupt("a posting list begins beyond the last TID");
    const block = Math.floor(value / OFFSET_NUMBERS);
    view.setUint16(this.at, block >>> 16, true);
    view.setUint16(this.at + 2, block & 0xffff, true);
    view.setUint16(this.at + 4, value % OFFSET_NUMBERS, true);
    this.at += SEGMENT_HEADER_SIZE;
    this.last = value;
  }

  /** Completes the segment; returns where it ends. */
  finish(): number {
    const { view } = this.page;
    const size = this.at - this.start - SEGMENT_HEADER_SIZE;
    view.setUint16(this.start + 6, size, true);
    if (size & 1) {
      if (this.at === this.end) pageCorrupt(this.page, "a posting list does not fit onto the page");
      view.setUint8(this.at++, 0);
    }
    return this.at;
  }
}

function sizeOfDistance(distance: number): number {
  let size = 1;
  for (let rest = distance; rest >= 0x80; rest = Math.floor(rest / 128)) size++;
  return size;
}

/** Writes one segment with the TIDs of both lists, each once; returns where it ends. */
function mergeInto(
  target: PageBuffer,
  at: number,
  end: number,
  a: SegmentReader | TidReader,
  b: SegmentReader | TidReader,
): number {
  const writer = new SegmentWriter(target, at, end);
  while (a.value !== END || b.value !== END) {
    const value = Math.min(a.value, b.value);
    writer.add(value);
    if (a.value === value) a.next();
    if (b.value === value) b.next();
  }
  return writer.finish();
}

/** A page from before 9.4 has its TIDs one behind the other; they become one segment. */
function compressPage(page: PageBuffer, scratch: PageBuffer): void {
  const count = ginCount(page);
  checkDataSize(page, count * TID_SIZE);
  let size = 0;
  if (count > 0) {
    const none = new TidReader(page.view, 0, 0);
    size = mergeInto(scratch, 0, scratch.bytes.length, new TidReader(page.view, DATA_OFFSET, count), none);
    checkDataSize(page, size);
    page.bytes.set(scratch.bytes.subarray(0, size), DATA_OFFSET);
  }
  setDataSize(page, size);
  setGinFlags(page, ginFlags(page) | GinFlag.Compressed);
  setGinCount(page, 0);
}

/**
 * Changes the segments of a leaf. `start` to `end` of the record: number of actions u16, then for each: number of an
 * old segment u8, action u8, and a whole segment (insert before it, or replace it), or a count u16 and TIDs to add to
 * it. The new content is made in `scratch` and copied over.
 */
export function recompressLeaf(
  page: PageBuffer,
  record: WalRecord,
  start: number,
  end: number,
  scratch: PageBuffer,
): void {
  if (!(ginFlags(page) & GinFlag.Compressed)) compressPage(page, scratch);
  const rewrite = new LeafRewrite(page, scratch);
  const { view } = record;
  checkRoom(start, 2, end);
  let at = start + 2;
  for (let left = view.getUint16(start, true); left > 0; left--) {
    checkRoom(at, 2, end);
    rewrite.copyUpTo(view.getUint8(at));
    const action = view.getUint8(at + 1);
    at += 2;
    switch (action) {
      case SegmentAction.Delete:
        rewrite.skip();
        break;
      case SegmentAction.Insert:
      case SegmentAction.Replace: {
        const size = segmentSize(view, at, end);
        if (action === SegmentAction.Replace) rewrite.skip();
        rewrite.append(record.bytes, at, size);
        at += size;
        break;
      }
      case SegmentAction.AddItems: {
        checkRoom(at, 2, end);
        const count = view.getUint16(at, true);
        checkRoom(at + 2, count * TID_SIZE, end);
        rewrite.mergeCurrent(new TidReader(view, at + 2, count));
        at += 2 + count * TID_SIZE;
        break;
      }
      default:
        throw corrupt(`action ${action} on a posting list`);
    }
  }
  checkPayloadEnd(at, end);
  rewrite.finish();
}

/** Goes through the old segments of a page once, making the new content beside it. */
class LeafRewrite {
  private readonly page: PageBuffer;
  private readonly target: PageBuffer;
  private readonly sourceEnd: number;
  private readonly targetEnd: number;
  /** The current old segment, and its number. */
  private source = DATA_OFFSET;
  private number = 0;
  private at = DATA_OFFSET;

  constructor(page: PageBuffer, target: PageBuffer) {
    this.page = page;
    this.target = target;
    this.sourceEnd = pageLower(page);
    this.targetEnd = page.bytes.length;
    if (this.sourceEnd < DATA_OFFSET) pageCorrupt(page, "a data page has no place for its content");
  }

  private currentSize(): number {
    if (this.source === this.sourceEnd) {
      pageCorrupt(this.page, `posting list ${this.number} is wanted, which does not exist`);
    }
    return segmentSize(this.page.view, this.source, this.sourceEnd);
  }

  /** Keeps all segments before a number. */
  copyUpTo(number: number): void {
    if (number < this.number) throw corrupt(`action on posting list ${number} after one on ${this.number}`);
    while (this.number < number) {
      const size = this.currentSize();
      this.append(this.page.bytes, this.source, size);
      this.source += size;
      this.number++;
    }
  }

  /** Leaves the current segment out. */
  skip(): void {
    this.source += this.currentSize();
    this.number++;
  }

  append(bytes: Uint8Array, offset: number, size: number): void {
    if (size > this.targetEnd - this.at) pageCorrupt(this.page, "the posting lists do not fit onto the page");
    copyBytes(this.target.bytes, this.at, bytes, offset, size);
    this.at += size;
  }

  /** Puts the current segment and more TIDs into one. */
  mergeCurrent(items: TidReader): void {
    const size = this.currentSize();
    const old = new SegmentReader(this.page.bytes, this.page.view, this.source);
    this.at = mergeInto(this.target, this.at, this.targetEnd, old, items);
    this.source += size;
    this.number++;
  }

  /** Keeps the rest and puts the new content in the place of the old. */
  finish(): void {
    this.append(this.page.bytes, this.source, this.sourceEnd - this.source);
    const size = this.at - DATA_OFFSET;
    setDataSize(this.page, size);
    this.page.bytes.set(this.target.bytes.subarray(DATA_OFFSET, this.at), DATA_OFFSET);
  }
}
