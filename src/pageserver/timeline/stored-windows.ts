/** Starts of WAL records, read from the windows that a timeline has stored. */
import type { Lsn } from "../../base/lsn.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { recordWindowKey, windowOfLsn } from "../ingest/keyspace.ts";
import { decodeRecordWindow, isAbandoned } from "../ingest/record-index.ts";

/** Ascending, as stored at `lsn`, which is the end of the timeline: with the ancestor's if it has none of its own. */
export async function storedWindow(store: TimelineStore, window: number, lsn: Lsn): Promise<readonly Lsn[]> {
  const { values } = await store.get(recordWindowKey(window), lsn);
  const value = values[0];
  return value === undefined ? [] : decodeRecordWindow(window, value.bytes);
}

/** The last record that starts below an LSN, which is the end of the timeline, and not below `fromLsn`. */
export async function lastStoredStart(
  store: TimelineStore,
  { belowLsn, fromLsn }: { belowLsn: Lsn; fromLsn: Lsn },
): Promise<Lsn | undefined> {
  const lowest = windowOfLsn(fromLsn);
  for (let window = windowOfLsn(belowLsn); window >= lowest; window--) {
    const found = (await storedWindow(store, window, belowLsn)).findLast(
      (entry) => !isAbandoned(entry) && entry < belowLsn && entry >= fromLsn,
    );
    if (found !== undefined) return found;
  }
  return undefined;
}
