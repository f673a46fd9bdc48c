/** A data directory of a timeline as a tar stream, with or without the files of relations: for libpq and gRPC. */
import { PassThrough, Readable, pipeline } from "node:stream";
import { constants, createGzip } from "node:zlib";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { baseBackup } from "../basebackup/basebackup.ts";
import { makeReconstructor } from "../read/make-reconstructor.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import { standbyBackup } from "../replication/standby-backup.ts";
import type { Tenant } from "../timeline/tenant.ts";
import { resolveMoment } from "./points.ts";

export interface BackupRequest {
  /** The end of the timeline unless given. */
  readonly lsn: Lsn | undefined;
  readonly gzip: boolean;
  /** For a read-only standby; with the files of relations one that can follow the branch. */
  readonly replica: boolean;
  /** Whether the files of relations are in it. */
  readonly full: boolean;
}

/** Throws before the first chunk for an LSN that cannot be served. Closing the stream ends the work. */
export async function backupStream(
  tenant: Tenant<ServedTimeline>,
  timeline: ServedTimeline,
  { lsn: wanted, gzip, replica, full }: BackupRequest,
): Promise<AsyncIterable<Uint8Array>> {
  const lsn = wanted === undefined ? undefined : await resolveMoment(tenant, timeline.id, { lsn: wanted });
  const standby =
    full && replica ? await standbyBackup(tenant, timeline, lsn ?? timeline.durableWalLsn) : undefined;
  const tar = standby
    ? standby.stream({ nowMs: Date.now(), wal: true })
    : full
      ? (await timeline.baseBackup({ readOnly: replica, ...(lsn === undefined ? {} : { lsn }) })).stream
      : await withoutRelations(timeline, lsn ?? timeline.lastRecordLsn, replica);
  return gzip ? gzipped(tar) : tar;
}

async function withoutRelations(
  timeline: ServedTimeline,
  lsn: Lsn,
  readOnly: boolean,
): Promise<AsyncIterable<Uint8Array>> {
  const store = timeline.exchange?.store;
  if (!store) throw new NeonError(ErrorCode.Unsupported, "this timeline has no base backups");
  const at = await timeline.recordBoundary(lsn);
  const version = timeline.cluster.pgVersion;
  return baseBackup({
    store,
    reconstructor: await makeReconstructor(store, version, at.endLsn),
    version,
    lsn: at.endLsn,
    previousLsn: at.previousLsn,
    readOnly,
    nowMs: Date.now(),
    relationFiles: false,
  });
}

/** The quickest level: most of an empty database is zeros. */
function gzipped(tar: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  // An error of any part destroys the last one, whose reader gets it.
  const gzip = createGzip({ level: constants.Z_BEST_SPEED });
  return pipeline(Readable.from(tar), gzip, new PassThrough(), () => undefined);
}
