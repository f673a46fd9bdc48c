/**
 * A place for Postgres to start from: a shutdown checkpoint record, made up by us, right after the last record that
 * we have. With it in `pg_wal` and in pg_control, Postgres starts as after a clean shutdown and goes on writing WAL
 * where the record ends, in one unbroken chain.
 *
 * The record lies at `lsn` or, if that is a page boundary, behind the page header:
 *
 *   fixed header, 24 bytes | 0xFF 0x58 | CheckPoint, 88 bytes
 *
 * Postgres wants a valid header on the first page of the segment and on the record's page; bytes before `lsn` that
 * are not there are declared, in these headers, to be the rest of an earlier record.
 */
import { crc32cUpdate } from "../../base/crc32c.ts";
import { assert } from "../../base/errors.ts";
import { type Lsn, lsnAdd, lsnAlignDown, lsnHigh, lsnLow, lsnMax, lsnMin } from "../../base/lsn.ts";
import { CHECKPOINT_SIZE, type CheckPoint, encodeCheckPoint } from "../checkpoint.ts";
import { PAGE_SIZE } from "../constants.ts";
import type { PgVersion } from "../versions/version.ts";
import { RECORD_HEADER_SIZE } from "./decode-record.ts";
import { nextRecordLsn, RECORD_ALIGNMENT, recordEndLsn, segmentName, segmentStart } from "./layout.ts";
import { encodePageHeader, pageHeaderSize } from "./page-header.ts";

const CHECKPOINT_RECORD_SIZE = RECORD_HEADER_SIZE + 2 + CHECKPOINT_SIZE;

/** Where the last checkpoint's record ends: after a clean shutdown, the end of all WAL. */
export function checkpointEndLsn(control: { checkpointLsn: Lsn; walSegmentSize: number }): Lsn {
  return recordEndLsn(control.checkpointLsn, CHECKPOINT_RECORD_SIZE, control.walSegmentSize);
}
const ID_MAIN_SHORT = 255;

export interface StartPointOptions {
  /** End of a complete record, a multiple of 8. */
  readonly lsn: Lsn;
  /** Start of that record. */
  readonly previousLsn: Lsn;
  /** The counters as of `lsn`. Redo LSN, timelines and oldest active xid are filled in here. */
  readonly checkpoint: CheckPoint;
  readonly version: PgVersion;
  readonly systemId: bigint;
  readonly segmentSize: number;
  readonly timelineNumber: number;
}

export interface StartSegment {
  /** File name in pg_wal. */
  readonly name: string;
  readonly startLsn: Lsn;
  /** The file's size: everything outside `regions` is zero. */
  readonly sizeBytes: number;
  /** In ascending order, without overlap. */
  readonly regions: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
}

export interface StartPoint {
  /** Where the checkpoint record starts: what pg_control must name. */
  readonly recordLsn: Lsn;
  /** Where it ends, and Postgres goes on. */
  readonly endLsn: Lsn;
  /** What the record holds: what pg_control must hold too. */
  readonly checkpoint: CheckPoint;
  /** The raw WAL from `lsn` to `endLsn`, page headers included: what a replication client would receive. */
  readonly wal: Uint8Array;
  /** One or two. */
  readonly segments: readonly StartSegment[];
}

/** Makes a start point. The same options make the same bytes. */
export function synthesizeStart(options: StartPointOptions): StartPoint {
  const { lsn, segmentSize } = options;
  assert(lsn > 0 && lsn % RECORD_ALIGNMENT === 0, "a start point is a record end");
  assert(options.previousLsn < lsn, "the last record lies before the start point");
  const recordLsn = nextRecordLsn(lsn, segmentSize);
  const checkpoint: CheckPoint = {
    ...options.checkpoint,
    redoLsn: recordLsn,
    timeline: options.timelineNumber,
    previousTimeline: options.timelineNumber,
    oldestActiveXid: 0,
  };
  const record = checkpointRecord(options, checkpoint);
  const endLsn = recordEndLsn(recordLsn, record.length, segmentSize);
  const wal = layOut(options, record, endLsn);
  const segments: StartSegment[] = [];
  for (let start = segmentStart(lsn, segmentSize); start < endLsn; start = lsnAdd(start, segmentSize))
    segments.push(startSegment(options, start, wal, endLsn));
  return { recordLsn, endLsn, checkpoint, wal, segments };
}

/** The whole content of a segment's file: 16 MiB, as a rule. */
export function segmentContent(segment: StartSegment): Uint8Array {
  return contentOf(segment, segment.sizeBytes);
}

/** A segment's file up to the last page with anything on it. */
export function writtenContent(segment: StartSegment): Uint8Array {
  const last = segment.regions.at(-1);
  const used = last === undefined ? 0 : last.offset + last.bytes.length;
  return contentOf(segment, Math.ceil(used / PAGE_SIZE) * PAGE_SIZE);
}

function contentOf(segment: StartSegment, sizeBytes: number): Uint8Array {
  const content = new Uint8Array(sizeBytes);
  for (const { offset, bytes } of segment.regions) content.set(bytes, offset);
  return content;
}

function checkpointRecord(options: StartPointOptions, checkpoint: CheckPoint): Uint8Array {
  const bytes = new Uint8Array(CHECKPOINT_RECORD_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, CHECKPOINT_RECORD_SIZE, true);
  view.setUint32(8, lsnLow(options.previousLsn), true);
  view.setUint32(12, lsnHigh(options.previousLsn), true);
  // xid, info (CHECKPOINT_SHUTDOWN) and resource manager (XLOG) are all 0.
  bytes[RECORD_HEADER_SIZE] = ID_MAIN_SHORT;
  bytes[RECORD_HEADER_SIZE + 1] = CHECKPOINT_SIZE;
  bytes.set(encodeCheckPoint(checkpoint, options.version), RECORD_HEADER_SIZE + 2);
  const body = crc32cUpdate(-1, bytes, RECORD_HEADER_SIZE, bytes.length);
  view.setInt32(20, crc32cUpdate(body, bytes, 0, 20) ^ -1, true);
  return bytes;
}

/** The record among page headers, from `options.lsn` to `endLsn`. */
function layOut(options: StartPointOptions, record: Uint8Array, endLsn: Lsn): Uint8Array {
  const wal = new Uint8Array(endLsn - options.lsn);
  let done = 0;
  let at = 0;
  while (done < record.length) {
    const lsn = lsnAdd(options.lsn, at);
    if (lsn % PAGE_SIZE === 0) {
      at += writePageHeader(options, wal, at, lsn, done === 0 ? 0 : record.length - done);
      continue;
    }
    const count = Math.min(record.length - done, PAGE_SIZE - (lsn % PAGE_SIZE));
    wal.set(record.subarray(done, done + count), at);
    done += count;
    at += count;
  }
  return wal;
}

function startSegment(options: StartPointOptions, startLsn: Lsn, wal: Uint8Array, endLsn: Lsn): StartSegment {
  const { lsn, segmentSize } = options;
  const regions: { offset: number; bytes: Uint8Array }[] = [];
  if (lsn > startLsn) {
    const pageLsn = lsnAlignDown(lsn, PAGE_SIZE);
    if (pageLsn > startLsn) regions.push({ offset: 0, bytes: soleHeader(options, startLsn, 0) });
    if (pageLsn < lsn) {
      const missing = lsn - pageLsn - pageHeaderSize(pageLsn, segmentSize);
      regions.push({ offset: pageLsn - startLsn, bytes: soleHeader(options, pageLsn, missing) });
    }
  }
  const from = lsnMax(lsn, startLsn);
  const to = lsnMin(endLsn, lsnAdd(startLsn, segmentSize));
  regions.push({ offset: from - startLsn, bytes: wal.subarray(from - lsn, to - lsn) });
  return {
    name: segmentName(options.timelineNumber, startLsn, segmentSize),
    startLsn,
    sizeBytes: segmentSize,
    regions,
  };
}

function soleHeader(options: StartPointOptions, pageLsn: Lsn, remainingLength: number): Uint8Array {
  const bytes = new Uint8Array(pageHeaderSize(pageLsn, options.segmentSize));
  writePageHeader(options, bytes, 0, pageLsn, remainingLength);
  return bytes;
}

function writePageHeader(
  options: StartPointOptions,
  target: Uint8Array,
  offset: number,
  pageLsn: Lsn,
  remainingLength: number,
): number {
  return encodePageHeader(target, offset, pageLsn, {
    magic: options.version.walPageMagic,
    segmentSize: options.segmentSize,
    systemId: options.systemId,
    timeline: options.timelineNumber,
    remainingLength,
  });
}
