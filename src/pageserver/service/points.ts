/** Points in time in requests: which timeline, and which LSN on it. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import { withoutPageHeader } from "../../postgres/wal/layout.ts";
import type { JsonFields } from "../json-fields.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";

/** A moment of a timeline. */
export type Moment = { readonly lsn: Lsn } | { readonly timestampMs: number };

/** The last millisecond that JavaScript's Date knows. */
const TIMESTAMP_MS_MAX = 8_640_000_000_000_000;
/** How long a new branch waits for the compute's flushed WAL. */
const SYNC_TIMEOUT_MS = 30_000;

/** Reads `lsn` or `timestamp_ms`; undefined where neither is given. */
export function readMoment(fields: JsonFields): Moment | undefined {
  const lsn = fields.has("lsn") ? fields.lsn("lsn") : undefined;
  const timestampMs = fields.has("timestamp_us")
    ? fields.integer("timestamp_us", { min: 0, max: Number.MAX_SAFE_INTEGER }) / 1000
    : fields.has("timestamp_ms")
      ? fields.integer("timestamp_ms", { min: 0, max: TIMESTAMP_MS_MAX })
      : undefined;
  if (lsn !== undefined && timestampMs !== undefined) throw fields.wrong("lsn", 'excludes "timestamp_ms"');
  if (lsn !== undefined) return { lsn };
  return timestampMs === undefined ? undefined : { timestampMs };
}

/** Reads `branch` or `timeline_id`, one of which must be there. */
export function readSource(fields: JsonFields, tenant: Tenant<ServedTimeline>): TimelineId {
  const branch = fields.optionalText("branch");
  const timelineId = fields.has("timeline_id") ? fields.timelineId("timeline_id") : undefined;
  if ((branch === undefined) === (timelineId === undefined)) {
    throw fields.wrong("branch", 'or "timeline_id" is wanted, one of the two');
  }
  return timelineId ?? tenant.branch(branch ?? "").ref.timelineId;
}

/**
 * The end of the last record at or below an LSN, or of the last commit at or before a time. What a running compute has
 * done already is waited for. Throws `not_found` for what lies beyond the end of the timeline or before its history.
 */
export async function resolveMoment(
  tenant: Tenant<ServedTimeline>,
  timelineId: TimelineId,
  moment: Moment,
): Promise<Lsn> {
  const timeline = tenant.timeline(timelineId);
  if ("timestampMs" in moment) {
    await waitForTime(timeline, moment.timestampMs);
    return timeline.resolveTimestamp(moment.timestampMs);
  }
  const lsn = withoutPageHeader(moment.lsn, timeline.cluster.segmentSize);
  const end = lsn > timeline.lastRecordLsn ? await currentEnd(timeline) : timeline.lastRecordLsn;
  if (lsn > end) {
    throw new NeonError(
      ErrorCode.NotFound,
      `${formatLsn(lsn)} lies in the future: ${nameOf(tenant, timelineId)} ends at ${formatLsn(end)}`,
      {
        hint: `Choose an LSN up to ${formatLsn(end)}.`,
        data: { lsn: formatLsn(lsn), last_record_lsn: formatLsn(end) },
      },
    );
  }
  const holder = holderOf(tenant, timelineId, lsn);
  // A branch begins at the end of a record of its ancestor's.
  if (lsn === holder.startLsn) return lsn;
  return (await holder.recordBoundary(lsn)).endLsn;
}

/** The timeline that has an LSN, itself or an ancestor. Throws `not_found` before the history. */
export function holderOf(tenant: Tenant<ServedTimeline>, timelineId: TimelineId, lsn: Lsn): ServedTimeline {
  const holder = tenant.timelineAt(timelineId, lsn);
  if (lsn >= holder.startLsn) return holder;
  throw new NeonError(
    ErrorCode.NotFound,
    `${formatLsn(lsn)} lies before the history of ${nameOf(tenant, timelineId)}, which begins at ${formatLsn(holder.startLsn)}`,
    {
      hint: `Choose an LSN from ${formatLsn(holder.startLsn)} on.`,
      data: { lsn: formatLsn(lsn), start_lsn: formatLsn(holder.startLsn) },
    },
  );
}

/**
 * Until every commit up to a time is there. Where no more can come, because ingest has stopped or the compute is in
 * trouble, what there is will do if it reaches beyond the time.
 */
async function waitForTime(timeline: ServedTimeline, unixMs: number): Promise<void> {
  try {
    await currentEnd(timeline);
  } catch (error) {
    if (!(await timeline.hasCommitAfter(unixMs))) throw error;
  }
}

/** The end of a timeline, with every commit that has returned on its compute. */
export async function currentEnd(timeline: ServedTimeline): Promise<Lsn> {
  if (timeline.writer) await timeline.syncWithWriter(SYNC_TIMEOUT_MS);
  return timeline.lastRecordLsn;
}

/** Until what lies below `lsn` is safe on disk: a branch must not hang on WAL that a crash could take back. */
export async function waitUntilDurable(
  tenant: Tenant<ServedTimeline>,
  timelineId: TimelineId,
  lsn: Lsn,
): Promise<void> {
  await tenant.timelineAt(timelineId, lsn).waitForLsn(lsn, SYNC_TIMEOUT_MS);
}

function nameOf(tenant: Tenant<ServedTimeline>, timelineId: TimelineId): string {
  const name = tenant.nameOf(timelineId);
  return name === undefined ? `timeline ${timelineId}` : `branch "${name}"`;
}
