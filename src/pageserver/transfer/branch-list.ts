/** Histories of branches, for those who want to know how theirs stand to them. */
import type { Lineage, LineageSection } from "../../base/lineage.ts";
import { flattenLineage } from "../../base/lineage.ts";
import { type Lsn, formatLsn, lsnMax } from "../../base/lsn.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import { renderLineage } from "./description.ts";

/** The history of a timeline through its ancestors; undefined if one of them is broken. */
export function timelineLineage(
  tenant: Tenant<ServedTimeline>,
  timeline: ServedTimeline,
): Lineage | undefined {
  const entries = tenant.timelineEntries();
  const sections: LineageSection[] = [];
  let endLsn: Lsn = lsnMax(timeline.durableWalLsn, timeline.exchange?.store.durableLsn ?? timeline.startLsn);
  for (let at: ServedTimeline | undefined = timeline; at !== undefined;) {
    sections.push({ timelineId: at.importId ?? at.id, startLsn: at.startLsn, endLsn, history: at.history });
    const { ancestor }: ServedTimeline = at;
    if (ancestor === undefined) break;
    const entry = entries.get(ancestor.timelineId);
    if (entry?.kind !== "open" || sections.length > entries.size) return undefined;
    endLsn = ancestor.lsn;
    at = entry.timeline;
  }
  return flattenLineage(sections.reverse());
}

/** A branch of another pageserver, as its own list would show it. */
export function renderRemoteBranch(name: string, lineage: Lineage): object {
  return {
    name,
    last_record_lsn: formatLsn(lineage.endLsn),
    state: "active",
    lineage: renderLineage(lineage),
  };
}
