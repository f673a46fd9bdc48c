/**
 * Times to LSNs and back, along a timeline and its ancestors. Where garbage collection has given up history, the points
 * that it left remember the time of the last commit before them.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnMin } from "../../base/lsn.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { floorAt } from "../../storage/retention.ts";
import type { RetainedPoint, Stretch, TimelineStore } from "../../storage/store.ts";
import { findCommitAtOrBefore, findLastCommit } from "./commit-times.ts";

/** What of a timeline is needed here. */
export interface TimedTimeline {
  readonly store: TimelineStore;
  readonly startLsn: Lsn;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  readonly parent: { readonly timeline: TimedTimeline; readonly lsn: Lsn } | undefined;
}

export interface TimeQuery {
  readonly version: PgVersion;
  /** End of the history that counts. */
  readonly endLsn: Lsn;
}

/** The end of the last commit at or before a time, or a point with the same commits. Throws `not_found`. */
export async function resolveTime(timeline: TimedTimeline, unixMs: number, query: TimeQuery): Promise<Lsn> {
  const found = await findCommitAtOrBefore(timeline.store, query.version, { unixMs, endLsn: query.endLsn });
  if (found !== undefined && counts(timeline, found, { unixMs, endLsn: query.endLsn })) return found;
  let { endLsn } = query;
  for (let at: TimedTimeline = timeline; ;) {
    const point = oldestPoint(at.store, endLsn);
    if (point !== undefined) {
      // Above the point there is no commit up to the time, or it would have been found.
      if (point.commitMs === null || point.commitMs <= unixMs) return point.lsn;
      const beginning =
        point === at.store.retention?.cutoff ? stretchAtTime(at.store, unixMs)?.from : undefined;
      if (beginning === undefined) throw givenUp(unixMs, point);
      if (beginning.commitMs === null || beginning.commitMs <= unixMs) return beginning.lsn;
      // Before the stretch; if there is nothing below, the ancestors know.
      if (beginning.lsn > at.startLsn) throw givenUp(unixMs, point);
    }
    if (at.parent === undefined) return beginning(at, unixMs);
    endLsn = lsnMin(endLsn, at.parent.lsn);
    at = at.parent.timeline;
  }
}

/** When the last commit at or before `query.endLsn`, which is readable, was made: milliseconds, or null without any. */
export async function commitTimeAt(
  timeline: TimedTimeline,
  query: TimeQuery & { readonly nowMs: number },
): Promise<number | null> {
  const found = await findLastCommit(timeline.store, query.version, query);
  let { endLsn } = query;
  for (let at: TimedTimeline = timeline; ;) {
    const point = oldestPoint(at.store, endLsn);
    if (found !== undefined && found.lsn > at.startLsn && found.lsn > (point?.lsn ?? -1)) return found.unixMs;
    if (point !== undefined) return point.commitMs;
    if (at.parent === undefined) return found?.unixMs ?? null;
    endLsn = lsnMin(endLsn, at.parent.lsn);
    at = at.parent.timeline;
  }
}

/** Where a timeline's history below `endLsn` ends: the cutoff, or below it the very point; undefined if it is all there. */
function oldestPoint(store: TimelineStore, endLsn: Lsn): RetainedPoint | undefined {
  const cutoff = store.retention?.cutoff;
  if (cutoff === undefined || cutoff.lsn <= endLsn) return cutoff;
  // Branches and computes stand on retained points and in stretches; nobody else comes here.
  return (store.retention && floorAt(store.retention, endLsn)) ?? cutoff;
}

/** Whether a commit that was found is the last up to a time: nothing that lies between may have been given up. */
function counts(
  timeline: TimedTimeline,
  lsn: Lsn,
  { unixMs, endLsn }: { unixMs: number; endLsn: Lsn },
): boolean {
  let at = timeline;
  let end = endLsn;
  while (lsn <= at.startLsn && at.parent !== undefined) {
    end = lsnMin(end, at.parent.lsn);
    at = at.parent.timeline;
  }
  const floor = oldestPoint(at.store, end);
  if (floor === undefined || lsn >= floor.lsn) return true;
  const stretch = floor === at.store.retention?.cutoff ? stretchAtTime(at.store, unixMs) : undefined;
  return stretch !== undefined && lsn >= stretch.from.lsn && lsn <= stretch.to.lsn;
}

/** The oldest stretch that ends with a commit later than a time: what comes behind its end is later still. */
function stretchAtTime({ retention }: TimelineStore, unixMs: number): Stretch | undefined {
  return retention?.stretches?.find(({ to }) => to.commitMs !== null && to.commitMs > unixMs);
}

function beginning(root: TimedTimeline, unixMs: number): Lsn {
  if (unixMs >= root.createdAt) return root.startLsn;
  const began = new Date(root.createdAt).toISOString();
  throw new NeonError(
    ErrorCode.NotFound,
    `${new Date(unixMs).toISOString()} lies before the history, which begins at ${began}`,
    { hint: `Choose a time from ${began} on.`, data: { history_begins: began } },
  );
}

function givenUp(unixMs: number, { lsn, commitMs }: RetainedPoint): NeonError {
  const since = new Date(commitMs ?? 0).toISOString();
  return new NeonError(
    ErrorCode.NotFound,
    `${new Date(unixMs).toISOString()} lies below the GC cutoff, ${formatLsn(lsn)} of ${since}: that history has been given up`,
    {
      hint: `Choose a time from ${since} on. "pitr_interval" in pageserver.toml says for how long history is kept.`,
      data: { gc_cutoff_lsn: formatLsn(lsn), gc_cutoff_time: since },
    },
  );
}
