/** This pageserver's own timelines as a transfer sees them. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import { lsnMax } from "../../base/lsn.ts";
import type { ServedTimeline, TimelineExchange } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { TenantView, TimelineView } from "./description.ts";

/** All timelines that can be used. Those that are broken are left out, and what stands on them. */
export function viewTenant(tenant: Tenant<ServedTimeline>): TenantView {
  const view = new Map<TimelineId, TimelineView>();
  for (const [id, entry] of tenant.timelineEntries()) {
    if (entry.kind === "open") view.set(id, viewTimeline(tenant, entry.timeline));
  }
  return view;
}

function viewTimeline(tenant: Tenant<ServedTimeline>, timeline: ServedTimeline): TimelineView {
  const { id, ancestor, startLsn, history } = timeline;
  // WAL that is not in layers yet counts: it is put there before anything is built on it.
  const retention = timeline.exchange?.store.retention;
  const endLsn = lsnMax(timeline.durableWalLsn, timeline.exchange?.store.durableLsn ?? startLsn);
  return {
    id,
    ancestor,
    importId: timeline.importId ?? id,
    startLsn,
    endLsn,
    history,
    gcCutoffLsn: timeline.exchange?.store.gcCutoffLsn ?? startLsn,
    retainedLsns: retention?.points.map((point) => point.lsn) ?? [],
    stretches: (retention?.stretches ?? []).map(({ from, to }) => ({ fromLsn: from.lsn, toLsn: to.lsn })),
    names: tenant.namesOf(id),
    hasWriter: timeline.writer !== undefined,
  };
}

/** What is needed to give or take data. */
export function exchangeOf(timeline: ServedTimeline): TimelineExchange {
  const { exchange } = timeline;
  if (exchange === undefined) {
    throw new NeonError(ErrorCode.Unsupported, `timeline ${timeline.id} cannot be pushed or pulled`);
  }
  return exchange;
}
