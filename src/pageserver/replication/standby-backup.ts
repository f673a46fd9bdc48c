/**
 * A data directory from which stock Postgres becomes a standby that follows a branch: the files of one moment, a
 * pg_control that names the last checkpoint before it, and the WAL in between. It is consistent at that moment, and what
 * comes next in the branch's WAL continues it.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, lsnMin } from "../../base/lsn.ts";
import { segmentName, segmentStart } from "../../postgres/wal/layout.ts";
import { type BackupRecovery, type BaseBackupSource, writeBackup } from "../basebackup/basebackup.ts";
import type { BackupTarget } from "../basebackup/backup-target.ts";
import { TarWriter } from "../basebackup/tar-writer.ts";
import { makeReconstructor } from "../read/make-reconstructor.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { TimelineWal } from "../timeline/timeline-wal.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { RecoveryStart } from "../verify/recovery.ts";
import { lastCheckpoint, noCheckpoint } from "./standby-start.ts";
import { WalReader } from "./wal-reader.ts";

export interface StandbyStream {
  readonly nowMs: number;
  /** Whether the WAL from the checkpoint on is in it. */
  readonly wal: boolean;
  /** In place of `standby.signal`. */
  readonly marker?: BackupRecovery["marker"];
  /** Sees the files as well, for a manifest. */
  readonly target?: (tar: BackupTarget) => BackupTarget;
  /** False leaves the two empty blocks at the end out. */
  readonly terminated?: boolean;
}

export interface StandbyBackup extends Disposable {
  /** Undefined if the moment itself is as good as a checkpoint: what comes next in the WAL is one. */
  readonly start: RecoveryStart | undefined;
  /** The files are as of the end of this record. */
  readonly lsn: Lsn;
  /** The tar; what the backup holds is let go at its end. To be taken once. */
  stream(options: StandbyStream): AsyncGenerator<Uint8Array>;
}

/**
 * At the end of the last record at or below an LSN. Whoever asks takes the stream, or disposes of the backup. Throws
 * `not_found` where there is no checkpoint to begin from.
 */
export async function standbyBackup(
  tenant: Tenant<ServedTimeline>,
  timeline: ServedTimeline,
  wanted: Lsn,
): Promise<StandbyBackup> {
  const { wal } = timeline;
  const store = timeline.exchange?.store;
  if (!wal || !store) throw new NeonError(ErrorCode.Unsupported, "this timeline has no base backups");
  // While no cutoff moves, it is found out what must be kept.
  const { at, start, hold } = await tenant.change(async () => {
    const boundary = await timeline.recordBoundary(wanted);
    const checkpoint = await lastCheckpoint(wal, store, boundary.endLsn);
    if (!checkpoint && !isFollowedByCheckpoint(timeline, wal, boundary.endLsn))
      throw noCheckpoint(boundary.endLsn);
    const from = lsnMin(checkpoint?.redoLsn ?? boundary.endLsn, boundary.endLsn);
    return {
      at: boundary,
      start: checkpoint,
      hold: timeline.leases?.hold(from, "base backup", { wal: true }),
    };
  });
  const version = timeline.cluster.pgVersion;
  const make = async function* (options: StandbyStream): AsyncGenerator<Uint8Array> {
    using _hold = hold;
    const source: BaseBackupSource = {
      store,
      reconstructor: await makeReconstructor(store, version, at.endLsn),
      version,
      lsn: at.endLsn,
      previousLsn: at.previousLsn,
      readOnly: options.marker === undefined,
      nowMs: options.nowMs,
      recovery: start && { ...start, ...(options.marker ? { marker: options.marker } : {}) },
    };
    const tar = new TarWriter({ mtimeMs: options.nowMs });
    const target = options.target?.(tar) ?? tar;
    for await (const _ of writeBackup(source, target)) yield* tar.take();
    if (start && options.wal) {
      for await (const _ of writeWal(wal, { from: start.redoLsn, to: at.endLsn }, target)) yield* tar.take();
    }
    if (options.terminated ?? true) tar.finish();
    else tar.finishWithoutEnd();
    yield* tar.take();
  };
  return {
    start,
    lsn: at.endLsn,
    [Symbol.dispose]: () => hold?.[Symbol.dispose](),
    stream: (options) => timeline.backups?.inTurn(make(options)) ?? make(options),
  };
}

/** Where history begins, and where a branch rests, the next record is that of the start of a compute. */
function isFollowedByCheckpoint(timeline: ServedTimeline, wal: TimelineWal, lsn: Lsn): boolean {
  const isBeginning = lsn === wal.floorLsn && lsn !== timeline.gcCutoffLsn;
  return isBeginning || (timeline.writer === undefined && lsn === wal.endLsn);
}

/** Whole segments, void behind the last record. */
async function* writeWal(
  wal: TimelineWal,
  span: { from: Lsn; to: Lsn },
  target: BackupTarget,
): AsyncGenerator<void> {
  const { segmentSize } = wal.cluster;
  const timeline = await wal.timelineNumber();
  const first = segmentStart(span.from, segmentSize);
  const reader = new WalReader(wal, first);
  let left = 0;
  const put = (lsn: Lsn, bytes: Uint8Array): void => {
    for (let at = 0; at < bytes.length;) {
      if (left === 0) {
        target.beginFile(`pg_wal/${segmentName(timeline, (lsn + at) as Lsn, segmentSize)}`, segmentSize);
        left = segmentSize;
      }
      const count = Math.min(left, bytes.length - at);
      target.write(bytes.subarray(at, at + count));
      at += count;
      left -= count;
      if (left === 0) target.endFile();
    }
  };
  try {
    while (reader.position < span.to) {
      const { lsn, bytes } = await reader.next(span.to);
      put(lsn, bytes.subarray(0, span.to - lsn));
      yield;
    }
  } finally {
    await reader.close();
  }
  const zeros = new Uint8Array(ZEROS_BYTES);
  while (left > 0) {
    put(span.to, zeros.subarray(0, Math.min(left, zeros.length)));
    yield;
  }
}

const ZEROS_BYTES = 1 << 17;
