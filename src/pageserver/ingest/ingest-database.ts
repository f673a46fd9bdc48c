/**
 * CREATE DATABASE and DROP DATABASE. With the WAL_LOG strategy the new database's pages follow as ordinary records;
 * with FILE_COPY one record says "copy that directory as it is now", so its pages are read here and become an image
 * layer, which does not pass through memory as a whole.
 * Source: PostgreSQL 15-18, src/include/commands/dbcommands_xlog.h; 14, dbcommands.h.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import { DEFAULT_TABLESPACE_OID, Fork } from "../../postgres/constants.ts";
import { mainData } from "../../postgres/redo/payload.ts";
import { unknownRecord } from "../../postgres/redo/record-errors.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import type { Key } from "../../storage/key.ts";
import type { Ingest } from "./ingest.ts";
import { Kind, databaseRange, key } from "./keyspace.ts";
import { NO_FORK } from "./relation-table.ts";

interface DatabasePlace {
  readonly spcOid: number;
  readonly dbOid: number;
}

export function ingestDatabase(ingest: Ingest, record: WalRecord): Promise<void> | undefined {
  const { view, endLsn } = record;
  const operations = ingest.version.database;
  switch (record.info & 0xf0) {
    case operations.createFileCopy: {
      const at = mainData(record, 16);
      const target = { dbOid: view.getUint32(at, true), spcOid: view.getUint32(at + 4, true) };
      const source = { dbOid: view.getUint32(at + 8, true), spcOid: view.getUint32(at + 12, true) };
      return copyDatabase(ingest, source, target, record.lsn, endLsn);
    }
    case operations.createWalLog: {
      const at = mainData(record, 8);
      const place = { dbOid: view.getUint32(at, true), spcOid: view.getUint32(at + 4, true) };
      putDirectory(ingest, place, endLsn, new TextEncoder().encode(`${ingest.version.major}\n`));
      return undefined;
    }
    case operations.drop: {
      const at = mainData(record, 8);
      const dbOid = view.getUint32(at, true);
      const count = view.getInt32(at + 4, true);
      mainData(record, 8 + 4 * Math.max(0, count));
      for (let i = 0; i < count; i++) {
        dropDatabase(ingest, { dbOid, spcOid: view.getUint32(at + 8 + 4 * i, true) }, endLsn);
      }
      return undefined;
    }
    default:
      return unknownRecord(record);
  }
}

/** `versionFile` is the content of PG_VERSION, empty where the directory has none. */
export function putDirectory(ingest: Ingest, place: DatabasePlace, lsn: Lsn, versionFile: Uint8Array): void {
  const handle = ingest.store.intern(Kind.Database, place.spcOid, place.dbOid, 0, 0);
  ingest.putImage(handle, 0, lsn, versionFile);
  ingest.state.databases.set(`${place.spcOid}/${place.dbOid}`, place);
}

/** Removes what a database has in one tablespace. */
export function dropDatabase(ingest: Ingest, place: DatabasePlace, lsn: Lsn): void {
  for (const relation of ingest.state.relations.ofDatabase(place.spcOid, place.dbOid)) {
    ingest.dropRelation(relation, lsn);
  }
  const name = `${place.spcOid}/${place.dbOid}`;
  if (ingest.state.databases.delete(name)) {
    ingest.putTombstone(ingest.store.intern(Kind.Database, place.spcOid, place.dbOid, 0, 0), 0, lsn);
  }
  if (ingest.state.relationMaps.delete(name)) {
    ingest.putTombstone(ingest.store.intern(Kind.RelationMap, place.spcOid, place.dbOid, 0, 0), 0, lsn);
  }
}

async function copyDatabase(
  ingest: Ingest,
  source: DatabasePlace,
  target: DatabasePlace,
  startLsn: Lsn,
  endLsn: Lsn,
): Promise<void> {
  // A temporary table may have been the only one that the database had in a tablespace: its directory is not logged.
  const exists = ingest.state.databases.has(`${source.spcOid}/${source.dbOid}`);
  if (!exists && source.spcOid === DEFAULT_TABLESPACE_OID) {
    throw new NeonError(
      ErrorCode.Corrupt,
      `WAL record at ${formatLsn(startLsn)} copies database ${source.dbOid} of tablespace ${source.spcOid}, which does not exist`,
      { data: { lsn: formatLsn(startLsn), database: source.dbOid } },
    );
  }
  // What the predecessor of the record left is what the copy sees. The copied pages are put there, too: nobody asks for
  // them before the record makes their relations exist.
  await ingest.persist();
  const asOf = ingest.state.lastRecordLsn;
  const range = databaseRange(Kind.RelationBlock, target.spcOid, target.dbOid);
  await ingest.store.addImageLayer(range, asOf, copiedPages(ingest, source, target, asOf));
  const mapKey = key(Kind.RelationMap, source);
  const map = ingest.reconstructor.value(mapKey, (await ingest.store.get(mapKey, asOf)).values)?.slice();
  const placeKey = key(Kind.Database, source);
  const stored = ingest.reconstructor.value(placeKey, (await ingest.store.get(placeKey, asOf)).values);
  const versionFile = stored?.slice() ?? new Uint8Array(0);
  // Only now is anything put, so that no layer ends in the middle of the record.
  dropDatabase(ingest, target, endLsn);
  putDirectory(ingest, target, endLsn, versionFile);
  for (const relation of ingest.state.relations.ofDatabase(source.spcOid, source.dbOid)) {
    const copy = ingest.state.relations.entry(target.spcOid, target.dbOid, relation.relNumber);
    for (const fork of [Fork.Main, Fork.VisibilityMap, Fork.Init]) {
      if (relation.size(fork) !== NO_FORK) ingest.setSize(copy, fork, relation.size(fork), endLsn);
    }
  }
  if (map !== undefined) {
    ingest.putImage(ingest.store.intern(Kind.RelationMap, target.spcOid, target.dbOid, 0, 0), 0, endLsn, map);
    ingest.state.relationMaps.set(`${target.spcOid}/${target.dbOid}`, target);
  }
}

/** The source's pages under the target's keys. Blocks that a truncation cut off are left out. */
async function* copiedPages(
  ingest: Ingest,
  source: DatabasePlace,
  target: DatabasePlace,
  asOf: Lsn,
): AsyncGenerator<{ key: Key; bytes: Uint8Array }[]> {
  const range = databaseRange(Kind.RelationBlock, source.spcOid, source.dbOid);
  for await (const batch of ingest.store.scan(range, asOf)) {
    const pages: { key: Key; bytes: Uint8Array }[] = [];
    for (const entry of batch) {
      const relation = ingest.state.relations.find(source.spcOid, source.dbOid, entry.key.relNumber);
      if (relation === undefined || entry.key.block >= relation.size(entry.key.fork)) continue;
      const page = ingest.reconstructor.value(entry.key, entry.values);
      if (page === undefined) continue;
      pages.push({ key: { ...entry.key, spcOid: target.spcOid, dbOid: target.dbOid }, bytes: page.slice() });
    }
    yield pages;
  }
}
