/** Leases of LSNs by clients that use them without being a compute of ours. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import { resolveMoment } from "./points.ts";

/**
 * Keeps an LSN readable for as long as the tenant's settings say: until when, in milliseconds since 1970. Undefined for an LSN
 * that is gone or not there yet, which is an answer and no error. Whoever uses the LSN renews the lease by asking again.
 */
export async function leaseLsn(
  tenant: Tenant<ServedTimeline>,
  timelineId: TimelineId,
  wanted: Lsn,
  leaseMs: number = tenant.settings.leaseMs,
): Promise<number | undefined> {
  tenant.timeline(timelineId);
  // A lease and a cutoff that moves exclude each other.
  return tenant.change(async () => {
    const lsn = await resolveMoment(tenant, timelineId, { lsn: wanted }).catch(notReadable);
    if (lsn === undefined) return undefined;
    const holder = tenant.timelineAt(timelineId, lsn);
    const { endLsn } = await holder.recordBoundary(lsn);
    return (await holder.leases?.renew(`lsn ${formatLsn(wanted)}`, endLsn, leaseMs))?.expiresAt;
  });
}

function notReadable(error: unknown): undefined {
  if (error instanceof NeonError && error.code === ErrorCode.NotFound) return undefined;
  throw error;
}
