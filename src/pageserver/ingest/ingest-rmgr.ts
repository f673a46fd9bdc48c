/**
 * What a WAL record changes beyond the blocks it names, per resource manager: visibility-map bits, commit status,
 * relation life and size, databases, relation maps, prepared transactions. A record of a kind that is not listed here
 * is refused before anything of it has been put.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import { Fork, Rmgr, rmgrName } from "../../postgres/constants.ts";
import {
  HEAP_BLOCKS_PER_MAP_PAGE,
  forEachImplicitVisibilityClear,
  mapBlockOf,
  mapPagesAfterTruncate,
} from "../../postgres/redo/visibility.ts";
import { mainData } from "../../postgres/redo/payload.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import { ingestCommitTs, switchCommitTimestamps } from "./ingest-commit-ts.ts";
import { ingestDatabase } from "./ingest-database.ts";
import { ingestReplicationOrigin } from "./ingest-origins.ts";
import { ingestTablespace } from "./ingest-tablespace.ts";
import { ingestClog, ingestMultixact, ingestXact } from "./ingest-transactions.ts";
import type { Ingest } from "./ingest.ts";
import { Kind } from "./keyspace.ts";
import { NO_FORK } from "./relation-table.ts";

/** Resource managers whose records are understood: every kind of record that the version has. */
const UNDERSTOOD: ReadonlySet<number> = new Set([
  Rmgr.Xlog,
  Rmgr.Xact,
  Rmgr.Smgr,
  Rmgr.Clog,
  Rmgr.Dbase,
  Rmgr.Tblspc,
  Rmgr.Multixact,
  Rmgr.Relmap,
  Rmgr.Standby,
  Rmgr.Heap2,
  Rmgr.Heap,
  Rmgr.Btree,
  Rmgr.Hash,
  Rmgr.Gin,
  Rmgr.Gist,
  Rmgr.Seq,
  Rmgr.Spgist,
  Rmgr.Brin,
  Rmgr.CommitTs,
  Rmgr.ReplOrigin,
  Rmgr.Generic,
  // A message for logical decoding changes nothing.
  Rmgr.LogicalMsg,
]);

const SMGR_CREATE = 0x10;
const SMGR_TRUNCATE_HEAP = 0x01;
const SMGR_TRUNCATE_VM = 0x02;

function unsupported(record: WalRecord, what: string): NeonError {
  return new NeonError(
    ErrorCode.Unsupported,
    `WAL record at ${formatLsn(record.lsn)} cannot be ingested: ${what}`,
    {
      hint: "The branch stays readable up to this record; recreate it from a point before, without the feature.",
      data: { lsn: formatLsn(record.lsn), rmgr: record.rmgr, info: record.info },
    },
  );
}

/** Throws `unsupported` for a record that is not understood. */
export function checkSupported(record: WalRecord, version: PgVersion): void {
  const known = version.records.get(record.rmgr);
  if (known === undefined || !UNDERSTOOD.has(record.rmgr)) {
    throw unsupported(record, `resource manager ${rmgrName(record.rmgr)} is not supported yet`);
  }
  if (!known.operations.has(record.info & known.mask)) {
    throw unsupported(record, `${rmgrName(record.rmgr)} has no operation 0x${record.info.toString(16)}`);
  }
}

/** Puts everything that the record changes except the counters. */
export function ingestRmgr(ingest: Ingest, record: WalRecord): Promise<void> | undefined {
  switch (record.rmgr) {
    case Rmgr.Heap:
    case Rmgr.Heap2:
      clearVisibility(ingest, record);
      break;
    case Rmgr.Xlog:
      switchCommitTimestamps(ingest, record);
      break;
    case Rmgr.Xact:
      ingestXact(ingest, record);
      break;
    case Rmgr.Smgr:
      ingestSmgr(ingest, record);
      break;
    case Rmgr.Clog:
      ingestClog(ingest, record);
      break;
    case Rmgr.Multixact:
      ingestMultixact(ingest, record);
      break;
    case Rmgr.CommitTs:
      ingestCommitTs(ingest, record);
      break;
    case Rmgr.ReplOrigin:
      ingestReplicationOrigin(ingest, record);
      break;
    case Rmgr.Relmap:
      ingestRelationMap(ingest, record);
      break;
    case Rmgr.Dbase:
      return ingestDatabase(ingest, record);
    case Rmgr.Tblspc:
      ingestTablespace(ingest, record);
      break;
    default:
      break;
  }
  if (record.blockCount > 0) ingest.putBlocks(record);
  return undefined;
}

/** The visibility-map pages that a heap record clears without naming them. */
function clearVisibility(ingest: Ingest, record: WalRecord): void {
  forEachImplicitVisibilityClear(record, (block, heapBlock) => {
    const relation = ingest.state.relations.entry(block.spcOid, block.dbOid, block.relNumber);
    ingest.putImpliedBlock(relation, Fork.VisibilityMap, mapBlockOf(heapBlock), record.endLsn);
  });
}

function ingestSmgr(ingest: Ingest, record: WalRecord): void {
  const { view, endLsn } = record;
  const { relations } = ingest.state;
  if ((record.info & 0xf0) === SMGR_CREATE) {
    const at = mainData(record, 16);
    const relation = relations.entry(
      view.getUint32(at, true),
      view.getUint32(at + 4, true),
      view.getUint32(at + 8, true),
    );
    const fork = view.getUint32(at + 12, true);
    if (fork > Fork.Init) throw unsupported(record, `there is no fork ${fork}`);
    if (fork !== Fork.FreeSpaceMap && relation.size(fork) === NO_FORK)
      ingest.setSize(relation, fork, 0, endLsn);
    return;
  }
  const at = mainData(record, 20);
  const blocks = view.getUint32(at, true);
  const relation = relations.entry(
    view.getUint32(at + 4, true),
    view.getUint32(at + 8, true),
    view.getUint32(at + 12, true),
  );
  const flags = view.getUint32(at + 16, true);
  if (flags & SMGR_TRUNCATE_HEAP) {
    const size = relation.size(Fork.Main);
    if (size === NO_FORK || size > blocks)
      ingest.setSize(relation, Fork.Main, size === NO_FORK ? 0 : blocks, endLsn);
  }
  if (flags & SMGR_TRUNCATE_VM) truncateVisibilityMap(ingest, record, blocks);
}

/** The map keeps the page that holds the last bits, with what lies beyond the new end cleared. */
function truncateVisibilityMap(ingest: Ingest, record: WalRecord, heapBlocks: number): void {
  const { view } = record;
  const at = record.mainOffset;
  const relation = ingest.state.relations.entry(
    view.getUint32(at + 4, true),
    view.getUint32(at + 8, true),
    view.getUint32(at + 12, true),
  );
  const size = relation.size(Fork.VisibilityMap);
  if (size === NO_FORK) return;
  if (heapBlocks % HEAP_BLOCKS_PER_MAP_PAGE !== 0) {
    ingest.putImpliedBlock(relation, Fork.VisibilityMap, mapBlockOf(heapBlocks), record.endLsn);
  }
  const kept = mapPagesAfterTruncate(heapBlocks);
  if (kept < size) ingest.setSize(relation, Fork.VisibilityMap, kept, record.endLsn);
}

function ingestRelationMap(ingest: Ingest, record: WalRecord): void {
  const at = mainData(record, 12);
  const dbOid = record.view.getUint32(at, true);
  const spcOid = record.view.getUint32(at + 4, true);
  const size = record.view.getInt32(at + 8, true);
  if (size !== ingest.version.relationMapSize || size !== record.mainLength - 12) {
    throw unsupported(record, `relation map of ${size} bytes in ${record.mainLength} bytes of main data`);
  }
  const start = at + 12;
  const handle = ingest.store.intern(Kind.RelationMap, spcOid, dbOid, 0, 0);
  ingest.putImage(handle, 0, record.endLsn, record.bytes.subarray(start, start + size));
  ingest.state.relationMaps.set(`${spcOid}/${dbOid}`, { spcOid, dbOid });
}
