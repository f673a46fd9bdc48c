/** Which LSN a wall-clock time stands for: the end of the last commit at or before it, from the commit records. */
import type { Lsn } from "../../base/lsn.ts";
import { parseXactRecord } from "../../postgres/redo/xact.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { decodeRecord } from "../../postgres/wal/decode-record.ts";
import { WalRecord } from "../../postgres/wal/record.ts";
import type { TimelineStore } from "../../storage/store.ts";
import type { StoredValue } from "../../storage/value.ts";
import { commitRange, commitSecond } from "../ingest/keyspace.ts";

/** No commit is filed under this second. */
const COMMIT_SECOND_END = 2 ** 32;
/** How far back each search reaches, in seconds; the next is tried when one finds nothing. */
const REACHES_SECONDS: readonly number[] = [60, 3600, 86_400, COMMIT_SECOND_END];
/**
 * How far back is looked in any case. Postgres takes the time of a commit before it writes the record, so records are not
 * in the order of their times: one of the second before may come later.
 */
const DISORDER_SECONDS = 10;

/**
 * The end of the last commit at or before `unixMs` among those up to `endLsn`, or undefined if there is none. The last in the
 * WAL: up to there, every commit that was made by then is included.
 */
export async function findCommitAtOrBefore(
  store: TimelineStore,
  version: PgVersion,
  options: { unixMs: number; endLsn: Lsn },
): Promise<Lsn | undefined> {
  const second = commitSecond(options.unixMs);
  let newest: Lsn | undefined;
  for await (const batch of store.scan(commitRange(second, second + 1), options.endLsn)) {
    for (const entry of batch) {
      newest = entry.values.find((value) => commitTime(value, version) <= options.unixMs)?.lsn;
    }
  }
  let to = second;
  for (const reach of [DISORDER_SECONDS, ...REACHES_SECONDS]) {
    const from = Math.max(0, second - reach);
    for await (const batch of store.scan(commitRange(from, to), options.endLsn)) {
      for (const { values } of batch) {
        const [last] = values;
        if (last !== undefined && (newest === undefined || last.lsn > newest)) newest = last.lsn;
      }
    }
    if (newest !== undefined) return newest;
    to = from;
  }
  return undefined;
}

/** The last commit among those up to `endLsn`: its end and its time, or undefined if there is none. */
export async function findLastCommit(
  store: TimelineStore,
  version: PgVersion,
  options: { endLsn: Lsn; nowMs: number },
): Promise<{ lsn: Lsn; unixMs: number } | undefined> {
  // Clocks of computes may be ahead of ours.
  let to = COMMIT_SECOND_END;
  for (const reach of REACHES_SECONDS) {
    const from = Math.max(0, commitSecond(options.nowMs) - reach);
    let newest: StoredValue | undefined;
    for await (const batch of store.scan(commitRange(from, to), options.endLsn)) {
      for (const entry of batch) {
        const [value] = entry.values;
        if (value !== undefined && (newest === undefined || value.lsn > newest.lsn)) newest = value;
      }
    }
    if (newest !== undefined) return { lsn: newest.lsn, unixMs: commitTime(newest, version) };
    to = from;
  }
  return undefined;
}

/** Whether there is a commit after `unixMs` among those up to `endLsn`. */
export async function hasCommitAfter(
  store: TimelineStore,
  version: PgVersion,
  options: { unixMs: number; endLsn: Lsn },
): Promise<boolean> {
  const from = commitSecond(options.unixMs);
  for await (const batch of store.scan(commitRange(from, COMMIT_SECOND_END), options.endLsn)) {
    for (const entry of batch) {
      if (entry.values.some((value) => commitTime(value, version) > options.unixMs)) return true;
    }
  }
  return false;
}

function commitTime(value: StoredValue, version: PgVersion): number {
  const record = new WalRecord();
  const { bytes } = value;
  decodeRecord(
    record,
    bytes,
    new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength),
    0,
    bytes.length,
    version,
  );
  return parseXactRecord(record, version).timestamp;
}
