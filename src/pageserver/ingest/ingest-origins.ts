/**
 * How far changes of other servers have been applied: set by hand, or by each commit that carries a replication
 * origin. Postgres keeps it in memory and writes it with its checkpoints.
 * Source: PostgreSQL 14-18, src/backend/replication/logical/origin.c, replorigin_redo and replorigin_advance.
 */
import type { Lsn } from "../../base/lsn.ts";
import { PayloadCursor } from "../../postgres/redo/payload-cursor.ts";
import { unknownRecord } from "../../postgres/redo/record-errors.ts";
import type { XactRecord } from "../../postgres/redo/xact.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import type { Ingest } from "./ingest.ts";
import { Kind, encodeOriginProgress } from "./keyspace.ts";

const OriginOp = { Set: 0x00, Drop: 0x10 } as const;
/** An origin whose progress nobody follows. */
const DO_NOT_REPLICATE = 0xffff;

export function ingestReplicationOrigin(ingest: Ingest, record: WalRecord): void {
  const cursor = new PayloadCursor(record);
  switch (record.info & 0xf0) {
    case OriginOp.Set: {
      const remoteLsn = cursor.u64();
      const origin = cursor.u16();
      const force = (cursor.u16() & 0xff) !== 0;
      advance(ingest, origin, remoteLsn, record.endLsn, force);
      return;
    }
    case OriginOp.Drop: {
      const origin = cursor.u16();
      if (!ingest.state.origins.delete(origin)) return;
      ingest.putTombstone(originHandle(ingest), origin, record.endLsn);
      return;
    }
    default:
      unknownRecord(record);
  }
}

/** The progress that the end of a transaction, or its being prepared, stands for. */
export function advanceOrigin(ingest: Ingest, xact: XactRecord, record: WalRecord): void {
  if (xact.origin === undefined || record.origin === 0 || record.origin === DO_NOT_REPLICATE) return;
  advance(ingest, record.origin, xact.origin.lsn, record.endLsn, false);
}

function advance(ingest: Ingest, origin: number, remoteLsn: bigint, lsn: Lsn, force: boolean): void {
  const known = ingest.state.origins.get(origin);
  if (known !== undefined && !force && known >= remoteLsn) return;
  ingest.state.origins.set(origin, remoteLsn);
  ingest.putImage(originHandle(ingest), origin, lsn, encodeOriginProgress(remoteLsn));
}

function originHandle(ingest: Ingest): ReturnType<Ingest["store"]["intern"]> {
  return ingest.store.intern(Kind.ReplicationOrigin, 0, 0, 0, 0);
}
