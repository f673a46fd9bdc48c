/**
 * Names of WAL segment files: timeline number, then the segment's position, as three groups of eight upper-case
 * hexadecimal digits. Source: PostgreSQL 14-18, src/include/access/xlog_internal.h, XLogFileName.
 */
import { assert } from "../../base/errors.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";

const SEGMENT_NAME = /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$/;
const FOUR_GIB = 2 ** 32;

/** Segment sizes that Postgres accepts: powers of two from 1 MiB to 1 GiB. */
export function isSegmentSize(sizeBytes: number): boolean {
  return (
    sizeBytes >= 2 ** 20 && sizeBytes <= 2 ** 30 && Number.isInteger(sizeBytes) && FOUR_GIB % sizeBytes === 0
  );
}

/** The file that holds the segment starting at `segmentStart`. */
export function segmentFileName(timelineNumber: number, segmentStart: Lsn, segmentSize: number): string {
  assert(segmentStart % segmentSize === 0, `${segmentStart} is no start of a segment`);
  const perGroup = FOUR_GIB / segmentSize;
  const number = segmentStart / segmentSize;
  return hex8(timelineNumber) + hex8(Math.floor(number / perGroup)) + hex8(number % perGroup);
}

/** Where the segment in a file begins, or undefined if the name is none of this timeline number's. */
export function parseSegmentFileName(
  name: string,
  timelineNumber: number,
  segmentSize: number,
): Lsn | undefined {
  const match = SEGMENT_NAME.exec(name);
  if (!match?.[1] || !match[2] || !match[3]) return undefined;
  if (Number.parseInt(match[1], 16) !== timelineNumber) return undefined;
  const perGroup = FOUR_GIB / segmentSize;
  const low = Number.parseInt(match[3], 16);
  if (low >= perGroup) return undefined;
  const start = (Number.parseInt(match[2], 16) * perGroup + low) * segmentSize;
  return Number.isSafeInteger(start) ? toLsn(start) : undefined;
}

function hex8(value: number): string {
  return value.toString(16).toUpperCase().padStart(8, "0");
}
