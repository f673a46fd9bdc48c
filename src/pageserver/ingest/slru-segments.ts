/** Truncation of SLRUs, which Postgres does by whole segment files. */
import { SLRU_SEGMENT_PAGES } from "../../postgres/constants.ts";
import type { Slru } from "../../postgres/slru.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import type { Ingest } from "./ingest.ts";

/** Removes the pages that lie in the segments that are asked for. */
export function removeSegments(
  ingest: Ingest,
  slru: Slru,
  record: WalRecord,
  isRemoved: (segment: number) => boolean,
): void {
  for (const pageNumber of [...ingest.state.slruPages[slru]]) {
    if (isRemoved(Math.floor(pageNumber / SLRU_SEGMENT_PAGES)))
      ingest.removeSlruPage(slru, pageNumber, record.endLsn);
  }
}
