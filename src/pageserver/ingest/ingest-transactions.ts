/** Commit, abort and prepare, and the SLRUs that say what became of transactions and multixacts. */
import {
  clogPagesOfXact,
  clogTruncation,
  clogZeroedPage,
  isClogSegmentRemoved,
} from "../../postgres/redo/clog.ts";
import {
  isMembersPageZeroed,
  isMembersSegmentRemoved,
  isOffsetsSegmentRemoved,
  multixactMemberPages,
  multixactOffsetPages,
  multixactTruncation,
} from "../../postgres/redo/multixact.ts";
import { type XactRecord, parseXactRecord } from "../../postgres/redo/xact.ts";
import { Slru } from "../../postgres/slru.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import { putCommitTimestamps } from "./ingest-commit-ts.ts";
import { advanceOrigin } from "./ingest-origins.ts";
import type { Ingest } from "./ingest.ts";
import { Kind, commitSecond } from "./keyspace.ts";
import { removeSegments } from "./slru-segments.ts";

export function ingestXact(ingest: Ingest, record: WalRecord): void {
  const xact = parseXactRecord(record, ingest.version);
  const { endLsn } = record;
  clogPagesOfXact(xact, (pageNumber) => {
    ingest.putSlruPage(Slru.Xact, pageNumber, endLsn, false);
  });
  putCommitTimestamps(ingest, xact, record);
  advanceOrigin(ingest, xact, record);
  switch (xact.kind) {
    case "commit":
    case "commit_prepared":
      ingest.putCommitTime(commitSecond(xact.timestamp), endLsn);
      dropRelations(ingest, xact, record);
      break;
    case "abort":
    case "abort_prepared":
      dropRelations(ingest, xact, record);
      break;
    case "prepare": {
      const payload = record.bytes.subarray(record.mainOffset, record.mainOffset + record.mainLength);
      ingest.putImage(twoPhaseHandle(ingest, xact.xid), xact.xid, endLsn, payload);
      break;
    }
    case "assignment":
    case "invalidations":
      break;
  }
  if (xact.twophaseXid !== 0) {
    ingest.putTombstone(twoPhaseHandle(ingest, xact.twophaseXid), xact.twophaseXid, endLsn);
  }
}

/** Prepared transactions are filed by full xid; the epoch is that of the counter, which is never behind them. */
function twoPhaseHandle(ingest: Ingest, xid: number): ReturnType<Ingest["store"]["intern"]> {
  return ingest.store.intern(Kind.TwoPhase, 0, 0, ingest.state.checkpoint.epochOf(xid), 0);
}

function dropRelations(ingest: Ingest, xact: XactRecord, record: WalRecord): void {
  for (const { spcOid, dbOid, relNumber } of xact.droppedRelations) {
    const relation = ingest.state.relations.find(spcOid, dbOid, relNumber);
    if (relation !== undefined) ingest.dropRelation(relation, record.endLsn);
  }
}

export function ingestClog(ingest: Ingest, record: WalRecord): void {
  const zeroed = clogZeroedPage(record, ingest.version);
  if (zeroed !== undefined) ingest.putSlruPage(Slru.Xact, zeroed, record.endLsn, true);
  const truncation = clogTruncation(record, ingest.version);
  if (truncation === undefined) return;
  removeSegments(ingest, Slru.Xact, record, (segment) =>
    isClogSegmentRemoved(segment, truncation.cutoffPage),
  );
}

export function ingestMultixact(ingest: Ingest, record: WalRecord): void {
  const { version } = ingest;
  multixactOffsetPages(record, version, (pageNumber) => {
    // Zeroing a page keeps an entry that came before it, so it is no base for a page that exists.
    ingest.putSlruPage(Slru.MultixactOffsets, pageNumber, record.endLsn, false);
  });
  const membersZeroed = isMembersPageZeroed(record);
  multixactMemberPages(record, version, (pageNumber) => {
    ingest.putSlruPage(Slru.MultixactMembers, pageNumber, record.endLsn, membersZeroed);
  });
  const truncation = multixactTruncation(record);
  if (truncation === undefined) return;
  removeSegments(ingest, Slru.MultixactMembers, record, (segment) =>
    isMembersSegmentRemoved(segment, truncation),
  );
  removeSegments(ingest, Slru.MultixactOffsets, record, (segment) =>
    isOffsetsSegmentRemoved(segment, truncation),
  );
}
