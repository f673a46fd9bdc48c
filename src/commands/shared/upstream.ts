/**
 * How branches stand to their upstreams, as of the last contact with the origin: nobody is asked. Histories decide, not
 * LSNs alone: two copies that both went on are *diverged* even where one has the greater LSN.
 */
import { unreachable } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import { type Lineage, compareLineages } from "../../base/lineage.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { BranchInfo } from "../../client/pageserver-client.ts";
import { readUpstreams } from "../../repository/origins.ts";
import type { Repository } from "../../repository/repository.ts";
import { type Contact, readTracking, trackedBranch } from "../../repository/tracking.ts";
import type { JsonFields } from "./base-command.ts";
import { type Style, formatBytes } from "./output.ts";

/** `unknown`: the origin has not been asked yet, or had no such branch. */
export type UpstreamState = "equal" | "ahead" | "behind" | "diverged" | "unknown";

export interface UpstreamReport {
  readonly origin: string;
  readonly branch: string;
  readonly state: UpstreamState;
  /** Bytes of WAL that only we have, and that only they have. */
  readonly aheadBytes: number;
  readonly behindBytes: number;
  /** Of the branch there. */
  readonly lastRecordLsn: Lsn | undefined;
  /** Milliseconds since 1970. */
  readonly contactedAt: number | undefined;
}

/** The upstreams of branches that have one, by the branches' names; a repository keeps them. */
export function upstreamReports(
  repository: Repository | undefined,
  tenantId: TenantId,
  branches: readonly BranchInfo[],
): Map<string, UpstreamReport> {
  if (!repository) return new Map();
  const upstreams = readUpstreams(repository);
  const contacts = new Map<string, Contact | undefined>();
  const reports = new Map<string, UpstreamReport>();
  for (const { name, timelineId, lineage } of branches) {
    const upstream = upstreams.get(timelineId);
    if (!upstream) continue;
    const { origin, branch } = upstream;
    if (!contacts.has(origin)) contacts.set(origin, readTracking(repository, origin));
    const contact = contacts.get(origin);
    const there = trackedBranch(contact, tenantId, branch);
    reports.set(name, {
      origin,
      branch,
      ...compareWith(lineage, there?.lineage),
      lastRecordLsn: there?.lastRecordLsn,
      contactedAt: contact?.contactedAt,
    });
  }
  return reports;
}

export interface Standing {
  readonly state: UpstreamState;
  readonly aheadBytes: number;
  readonly behindBytes: number;
}

/** How our copy of a branch stands to theirs. */
export function compareWith(ours: Lineage | undefined, theirs: Lineage | undefined): Standing {
  if (!ours || !theirs) return { state: "unknown", aheadBytes: 0, behindBytes: 0 };
  const { relation, commonLsn } = compareLineages(ours, theirs);
  const beyond = ({ entries, endLsn }: Lineage): number =>
    endLsn - (commonLsn ?? entries[0]?.startLsn ?? endLsn);
  return {
    state: relation === "unrelated" ? "diverged" : relation,
    aheadBytes: beyond(ours),
    behindBytes: beyond(theirs),
  };
}

export function upstreamJson(report: UpstreamReport | undefined): JsonFields | null {
  if (!report) return null;
  const { origin, branch, state, aheadBytes, behindBytes, lastRecordLsn, contactedAt } = report;
  return {
    origin,
    branch,
    state,
    ahead_bytes: aheadBytes,
    behind_bytes: behindBytes,
    last_record_lsn: lastRecordLsn === undefined ? null : formatLsn(lastRecordLsn),
    contacted_at: contactedAt === undefined ? null : new Date(contactedAt).toISOString(),
  };
}

/** `ahead 1.2 KiB`, `equal`, `ahead 1.2 KiB, behind 3.0 MiB` for what has diverged. */
export function standingText({ state, aheadBytes, behindBytes }: Standing): string {
  switch (state) {
    case "ahead":
      return `ahead ${formatBytes(aheadBytes)}`;
    case "behind":
      return `behind ${formatBytes(behindBytes)}`;
    case "diverged":
      return `diverged: ahead ${formatBytes(aheadBytes)}, behind ${formatBytes(behindBytes)}`;
    case "equal":
    case "unknown":
      return state;
    default:
      return unreachable(state);
  }
}

export const STANDING_STYLES: Readonly<Record<UpstreamState, Style>> = {
  equal: "green",
  ahead: "yellow",
  behind: "yellow",
  diverged: "red",
  unknown: "dim",
};
