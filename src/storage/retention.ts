/**
 * What is left of a timeline's history: everything from the cutoff on, and below it single points and stretches. Part of
 * the index, so that it changes together with the layers. What storage does not understand of a point (the
 * record before it, the time of the last commit) it keeps for its user.
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";

export interface RetainedPoint {
  /** The end of a record. */
  readonly lsn: Lsn;
  /** Where that record begins. */
  readonly previousLsn: Lsn;
  /** Time of the last commit at or before the point, in milliseconds since 1970; null if there was none. */
  readonly commitMs: number | null;
}

/**
 * History that is whole from one point to another, below a gap: what the timeline had before it was made longer by layers
 * of one whose cutoff lay above its end.
 */
export interface Stretch {
  readonly from: RetainedPoint;
  readonly to: RetainedPoint;
}

export interface Retention {
  /** The oldest LSN from which on everything is readable. */
  readonly cutoff: RetainedPoint;
  /** Below the cutoff, ascending: what branches and computes stand on. */
  readonly points: readonly RetainedPoint[];
  /** Below the cutoff, ascending, apart from each other: in these, everything is readable. */
  readonly stretches?: readonly Stretch[] | undefined;
}

/** What garbage collection is about to leave. */
export interface AnnouncedCutoff extends Pick<Retention, "stretches"> {
  readonly cutoffLsn: Lsn;
  readonly points: ReadonlySet<Lsn>;
}

/** The stretch that an LSN lies in. */
export function stretchAt({ stretches = [] }: Pick<Retention, "stretches">, lsn: Lsn): Stretch | undefined {
  return stretches.find(({ from, to }) => lsn >= from.lsn && lsn <= to.lsn);
}

/** How far down from a readable LSN everything is readable; undefined for an LSN that is not. */
export function floorAt(retention: Retention, lsn: Lsn): RetainedPoint | undefined {
  if (lsn >= retention.cutoff.lsn) return retention.cutoff;
  return stretchAt(retention, lsn)?.from ?? retention.points.find((point) => point.lsn === lsn);
}

/** What is known of exactly this LSN. */
export function pointAt({ cutoff, points, stretches = [] }: Retention, lsn: Lsn): RetainedPoint | undefined {
  if (lsn > cutoff.lsn) return undefined;
  if (lsn === cutoff.lsn) return cutoff;
  return [...points, ...stretchEnds(stretches)].find((point) => point.lsn === lsn);
}

/** In order, where one begins and where it ends; once, if that is the same. */
export function stretchEnds(stretches: readonly Stretch[]): RetainedPoint[] {
  return stretches.flatMap(({ from, to }) => (from.lsn === to.lsn ? [to] : [from, to]));
}

/** Throws `not_found` for an LSN that is not readable, or will not be soon. */
export function checkRetained(
  lsn: Lsn,
  retention: Retention | undefined,
  announced: AnnouncedCutoff | undefined,
): void {
  if (retention && floorAt(retention, lsn) === undefined) throw belowCutoff(lsn, retention.cutoff.lsn);
  if (announced === undefined || lsn >= announced.cutoffLsn || announced.points.has(lsn)) return;
  if (stretchAt(announced, lsn) === undefined) throw belowCutoff(lsn, announced.cutoffLsn);
}

/** What a read below the cutoff gets. */
export function belowCutoff(lsn: Lsn, cutoff: Lsn): NeonError {
  return new NeonError(
    ErrorCode.NotFound,
    `${formatLsn(lsn)} lies below the GC cutoff ${formatLsn(cutoff)}: that history has been given up`,
    {
      hint: `Choose a point from ${formatLsn(cutoff)} on. "pitr_interval" in pageserver.toml says for how long history is kept.`,
      data: { lsn: formatLsn(lsn), gc_cutoff_lsn: formatLsn(cutoff) },
    },
  );
}

/**
 * As JSON: milliseconds, rounded up to a time at which the commit had been made; where that is not exact, microseconds
 * besides, which earlier versions of the program do not know.
 */
export function renderCommitTime(commitMs: number | null): object {
  if (commitMs === null || Number.isInteger(commitMs)) return { commit_ms: commitMs };
  return { commit_ms: Math.ceil(commitMs), commit_us: Math.round(commitMs * 1000) };
}
