/** Routes about space: compaction, garbage collection, leases, disk usage, times of LSNs. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import type { CompactionResult } from "../../storage/compact.ts";
import type { DiskUsage } from "../compaction/disk-usage.ts";
import type { Maintenance } from "../compaction/maintenance.ts";
import { type TimelineGcReport, collectGarbage } from "../compaction/tenant-gc.ts";
import type { Lease, Leases } from "../timeline/leases.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import { emptyBody } from "./body.ts";
import { jsonLines } from "./json-lines.ts";
import { resolveMoment } from "./points.ts";
import { type Answer, type ApiRequest, json } from "./request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, T, TL } from "./route-context.ts";

const LEASE_NAME_LENGTH_MAX = 200;
const LEASE_MS_MIN = 1000;
const LEASE_MS_MAX = 366 * 86_400_000;
const PITR_MS_MAX = 100 * 366 * 86_400_000;

export function addStorageRoutes(router: ApiRouter, { tenants }: RouteContext): void {
  const tenantOf = (request: ApiRequest): AnyTenant => tenants.get(request.tenantId);
  router
    .add("POST", `${T}/gc`, (request) => gc(request, tenantOf(request)))
    .add("POST", `${T}/compact`, (request) => compact(request, tenantOf(request)))
    .add("GET", `${T}/du`, async (request) => {
      request.expectQuery();
      return json(renderUsage(await tenantOf(request).diskUsage()));
    })
    .add("GET", `${TL}/lease`, async (request) => {
      request.expectQuery();
      const { leases } = maintained(tenantOf(request).timeline(request.timelineId));
      return json({ leases: (await leases.list()).map(renderLease) });
    })
    .add("POST", `${TL}/lease`, (request) => lease(request, tenantOf(request)))
    .add("DELETE", `${TL}/lease/:name`, (request) => release(request, tenantOf(request)))
    .add("POST", `${TL}/commit_time`, (request) => commitTime(request, tenantOf(request)));
}

async function gc(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
  const body = (await request.optionalBody()) ?? emptyBody();
  const dryRun = body.has("dry_run") && body.boolean("dry_run");
  const kept = tenant.settings;
  const pitrIntervalMs = body.has("pitr_interval_ms")
    ? body.integer("pitr_interval_ms", { min: 0, max: PITR_MS_MAX })
    : kept.pitrIntervalMs;
  const gcHorizonBytes = body.has("gc_horizon_bytes")
    ? body.integer("gc_horizon_bytes", { min: 0, max: Number.MAX_SAFE_INTEGER })
    : kept.gcHorizonBytes;
  body.end();
  return jsonLines(async ({ signal, progress }) => {
    let done = 0;
    const options = { dryRun, pitrIntervalMs, gcHorizonBytes, thorough: true };
    const timelines = await collectGarbage(tenant, options, () => {
      signal.throwIfAborted();
      progress({ timelines: ++done });
    });
    const sum = (field: "removedBytes" | "writtenBytes"): number =>
      timelines.reduce((total, report) => total + report[field], 0);
    return {
      dry_run: dryRun,
      removed_bytes: sum("removedBytes"),
      written_bytes: sum("writtenBytes"),
      timelines: timelines.map(renderGc),
    };
  });
}

async function compact(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
  const body = (await request.optionalBody()) ?? emptyBody();
  const only = body.has("timeline_id") ? body.timelineId("timeline_id") : undefined;
  body.end();
  if (only !== undefined) tenant.timeline(only);
  const ids = only === undefined ? [...tenant.timelineEntries().keys()] : [only];
  return jsonLines(async ({ signal, progress }) => {
    const timelines: object[] = [];
    for (const id of ids) {
      signal.throwIfAborted();
      const entry = tenant.timelineEntries().get(id);
      if (entry?.kind !== "open" || entry.timeline.maintenance === undefined) continue;
      const result = await entry.timeline.maintenance.compact({ thorough: true });
      timelines.push({ timeline_id: id, branches: tenant.namesOf(id), ...renderCompaction(result) });
      progress({ timelines: timelines.length });
    }
    return { timelines };
  });
}

async function lease(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
  const body = await request.body();
  const name = body.text("name", { maxLength: LEASE_NAME_LENGTH_MAX });
  const wanted = body.lsn("lsn");
  const durationMs = body.integer("duration_ms", { min: LEASE_MS_MIN, max: LEASE_MS_MAX });
  body.end();
  // A lease and a cutoff that moves exclude each other.
  return tenant.change(async () => {
    const lsn = await resolveMoment(tenant, request.timelineId, { lsn: wanted });
    const holder = tenant.timelineAt(request.timelineId, lsn);
    const { endLsn } = await holder.recordBoundary(lsn);
    return json(renderLease(await maintained(holder).leases.renew(name, endLsn, durationMs)), 201);
  });
}

/** Wherever among its ancestors it is. */
async function release(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
  const name = request.part("name");
  let timeline = tenant.timeline(request.timelineId);
  for (;;) {
    if (await maintained(timeline).leases.release(name)) return json({ released: name });
    if (timeline.ancestor === undefined) break;
    timeline = tenant.timeline(timeline.ancestor.timelineId);
  }
  throw new NeonError(ErrorCode.NotFound, `there is no lease "${name}" on this branch`);
}

async function commitTime(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
  const body = await request.body();
  const wanted = body.lsn("lsn");
  body.end();
  const lsn = await resolveMoment(tenant, request.timelineId, { lsn: wanted });
  const unixMs = (await tenant.timelineAt(request.timelineId, lsn).commitTimeAt?.(lsn)) ?? null;
  return json({
    lsn: formatLsn(lsn),
    timestamp_us: unixMs === null ? null : Math.round(unixMs * 1000),
    timestamp_ms: unixMs === null ? null : Math.ceil(unixMs),
    timestamp: unixMs === null ? null : new Date(Math.ceil(unixMs)).toISOString(),
  });
}

function maintained(timeline: ServedTimeline): { leases: Leases; maintenance: Maintenance } {
  const { leases, maintenance } = timeline;
  if (leases !== undefined && maintenance !== undefined) return { leases, maintenance };
  throw new NeonError(ErrorCode.Unsupported, `timeline ${timeline.id} has no layers to look after`);
}

function renderLease({ name, lsn, expiresAt }: Lease): object {
  return { name, lsn: formatLsn(lsn), expires_at: new Date(expiresAt).toISOString() };
}

function renderGc(report: TimelineGcReport): object {
  return {
    timeline_id: report.timelineId,
    branches: report.branches,
    gc_cutoff_lsn: report.cutoffLsn === undefined ? null : formatLsn(report.cutoffLsn),
    removed_bytes: report.removedBytes,
    removed_layers: report.removedLayers,
    written_bytes: report.writtenBytes,
    retained: report.kept.map(({ reason, sizeBytes, layers }) => ({ reason, bytes: sizeBytes, layers })),
    points: report.roots.map(({ lsn, usedBy }) => ({ lsn: formatLsn(lsn), used_by: usedBy })),
  };
}

function renderCompaction(result: CompactionResult): object {
  return {
    merges: result.merges,
    input_layers: result.inputLayers,
    input_bytes: result.inputBytes,
    delta_layers: result.deltaLayers,
    delta_bytes: result.deltaBytes,
    image_layers: result.imageLayers,
    image_bytes: result.imageBytes,
  };
}

function renderUsage(usage: DiskUsage): object {
  return {
    timelines: usage.timelines.map((timeline) => ({
      timeline_id: timeline.timelineId,
      branches: timeline.branches,
      total_bytes: timeline.totalBytes,
      unique_bytes: timeline.uniqueBytes,
      own_shared_bytes: timeline.ownSharedBytes,
      shared_bytes: timeline.sharedBytes,
      history_bytes: timeline.historyBytes,
      wal_bytes: timeline.walBytes,
    })),
    other_bytes: usage.otherBytes,
    total_bytes: usage.totalBytes,
  };
}
