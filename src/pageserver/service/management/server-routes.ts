/** The server as a whole: how full it is. */
import { statfs } from "node:fs/promises";
import { type Answer, json } from "../request.ts";
import type { ApiRouter, RouteContext } from "../route-context.ts";

export function addServerRoutes(router: ApiRouter, context: RouteContext): void {
  router.add("GET", "/v1/utilization", () => utilization(context));
}

/** PageserverUtilization of the original. A lower score is a better place for another tenant. */
async function utilization({ tenants, workdir }: RouteContext): Promise<Answer> {
  const { bsize, blocks, bavail } = await statfs(workdir);
  let wantedBytes = 0;
  for (const entry of tenants.list()) {
    if (entry.kind !== "open") continue;
    for (const timeline of entry.tenant.timelineEntries().values()) {
      if (timeline.kind === "open") wantedBytes += timeline.timeline.physicalBytes;
    }
  }
  const usedBytes = (blocks - bavail) * bsize;
  return json({
    disk_usage_bytes: usedBytes,
    free_space_bytes: bavail * bsize,
    disk_wanted_bytes: wantedBytes,
    disk_usable_pct: 100,
    shard_count: tenants.list().length,
    max_shard_count: 0,
    utilization_score: usedBytes,
    captured_at: new Date().toISOString(),
  });
}
