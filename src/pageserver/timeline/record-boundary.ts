/**
 * Rounding an LSN down to the end of a record, by the record index of the timeline's own part of history.
 */
import { type Lsn, lsnAdd, lsnAlignDown } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../../postgres/constants.ts";
import { nextRecordLsn } from "../../postgres/wal/layout.ts";
import { isAbandoned, startOfEntry } from "../ingest/record-index.ts";

export interface RecordBoundary {
  /** Start of the record. */
  readonly previousLsn: Lsn;
  /** Its end, as redo stamps it on pages. */
  readonly endLsn: Lsn;
}

export interface BoundaryIndex {
  /** Where the timeline's own records begin, and the record before. */
  readonly start: RecordBoundary;
  /** The last record. */
  readonly last: RecordBoundary;
  readonly segmentSize: number;
  /** Record starts of a window, ascending, with entries of abandoned records (`ingest/record-index.ts`). */
  readonly windowStarts: (window: number) => Promise<readonly Lsn[]>;
  readonly windowOf: (lsn: Lsn) => number;
}

/** The last record that ends at or below `lsn`, which must not lie below the start. */
export async function findRecordBoundary(index: BoundaryIndex, lsn: Lsn): Promise<RecordBoundary> {
  if (lsn >= index.last.endLsn) return index.last;
  const pageStart = lsnAlignDown(lsn, PAGE_SIZE);
  const firstOnPage = nextRecordLsn(pageStart, index.segmentSize);
  // An LSN within a page header is the end of a record exactly if the next one starts right behind that header.
  if (lsn < firstOnPage && pageStart >= index.start.endLsn) {
    const entries = await index.windowStarts(index.windowOf(pageStart));
    if (entries.some((entry) => startOfEntry(entry) === firstOnPage)) return recordBefore(index, firstOnPage);
  }
  const containing = await lastEntryAtOrBelow(index, lsn);
  return containing === undefined ? index.start : recordBefore(index, startOfEntry(containing));
}

/** The record that ends where the one at `start` begins; if that is what an abandoned one left, where this one began. */
async function recordBefore(index: BoundaryIndex, start: Lsn): Promise<RecordBoundary> {
  const previous = await lastEntryAtOrBelow(index, lsnAdd(start, -1));
  if (previous !== undefined && isAbandoned(previous)) return recordBefore(index, startOfEntry(previous));
  const pageStart = lsnAlignDown(start, PAGE_SIZE);
  const endLsn = nextRecordLsn(pageStart, index.segmentSize) === start ? pageStart : start;
  if (endLsn <= index.start.endLsn) return index.start;
  return { endLsn, previousLsn: previous ?? index.start.previousLsn };
}

async function lastEntryAtOrBelow(index: BoundaryIndex, lsn: Lsn): Promise<Lsn | undefined> {
  const lowest = index.windowOf(index.start.endLsn);
  for (let window = index.windowOf(lsn); window >= lowest; window--) {
    const found = (await index.windowStarts(window)).findLast((entry) => {
      const start = startOfEntry(entry);
      return start <= lsn && start >= index.start.endLsn;
    });
    if (found !== undefined) return found;
  }
  return undefined;
}
