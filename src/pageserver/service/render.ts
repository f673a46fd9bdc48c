/** Domain objects as the API shows them: snake_case, LSNs as `X/Y`, times in ISO 8601. */
import type { TimelineId } from "../../base/ids.ts";
import { INVALID_LSN, type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Finding } from "../../storage/findings.ts";
import type { CheckReport, TenantReport } from "../check/check-tenant.ts";
import type { RepairReport } from "../check/repair.ts";
import { lagOf } from "../timeline/followers.ts";
import type { AncestorPoint } from "../timeline/metadata.ts";
import type { ServedTimeline, WriterStatus } from "../timeline/served-timeline.ts";
import type { Verification } from "../verify/verify-directory.ts";
import type { Branch, Tenant } from "../timeline/tenant.ts";
import type { TenantEntry } from "../timeline/tenants.ts";
import { timelineLineage } from "../transfer/branch-list.ts";
import { renderLineage } from "../transfer/description.ts";

export function renderTenant(entry: TenantEntry<ServedTimeline>): object {
  if (entry.kind === "broken") {
    return { tenant_id: entry.id, pg_version: null, state: "broken", error: entry.error.message };
  }
  const { tenant } = entry;
  return {
    tenant_id: tenant.id,
    pg_version: tenant.pgVersion.major,
    system_id: tenant.systemId?.toString() ?? null,
    created_at: new Date(tenant.createdAt).toISOString(),
    state: "active",
    error: null,
  };
}

/** The answer to creating a branch; the list shows more. */
export function renderCreatedBranch(tenant: Tenant<ServedTimeline>, branch: Branch): object {
  const { ref, entry } = branch;
  const ancestor = entry.kind === "open" ? entry.timeline.ancestor : entry.metadata?.ancestor;
  return { name: ref.name, timeline_id: ref.timelineId, ancestor: renderAncestor(tenant, ancestor) };
}

export function renderBranch(tenant: Tenant<ServedTimeline>, branch: Branch): object {
  const { entry } = branch;
  const head = renderCreatedBranch(tenant, branch);
  if (entry.kind === "broken") return { ...head, ...renderBroken(entry.metadata, entry.error.message) };
  const { timeline } = entry;
  const lineage = timelineLineage(tenant, timeline);
  return {
    ...head,
    lineage: lineage ? renderLineage(lineage) : null,
    last_record_lsn: formatLsn(timeline.lastRecordLsn),
    durable_lsn: formatLsn(timeline.durableWalLsn),
    state: timeline.state,
    error: timeline.error ?? null,
    lag_bytes: timeline.lagBytes ?? null,
    writer: renderWriter(timeline.writer),
    created_at: new Date(timeline.createdAt).toISOString(),
    physical_bytes: timeline.physicalBytes,
    followers: renderFollowers(timeline),
    verified_pages: timeline.verifiedPages ?? null,
  };
}

/** A branch of which only the name is left. */
export function renderDamagedBranch(name: string, message: string): object {
  return {
    name,
    timeline_id: UNKNOWN_TIMELINE,
    ancestor: null,
    ...renderBroken(undefined, message),
  };
}

const UNKNOWN_TIMELINE = "0".repeat(32);

function renderBroken(
  metadata: { createdAt: number; ancestor: AncestorPoint | undefined } | undefined,
  message: string,
): object {
  const lsn: Lsn = metadata?.ancestor?.lsn ?? INVALID_LSN;
  return {
    last_record_lsn: formatLsn(lsn),
    durable_lsn: formatLsn(lsn),
    state: "broken",
    error: message,
    lag_bytes: null,
    writer: null,
    created_at: metadata ? new Date(metadata.createdAt).toISOString() : null,
    physical_bytes: null,
    followers: [],
    verified_pages: null,
  };
}

/** Those who receive its WAL, as pg_stat_replication shows them. */
function renderFollowers({ wal }: ServedTimeline): object[] {
  if (wal === undefined) return [];
  const { endLsn } = wal;
  const told = (lsn: Lsn | undefined): string | null =>
    lsn === undefined || lsn === INVALID_LSN ? null : formatLsn(lsn);
  return wal.followers.list().map((follower) => ({
    application_name: follower.name,
    user: follower.user,
    slot: follower.slot ?? null,
    state: follower.sentLsn < endLsn ? "catchup" : "streaming",
    sent_lsn: formatLsn(follower.sentLsn),
    write_lsn: told(follower.reported?.writeLsn),
    flush_lsn: told(follower.reported?.flushLsn),
    replay_lsn: told(follower.reported?.applyLsn),
    lag_bytes: lagOf(follower, endLsn),
    sent_bytes: follower.sentBytes,
    since: new Date(follower.startedAt).toISOString(),
  }));
}

/** What a check of a tenant's files has found. */
export function renderCheck(report: TenantReport): object {
  return {
    state: report.state,
    timelines: report.timelines.map((timeline) => ({
      timeline_id: timeline.timelineId,
      branches: timeline.branches,
      ...renderPart(timeline),
    })),
    tenant: renderPart(report.tenant),
  };
}

/** What was done about damage, or could be. */
export function renderRepair({ applied, steps, left }: RepairReport): object {
  return {
    applied,
    steps: steps.map(({ kind, what, file, error }) => ({ kind, what, file, error: error ?? null })),
    left: left.map(renderFinding),
  };
}

/** What the comparison of a directory has found. */
export function renderVerification({ pages, differences, omitted }: Verification): object {
  return {
    pages,
    differences: differences.map(({ file, block, byte, what }) => ({
      file,
      block: block ?? null,
      byte: byte ?? null,
      what,
    })),
    omitted,
  };
}

function renderPart({ state, details, omitted }: CheckReport): object {
  return {
    state,
    details: details.map(renderFinding),
    omitted,
  };
}

function renderWriter(writer: WriterStatus | undefined): object | null {
  if (!writer) return null;
  return { name: writer.name, epoch: writer.epoch, state: writer.state, error: writer.error ?? null };
}

function renderAncestor(tenant: Tenant<ServedTimeline>, ancestor: AncestorPoint | undefined): object | null {
  if (!ancestor) return null;
  const name: string | undefined = tenant.nameOf(ancestor.timelineId satisfies TimelineId);
  return { name: name ?? null, timeline_id: ancestor.timelineId, lsn: formatLsn(ancestor.lsn) };
}

function renderFinding({ kind, what, file, offset }: Finding): object {
  return { kind, what, file, offset: offset ?? null };
}
