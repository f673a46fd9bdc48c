/** What the command line shows about a compute. */
import type { TenantId, TimelineId } from "../base/ids.ts";
import type { Lsn } from "../base/lsn.ts";
import type { ComputePaths } from "./compute-paths.ts";
import type { ComputeRecord } from "./compute-file.ts";
import { SUPERUSER } from "./initdb.ts";
import { findPostmaster } from "./postmaster.ts";
import type { CommitMode, ComputeMode } from "./settings.ts";

/** `crashed`: it ended without being stopped. */
export type ComputeState = "running" | "stopped" | "crashed";

export interface ComputeInfo {
  readonly name: string;
  readonly branch: string;
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** URI of the pageserver that has the branch; null for the repository's own. */
  readonly pageserver: string | null;
  /** `postgresql://…`, for any client. */
  readonly uri: string;
  readonly host: string;
  readonly port: number;
  readonly mode: ComputeMode;
  readonly commit: CommitMode;
  /** Where its data directory started; for a read-only compute, the moment that it shows. */
  readonly lsn: Lsn;
  readonly pgdata: string;
  readonly state: ComputeState;
  readonly pid: number | null;
}

export const COMPUTE_HOST = "127.0.0.1";

export function computeInfo(record: ComputeRecord, paths: ComputePaths): ComputeInfo {
  const pid = findPostmaster(paths.pgdata, record.process) ?? null;
  return {
    name: record.name,
    branch: record.branch,
    tenantId: record.tenantId,
    timelineId: record.timelineId,
    pageserver: record.pageserver,
    uri: `postgresql://${SUPERUSER}@${COMPUTE_HOST}:${record.port}/postgres`,
    host: COMPUTE_HOST,
    port: record.port,
    mode: record.mode,
    commit: record.commit,
    lsn: record.lsn,
    pgdata: paths.pgdata,
    state: pid !== null ? "running" : record.process ? "crashed" : "stopped",
    pid,
  };
}
