/**
 * Where things lie in the WAL: segments of equal size (a power of two, 1 MiB to 1 GiB) of 8 KiB pages, each page led
 * by a header that records skip.
 * Source: PostgreSQL 14-18, src/include/access/xlog_internal.h.
 */
import { assert } from "../../base/errors.ts";
import { type Lsn, lsnAdd, lsnAlignDown, lsnAlignUp, toLsn } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../constants.ts";
import { pageHeaderSize } from "./page-header.ts";

/** Records start at multiples of this many bytes. */
export const RECORD_ALIGNMENT = 8;

const SEGMENT_NAME = /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$/;
const TWO_32 = 2 ** 32;

/**
 * Where the record after one that ends at `lsn` starts: behind the page header if `lsn` is a page boundary, else
 * at `lsn` rounded up to 8.
 */
export function nextRecordLsn(lsn: Lsn, segmentSize: number): Lsn {
  const aligned = lsnAlignUp(lsn, RECORD_ALIGNMENT);
  return aligned % PAGE_SIZE === 0 ? lsnAdd(aligned, pageHeaderSize(aligned, segmentSize)) : aligned;
}

/** Postgres names the place behind a page header where we name the page's start, the end of the record before. */
export function withoutPageHeader(lsn: Lsn, segmentSize: number): Lsn {
  const pageStart = lsnAlignDown(lsn, PAGE_SIZE);
  return lsn <= nextRecordLsn(pageStart, segmentSize) ? pageStart : lsn;
}

/**
 * The end, as redo stamps it, of a record of `length` bytes that starts at `startLsn`: page headers in between
 * counted, rounded up to 8, and a page boundary rather than the place behind the next header. (The end of an
 * XLOG_SWITCH record is the end of its segment instead.)
 */
export function recordEndLsn(startLsn: Lsn, length: number, segmentSize: number): Lsn {
  assert(startLsn % PAGE_SIZE !== 0, "a record does not start in a page header");
  let lsn = startLsn;
  let left = length;
  for (;;) {
    const onPage = PAGE_SIZE - (lsn % PAGE_SIZE);
    if (left <= onPage) return lsnAlignUp(lsnAdd(lsn, left), RECORD_ALIGNMENT);
    left -= onPage;
    lsn = lsnAdd(lsn, onPage);
    lsn = lsnAdd(lsn, pageHeaderSize(lsn, segmentSize));
  }
}

/** The start of the segment that holds the byte at `lsn`. */
export function segmentStart(lsn: Lsn, segmentSize: number): Lsn {
  return lsnAlignDown(lsn, segmentSize);
}

/** `000000010000000000000003`: the file of the segment that holds the byte at `lsn`. */
export function segmentName(timeline: number, lsn: Lsn, segmentSize: number): string {
  const index = Math.floor(lsn / segmentSize);
  const perHighWord = TWO_32 / segmentSize;
  return hex8(timeline) + hex8(Math.floor(index / perHighWord)) + hex8(index % perHighWord);
}

/** What a file name says, or undefined if it is no segment of that size. */
export function parseSegmentName(
  name: string,
  segmentSize: number,
): { readonly timeline: number; readonly startLsn: Lsn } | undefined {
  const match = SEGMENT_NAME.exec(name);
  if (!match) return undefined;
  const [timeline, high, low] = match.slice(1).map((part) => Number.parseInt(part, 16)) as [
    number,
    number,
    number,
  ];
  const perHighWord = TWO_32 / segmentSize;
  const start = (high * perHighWord + low) * segmentSize;
  if (timeline === 0 || low >= perHighWord || !Number.isSafeInteger(start)) return undefined;
  return { timeline, startLsn: toLsn(start) };
}

function hex8(value: number): string {
  return value.toString(16).toUpperCase().padStart(8, "0");
}
