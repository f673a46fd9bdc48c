/**
 * CREATE TABLESPACE and DROP TABLESPACE, and the directories that databases have in tablespaces that are not their own:
 * Postgres makes those without a record, with the first relation there.
 * Source: PostgreSQL 14-18, src/include/commands/tablespace.h; tablespace.c, TablespaceCreateDbspace.
 */
import type { Lsn } from "../../base/lsn.ts";
import { DEFAULT_TABLESPACE_OID, GLOBAL_TABLESPACE_OID } from "../../postgres/constants.ts";
import { PayloadCursor } from "../../postgres/redo/payload-cursor.ts";
import { unknownRecord } from "../../postgres/redo/record-errors.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import { dropDatabase, putDirectory } from "./ingest-database.ts";
import type { Ingest } from "./ingest.ts";
import { Kind } from "./keyspace.ts";

const TablespaceOp = { Create: 0x00, Drop: 0x10 } as const;
const NO_VERSION_FILE = new Uint8Array(0);

export function ingestTablespace(ingest: Ingest, record: WalRecord): void {
  const cursor = new PayloadCursor(record);
  const spcOid = cursor.u32();
  const handle = ingest.store.intern(Kind.Tablespace, spcOid, 0, 0, 0);
  switch (record.info & 0xf0) {
    case TablespaceOp.Create: {
      // The location means nothing where the branch will run; it is kept for whoever wants to know it.
      const location = new TextEncoder().encode(cursor.cstring());
      ingest.putImage(handle, 0, record.endLsn, location);
      return;
    }
    case TablespaceOp.Drop:
      // It must have been empty; what databases have left there are empty directories.
      for (const place of [...ingest.state.databases.values()]) {
        if (place.spcOid === spcOid) dropDatabase(ingest, place, record.endLsn);
      }
      ingest.putTombstone(handle, 0, record.endLsn);
      return;
    default:
      unknownRecord(record);
  }
}

/** A directory for the first relation of a database in a tablespace, without a version file. */
export function ensureDirectory(ingest: Ingest, spcOid: number, dbOid: number, lsn: Lsn): void {
  if (spcOid === DEFAULT_TABLESPACE_OID || spcOid === GLOBAL_TABLESPACE_OID) return;
  if (ingest.state.databases.has(`${spcOid}/${dbOid}`)) return;
  putDirectory(ingest, { spcOid, dbOid }, lsn, NO_VERSION_FILE);
}
