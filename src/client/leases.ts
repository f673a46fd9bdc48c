/** Leases: moments of a branch that garbage collection keeps for somebody. */
import { ErrorCode, NeonError } from "../base/errors.ts";
import type { TimelineId } from "../base/ids.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import { requestJson } from "./http.ts";
import type { PageserverClient } from "./pageserver-client.ts";

const TIMEOUT_MS = 60_000;

export interface LeasedMoment {
  readonly lsn: Lsn;
  readonly durationMs: number;
}

/**
 * Makes or renews the lease of that name, or without a moment ends it; one that is not there any more is no error. Throws
 * `not_found` for a moment that is gone.
 */
export async function setLease(
  client: PageserverClient,
  timelineId: TimelineId,
  name: string,
  moment: LeasedMoment | undefined,
): Promise<void> {
  const path = client.tenantPath(`/timeline/${timelineId}/lease`);
  const call =
    moment === undefined
      ? ({ method: "DELETE", path: `${path}/${encodeURIComponent(name)}` } as const)
      : ({
          method: "POST",
          path,
          body: { name, lsn: formatLsn(moment.lsn), duration_ms: moment.durationMs },
        } as const);
  try {
    await requestJson(client.target, { ...call, timeoutMs: TIMEOUT_MS });
  } catch (error) {
    // What collects nothing needs no leases.
    const isFine = moment === undefined ? ErrorCode.NotFound : ErrorCode.Unsupported;
    if (!(error instanceof NeonError && error.code === isFine)) throw error;
  }
}
