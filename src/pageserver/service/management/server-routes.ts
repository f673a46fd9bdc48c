/** The server as a whole: how full it is. */
import { statfs } from "node:fs/promises";
import { type Answer, json } from "../request.ts";
import type { ApiRouter, RouteContext } from "../route-context.ts";

export function addServerRoutes(router: ApiRouter, context: RouteContext): void {
  router.add("GET", "/v1/utilization", () => utilization(context));
}

/** A server that is as full as it should be; more is too full. */
const FULL_SCORE = 1_000_000;
/** Nothing is moved away to make room, so all of the disk may be used. */
const USABLE_PERCENT = 100;
/** There is no limit; clients divide by it. */
const TENANTS_MAX = 2 ** 31 - 1;

/**
 * PageserverUtilization of the original. A lower score is a better place for another tenant: what the tenants here take of
 * the disk that there is, in millionths.
 */
async function utilization({ tenants, workdir }: RouteContext): Promise<Answer> {
  const { bsize, blocks, bavail } = await statfs(workdir);
  let wantedBytes = 0;
  for (const entry of tenants.list()) {
    if (entry.kind !== "open") continue;
    for (const timeline of entry.tenant.timelineEntries().values()) {
      if (timeline.kind === "open") wantedBytes += timeline.timeline.physicalBytes;
    }
  }
  const freeBytes = bavail * bsize;
  const usedBytes = (blocks - bavail) * bsize;
  const usableBytes = ((usedBytes + freeBytes) * USABLE_PERCENT) / 100;
  return json({
    disk_usage_bytes: usedBytes,
    free_space_bytes: freeBytes,
    disk_wanted_bytes: wantedBytes,
    disk_usable_pct: USABLE_PERCENT,
    shard_count: tenants.list().length,
    max_shard_count: TENANTS_MAX,
    utilization_score: Math.ceil((wantedBytes / Math.max(1, usableBytes)) * FULL_SCORE),
    captured_at: new Date().toISOString(),
  });
}
