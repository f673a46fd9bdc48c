/** TimelineInfo as the original's clients read it: every field that it requires, LSNs as `X/Y`. */
import type { TimelineId } from "../../../base/ids.ts";
import { INVALID_LSN, type Lsn, formatLsn } from "../../../base/lsn.ts";
import type { WriterSource } from "../../timeline/metadata.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { TimelineEntry } from "../../timeline/timelines.ts";
import type { AnyTenant } from "../route-context.ts";
import type { MeasuredTimelines } from "./timeline-measures.ts";

export async function timelineInfo(
  tenant: AnyTenant,
  timeline: ServedTimeline,
  measured: MeasuredTimelines,
): Promise<object> {
  const { logicalBytes, relations, databases, preparedTransactions, previousLsn } =
    await measured.of(timeline);
  const { ancestor, lastRecordLsn, writer } = timeline;
  const cutoffLsn = timeline.gcCutoffLsn ?? timeline.startLsn;
  // There is no other place: what is on disk here is as safe as it gets.
  const durable = formatLsn(timeline.durableWalLsn);
  return {
    tenant_id: tenant.id,
    timeline_id: timeline.id,
    ancestor_timeline_id: ancestor?.timelineId ?? null,
    ancestor_lsn: ancestor ? formatLsn(ancestor.lsn) : null,
    last_record_lsn: formatLsn(lastRecordLsn),
    prev_record_lsn: previousLsn === undefined ? null : formatLsn(previousLsn),
    disk_consistent_lsn: durable,
    remote_consistent_lsn: durable,
    remote_consistent_lsn_visible: durable,
    applied_gc_cutoff_lsn: formatLsn(cutoffLsn),
    min_readable_lsn: formatLsn(cutoffLsn),
    initdb_lsn: formatLsn(rootOf(tenant, timeline).startLsn),
    current_logical_size: logicalBytes,
    current_logical_size_is_accurate: true,
    current_logical_size_non_incremental: logicalBytes,
    directory_entries_counts: {
      Rel: relations,
      Db: databases,
      TwoPhase: preparedTransactions,
    },
    current_physical_size: timeline.physicalBytes,
    timeline_dir_layer_file_size_sum: layerBytes(timeline),
    pitr_history_size: Math.max(0, lastRecordLsn - cutoffLsn),
    within_ancestor_pitr: isWithinAncestor(tenant, timeline),
    pg_version: timeline.cluster.pgVersion.major,
    state: timeline.state === "active" ? "Active" : brokenState(timeline.error ?? "it has stopped"),
    walreceiver_status: writer ? `${writer.state} from ${writer.name}` : "no writer",
    wal_source_connstr: writer?.source ? renderSource(writer.source) : null,
    last_received_msg_lsn: writer?.heard ? formatLsn(writer.heard.lsn) : null,
    // In microseconds, as there.
    last_received_msg_ts: writer?.heard ? writer.heard.unixMs * 1000 : null,
    is_archived: false,
    is_invisible: false,
    branches: tenant.namesOf(timeline.id),
  };
}

/** Where the WAL comes from; without the password. */
function renderSource({ host, socketDirectory, port, user }: WriterSource): string {
  return `host=${host ?? socketDirectory ?? ""} port=${port} user=${user}`;
}

/** Of a timeline that cannot be opened: what its metadata says, if there is any. */
export function brokenTimelineInfo(
  tenant: AnyTenant,
  id: TimelineId,
  entry: Extract<TimelineEntry<ServedTimeline>, { kind: "broken" }>,
): object {
  const ancestor = entry.metadata?.ancestor;
  const lsn = formatLsn(ancestor?.lsn ?? INVALID_LSN);
  return {
    tenant_id: tenant.id,
    timeline_id: id,
    ancestor_timeline_id: ancestor?.timelineId ?? null,
    ancestor_lsn: ancestor ? formatLsn(ancestor.lsn) : null,
    last_record_lsn: lsn,
    prev_record_lsn: null,
    disk_consistent_lsn: lsn,
    remote_consistent_lsn: lsn,
    remote_consistent_lsn_visible: lsn,
    applied_gc_cutoff_lsn: lsn,
    min_readable_lsn: lsn,
    initdb_lsn: lsn,
    current_logical_size: 0,
    current_logical_size_is_accurate: false,
    directory_entries_counts: {},
    pitr_history_size: 0,
    within_ancestor_pitr: false,
    pg_version: tenant.pgVersion.major,
    state: brokenState(entry.error.message),
    walreceiver_status: "no writer",
    is_archived: false,
    branches: tenant.namesOf(id),
  };
}

function brokenState(reason: string): object {
  return { Broken: { reason, backtrace: "" } };
}

function rootOf(tenant: AnyTenant, timeline: ServedTimeline): ServedTimeline {
  let root = timeline;
  while (root.ancestor) root = tenant.timeline(root.ancestor.timelineId);
  return root;
}

function layerBytes(timeline: ServedTimeline): number {
  const layers = timeline.exchange?.store.layers() ?? [];
  return layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);
}

/** Whether the ancestor keeps the history where it began. */
function isWithinAncestor(tenant: AnyTenant, { ancestor }: ServedTimeline): boolean {
  if (!ancestor) return false;
  const cutoffLsn: Lsn = tenant.timeline(ancestor.timelineId).gcCutoffLsn ?? INVALID_LSN;
  return ancestor.lsn >= cutoffLsn;
}
