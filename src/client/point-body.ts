/** Moments and points of branches as fields of a request's body. */
import { formatLsn } from "../base/lsn.ts";
import type { BranchPoint } from "./pageserver-client.ts";

/** Milliseconds, or microseconds where they are needed. */
export function renderTime(unixMs: number): Record<string, number> {
  return Number.isInteger(unixMs) ? { timestamp_ms: unixMs } : { timestamp_us: Math.round(unixMs * 1000) };
}

export function pointBody(point: BranchPoint): Record<string, string | number> {
  const body: Record<string, string | number> = {};
  if (point.branch !== undefined) body["branch"] = point.branch;
  if (point.timelineId !== undefined) body["timeline_id"] = point.timelineId;
  if (point.lsn !== undefined) body["lsn"] = formatLsn(point.lsn);
  if (point.timestampMs !== undefined) Object.assign(body, renderTime(point.timestampMs));
  return body;
}
