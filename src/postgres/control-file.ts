/**
 * `global/pg_control`. Little-endian, 8192 bytes of which the first 296 mean something.
 * Source: PostgreSQL 14-18, src/include/catalog/pg_control.h, ControlFileData.
 *
 *   offset  size  field
 *        0     8  systemId
 *        8     4  controlVersion
 *       12     4  catalogVersion
 *       16     4  state                 see ClusterState
 *       24     8  timeSeconds           last change, signed, since 1970
 *       32     8  checkpointLsn         start of the last checkpoint record
 *       40    88  checkpoint            see checkpoint.ts
 *      128     8  unloggedLsn           counter for unlogged relations
 *      136     8  minRecoveryPoint
 *      144     4  minRecoveryTimeline
 *      152     8  backupStartPoint
 *      160     8  backupEndPoint
 *      168     1  backupEndRequired
 *      172    29  parameters            see ServerParameters
 *      204     4  maxAlign              8
 *      208     8  floatFormat           1234567.0
 *      216     4  pageSize              8192
 *      220     4  relationSegmentPages  131072
 *      224     4  walPageSize           8192
 *      228     4  walSegmentSize
 *      232    20  name, index, TOAST and large-object limits of the build
 *      252     4  checksumVersion       0: pages have no checksums
 *   version.controlCrcOffset    4  CRC-32C over what lies before it
 */
import { crc32c } from "../base/crc32c.ts";
import { assert, corrupt, ErrorCode, NeonError } from "../base/errors.ts";
import { INVALID_LSN, type Lsn, lsnFromWords, lsnHigh, lsnLow } from "../base/lsn.ts";
import { CHECKPOINT_SIZE, type CheckPoint, decodeCheckPoint, encodeCheckPoint } from "./checkpoint.ts";
import { PAGE_SIZE, RELATION_SEGMENT_PAGES } from "./constants.ts";
import type { PgVersion } from "./versions/version.ts";
import { versionByControl } from "./versions/versions.ts";

export const CONTROL_FILE_SIZE = 8192;
/** No version's structure is longer. */
const CONTROL_DATA_SIZE = 296;
const CHECKPOINT_OFFSET = 40;
const MAX_ALIGN = 8;
const FLOAT_FORMAT = 1234567.0;
const WAL_SEGMENT_SIZE_MIN = 1024 * 1024;
const WAL_SEGMENT_SIZE_MAX = 1024 * 1024 * 1024;

/** What Postgres starts the LSN counter of unlogged relations with. */
export const FIRST_UNLOGGED_LSN = 1000 as Lsn;

export const ClusterState = {
  StartingUp: 0,
  ShutDown: 1,
  ShutDownInRecovery: 2,
  ShuttingDown: 3,
  InCrashRecovery: 4,
  InArchiveRecovery: 5,
  InProduction: 6,
} as const;
export type ClusterState = (typeof ClusterState)[keyof typeof ClusterState];

/** Settings that replay must know: kept in pg_control, changed by XLOG PARAMETER_CHANGE records. */
export interface ServerParameters {
  readonly walLevel: number;
  readonly walLogHints: boolean;
  readonly maxConnections: number;
  readonly maxWorkerProcesses: number;
  readonly maxWalSenders: number;
  readonly maxPreparedTransactions: number;
  readonly maxLocksPerTransaction: number;
  readonly trackCommitTimestamp: boolean;
}

export interface ControlFile {
  readonly version: PgVersion;
  readonly systemId: bigint;
  /** A `ClusterState`, unless the file is of a newer minor version with more states. */
  readonly state: number;
  readonly timeSeconds: number;
  readonly checkpointLsn: Lsn;
  readonly checkpoint: CheckPoint;
  readonly unloggedLsn: Lsn;
  readonly minRecoveryPoint: Lsn;
  readonly minRecoveryTimeline: number;
  readonly backupStartPoint: Lsn;
  readonly backupEndPoint: Lsn;
  readonly backupEndRequired: boolean;
  readonly parameters: ServerParameters;
  readonly walSegmentSize: number;
  /** Pages carry checksums. */
  readonly dataChecksums: boolean;
}

/** What `renderControlFile` may change; what is absent stays as in the template. */
export type ControlFileChanges = Partial<
  Pick<
    ControlFile,
    | "state"
    | "timeSeconds"
    | "checkpointLsn"
    | "checkpoint"
    | "unloggedLsn"
    | "minRecoveryPoint"
    | "minRecoveryTimeline"
    | "backupStartPoint"
    | "backupEndPoint"
    | "backupEndRequired"
    | "parameters"
  >
>;

/**
 * Reads a pg_control. Throws `corrupt` when it is cut off or its checksum is wrong, `unsupported` when it is of another
 * major version or of a build with other sizes.
 */
export function parseControlFile(bytes: Uint8Array): ControlFile {
  if (bytes.length < CONTROL_DATA_SIZE)
    throw corrupt(`pg_control has only ${bytes.length} bytes`, { size: bytes.length });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = versionByControl(view.getUint32(8, true), view.getUint32(12, true));
  const expected = view.getUint32(version.controlCrcOffset, true);
  const found = crc32c(bytes, 0, version.controlCrcOffset);
  if (expected !== found) throw corrupt("pg_control has a wrong checksum", { expected, found });
  checkBuild(view);
  return {
    version,
    systemId: view.getBigUint64(0, true),
    state: view.getInt32(16, true),
    timeSeconds: Number(view.getBigInt64(24, true)),
    checkpointLsn: readLsn(view, 32),
    checkpoint: decodeCheckPoint(bytes, CHECKPOINT_OFFSET, version),
    unloggedLsn: readLsn(view, 128),
    minRecoveryPoint: readLsn(view, 136),
    minRecoveryTimeline: view.getUint32(144, true),
    backupStartPoint: readLsn(view, 152),
    backupEndPoint: readLsn(view, 160),
    backupEndRequired: view.getUint8(168) !== 0,
    parameters: readParameters(view),
    walSegmentSize: view.getUint32(228, true),
    dataChecksums: view.getUint32(252, true) !== 0,
  };
}

/**
 * A new pg_control of 8192 bytes: the template (a valid one of the same cluster) with `changes`. Throws as
 * `parseControlFile` does when the template is not valid.
 */
export function renderControlFile(template: Uint8Array, changes: ControlFileChanges): Uint8Array {
  const { version } = parseControlFile(template);
  const bytes = new Uint8Array(CONTROL_FILE_SIZE);
  bytes.set(template.subarray(0, version.controlCrcOffset));
  const view = new DataView(bytes.buffer);
  if (changes.state !== undefined) view.setInt32(16, changes.state, true);
  if (changes.timeSeconds !== undefined) view.setBigInt64(24, BigInt(changes.timeSeconds), true);
  if (changes.checkpointLsn !== undefined) writeLsn(view, 32, changes.checkpointLsn);
  if (changes.checkpoint) bytes.set(encodeCheckPoint(changes.checkpoint, version), CHECKPOINT_OFFSET);
  if (changes.unloggedLsn !== undefined) writeLsn(view, 128, changes.unloggedLsn);
  if (changes.minRecoveryPoint !== undefined) writeLsn(view, 136, changes.minRecoveryPoint);
  if (changes.minRecoveryTimeline !== undefined) view.setUint32(144, changes.minRecoveryTimeline, true);
  if (changes.backupStartPoint !== undefined) writeLsn(view, 152, changes.backupStartPoint);
  if (changes.backupEndPoint !== undefined) writeLsn(view, 160, changes.backupEndPoint);
  if (changes.backupEndRequired !== undefined) view.setUint8(168, changes.backupEndRequired ? 1 : 0);
  if (changes.parameters) writeParameters(view, changes.parameters);
  view.setUint32(version.controlCrcOffset, crc32c(bytes, 0, version.controlCrcOffset), true);
  return bytes;
}

/**
 * The changes that make a pg_control say: shut down cleanly at the checkpoint record at `checkpointLsn`. `checkpoint`
 * must equal what that record holds; Postgres believes this copy.
 */
export function cleanShutdown(
  checkpointLsn: Lsn,
  checkpoint: CheckPoint,
  parameters?: ServerParameters,
): ControlFileChanges {
  assert(checkpoint.redoLsn === checkpointLsn, "a shutdown checkpoint is its own redo point");
  return {
    state: ClusterState.ShutDown,
    timeSeconds: checkpoint.timeSeconds,
    checkpointLsn,
    checkpoint,
    unloggedLsn: FIRST_UNLOGGED_LSN,
    minRecoveryPoint: INVALID_LSN,
    minRecoveryTimeline: 0,
    backupStartPoint: INVALID_LSN,
    backupEndPoint: INVALID_LSN,
    backupEndRequired: false,
    ...(parameters && { parameters }),
  };
}

function checkBuild(view: DataView): void {
  const fixed: readonly (readonly [string, number, number])[] = [
    ["maximum alignment", view.getUint32(204, true), MAX_ALIGN],
    ["floating-point format", view.getFloat64(208, true), FLOAT_FORMAT],
    ["page size", view.getUint32(216, true), PAGE_SIZE],
    ["pages per relation segment", view.getUint32(220, true), RELATION_SEGMENT_PAGES],
    ["WAL page size", view.getUint32(224, true), PAGE_SIZE],
  ];
  for (const [what, found, expected] of fixed) {
    if (found !== expected) throw unsupportedBuild(what, found, expected);
  }
  const segmentSize = view.getUint32(228, true);
  const isPowerOfTwo = segmentSize > 0 && (segmentSize & (segmentSize - 1)) === 0;
  if (!isPowerOfTwo || segmentSize < WAL_SEGMENT_SIZE_MIN || segmentSize > WAL_SEGMENT_SIZE_MAX)
    throw unsupportedBuild("WAL segment size", segmentSize, "a power of two from 1 MiB to 1 GiB");
  assert(CHECKPOINT_OFFSET + CHECKPOINT_SIZE === 128, "the checkpoint fills its place");
}

function unsupportedBuild(what: string, found: number, expected: number | string): NeonError {
  return new NeonError(
    ErrorCode.Unsupported,
    `this PostgreSQL build has ${what} ${found}; only ${expected} is supported`,
    {
      hint: "Use a PostgreSQL with the usual sizes: built without --with-blocksize, --with-wal-blocksize and --with-segsize.",
      data: { found, expected },
    },
  );
}

function readParameters(view: DataView): ServerParameters {
  return {
    walLevel: view.getInt32(172, true),
    walLogHints: view.getUint8(176) !== 0,
    maxConnections: view.getInt32(180, true),
    maxWorkerProcesses: view.getInt32(184, true),
    maxWalSenders: view.getInt32(188, true),
    maxPreparedTransactions: view.getInt32(192, true),
    maxLocksPerTransaction: view.getInt32(196, true),
    trackCommitTimestamp: view.getUint8(200) !== 0,
  };
}

function writeParameters(view: DataView, parameters: ServerParameters): void {
  view.setInt32(172, parameters.walLevel, true);
  view.setUint8(176, parameters.walLogHints ? 1 : 0);
  view.setInt32(180, parameters.maxConnections, true);
  view.setInt32(184, parameters.maxWorkerProcesses, true);
  view.setInt32(188, parameters.maxWalSenders, true);
  view.setInt32(192, parameters.maxPreparedTransactions, true);
  view.setInt32(196, parameters.maxLocksPerTransaction, true);
  view.setUint8(200, parameters.trackCommitTimestamp ? 1 : 0);
}

function readLsn(view: DataView, offset: number): Lsn {
  return lsnFromWords(view.getUint32(offset + 4, true), view.getUint32(offset, true));
}

function writeLsn(view: DataView, offset: number, lsn: Lsn): void {
  view.setUint32(offset, lsnLow(lsn), true);
  view.setUint32(offset + 4, lsnHigh(lsn), true);
}
