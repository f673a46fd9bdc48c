/** Branches as commands print them. */
import { formatLsn } from "../../base/lsn.ts";
import type { AncestorInfo, BranchInfo } from "../../client/pageserver-client.ts";
import type { JsonFields } from "./base-command.ts";
import { type UpstreamReport, upstreamJson } from "./upstream.ts";

/** A branch in JSON, with how it stands to its upstream; more than the fields that scripts are promised. */
export function branchJson(branch: BranchInfo, upstream: UpstreamReport | undefined): JsonFields {
  return {
    name: branch.name,
    timeline_id: branch.timelineId,
    ancestor: ancestorJson(branch.ancestor),
    last_record_lsn: formatLsn(branch.lastRecordLsn),
    durable_lsn: formatLsn(branch.durableLsn),
    lag_bytes: branch.lagBytes,
    state: branch.state,
    error: branch.error,
    writer: branch.writer?.name ?? null,
    created_at: branch.createdAt,
    physical_bytes: branch.physicalBytes,
    followers: branch.followers.map((follower) => ({
      application_name: follower.applicationName,
      user: follower.user,
      slot: follower.slot,
      state: follower.state,
      sent_lsn: formatLsn(follower.sentLsn),
      flush_lsn: follower.flushLsn === null ? null : formatLsn(follower.flushLsn),
      lag_bytes: follower.lagBytes,
    })),
    upstream: upstreamJson(upstream),
  };
}

/** Where a branch left its parent. */
export function ancestorJson(ancestor: AncestorInfo | null): JsonFields | null {
  if (ancestor === null) return null;
  return { name: ancestor.name, timeline_id: ancestor.timelineId, lsn: formatLsn(ancestor.lsn) };
}

/** `main@0/1609610`. */
export function originText(ancestor: AncestorInfo | null): string {
  if (ancestor === null) return "the beginning";
  return `${ancestor.name ?? ancestor.timelineId}@${formatLsn(ancestor.lsn)}`;
}
