/**
 * What stock Postgres needs to recover a moment of a branch by itself: a base backup at a checkpoint of the branch's own
 * history, with a pg_control that says so, and the WAL from there up to that moment, put together again from the
 * records in the layers. What recovery makes of it can then be compared with what we say.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnFromWords } from "../../base/lsn.ts";
import { Rmgr } from "../../postgres/constants.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { WalLayout } from "../../postgres/wal/lay-out.ts";
import { segmentName, segmentStart } from "../../postgres/wal/layout.ts";
import { type BaseBackupSource, writeBackup } from "../basebackup/basebackup.ts";
import { TarWriter } from "../basebackup/tar-writer.ts";
import type { RecordBoundary } from "../timeline/record-boundary.ts";
import { type StoredRecord, layOut, storedRecords } from "./stored-wal.ts";

/** Records of the resource managers XLOG and Tablespace. Source: PostgreSQL 14-18, catalog/pg_control.h, commands/tablespace.h. */
const XLOG_CHECKPOINT_SHUTDOWN = 0x00;
const XLOG_CHECKPOINT_ONLINE = 0x10;
const XLOG_TBLSPC_CREATE = 0x00;
/** In the header of a record. */
const INFO_OFFSET = 16;
const RMGR_OFFSET = 17;
/** Main data of a short record: behind the header, an id byte and a length byte. */
const MAIN_DATA_OFFSET = 26;

/** A checkpoint from which recovery can begin. */
export interface RecoveryStart {
  /** Start and end of its record. */
  readonly checkpointLsn: Lsn;
  readonly endLsn: Lsn;
  /** Where replay begins. */
  readonly redoLsn: Lsn;
}

/** Recovery from a checkpoint to an LSN. */
export interface RecoveryStep extends RecoveryStart {
  readonly lsn: Lsn;
}

export interface RecoveryPlan {
  readonly steps: readonly RecoveryStep[];
  /** Records between the first checkpoint and the last LSN. */
  readonly records: number;
}

/** The timeline whose moments are recovered. Everything it has is in layers. */
export interface RecoverySource {
  readonly store: BaseBackupSource["store"];
  readonly pgVersion: PgVersion;
  readonly systemId: bigint;
  readonly segmentSize: number;
  /** Where its own records begin. */
  readonly startLsn: Lsn;
  /** Postgres' own timeline. */
  readonly timelineNumber: number;
  recordBoundary(lsn: Lsn): Promise<RecordBoundary>;
  backupSource(at: RecordBoundary): Promise<BaseBackupSource>;
}

/**
 * How to get to each of the LSNs, ascending, which are rounded down to the ends of records: from the first checkpoint at or behind `fromLsn` to
 * the first of them, and from the last checkpoint before each to the next one. Throws `not_checked` if that is impossible.
 */
export async function planRecovery(
  source: RecoverySource,
  request: { readonly fromLsn: Lsn; readonly lsns: readonly Lsn[] },
): Promise<RecoveryPlan> {
  const ends = new Set<Lsn>();
  for (const lsn of request.lsns) ends.add((await ownBoundary(source, lsn)).endLsn);
  const lsns = [...ends];
  const from = await ownBoundary(source, request.fromLsn);
  const toLsn = lsns.at(-1);
  if (toLsn === undefined || toLsn <= from.endLsn) throw noCheckpoint(from.endLsn, toLsn ?? from.endLsn);
  const steps: RecoveryStep[] = [];
  let start: RecoveryStart | undefined;
  let next: RecoveryStart | undefined;
  let records = 0;
  for await (const batch of storedRecords({ ...source, from, toLsn })) {
    for (const record of batch) {
      checkReplayable(record);
      const checkpoint = checkpointOf(record);
      if (checkpoint !== undefined && checkpoint.redoLsn >= from.endLsn) {
        start ??= checkpoint;
        next = checkpoint;
      }
      if (start !== undefined) records++;
      const lsn = lsns[steps.length];
      if (lsn !== record.endLsn) continue;
      if (start === undefined) throw noCheckpoint(from.endLsn, lsn);
      steps.push({ ...start, lsn });
      start = next;
    }
  }
  return { steps, records };
}

/** The data directory from which stock recovery gets to `step.lsn`, as a tar. */
export async function* recoveryBackup(
  source: RecoverySource,
  step: { readonly checkpointLsn: Lsn; readonly lsn: Lsn },
  nowMs: number,
): AsyncGenerator<Uint8Array> {
  const start = await readStart(source, step.checkpointLsn);
  const backup = await source.backupSource(await source.recordBoundary(start.endLsn));
  const tar = new TarWriter({ mtimeMs: nowMs });
  const recovery = { ...start, marker: { path: "recovery.signal", bytes: new Uint8Array(0) } };
  for await (const _ of writeBackup({ ...backup, recovery }, tar)) yield* tar.take();
  const timeline = source.timelineNumber;
  const layout = new WalLayout(
    {
      magic: source.pgVersion.walPageMagic,
      segmentSize: source.segmentSize,
      systemId: source.systemId,
      timeline,
      startLsn: (await source.recordBoundary(start.redoLsn)).endLsn,
    },
    (lsn, page) => {
      const { segmentSize } = source;
      if (lsn === segmentStart(lsn, segmentSize)) {
        tar.beginFile(`pg_wal/${segmentName(timeline, lsn, segmentSize)}`, segmentSize);
      }
      tar.write(page);
      if ((lsn + page.length) % segmentSize === 0) tar.endFile();
    },
  );
  const from = await source.recordBoundary(start.redoLsn);
  let lastLsn = from.endLsn;
  for await (const batch of storedRecords({ ...source, from, toLsn: step.lsn })) {
    for (const record of batch) {
      layOut(layout, record, lastLsn, source.segmentSize);
      lastLsn = record.endLsn;
    }
    yield* tar.take();
  }
  layout.finish();
  tar.finish();
  yield* tar.take();
}

async function ownBoundary(source: RecoverySource, lsn: Lsn): Promise<RecordBoundary> {
  if (lsn < source.startLsn) {
    throw new NeonError(
      ErrorCode.NotChecked,
      `the branch's own WAL begins at ${formatLsn(source.startLsn)}, behind ${formatLsn(lsn)}`,
      {
        hint: "What lies before is its ancestor's: verify that branch.",
        data: { lsn: formatLsn(lsn), start: formatLsn(source.startLsn) },
      },
    );
  }
  return source.recordBoundary(lsn);
}

async function readStart(source: RecoverySource, checkpointLsn: Lsn): Promise<RecoveryStart> {
  const from = await ownBoundary(source, checkpointLsn);
  // The checkpoint's is the next one.
  const following = await source.recordBoundary((checkpointLsn + CHECKPOINT_RECORD_MAX) as Lsn);
  for await (const batch of storedRecords({ ...source, from, toLsn: following.endLsn })) {
    const [record] = batch;
    const start = record && checkpointOf(record);
    if (start?.checkpointLsn === checkpointLsn) return start;
    break;
  }
  throw new NeonError(ErrorCode.NotFound, `there is no checkpoint at ${formatLsn(checkpointLsn)}`, {
    data: { lsn: formatLsn(checkpointLsn) },
  });
}

/** The record of a checkpoint has 114 bytes; the header of a page may lie in between. */
const CHECKPOINT_RECORD_MAX = 160;

function checkpointOf(record: StoredRecord): RecoveryStart | undefined {
  const found = checkpointIn(record.bytes, record.endLsn);
  return found && { ...found, checkpointLsn: record.startLsn };
}

/** What a record says if it is that of a checkpoint. */
export function checkpointIn(
  bytes: Uint8Array,
  endLsn: Lsn,
): Omit<RecoveryStart, "checkpointLsn"> | undefined {
  if (bytes.length < MAIN_DATA_OFFSET + 8 || bytes[RMGR_OFFSET] !== Rmgr.Xlog) return undefined;
  const info = (bytes[INFO_OFFSET] ?? 0) & 0xf0;
  if (info !== XLOG_CHECKPOINT_SHUTDOWN && info !== XLOG_CHECKPOINT_ONLINE) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const redoLsn = lsnFromWords(
    view.getUint32(MAIN_DATA_OFFSET + 4, true),
    view.getUint32(MAIN_DATA_OFFSET, true),
  );
  return { endLsn, redoLsn };
}

/** Recovery would make a tablespace where the original one is, and that may be in use. */
function checkReplayable({ rmgr, info, bytes, startLsn }: StoredRecord): void {
  if (rmgr !== Rmgr.Tblspc || info !== XLOG_TBLSPC_CREATE) return;
  // Tablespace oid, then its location, terminated by zero: empty for one in the data directory.
  if (bytes[MAIN_DATA_OFFSET + 4] === 0) return;
  throw new NeonError(
    ErrorCode.NotChecked,
    `a tablespace is created at ${formatLsn(startLsn)}: recovery would do it again in the same place`,
    {
      hint: "Verify what comes later: --from LSN.",
      data: { lsn: formatLsn(startLsn) },
    },
  );
}

function noCheckpoint(from: Lsn, lsn: Lsn): NeonError {
  return new NeonError(
    ErrorCode.NotChecked,
    `there is no checkpoint between ${formatLsn(from)} and ${formatLsn(lsn)} from which recovery could begin`,
    {
      hint: "Begin earlier (--from LSN), or look at a later moment; a branch's own history begins when a compute has written to it.",
      data: { from: formatLsn(from), lsn: formatLsn(lsn) },
    },
  );
}
