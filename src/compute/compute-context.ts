/** What the operations on a compute need from outside. */
import { hostname } from "node:os";
import type { TenantId, TimelineId, WriterEpoch } from "../base/ids.ts";
import type { Lsn } from "../base/lsn.ts";
import type { BranchInfo, PageserverStatus, WriterSource } from "../client/pageserver-client.ts";
import type { RecoveryPlan } from "../client/recovery.ts";
import type { Verification } from "../client/verification.ts";
import type { ComputeRecord } from "./compute-file.ts";
import type { PgBinaries } from "./binaries.ts";
import type { VerifyOptions } from "./compute-verify.ts";
import type { RunAs } from "./run-as.ts";

/** The part of `PageserverClient` that computes use. */
export interface ComputePageserver {
  readonly tenantId: TenantId;
  withTenant(tenantId: TenantId): ComputePageserver;
  listTenants(): Promise<{ readonly tenantId: TenantId; readonly pgVersion: number | null }[]>;
  status(options?: { timeoutMs?: number }): Promise<PageserverStatus>;
  listBranches(): Promise<BranchInfo[]>;
  getBranch(name: string): Promise<BranchInfo>;
  resolve(timelineId: TimelineId, at: { lsn: Lsn }): Promise<{ readonly lsn: Lsn }>;
  openWriter(
    timelineId: TimelineId,
    options: { name: string; source: WriterSource; takeover?: boolean },
  ): Promise<{ readonly epoch: WriterEpoch; readonly lsn: Lsn }>;
  closeWriter(timelineId: TimelineId, epoch: WriterEpoch): Promise<void>;
  /** Keeps a moment of a branch from being collected, under a name; without a moment, no longer. */
  lease?(timelineId: TimelineId, name: string, moment?: { lsn: Lsn; durationMs: number }): Promise<void>;
  waitForLsn(timelineId: TimelineId, lsn: Lsn, timeoutMs: number): Promise<void>;
  verifyDirectory(
    timelineId: TimelineId,
    options: { directory: string; lsn: Lsn; recovered?: boolean } & VerifyOptions,
  ): Promise<Verification>;
  planRecovery(
    timelineId: TimelineId,
    options: { fromLsn: Lsn | undefined; at: readonly Lsn[] | number },
  ): Promise<RecoveryPlan>;
  recoveryBackup(
    timelineId: TimelineId,
    options: { checkpointLsn: Lsn; lsn: Lsn; signal?: AbortSignal | undefined },
  ): Promise<AsyncIterable<Uint8Array>>;
  baseBackup(
    timelineId: TimelineId,
    options: { lsn?: Lsn | undefined; readOnly: boolean },
  ): Promise<{ readonly lsn: Lsn; readonly stream: AsyncIterable<Uint8Array> }>;
}

/** Longest name of a lease that pageservers take. */
const LEASE_NAME_MAX = 200;

/** What a person at the terminal may want to see of an operation. */
export interface ComputeEvents {
  /** Something that must not go unnoticed although the operation goes on. A full sentence. */
  readonly caution?: (text: string) => void;
  /** A step that may take long begins: `building the data directory of main`. */
  readonly step?: (text: string) => void;
  /** More bytes of the current step have arrived. */
  readonly progress?: (addedBytes: number) => void;
}

/**
 * What the lease of a read-only compute is called, which keeps its moment for as long as there is the compute. Other
 * repositories may have computes of the same name at a pageserver that is not the own one.
 */
export function leaseName(
  record: Pick<ComputeRecord, "name" | "pageserver">,
  repositoryRoot: string,
): string {
  if (record.pageserver === null) return `compute ${record.name}`;
  return `compute ${record.name} of ${hostname()}:${repositoryRoot}`.slice(0, LEASE_NAME_MAX);
}

export interface ComputeContext {
  /** Directory of the repository. */
  readonly root: string;
  readonly pageserver: ComputePageserver;
  readonly binaries: () => Promise<PgBinaries>;
  /** Who Postgres runs as; undefined for ourselves. */
  readonly user: RunAs | undefined;
  readonly events: ComputeEvents;
}
