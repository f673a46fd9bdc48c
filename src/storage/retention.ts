/**
 * What garbage collection has left of a timeline's history: everything from the cutoff on, and single points below it.
 * Part of the index, so that it changes together with the layers. What storage does not understand of a point (the
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

export interface Retention {
  /** The oldest LSN from which on everything is readable. */
  readonly cutoff: RetainedPoint;
  /** Below the cutoff, ascending: what branches and computes stand on. */
  readonly points: readonly RetainedPoint[];
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
