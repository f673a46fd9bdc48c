/**
 * What a pageserver has of a tenant, as far as a transfer must know: all timelines, also those without a name, and
 * whose WAL they hold. It never says where WAL comes from (that is no business of others) and is believed only after
 * every number in it has been looked at.
 */
import { createHash } from "node:crypto";
import { corrupt } from "../../base/errors.ts";
import type { TimelineId, WriterEpoch } from "../../base/ids.ts";
import { type Lineage, type LineageSection, flattenLineage } from "../../base/lineage.ts";
import { type Lsn, formatLsn, lsnMin, parseLsn } from "../../base/lsn.ts";
import { JsonFields } from "../json-fields.ts";
import { HISTORY_MAX, TIMELINES_MAX } from "./limits.ts";

export interface HistoryView {
  readonly startLsn: Lsn;
  readonly epoch: WriterEpoch;
}

export interface TimelineView {
  readonly id: TimelineId;
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | undefined;
  /** Of a root: stands for what was imported; its id, unless it is a copy under another. */
  readonly importId: TimelineId;
  readonly startLsn: Lsn;
  /** Everything up to here is durable. */
  readonly endLsn: Lsn;
  readonly history: readonly HistoryView[];
  /** What lies below cannot be read any more. At `startLsn` or below if nothing was removed. */
  readonly gcCutoffLsn: Lsn;
  /** Points below the cutoff that can be read all the same, and stretches of the history. */
  readonly retainedLsns: readonly Lsn[];
  readonly stretches: readonly { readonly fromLsn: Lsn; readonly toLsn: Lsn }[];
  /** Branches that name it. */
  readonly names: readonly string[];
  /** A compute may write to it. */
  readonly hasWriter: boolean;
}

export type TenantView = ReadonlyMap<TimelineId, TimelineView>;

/** A section of a branch's history with the timeline that holds it. */
export interface ChainSection extends LineageSection {
  readonly view: TimelineView;
}

/** The timelines that hold the history of one, from the root on. Throws `corrupt` for a circle or a missing ancestor. */
export function chainOf(view: TenantView, id: TimelineId, endLsn?: Lsn): ChainSection[] {
  const chain: ChainSection[] = [];
  let next: { timelineId: TimelineId; lsn: Lsn | undefined } | undefined = { timelineId: id, lsn: endLsn };
  while (next !== undefined) {
    const { timelineId, lsn }: { timelineId: TimelineId; lsn: Lsn | undefined } = next;
    const timeline = view.get(timelineId);
    if (timeline === undefined)
      throw corrupt(`timeline ${timelineId} is missing`, { timeline_id: timelineId });
    if (chain.length >= view.size) throw corrupt(`the ancestors of timeline ${id} go in a circle`);
    chain.push({
      timelineId: timeline.importId,
      startLsn: timeline.startLsn,
      endLsn: lsn ?? timeline.endLsn,
      history: timeline.history,
      view: timeline,
    });
    next = timeline.ancestor;
  }
  return chain.reverse();
}

export function lineageOf(view: TenantView, id: TimelineId, endLsn?: Lsn): Lineage {
  return flattenLineage(chainOf(view, id, endLsn));
}

/** Equal exactly if the lineages are. */
export function lineageDigest(lineage: Lineage): string {
  const hash = createHash("sha256");
  for (const { startLsn, epoch } of lineage.entries) hash.update(`${formatLsn(startLsn)} ${epoch}\n`);
  return hash.update(formatLsn(lineage.endLsn)).digest("hex");
}

/** The timeline that a branch names, if there is such a branch. */
export function namedTimeline(view: TenantView, branch: string): TimelineView | undefined {
  for (const timeline of view.values()) if (timeline.names.includes(branch)) return timeline;
  return undefined;
}

export function renderLineage(lineage: Lineage): object {
  return {
    entries: lineage.entries.map(({ startLsn, epoch }) => ({ start_lsn: formatLsn(startLsn), epoch })),
    end_lsn: formatLsn(lineage.endLsn),
  };
}

export function renderDescription(view: TenantView): object {
  return {
    timelines: [...view.values()].map((timeline) => ({
      id: timeline.id,
      ancestor: timeline.ancestor
        ? { id: timeline.ancestor.timelineId, lsn: formatLsn(timeline.ancestor.lsn) }
        : null,
      ...(timeline.importId === timeline.id ? {} : { import_id: timeline.importId }),
      start: formatLsn(timeline.startLsn),
      end: formatLsn(timeline.endLsn),
      history: renderHistory(timeline.history),
      cutoff: formatLsn(timeline.gcCutoffLsn),
      retained: timeline.retainedLsns.map(formatLsn),
      stretches: timeline.stretches.map(({ fromLsn, toLsn }) => ({
        from: formatLsn(fromLsn),
        to: formatLsn(toLsn),
      })),
      names: timeline.names,
      writer: timeline.hasWriter,
    })),
  };
}

export function renderHistory(history: readonly HistoryView[]): object[] {
  return history.map(({ startLsn, epoch }) => ({ lsn: formatLsn(startLsn), epoch }));
}

/** Throws `corrupt`. */
export function parseDescription(value: unknown): TenantView {
  const fields = new JsonFields(value, "description", (message) => corrupt(message));
  const view = new Map<TimelineId, TimelineView>();
  const listed = fields.objects("timelines");
  if (listed.length > TIMELINES_MAX)
    throw fields.wrong("timelines", `must have at most ${TIMELINES_MAX} entries`);
  let entries = 0;
  for (const timeline of listed) {
    const parsed = parseTimeline(timeline);
    entries += parsed.history.length;
    if (view.has(parsed.id)) throw timeline.wrong("id", "is listed twice");
    if (entries > HISTORY_MAX) throw timeline.wrong("history", `leads to more than ${HISTORY_MAX} entries`);
    view.set(parsed.id, parsed);
  }
  for (const { id, ancestor, startLsn } of view.values()) {
    const parent = ancestor && view.get(ancestor.timelineId);
    if (ancestor === undefined) continue;
    const fits =
      parent && startLsn === ancestor.lsn && ancestor.lsn >= parent.startLsn && ancestor.lsn <= parent.endLsn;
    if (!fits) throw corrupt(`timeline ${id} begins where its ancestor is not`, { timeline_id: id });
  }
  return view;
}

function parseTimeline(fields: JsonFields): TimelineView {
  const ancestor = fields.optionalObject("ancestor");
  const startLsn = fields.lsn("start");
  const endLsn = fields.lsn("end");
  if (endLsn < startLsn) throw fields.wrong("end", "must not lie below the start");
  return {
    id: fields.timelineId("id"),
    importId: fields.timelineId(fields.has("import_id") ? "import_id" : "id"),
    ancestor: ancestor && { timelineId: ancestor.timelineId("id"), lsn: ancestor.lsn("lsn") },
    startLsn,
    endLsn,
    history: parseHistory(fields, startLsn),
    gcCutoffLsn: fields.lsn("cutoff"),
    retainedLsns: fields.texts("retained").map((text) => parseLsn(text) ?? fail(fields, "retained")),
    // Earlier versions have none.
    stretches: (fields.has("stretches") ? fields.objects("stretches") : []).map((stretch) => ({
      fromLsn: stretch.lsn("from"),
      toLsn: stretch.lsn("to"),
    })),
    names: fields.texts("names"),
    hasWriter: fields.boolean("writer"),
  };
}

function fail(fields: JsonFields, key: string): never {
  throw fields.wrong(key, "must be a list of LSNs");
}

/** How far down from an LSN everything of a timeline's own is there; undefined if it is not there at the LSN itself. */
export function floorOf({ gcCutoffLsn, retainedLsns, stretches }: TimelineView, lsn: Lsn): Lsn | undefined {
  if (lsn >= gcCutoffLsn) return gcCutoffLsn;
  const stretch = stretches.find(({ fromLsn, toLsn }) => lsn >= fromLsn && lsn <= toLsn);
  return stretch?.fromLsn ?? retainedLsns.find((retained) => retained === lsn);
}

/** Whether the state at an LSN of its own part of the history is still there. */
export function isReadable(timeline: TimelineView, lsn: Lsn): boolean {
  return floorOf(timeline, lsn) !== undefined;
}

/** The highest LSN of a history, up to a given one, whose state is there, and the timeline that has it. */
export function highestReadable(
  chain: readonly ChainSection[],
  lsn: Lsn,
): { readonly lsn: Lsn; readonly owner: TimelineView } | undefined {
  let upTo = lsn;
  for (const [index, { view, startLsn, endLsn }] of [...chain.entries()].reverse()) {
    upTo = lsnMin(upTo, endLsn);
    if (index > 0 && upTo <= startLsn) continue;
    const below = [...view.retainedLsns, ...view.stretches.map(({ toLsn }) => toLsn)];
    const readable = isReadable(view, upTo)
      ? upTo
      : below.filter((at) => at <= upTo).reduce<Lsn | undefined>((a, b) => (a && a > b ? a : b), undefined);
    if (readable !== undefined && (index === 0 || readable > startLsn)) return { lsn: readable, owner: view };
    upTo = startLsn;
  }
  return undefined;
}

/** Ascending, from `startLsn` on. */
export function parseHistory(fields: JsonFields, startLsn: Lsn): HistoryView[] {
  const history: HistoryView[] = [];
  let before = startLsn;
  for (const entry of fields.objects("history")) {
    const view = { startLsn: entry.lsn("lsn"), epoch: entry.writerEpoch("epoch") };
    if (view.startLsn < before) throw entry.wrong("lsn", "must not go back");
    before = view.startLsn;
    history.push(view);
  }
  return history;
}
