/**
 * A data directory as of an LSN, as a tar stream: what stock Postgres starts on as after a clean shutdown. Relations,
 * SLRUs, databases and prepared transactions come from the store; pg_control and the first WAL segment are written for
 * a shutdown checkpoint at exactly that LSN, so that the WAL goes on without a gap.
 */
import { crc32c } from "../../base/crc32c.ts";
import { corrupt } from "../../base/errors.ts";
import { INVALID_LSN, type Lsn, formatLsn } from "../../base/lsn.ts";
import type { CheckPoint } from "../../postgres/checkpoint.ts";
import { GLOBAL_TABLESPACE_OID, PAGE_SIZE, SLRU_SEGMENT_PAGES } from "../../postgres/constants.ts";
import {
  ClusterState,
  type ControlFile,
  type ControlFileChanges,
  type ServerParameters,
  cleanShutdown,
  parseControlFile,
  renderControlFile,
} from "../../postgres/control-file.ts";
import { databaseDirectory, tablespaceVersionDirectory } from "../../postgres/relation.ts";
import {
  type OriginProgress,
  REPLICATION_ORIGINS_PATH,
  encodeOrigins,
} from "../../postgres/replication-origins.ts";
import { type Slru, slruPath, twoPhasePath } from "../../postgres/slru.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { synthesizeStart, writtenContent } from "../../postgres/wal/start-point.ts";
import { formatKey } from "../../storage/key-range.ts";
import type { Key } from "../../storage/key.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { CheckpointState } from "../ingest/checkpoint-state.ts";
import {
  CHECKPOINT_STATE_KEY,
  CONTROL_FILE_KEY,
  Kind,
  decodeOriginProgress,
  kindRange,
} from "../ingest/keyspace.ts";
import type { Reconstructor } from "../read/reconstruct.ts";
import { BACKUP_LABEL } from "./backup-label.ts";
import type { BackupTarget } from "./backup-target.ts";
import { writeRelationFiles } from "./relation-files.ts";
import { TarWriter } from "./tar-writer.ts";

export interface BaseBackupSource {
  readonly store: TimelineStore;
  readonly reconstructor: Reconstructor;
  readonly version: PgVersion;
  /** The end of a record. */
  readonly lsn: Lsn;
  /** Where the record that ends there starts. */
  readonly previousLsn: Lsn;
  /** A read-only compute starts as a standby that follows nobody. */
  readonly readOnly: boolean;
  readonly nowMs: number;
  /**
   * The directory is for recovery from this checkpoint, whose record ends at or below `lsn`, and whoever asks for it puts
   * the WAL into it. Otherwise it is as after a clean shutdown.
   */
  readonly recovery?: BackupRecovery | undefined;
  /** False leaves the files of relations out, for a compute that fetches pages one by one. */
  readonly relationFiles?: boolean;
}

export interface BackupRecovery {
  readonly checkpointLsn: Lsn;
  readonly redoLsn: Lsn;
  /** What tells Postgres that it is to recover, beside `readOnly`: `recovery.signal` or `backup_label`. */
  readonly marker?: { readonly path: string; readonly bytes: Uint8Array };
}

/** Directories that Postgres wants to find, beside those of databases. */
const DIRECTORIES: readonly string[] = [
  "base",
  "global",
  "pg_commit_ts",
  "pg_dynshmem",
  "pg_logical",
  "pg_logical/mappings",
  "pg_logical/snapshots",
  "pg_multixact",
  "pg_multixact/members",
  "pg_multixact/offsets",
  "pg_notify",
  "pg_replslot",
  "pg_serial",
  "pg_snapshots",
  "pg_stat",
  "pg_stat_tmp",
  "pg_subtrans",
  "pg_tblspc",
  "pg_twophase",
  "pg_wal",
  "pg_wal/archive_status",
  "pg_xact",
];

/** The tar, in chunks of about a megabyte that the consumer owns. */
export async function* baseBackup(source: BaseBackupSource): AsyncGenerator<Uint8Array> {
  const tar = new TarWriter({ mtimeMs: source.nowMs });
  for await (const _ of writeBackup(source, tar)) yield* tar.take();
  tar.finish();
  yield* tar.take();
}

/** Writes all files, anywhere; yields now and then so that the target can deal with what it has been given. */
export async function* writeBackup(source: BaseBackupSource, target: BackupTarget): AsyncGenerator<void> {
  const template = await readValue(source, CONTROL_FILE_KEY);
  const control = parseControlFile(template);
  const state = CheckpointState.decode(await readValue(source, CHECKPOINT_STATE_KEY));
  for (const directory of [...DIRECTORIES, ...source.version.directories]) target.directory(directory);
  target.file("PG_VERSION", versionFile(source.version));
  const hasTablespaces = await writeTablespaces(source, target);
  await writeDatabases(source, target);
  yield;
  const relations = { ...source, dataChecksums: control.dataChecksums };
  if (source.relationFiles ?? true) yield* writeRelationFiles(relations, target);
  await writeSlrus(source, target);
  yield;
  await writeTwoPhase(source, target);
  await writeOrigins(source, target);
  if (source.readOnly) {
    target.file("standby.signal", new Uint8Array(0));
  }
  // A standby panics about tablespaces that are plain directories, unless it is told that they are meant.
  if (hasTablespaces && (source.readOnly || source.recovery?.marker?.path === BACKUP_LABEL))
    target.file("postgresql.auto.conf", new TextEncoder().encode(ALLOW_IN_PLACE));
  if (source.recovery) writeRecovery(source, target, { template, state, ...source.recovery });
  else writeStart(source, target, { template, control, state });
  yield;
}

function versionFile(version: PgVersion): Uint8Array {
  return new TextEncoder().encode(`${version.major}\n`);
}

async function readValue(source: BaseBackupSource, key: Key): Promise<Uint8Array> {
  const { values } = await source.store.get(key, source.lsn);
  const value = source.reconstructor.value(key, values);
  if (value === undefined) {
    throw corrupt(`the value of kind 0x${key.kind.toString(16)} is missing at ${formatLsn(source.lsn)}`, {
      kind: key.kind,
      lsn: formatLsn(source.lsn),
    });
  }
  return value.slice();
}

/** Calls `emit` for every value of a kind that exists at an LSN, that of the backup unless given, in key order. */
async function eachValue(
  source: BaseBackupSource,
  kind: number,
  emit: (key: Key, value: Uint8Array) => void,
  lsn = source.lsn,
): Promise<void> {
  for await (const batch of source.store.scan(kindRange(kind), lsn)) {
    for (const entry of batch) {
      const value = source.reconstructor.value(entry.key, entry.values);
      if (value !== undefined) emit(entry.key, value);
    }
  }
}

const ALLOW_IN_PLACE = "allow_in_place_tablespaces = on\n";

/**
 * Tablespaces are directories in the data directory and not links to where they once were: each compute has its own.
 * Returns whether there are any.
 */
async function writeTablespaces(source: BaseBackupSource, target: BackupTarget): Promise<boolean> {
  let found = false;
  await eachValue(source, Kind.Tablespace, (key) => {
    found = true;
    const directory = `pg_tblspc/${key.spcOid}`;
    target.directory(directory);
    target.directory(`${directory}/${tablespaceVersionDirectory(source.version)}`);
  });
  return found;
}

async function writeDatabases(source: BaseBackupSource, target: BackupTarget): Promise<void> {
  await eachValue(source, Kind.Database, (key, value) => {
    const directory = databaseDirectory(key.spcOid, key.dbOid, source.version);
    target.directory(directory);
    if (value.length > 0) target.file(`${directory}/PG_VERSION`, value);
  });
  await eachValue(source, Kind.RelationMap, (key, value) => {
    // The record of the shared map names no tablespace that matters: database 0 is what makes it shared.
    const spcOid = key.dbOid === 0 ? GLOBAL_TABLESPACE_OID : key.spcOid;
    target.file(`${databaseDirectory(spcOid, key.dbOid, source.version)}/pg_filenode.map`, value);
  });
}

async function writeSlrus(source: BaseBackupSource, target: BackupTarget): Promise<void> {
  let path = "";
  let segment = new Uint8Array(0);
  const flush = (): void => {
    if (path !== "") target.file(path, segment);
  };
  await eachValue(source, Kind.SlruPage, (key, value) => {
    const next = slruPath(key.spcOid as Slru, Math.floor(key.block / SLRU_SEGMENT_PAGES));
    if (next !== path) {
      flush();
      path = next;
      segment = new Uint8Array(0);
    }
    // A segment's file is as long as its last page needs; pages come in order.
    const at = (key.block % SLRU_SEGMENT_PAGES) * PAGE_SIZE;
    const grown = new Uint8Array(at + PAGE_SIZE);
    grown.set(segment);
    grown.set(value, at);
    segment = grown;
  });
  flush();
}

/**
 * A checkpoint writes files for transactions that were prepared before its redo point. Recovery makes the others from WAL, but not where
 * it finds a file; from 17 on, it does not even forget those whose xid the checkpoint does not know yet.
 */
async function writeTwoPhase(source: BaseBackupSource, target: BackupTarget): Promise<void> {
  const { recovery } = source;
  const beforeRedo = new Set<string>();
  if (recovery !== undefined) {
    await eachValue(source, Kind.TwoPhase, (key) => beforeRedo.add(formatKey(key)), recovery.redoLsn);
  }
  await eachValue(source, Kind.TwoPhase, (key, payload) => {
    if (recovery !== undefined && !beforeRedo.has(formatKey(key))) return;
    const fullXid = (BigInt(key.relNumber) << 32n) | BigInt(key.block);
    const file = new Uint8Array(payload.length + 4);
    file.set(payload);
    new DataView(file.buffer).setUint32(payload.length, crc32c(payload), true);
    target.file(twoPhasePath(fullXid, source.version), file);
  });
}

async function writeOrigins(source: BaseBackupSource, target: BackupTarget): Promise<void> {
  const origins: OriginProgress[] = [];
  await eachValue(source, Kind.ReplicationOrigin, (key, value) => {
    origins.push({ origin: key.block, remoteLsn: decodeOriginProgress(value) });
  });
  if (origins.length > 0) target.file(REPLICATION_ORIGINS_PATH, encodeOrigins(origins));
}

/**
 * pg_control and the WAL that holds the checkpoint it points to. Segments end with their last page that is not zero:
 * Postgres starts on that, and the compute gives them their full length, which may be a gigabyte.
 */
function writeStart(
  source: BaseBackupSource,
  target: BackupTarget,
  from: { template: Uint8Array; control: ControlFile; state: CheckpointState },
): void {
  const parameters = serverParameters(from.state);
  const start = synthesizeStart({
    lsn: source.lsn,
    previousLsn: source.previousLsn,
    checkpoint: checkPointOf(from.state, parameters, source.nowMs),
    version: source.version,
    systemId: from.control.systemId,
    segmentSize: from.control.walSegmentSize,
    timelineNumber: from.state.timelineNumber,
  });
  for (const segment of start.segments) target.file(`pg_wal/${segment.name}`, writtenContent(segment));
  const changes = cleanShutdown(start.recordLsn, start.checkpoint, parameters);
  target.file("global/pg_control", renderControlFile(from.template, changes));
}

/**
 * A pg_control as that of a standby that has got to the end of the checkpoint's record. What the checkpoint says is read
 * from the record itself; of the copy here only redo LSN and timeline count.
 */
function writeRecovery(
  source: BaseBackupSource,
  target: BackupTarget,
  from: BackupRecovery & { template: Uint8Array; state: CheckpointState },
): void {
  const parameters = serverParameters(from.state);
  const checkpoint = { ...checkPointOf(from.state, parameters, source.nowMs), redoLsn: from.redoLsn };
  const changes: ControlFileChanges = {
    ...cleanShutdown(from.checkpointLsn, { ...checkpoint, redoLsn: from.checkpointLsn }, parameters),
    checkpoint,
    state: ClusterState.ShutDownInRecovery,
    minRecoveryPoint: source.lsn,
    minRecoveryTimeline: from.state.timelineNumber,
  };
  if (from.marker) target.file(from.marker.path, from.marker.bytes);
  target.file("global/pg_control", renderControlFile(from.template, changes));
}

function serverParameters(state: CheckpointState): ServerParameters {
  return {
    walLevel: state.walLevel,
    walLogHints: state.walLogHints,
    maxConnections: state.maxConnections,
    maxWorkerProcesses: state.maxWorkerProcesses,
    maxWalSenders: state.maxWalSenders,
    maxPreparedTransactions: state.maxPreparedTransactions,
    maxLocksPerTransaction: state.maxLocksPerTransaction,
    trackCommitTimestamp: state.trackCommitTimestamp,
  };
}

function checkPointOf(state: CheckpointState, parameters: ServerParameters, nowMs: number): CheckPoint {
  return {
    redoLsn: INVALID_LSN,
    timeline: state.timelineNumber,
    previousTimeline: state.timelineNumber,
    fullPageWrites: state.fullPageWrites,
    walLevel: parameters.walLevel,
    nextXid: state.nextFullXid,
    nextOid: state.nextOid,
    nextMulti: state.nextMulti,
    nextMultiOffset: state.nextMultiOffset,
    oldestXid: state.oldestXid,
    oldestXidDb: state.oldestXidDb,
    oldestMulti: state.oldestMulti,
    oldestMultiDb: state.oldestMultiDb,
    timeSeconds: Math.floor(nowMs / 1000),
    oldestCommitTsXid: state.oldestCommitTsXid,
    newestCommitTsXid: state.newestCommitTsXid,
    oldestActiveXid: 0,
  };
}
