/** The branches of a tenant with their histories, for those who want to know how theirs stand to them. */
import type { TimelineId } from "../../base/ids.ts";
import type { Lineage } from "../../base/lineage.ts";
import { formatLsn } from "../../base/lsn.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import { lineageOf, renderLineage } from "./description.ts";
import { viewTenant } from "./tenant-view.ts";

export interface RemoteBranch {
  readonly name: string;
  /** Undefined where it is not known. */
  readonly timelineId: TimelineId | undefined;
  /** Undefined if the branch is broken. */
  readonly lineage: Lineage | undefined;
  /** A compute may write to it. */
  readonly hasWriter: boolean;
  /** Why it is broken. */
  readonly error: string | undefined;
}

/** Sorted by name. */
export function listBranches(tenant: Tenant<ServedTimeline>): RemoteBranch[] {
  const view = viewTenant(tenant);
  return tenant.branches().map(({ ref, entry }) => ({
    name: ref.name,
    timelineId: ref.timelineId,
    lineage: view.has(ref.timelineId) ? lineageOf(view, ref.timelineId) : undefined,
    hasWriter: entry.kind === "open" && entry.timeline.writer !== undefined,
    error: entry.kind === "broken" ? entry.error.message : undefined,
  }));
}

export function renderRemoteBranch(branch: RemoteBranch): object {
  const { lineage } = branch;
  return {
    name: branch.name,
    timeline_id: branch.timelineId ?? null,
    last_record_lsn: lineage ? formatLsn(lineage.endLsn) : null,
    lineage: lineage ? renderLineage(lineage) : null,
    writer: branch.hasWriter,
    error: branch.error ?? null,
  };
}
