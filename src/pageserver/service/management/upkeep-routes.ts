/** Garbage collection, compaction and flushing as the original's clients ask for them: one answer at the end. */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { type TimelineGcReport, collectGarbage } from "../../compaction/tenant-gc.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import { type Answer, type ApiRequest, json } from "../request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, TL, findersOf } from "../route-context.ts";

export function addUpkeepRoutes(router: ApiRouter, { tenants }: RouteContext): void {
  const { onTimeline } = findersOf(tenants);
  router
    .add("PUT", `${TL}/do_gc`, onTimeline(gc))
    .add("PUT", `${TL}/compact`, onTimeline(compact))
    .add("PUT", `${TL}/checkpoint`, onTimeline(checkpoint));
}

/** The history of a tenant is one tree, so it is decided for all of it; the numbers are those of the timeline. */
async function gc(request: ApiRequest, timeline: ServedTimeline, tenant: AnyTenant): Promise<Answer> {
  const started = performance.now();
  const body = await request.optionalBody();
  // As in the original: a horizon that is given stands for all that is kept.
  const kept = body?.has("gc_horizon")
    ? {
        gcHorizonBytes: body.integer("gc_horizon", { min: 0, max: Number.MAX_SAFE_INTEGER }),
        pitrIntervalMs: 0,
      }
    : tenant.settings;
  const { gcHorizonBytes, pitrIntervalMs } = kept;
  const options = { gcHorizonBytes, pitrIntervalMs, dryRun: false, thorough: true };
  const reports = await collectGarbage(tenant, options);
  const report = reports.find(({ timelineId }) => timelineId === timeline.id);
  return json({ ...renderGcResult(timeline, report), elapsed: Math.round(performance.now() - started) });
}

function renderGcResult(timeline: ServedTimeline, report: TimelineGcReport | undefined): object {
  const kept = (reason: string): number => report?.kept.find((one) => one.reason === reason)?.layers ?? 0;
  const removed = report?.removedLayers ?? 0;
  return {
    layers_total: (timeline.exchange?.store.layers().length ?? 0) + removed,
    layers_needed_by_cutoff: kept("window"),
    layers_needed_by_pitr: 0,
    layers_needed_by_branches: kept("points"),
    layers_needed_by_leases: 0,
    layers_not_updated: kept("cutoff"),
    layers_removed: removed,
    removed_bytes: report?.removedBytes ?? 0,
    written_bytes: report?.writtenBytes ?? 0,
  };
}

async function compact(_: ApiRequest, timeline: ServedTimeline): Promise<Answer> {
  const { maintenance } = timeline;
  if (!maintenance) throw new NeonError(ErrorCode.Unsupported, `timeline ${timeline.id} has no layers`);
  const result = await maintenance.compact({ thorough: true });
  return json({ merges: result.merges, delta_layers: result.deltaLayers, image_layers: result.imageLayers });
}

/** Puts what is in memory into layer files. */
async function checkpoint(_: ApiRequest, timeline: ServedTimeline): Promise<Answer> {
  await timeline.exchange?.checkpoint();
  return json({});
}
