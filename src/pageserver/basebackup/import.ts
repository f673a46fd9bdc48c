/**
 * A data directory, as a tar, into keyed values: the base image of a tenant's first timeline. One that was stopped
 * cleanly belongs to the end of the shutdown checkpoint that pg_control names, and WAL goes on from there; a base backup
 * of a running server has the WAL in it that makes it whole.
 */
import { crc32c } from "../../base/crc32c.ts";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import {
  DEFAULT_TABLESPACE_OID,
  Fork,
  GLOBAL_TABLESPACE_OID,
  PAGE_SIZE,
  RELATION_SEGMENT_PAGES,
  SLRU_SEGMENT_PAGES,
} from "../../postgres/constants.ts";
import { ClusterState, type ControlFile, parseControlFile } from "../../postgres/control-file.ts";
import { type RelationFile, databaseDirectory, parseRelationPath } from "../../postgres/relation.ts";
import { REPLICATION_ORIGINS_PATH, decodeOrigins } from "../../postgres/replication-origins.ts";
import { parseSlruPath, parseTwoPhasePath } from "../../postgres/slru.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { CHECKPOINT_SIZE } from "../../postgres/checkpoint.ts";
import { RECORD_HEADER_SIZE } from "../../postgres/wal/decode-record.ts";
import { recordEndLsn, withoutPageHeader } from "../../postgres/wal/layout.ts";
import { type Key, compareKeys } from "../../storage/key.ts";
import { CheckpointState } from "../ingest/checkpoint-state.ts";
import {
  CHECKPOINT_STATE_KEY,
  CONTROL_FILE_KEY,
  Kind,
  encodeOriginProgress,
  key,
  originKey,
  slruPageKey,
  twoPhaseKey,
} from "../ingest/keyspace.ts";
import { KeptWal, isWalFile } from "../receive/kept-wal.ts";
import { BACKUP_LABEL, backupRedoLsn } from "./backup-label.ts";
import { readTarFiles } from "./tar-reader.ts";

/** A data directory is held in memory while it is imported: what initdb makes is 40 MB. */
const IMPORT_BYTES_MAX = 2 * 1024 ** 3;
/** What stands behind the content of a prepared transaction's file. */
const CHECKSUM_SIZE = 4;
/** Values handed on at a time. */
const BATCH_VALUES = 256;

/** A checkpoint record: header, the two bytes that announce the main data, and the checkpoint. */
const CHECKPOINT_RECORD_SIZE = RECORD_HEADER_SIZE + 2 + CHECKPOINT_SIZE;
const CONTROL_FILE = "global/pg_control";

export interface ImportedCluster {
  readonly control: ControlFile;
  /** What the values are as of: the end of the shutdown checkpoint, or where WAL must be replayed from. */
  readonly lsn: Lsn;
  /** Of a base backup of a running server: where it begins, and the WAL that makes it whole. */
  readonly online?: { readonly redoLsn: Lsn; readonly wal: KeptWal };
  /** All values, in key order. */
  readonly values: AsyncIterable<readonly { key: Key; bytes: Uint8Array }[]>;
}

interface Value {
  readonly key: Key;
  readonly bytes: Uint8Array;
}

/** Reads the tar. Throws `usage` if it is no data directory, `conflict` if it was not stopped cleanly. */
export async function readDataDirectory(tar: AsyncIterable<Uint8Array>): Promise<ImportedCluster> {
  const files = await readTar(tar);
  const template = files.get(CONTROL_FILE);
  if (template === undefined) {
    throw new NeonError(ErrorCode.Usage, `the archive is no data directory: it has no ${CONTROL_FILE}`);
  }
  const control = parseControlFile(template);
  const label = files.get(BACKUP_LABEL);
  if (label !== undefined) return readOnlineBackup(files, { control, template, label });
  if (control.state !== ClusterState.ShutDown) {
    throw new NeonError(ErrorCode.Conflict, "the data directory was not shut down cleanly", {
      hint: "Start Postgres on it once and stop it with pg_ctl stop -m fast, then import it.",
      data: { state: control.state },
    });
  }
  const lsn = recordEndLsn(control.checkpointLsn, CHECKPOINT_RECORD_SIZE, control.walSegmentSize);
  const values = collectValues(files, control, template);
  values.sort((a, b) => compareKeys(a.key, b.key));
  return { control, lsn, values: inBatches(values) };
}

/**
 * A base backup of a running server: files from anywhere between its beginning and its end, which the WAL in between
 * makes one. Every page that is changed meanwhile is whole in the WAL, so what is in the files does not matter.
 */
function readOnlineBackup(
  files: Map<string, Uint8Array>,
  from: { control: ControlFile; template: Uint8Array; label: Uint8Array },
): ImportedCluster {
  const { control, template, label } = from;
  const redoLsn = backupRedoLsn(label);
  const lsn = withoutPageHeader(redoLsn, control.walSegmentSize);
  const wal = new Map([...files].filter(([path]) => isWalFile(path)));
  if (wal.size === 0) {
    throw new NeonError(ErrorCode.Usage, "the base backup of a running server has no WAL in its archive", {
      hint: "Take it with pg_basebackup -F tar -X fetch, which puts the WAL into base.tar; or stop the server and import its directory.",
    });
  }
  for (const path of [BACKUP_LABEL, ...wal.keys()]) files.delete(path);
  const values = collectValues(files, control, template);
  values.sort((a, b) => compareKeys(a.key, b.key));
  const cluster = {
    pgVersion: control.version,
    systemId: control.systemId,
    segmentSize: control.walSegmentSize,
  };
  return {
    control,
    lsn,
    values: inBatches(values),
    online: { redoLsn, wal: new KeptWal(cluster, wal) },
  };
}

async function* inBatches(values: readonly Value[]): AsyncGenerator<readonly Value[]> {
  for (let at = 0; at < values.length; at += BATCH_VALUES) yield values.slice(at, at + BATCH_VALUES);
}

/** Content of all files that matter, by path relative to the data directory. */
async function readTar(tar: AsyncIterable<Uint8Array>): Promise<Map<string, Uint8Array>> {
  let link: string | undefined;
  // The label comes first, the WAL last. Of a server that was stopped the WAL is not needed.
  let isOnline = false;
  const files = await readTarFiles(tar, {
    what: "data directory",
    sizeBytesMax: IMPORT_BYTES_MAX,
    wants: (path) => {
      isOnline ||= path === BACKUP_LABEL;
      return path === BACKUP_LABEL || isImported(path) || (isOnline && isWalFile(path));
    },
    // What a link leads to is not in the archive; pg_wal may be one, and is not needed.
    onLink: (path) => {
      if (isImported(path) || isImported(`${path}/`)) link ??= path;
    },
  });
  if (link !== undefined) throw linkError(link);
  return files;
}

function linkError(path: string): NeonError {
  if (path.startsWith("pg_tblspc/")) return tablespaceError(path);
  return new NeonError(
    ErrorCode.Unsupported,
    `${path} in the data directory is a link, not a file or directory`,
    {
      hint: "Stop Postgres and put in the link's place what it leads to, then import.",
      data: { path },
    },
  );
}

function tablespaceError(path: string): NeonError {
  return new NeonError(
    ErrorCode.Unsupported,
    `the data directory has ${path}: tablespaces cannot be imported yet`,
    {
      hint: "Move what is in them to the default tablespace (ALTER TABLE … SET TABLESPACE pg_default), drop them, stop Postgres, then import.",
      data: { path },
    },
  );
}

const IMPORTED =
  /^(?:PG_VERSION$|global\/|base\/|pg_tblspc\/|pg_xact\/|pg_multixact\/|pg_commit_ts\/|pg_twophase\/|pg_logical\/replorigin_checkpoint$)/;

function isImported(path: string): boolean {
  return IMPORTED.test(path);
}

function collectValues(
  files: ReadonlyMap<string, Uint8Array>,
  control: ControlFile,
  template: Uint8Array,
): Value[] {
  const { version } = control;
  const values: Value[] = [];
  const sizes = new Map<string, { key: Key; blocks: number }>();
  for (const [path, bytes] of files) {
    if (path.startsWith("pg_tblspc/")) throw tablespaceError(path);
    const relation = parseRelationPath(path, version);
    if (relation !== undefined) addRelationFile(values, sizes, relation, bytes, path);
    else addOtherFile(values, path, bytes);
  }
  for (const { key: sizeKey, blocks } of sizes.values()) {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, blocks, true);
    values.push({ key: sizeKey, bytes });
  }
  addDatabases(values, files, version);
  const state = new CheckpointState();
  state.assign(control.checkpoint);
  Object.assign(state, {
    walLevel: control.parameters.walLevel,
    walLogHints: control.parameters.walLogHints,
    maxConnections: control.parameters.maxConnections,
    maxWorkerProcesses: control.parameters.maxWorkerProcesses,
    maxWalSenders: control.parameters.maxWalSenders,
    maxPreparedTransactions: control.parameters.maxPreparedTransactions,
    maxLocksPerTransaction: control.parameters.maxLocksPerTransaction,
    trackCommitTimestamp: control.parameters.trackCommitTimestamp,
  });
  addPreparedTransactions(values, files, version, state);
  values.push(
    { key: CHECKPOINT_STATE_KEY, bytes: state.encode() },
    { key: CONTROL_FILE_KEY, bytes: template },
  );
  return values;
}

function addRelationFile(
  values: Value[],
  sizes: Map<string, { key: Key; blocks: number }>,
  relation: RelationFile,
  bytes: Uint8Array,
  path: string,
): void {
  if (relation.fork === Fork.FreeSpaceMap) return;
  if (bytes.length % PAGE_SIZE !== 0) {
    throw new NeonError(ErrorCode.Corrupt, `${path} has ${bytes.length} bytes, not whole pages`, {
      data: { path },
    });
  }
  const pages = bytes.length / PAGE_SIZE;
  const first = relation.segment * RELATION_SEGMENT_PAGES;
  const place = {
    spcOid: relation.spcOid,
    dbOid: relation.dbOid,
    relNumber: relation.relNumber,
    fork: relation.fork,
  };
  for (let i = 0; i < pages; i++) {
    const blockKey = key(Kind.RelationBlock, { ...place, block: first + i });
    values.push({ key: blockKey, bytes: bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE) });
  }
  const name = `${place.spcOid}/${place.dbOid}/${place.relNumber}/${place.fork}`;
  const blocks = Math.max(sizes.get(name)?.blocks ?? 0, first + pages);
  sizes.set(name, { key: key(Kind.RelationSize, place), blocks });
}

function addOtherFile(values: Value[], path: string, bytes: Uint8Array): void {
  if (path === REPLICATION_ORIGINS_PATH) {
    for (const { origin, remoteLsn } of decodeOrigins(bytes)) {
      values.push({ key: originKey(origin), bytes: encodeOriginProgress(remoteLsn) });
    }
    return;
  }
  const segment = parseSlruPath(path);
  if (segment === undefined) return;
  for (let at = 0; at + PAGE_SIZE <= bytes.length; at += PAGE_SIZE) {
    const pageNumber = segment.segment * SLRU_SEGMENT_PAGES + at / PAGE_SIZE;
    values.push({ key: slruPageKey(segment.slru, pageNumber), bytes: bytes.subarray(at, at + PAGE_SIZE) });
  }
}

/**
 * Transactions that were prepared when the server stopped. A file is what the record of PREPARE held, and its CRC-32C.
 * Before 17 its name has no epoch: that of the counters says which it was.
 */
function addPreparedTransactions(
  values: Value[],
  files: ReadonlyMap<string, Uint8Array>,
  version: PgVersion,
  state: CheckpointState,
): void {
  for (const [path, bytes] of files) {
    if (!path.startsWith("pg_twophase/")) continue;
    const named = parseTwoPhasePath(path, version);
    const end = bytes.length - CHECKSUM_SIZE;
    const stored = end > 0 ? new DataView(bytes.buffer, bytes.byteOffset + end, CHECKSUM_SIZE) : undefined;
    if (named === undefined || stored?.getUint32(0, true) !== crc32c(bytes, 0, end)) {
      throw new NeonError(ErrorCode.Corrupt, `${path} is no whole prepared transaction`, {
        hint: "Start Postgres on the directory: it says what is wrong with the file.",
        data: { path, size: bytes.length },
      });
    }
    const xid = Number(BigInt.asUintN(32, named));
    values.push({
      key: twoPhaseKey((BigInt(state.epochOf(xid)) << 32n) | BigInt(xid)),
      bytes: bytes.subarray(0, end),
    });
  }
}

const DATABASE_VERSION = /^base\/(\d+)\/PG_VERSION$/;

/** Directories of databases, with their version file and relation map. */
function addDatabases(values: Value[], files: ReadonlyMap<string, Uint8Array>, version: PgVersion): void {
  const globalMap = files.get("global/pg_filenode.map");
  if (globalMap === undefined)
    throw new NeonError(ErrorCode.Usage, "the archive has no global/pg_filenode.map");
  values.push({ key: key(Kind.RelationMap, { spcOid: GLOBAL_TABLESPACE_OID }), bytes: globalMap });
  for (const [path, bytes] of files) {
    const dbOid = Number(DATABASE_VERSION.exec(path)?.[1] ?? 0);
    if (dbOid === 0) continue;
    values.push({ key: key(Kind.Database, { spcOid: DEFAULT_TABLESPACE_OID, dbOid }), bytes });
    const map = files.get(`${databaseDirectory(DEFAULT_TABLESPACE_OID, dbOid, version)}/pg_filenode.map`);
    if (map !== undefined)
      values.push({ key: key(Kind.RelationMap, { spcOid: DEFAULT_TABLESPACE_OID, dbOid }), bytes: map });
  }
}
