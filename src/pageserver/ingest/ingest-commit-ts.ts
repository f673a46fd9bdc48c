/**
 * Times of commits: pg_commit_ts, which exists while `track_commit_timestamp` is on. Switching it on makes the page of
 * the next xid without a record of its own, switching it off empties the directory.
 * Source: PostgreSQL 14-18, src/backend/access/transam/commit_ts.c, ActivateCommitTs and DeactivateCommitTs.
 */
import { PAGE_SIZE } from "../../postgres/constants.ts";
import {
  commitTsPageOf,
  commitTsPagesOfXact,
  commitTsTruncation,
  commitTsZeroedPage,
  isCommitTsSegmentRemoved,
} from "../../postgres/redo/commit-ts.ts";
import type { XactRecord } from "../../postgres/redo/xact.ts";
import { Slru } from "../../postgres/slru.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import { tracksCommitTimestamps } from "./checkpoint-redo.ts";
import type { Ingest } from "./ingest.ts";
import { removeSegments } from "./slru-segments.ts";

export function ingestCommitTs(ingest: Ingest, record: WalRecord): void {
  const zeroed = commitTsZeroedPage(record, ingest.version);
  if (zeroed !== undefined) ingest.putSlruPage(Slru.CommitTs, zeroed, record.endLsn, true);
  const truncation = commitTsTruncation(record, ingest.version);
  if (truncation === undefined) return;
  removeSegments(ingest, Slru.CommitTs, record, (segment) =>
    isCommitTsSegmentRemoved(segment, truncation.cutoffPage),
  );
}

/** The pages on which a commit sets times, if they are kept. */
export function putCommitTimestamps(ingest: Ingest, xact: XactRecord, record: WalRecord): void {
  if (!ingest.state.checkpoint.trackCommitTimestamp) return;
  commitTsPagesOfXact(xact, (pageNumber) => {
    ingest.putSlruPage(Slru.CommitTs, pageNumber, record.endLsn, false);
  });
}

/** What a change of the server's settings does to the directory. The checkpoint state has the setting until now. */
export function switchCommitTimestamps(ingest: Ingest, record: WalRecord): void {
  const { checkpoint, slruPages } = ingest.state;
  const on = tracksCommitTimestamps(record);
  if (on === undefined || on === checkpoint.trackCommitTimestamp) return;
  if (!on) {
    removeSegments(ingest, Slru.CommitTs, record, () => true);
    return;
  }
  const pageNumber = commitTsPageOf(checkpoint.nextXid);
  if (!slruPages[Slru.CommitTs].has(pageNumber)) {
    ingest.putSlruImage(Slru.CommitTs, pageNumber, record.endLsn, new Uint8Array(PAGE_SIZE));
  }
}
