/**
 * The WAL of a branch as it was, record by record, from the records in its layers: raw WAL is dropped when its records
 * are in layer files, but each of them is there, whole, with the checksum that the compute gave it. That none is missing
 * is seen from where they begin and end, and from the link of each to the one before.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnFromWords, lsnMin } from "../../base/lsn.ts";
import { PAGE_SIZE, Rmgr } from "../../postgres/constants.ts";
import { RECORD_HEADER_SIZE } from "../../postgres/wal/decode-record.ts";
import type { WalLayout } from "../../postgres/wal/lay-out.ts";
import { nextRecordLsn, recordEndLsn, segmentStart } from "../../postgres/wal/layout.ts";
import { ValueFlag } from "../../storage/key.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { Kind } from "../ingest/keyspace.ts";
import type { RecordBoundary } from "../timeline/record-boundary.ts";

/** Unless said otherwise. For each window the layers are read once. */
const WINDOW_BYTES = 64 * 1024 * 1024;
/** `xl_info` of XLOG_SWITCH, behind which the rest of the segment is void. */
const XLOG_SWITCH = 0x40;

export interface StoredRecord {
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  /** Header and all. */
  readonly bytes: Uint8Array;
  readonly rmgr: number;
  /** `xl_info` without the bits that are not the resource manager's. */
  readonly info: number;
  /** What there is of a record before it that a crash cut off: it begins behind the record before, and fills its last page. */
  readonly cutOff: Uint8Array | undefined;
}

export interface StoredWalSpan {
  readonly store: TimelineStore;
  readonly segmentSize: number;
  /** The record before the first one. */
  readonly from: RecordBoundary;
  /** End of the last one; everything up to it is in layers. */
  readonly toLsn: Lsn;
  /** WAL whose records are gathered in memory at a time. */
  readonly windowBytes?: number;
}

/** All records of the span in order, in batches. Throws `not_checked` where one is missing. */
export async function* storedRecords(span: StoredWalSpan): AsyncGenerator<StoredRecord[]> {
  const { store, segmentSize, toLsn, windowBytes = WINDOW_BYTES } = span;
  let last = span.from;
  for (let at = span.from.endLsn; at < toLsn; at = lsnMin(lsnAdd(at, windowBytes), toLsn)) {
    const found = await gather(store, { fromLsn: at, toLsn: lsnMin(lsnAdd(at, windowBytes), toLsn) });
    const batch: StoredRecord[] = [];
    for (const [endLsn, stored] of found) {
      const record = linked(stored, endLsn, last, segmentSize);
      last = { previousLsn: record.startLsn, endLsn };
      batch.push(record);
    }
    yield batch;
  }
  if (last.endLsn !== toLsn) throw missing(last.endLsn);
}

/** Puts a record into WAL, with what there is of one before it that was cut off. */
export function layOut(layout: WalLayout, record: StoredRecord, beforeLsn: Lsn, segmentSize: number): void {
  if (record.cutOff) layout.addCutOff(nextRecordLsn(beforeLsn, segmentSize), record.cutOff);
  layout.add(record.startLsn, record.bytes);
}

/** What the layers have of a record. */
interface Stored {
  bytes: Uint8Array | undefined;
  cutOff: Uint8Array | undefined;
}

/** Records by the LSN of their end, ascending. */
async function gather(store: TimelineStore, span: { fromLsn: Lsn; toLsn: Lsn }): Promise<[Lsn, Stored][]> {
  const records = new Map<number, Stored>();
  await store.eachVersion(span, (key, { lsn, flags, bytes }) => {
    const isCutOff = key.kind === Kind.CutOffRecord;
    if (!isCutOff && (flags & ValueFlag.Record) === 0 && key.kind !== Kind.OtherRecord) return;
    let stored = records.get(lsn);
    if (stored === undefined) records.set(lsn, (stored = { bytes: undefined, cutOff: undefined }));
    if (isCutOff) stored.cutOff = bytes.slice();
    else stored.bytes ??= bytes.slice();
  });
  return [...records].sort(([a], [b]) => a - b) as [Lsn, Stored][];
}

/** The record that follows `last`, if this is the one. */
function linked(stored: Stored, endLsn: Lsn, last: RecordBoundary, segmentSize: number): StoredRecord {
  const { bytes, cutOff } = stored;
  if (bytes === undefined || bytes.length < RECORD_HEADER_SIZE) throw missing(last.endLsn);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const beforeLsn = cutOff ? endOfCutOff(last.endLsn, cutOff, segmentSize) : last.endLsn;
  const startLsn = nextRecordLsn(beforeLsn, segmentSize);
  const previousLsn = lsnFromWords(view.getUint32(12, true), view.getUint32(8, true));
  const info = view.getUint8(16) & 0xf0;
  const rmgr = view.getUint8(17);
  const isSwitch = rmgr === Rmgr.Xlog && info === XLOG_SWITCH;
  const expectedEnd = isSwitch
    ? lsnAdd(segmentStart(startLsn, segmentSize), segmentSize)
    : recordEndLsn(startLsn, bytes.length, segmentSize);
  if (previousLsn !== last.previousLsn || endLsn !== expectedEnd) throw missing(last.endLsn);
  return { startLsn, endLsn, bytes, rmgr, info, cutOff };
}

/** The end of the page on which a record was cut off that began behind `lsn`. */
function endOfCutOff(lsn: Lsn, bytes: Uint8Array, segmentSize: number): Lsn {
  const endLsn = recordEndLsn(nextRecordLsn(lsn, segmentSize), bytes.length, segmentSize);
  if (bytes.length < 4 || endLsn % PAGE_SIZE !== 0) throw missing(lsn);
  return endLsn;
}

function missing(lsn: Lsn): NeonError {
  return new NeonError(
    ErrorCode.NotChecked,
    `the WAL cannot be put together again: the record behind ${formatLsn(lsn)} is not there`,
    {
      hint: "It was received by an older version of neon. Verify what comes later: --from LSN.",
      data: { lsn: formatLsn(lsn) },
    },
  );
}
