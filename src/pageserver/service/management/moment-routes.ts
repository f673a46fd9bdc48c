/** Times, LSNs and leases as the original's clients ask for them. */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { type TimelineId, isId } from "../../../base/ids.ts";
import { type Lsn, formatLsn } from "../../../base/lsn.ts";
import { readDuration } from "../../duration.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import { HttpError, usage } from "../http-errors.ts";
import { leaseLsn } from "../lease-lsn.ts";
import { resolveMoment } from "../points.ts";
import { type Answer, type ApiRequest, json } from "../request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, T, TL, findersOf } from "../route-context.ts";

const WAIT_MS = 30_000;
const WAIT_S_MAX = 3600;
const TIMELINES_MAX = 1000;

export function addMomentRoutes(router: ApiRouter, { tenants }: RouteContext): void {
  const { inTenant, onTimeline } = findersOf(tenants);
  router
    .add("GET", `${TL}/get_lsn_by_timestamp`, onTimeline(lsnByTimestamp))
    .add("GET", `${TL}/get_timestamp_of_lsn`, onTimeline(timestampOfLsn))
    .add("POST", `${TL}/lsn_lease`, onTimeline(lease))
    .add("POST", `${T}/wait_lsn`, inTenant(waitLsn));
}

/**
 * `present`: there are commits before and after the time, the LSN is the end of the last one before. `future`: none after,
 * the LSN is the end. `past`: none before. `nodata`: no commits at all.
 */
async function lsnByTimestamp(
  request: ApiRequest,
  timeline: ServedTimeline,
  tenant: AnyTenant,
): Promise<Answer> {
  const text = request.query("timestamp") ?? "";
  const unixMs = Date.parse(text);
  if (Number.isNaN(unixMs)) {
    throw usage('query parameter "timestamp" must be a time such as 2026-11-30T12:00:00Z', "timestamp");
  }
  const { kind, lsn } = await momentOf(timeline, unixMs);
  const withLease = request.queryBoolean("with_lease");
  const { timeLeaseMs } = tenant.settings;
  const validUntil = withLease ? await leaseLsn(tenant, timeline.id, lsn, timeLeaseMs) : undefined;
  return json({
    lsn: formatLsn(lsn),
    kind,
    ...(validUntil === undefined ? {} : { valid_until: new Date(validUntil).toISOString() }),
  });
}

async function momentOf(
  timeline: ServedTimeline,
  unixMs: number,
): Promise<{ kind: "present" | "future" | "past" | "nodata"; lsn: Lsn }> {
  const endLsn = timeline.lastRecordLsn;
  const lastMs = await timeline.commitTimeAt?.(endLsn);
  if (lastMs === null || lastMs === undefined) return { kind: "nodata", lsn: endLsn };
  if (unixMs >= lastMs) return { kind: "future", lsn: endLsn };
  try {
    const lsn = await timeline.resolveTimestamp(unixMs);
    return { kind: "present", lsn };
  } catch (error) {
    if (!(error instanceof NeonError && error.code === ErrorCode.NotFound)) throw error;
    return { kind: "past", lsn: timeline.gcCutoffLsn ?? timeline.startLsn };
  }
}

async function timestampOfLsn(
  request: ApiRequest,
  timeline: ServedTimeline,
  tenant: AnyTenant,
): Promise<Answer> {
  const wanted = request.queryLsn("lsn");
  if (wanted === undefined) throw usage('query parameter "lsn" is missing', "lsn");
  const lsn = await resolveMoment(tenant, timeline.id, { lsn: wanted });
  const unixMs = await tenant.timelineAt(timeline.id, lsn).commitTimeAt?.(lsn);
  if (unixMs === null || unixMs === undefined) {
    throw new HttpError(412, ErrorCode.NotFound, `there is no commit at or before ${formatLsn(lsn)}`);
  }
  return json(new Date(Math.ceil(unixMs)).toISOString());
}

async function lease(request: ApiRequest, timeline: ServedTimeline, tenant: AnyTenant): Promise<Answer> {
  const lsn = (await request.body()).lsn("lsn");
  const validUntil = await leaseLsn(tenant, timeline.id, lsn);
  if (validUntil === undefined) {
    throw new HttpError(412, ErrorCode.NotFound, `${formatLsn(lsn)} is not there, or not any more: no lease`);
  }
  return json({ valid_until: new Date(validUntil).toISOString() });
}

/** Body: LSNs by timeline, and `timeout` as a number of seconds, as a text such as `10s`, or as the original's `{secs, nanos}`. */
async function waitLsn(request: ApiRequest, tenant: AnyTenant): Promise<Answer> {
  const body = await request.body();
  const waitMs = readTimeout(body);
  const wanted: [TimelineId, Lsn][] = [];
  for (const key of body.keys()) {
    if (key === "timeout") continue;
    if (!isId(key)) throw body.wrong(key, "is no timeline id");
    wanted.push([key as TimelineId, body.lsn(key)]);
  }
  if (wanted.length > TIMELINES_MAX) throw usage(`more than ${TIMELINES_MAX} timelines`);
  const reached = await Promise.all(
    wanted.map(async ([id, lsn]): Promise<[TimelineId, boolean]> => {
      const timeline = tenant.timeline(id);
      try {
        await timeline.waitForLsn(lsn, waitMs);
        return [id, true];
      } catch (error) {
        if (error instanceof NeonError) return [id, false];
        throw error;
      }
    }),
  );
  return json(Object.fromEntries(reached));
}

function readTimeout(body: Awaited<ReturnType<ApiRequest["body"]>>): number {
  if (!body.has("timeout")) return WAIT_MS;
  if (body.isNumber("timeout")) return body.integer("timeout", { min: 0, max: WAIT_S_MAX }) * 1000;
  if (body.isText("timeout")) return readDuration(body, "timeout", { min: 0, max: WAIT_S_MAX * 1000 });
  const duration = body.object("timeout");
  const seconds = duration.integer("secs", { min: 0, max: WAIT_S_MAX });
  const nanos = duration.has("nanos") ? duration.integer("nanos", { min: 0, max: 999_999_999 }) : 0;
  return seconds * 1000 + Math.ceil(nanos / 1e6);
}
