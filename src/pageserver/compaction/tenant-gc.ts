/**
 * Garbage collection of a tenant: for each timeline how far back its history is kept, what below that branches and
 * computes stand on, and what can then be removed. In an order that no crash and no branch made meanwhile can hurt: what
 * is given up is written down first, and nothing begins to read it from then on; files go later.
 */
import { type TimelineId } from "../../base/ids.ts";
import { type Lsn, MAX_LSN, lsnMax, lsnMin } from "../../base/lsn.ts";
import { segmentStart } from "../../postgres/wal/layout.ts";
import type { GcPlan } from "../../storage/plan-gc.ts";
import type { Retention } from "../../storage/store.ts";
import type { AncestorPoint } from "../timeline/metadata.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { RetentionSettings } from "./maintenance.ts";

export interface GcOptions extends RetentionSettings {
  /** Only says what would be done. (What is in memory is put into layers, as it would be.) */
  readonly dryRun: boolean;
  /** Free whatever can be freed; otherwise what is worth the work. */
  readonly thorough: boolean;
}

/** A point below the cutoff, and who needs it. */
export interface Root {
  readonly lsn: Lsn;
  /** Such as `branch "dev"`. */
  readonly usedBy: readonly string[];
}

export interface KeptBytes {
  /** `window`: above the cutoff; `cutoff`: what that begins with; `points`: for the roots below. */
  readonly reason: "window" | "cutoff" | "points";
  readonly sizeBytes: number;
  readonly layers: number;
}

export interface TimelineGcReport {
  readonly timelineId: TimelineId;
  readonly branches: readonly string[];
  /** Undefined if all history is kept. */
  readonly cutoffLsn: Lsn | undefined;
  readonly removedBytes: number;
  readonly removedLayers: number;
  /** Images that were made so that something could be removed. */
  readonly writtenBytes: number;
  readonly kept: readonly KeptBytes[];
  readonly roots: readonly Root[];
}

/** Of each timeline, in no order. One whose descendants cannot be read keeps everything. */
export async function collectGarbage(
  tenant: Tenant<ServedTimeline>,
  options: GcOptions,
  progress: (report: TimelineGcReport) => void = () => undefined,
): Promise<TimelineGcReport[]> {
  const reports: TimelineGcReport[] = [];
  for (const [id, entry] of tenant.timelineEntries()) {
    if (entry.kind !== "open" || entry.timeline.maintenance === undefined) continue;
    const report = await collectTimeline(tenant, id, entry.timeline, options);
    reports.push(report);
    progress(report);
  }
  return reports;
}

async function collectTimeline(
  tenant: Tenant<ServedTimeline>,
  id: TimelineId,
  timeline: ServedTimeline,
  options: GcOptions,
): Promise<TimelineGcReport> {
  const { maintenance } = timeline;
  const nothing = { timelineId: id, branches: tenant.namesOf(id), writtenBytes: 0 };
  if (options.thorough) await maintenance?.checkpoint();
  const found = maintenance && (await tenant.change(() => decide(tenant, id, timeline, options)));
  if (maintenance === undefined || found === undefined) {
    const sizeBytes = timeline.physicalBytes;
    return {
      ...nothing,
      cutoffLsn: undefined,
      removedBytes: 0,
      removedLayers: 0,
      kept: [{ reason: "window", sizeBytes, layers: timeline.exchange?.store.layers().length ?? 0 }],
      roots: [],
    };
  }
  const plan = options.dryRun
    ? await maintenance.rehearse(found.retention, options)
    : await maintenance.collect(options);
  return {
    ...nothing,
    cutoffLsn: found.retention.cutoff.lsn,
    removedBytes: plan.removable.reduce((sum, layer) => sum + layer.sizeBytes, 0),
    removedLayers: plan.removable.length,
    writtenBytes: plan.imageBytes,
    kept: summarize(plan),
    roots: found.roots,
  };
}

/** What is to be retained; written down unless it is a dry run. While it runs, no branch is made. */
async function decide(
  tenant: Tenant<ServedTimeline>,
  id: TimelineId,
  timeline: ServedTimeline,
  options: GcOptions,
): Promise<{ retention: Retention; roots: Root[] } | undefined> {
  const { maintenance, leases } = timeline;
  if (maintenance === undefined || leases === undefined || !knowsDescendants(tenant)) return undefined;
  await leases.list();
  const wanted = await maintenance.planCutoff(options);
  if (wanted === undefined) return undefined;
  const neededLsn = await walNeededFrom(tenant, id);
  const { startLsn, gcCutoffLsn = startLsn } = timeline;
  // What is gone already cannot be kept.
  const keptLsn = lsnMax(neededLsn, gcCutoffLsn);
  const { endLsn } = wanted.cutoff;
  const cutoffLsn = keptLsn < endLsn ? (await timeline.recordBoundary(keptLsn)).endLsn : endLsn;
  if (cutoffLsn <= startLsn) return undefined;
  const stretches = await maintenance.cutStretches(lsnMin(wanted.wantedLsn, neededLsn));
  // From here to the announcement nothing else runs.
  const roots = rootsOf(tenant, id, timeline).filter((root) => root.lsn < cutoffLsn);
  const lsns = roots.map((root) => root.lsn);
  using _announced = options.dryRun
    ? undefined
    : maintenance.announce({ cutoffLsn, points: new Set(lsns), stretches });
  const points = await maintenance.describe([...lsns, cutoffLsn]);
  const cutoff = points.find((point) => point.lsn === cutoffLsn);
  if (cutoff === undefined) return undefined;
  const retention = {
    cutoff,
    points: points.filter((point) => point !== cutoff),
    ...(stretches.length > 0 ? { stretches } : {}),
  };
  if (!options.dryRun) await maintenance.retain(retention);
  return { retention, roots };
}

/**
 * The lowest LSN of a timeline from which on somebody follows its WAL, on it or on a branch of it. Those who follow ask
 * from the start of a segment, whatever they have of it, and put what they get over it: so all of the segment is kept.
 */
async function walNeededFrom(tenant: Tenant<ServedTimeline>, id: TimelineId): Promise<Lsn> {
  let lowest = MAX_LSN;
  for (const [follower, entry] of tenant.timelineEntries()) {
    if (entry.kind !== "open" || entry.timeline.leases === undefined) continue;
    await entry.timeline.leases.list();
    const { segmentSize } = entry.timeline.cluster;
    for (const needed of entry.timeline.leases.walNeededFrom()) {
      const lsn = segmentStart(needed, segmentSize);
      if (reaches(tenant, follower, lsn, id)) lowest = lsnMin(lowest, lsn);
    }
  }
  return lowest;
}

/** Whether the WAL of a timeline from an LSN on is in part that of an ancestor, or of the timeline itself. */
function reaches(tenant: Tenant<ServedTimeline>, from: TimelineId, lsn: Lsn, id: TimelineId): boolean {
  for (let timeline = tenant.timeline(from); ; timeline = tenant.timeline(timeline.ancestor.timelineId)) {
    if (timeline.id === id) return true;
    if (timeline.ancestor === undefined || lsn >= timeline.startLsn) return false;
  }
}

/** Points that children, leases and holds need, whether below the cutoff or not; by LSN. */
export function rootsOf(tenant: Tenant<ServedTimeline>, id: TimelineId, timeline: ServedTimeline): Root[] {
  const users = new Map<Lsn, string[]>();
  const add = (lsn: Lsn, user: string): void => {
    // What lies before its beginning is its ancestor's.
    if (lsn >= timeline.startLsn) users.set(lsn, [...(users.get(lsn) ?? []), user]);
  };
  for (const [child, point] of ancestorPoints(tenant)) {
    if (point.timelineId !== id) continue;
    const name = tenant.nameOf(child);
    add(point.lsn, name === undefined ? `timeline ${child}` : `branch "${name}"`);
  }
  for (const lease of timeline.leases?.current() ?? []) add(lease.lsn, `lease "${lease.name}"`);
  for (const hold of timeline.leases?.holds() ?? []) add(hold.lsn, hold.reason);
  return [...users].map(([lsn, usedBy]) => ({ lsn, usedBy })).sort((a, b) => a.lsn - b.lsn);
}

function ancestorPoints(tenant: Tenant<ServedTimeline>): [TimelineId, AncestorPoint][] {
  const points: [TimelineId, AncestorPoint][] = [];
  for (const [id, entry] of tenant.timelineEntries()) {
    const ancestor = entry.kind === "open" ? entry.timeline.ancestor : entry.metadata?.ancestor;
    if (ancestor !== undefined) points.push([id, ancestor]);
  }
  return points;
}

/** What a timeline whose metadata cannot be read stands on is unknown, so everything is kept. */
function knowsDescendants(tenant: Tenant<ServedTimeline>): boolean {
  if (tenant.damagedRefs.size > 0) return false;
  for (const entry of tenant.timelineEntries().values()) {
    if (entry.kind === "broken" && entry.metadata === undefined) return false;
  }
  return true;
}

function summarize(plan: GcPlan): KeptBytes[] {
  const sums = new Map<KeptBytes["reason"], { sizeBytes: number; layers: number }>();
  for (const { layer, by } of plan.kept) {
    const sum = sums.get(by.kind) ?? { sizeBytes: 0, layers: 0 };
    sums.set(by.kind, { sizeBytes: sum.sizeBytes + layer.sizeBytes, layers: sum.layers + 1 });
  }
  return [...sums].map(([reason, sum]) => ({ reason, ...sum }));
}
