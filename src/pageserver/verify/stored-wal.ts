/**
 * The WAL of a branch as it was, record by record, from the records in its layers: raw WAL is dropped when its records
 * are in layer files, but each of them is there, whole, with the checksum that the compute gave it. That none is missing
 * is seen from where they begin and end, and from the link of each to the one before.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnFromWords, lsnMin } from "../../base/lsn.ts";
import { Rmgr } from "../../postgres/constants.ts";
import { RECORD_HEADER_SIZE } from "../../postgres/wal/decode-record.ts";
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
    for (const [endLsn, bytes] of found) {
      const record = linked(bytes, endLsn, last, segmentSize);
      last = { previousLsn: record.startLsn, endLsn };
      batch.push(record);
    }
    yield batch;
  }
  if (last.endLsn !== toLsn) throw missing(last.endLsn);
}

/** Records by the LSN of their end, ascending. */
async function gather(
  store: TimelineStore,
  span: { fromLsn: Lsn; toLsn: Lsn },
): Promise<[Lsn, Uint8Array][]> {
  const records = new Map<number, Uint8Array>();
  await store.eachVersion(span, (key, { lsn, flags, bytes }) => {
    const isRecord = (flags & ValueFlag.Record) !== 0 || key.kind === Kind.OtherRecord;
    if (isRecord && !records.has(lsn)) records.set(lsn, bytes.slice());
  });
  return [...records].sort(([a], [b]) => a - b) as [Lsn, Uint8Array][];
}

/** The record that follows `last`, if this is the one. */
function linked(bytes: Uint8Array, endLsn: Lsn, last: RecordBoundary, segmentSize: number): StoredRecord {
  if (bytes.length < RECORD_HEADER_SIZE) throw missing(last.endLsn);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const startLsn = nextRecordLsn(last.endLsn, segmentSize);
  const previousLsn = lsnFromWords(view.getUint32(12, true), view.getUint32(8, true));
  const info = view.getUint8(16) & 0xf0;
  const rmgr = view.getUint8(17);
  const isSwitch = rmgr === Rmgr.Xlog && info === XLOG_SWITCH;
  const expectedEnd = isSwitch
    ? lsnAdd(segmentStart(startLsn, segmentSize), segmentSize)
    : recordEndLsn(startLsn, bytes.length, segmentSize);
  if (previousLsn !== last.previousLsn || endLsn !== expectedEnd) throw missing(last.endLsn);
  return { startLsn, endLsn, bytes, rmgr, info };
}

function missing(lsn: Lsn): NeonError {
  return new NeonError(
    ErrorCode.NotChecked,
    `the WAL cannot be put together again: the record behind ${formatLsn(lsn)} is not there`,
    {
      hint: "It was received by an older version of neon, or follows a record that a crash cut off. Verify what comes later: --from LSN.",
      data: { lsn: formatLsn(lsn) },
    },
  );
}
