/**
 * Names of relation files in a data directory.
 *
 *   global/1262                       shared relation: tablespace 1664, database 0
 *   base/5/1259                       tablespace 1663
 *   pg_tblspc/16390/PG_17_202406281/5/16384    any other tablespace
 *   …_fsm, …_vm, …_init               forks; the main fork has no suffix
 *   ….1, ….2                          segments of 1 GiB; the first has no suffix
 *
 * Source: PostgreSQL 14-18, src/common/relpath.c.
 */
import { assert } from "../base/errors.ts";
import { DEFAULT_TABLESPACE_OID, Fork, GLOBAL_TABLESPACE_OID } from "./constants.ts";
import type { PgVersion } from "./versions/version.ts";

/** One fork of one relation. */
export interface RelationFork {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork: number;
}

/** One file: a segment of a fork. */
export interface RelationFile extends RelationFork {
  readonly segment: number;
}

const FORK_SUFFIXES: readonly string[] = ["", "_fsm", "_vm", "_init"];
const OID_MAX = 0xffffffff;
/** Block numbers have 32 bits and a segment has 2^17 blocks. */
const SEGMENT_MAX = 2 ** 15 - 1;

const RELATION_FILE =
  /^(?:global|base\/(?<db>[1-9][0-9]{0,9})|pg_tblspc\/(?<spc>[1-9][0-9]{0,9})\/(?<dir>[A-Za-z0-9_]+)\/(?<spcDb>[1-9][0-9]{0,9}))\/(?<rel>[1-9][0-9]{0,9})(?<fork>_fsm|_vm|_init)?(?:\.(?<segment>[1-9][0-9]{0,4}))?$/;

/** `PG_17_202406281`: the directory of one major version in a tablespace. */
export function tablespaceVersionDirectory(version: PgVersion): string {
  return `PG_${version.major}_${version.catalogVersion}`;
}

/** The directory that holds a database's relations, relative to the data directory: `global`, `base/5`… */
export function databaseDirectory(spcOid: number, dbOid: number, version: PgVersion): string {
  if (spcOid === GLOBAL_TABLESPACE_OID) {
    assert(dbOid === 0, "shared relations belong to no database");
    return "global";
  }
  if (spcOid === DEFAULT_TABLESPACE_OID) return `base/${dbOid}`;
  return `pg_tblspc/${spcOid}/${tablespaceVersionDirectory(version)}/${dbOid}`;
}

/** The path of a segment file, relative to the data directory. */
export function relationPath(file: RelationFile, version: PgVersion): string {
  const suffix = FORK_SUFFIXES[file.fork];
  assert(suffix !== undefined, `fork ${file.fork}`);
  assert(file.segment >= 0 && file.segment <= SEGMENT_MAX, `segment ${file.segment}`);
  const directory = databaseDirectory(file.spcOid, file.dbOid, version);
  return `${directory}/${file.relNumber}${suffix}${file.segment === 0 ? "" : `.${file.segment}`}`;
}

/**
 * What a path relative to the data directory names, or undefined if it is no relation file: another file, a temporary
 * relation, a tablespace directory of another major version.
 */
export function parseRelationPath(path: string, version: PgVersion): RelationFile | undefined {
  const groups = RELATION_FILE.exec(path)?.groups;
  if (!groups) return undefined;
  const { db, spc, dir, spcDb, rel, fork, segment } = groups;
  if (dir !== undefined && dir !== tablespaceVersionDirectory(version)) return undefined;
  const file: RelationFile = {
    spcOid:
      spc === undefined ? (db === undefined ? GLOBAL_TABLESPACE_OID : DEFAULT_TABLESPACE_OID) : Number(spc),
    dbOid: Number(db ?? spcDb ?? 0),
    relNumber: Number(rel),
    fork: fork === undefined ? Fork.Main : FORK_SUFFIXES.indexOf(fork),
    segment: Number(segment ?? 0),
  };
  const inRange =
    file.spcOid <= OID_MAX &&
    file.dbOid <= OID_MAX &&
    file.relNumber <= OID_MAX &&
    file.segment <= SEGMENT_MAX;
  return inRange ? file : undefined;
}

/** `1663/5/16384 main`, for messages. */
export function formatRelation(relation: RelationFork): string {
  const fork = FORK_SUFFIXES[relation.fork]?.slice(1) ?? `fork ${relation.fork}`;
  return `${relation.spcOid}/${relation.dbOid}/${relation.relNumber} ${fork === "" ? "main" : fork}`;
}
