/** What a timeline says when it cannot do what it was asked for. */
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";

export function waitsForSpace(cause: Error): NeonError {
  return new NeonError(
    ErrorCode.Resource,
    `the pageserver cannot write WAL, so commits wait: ${messageOf(cause)}`,
    { hint: "Make room on its disk; it goes on by itself.", cause },
  );
}

export function neverComes(wanted: Lsn, end: Lsn): NeonError {
  return new NeonError(
    ErrorCode.NotFound,
    `${formatLsn(wanted)} will not come: nobody writes to the timeline, which ends at ${formatLsn(end)}`,
    {
      data: { wanted: formatLsn(wanted), end: formatLsn(end) },
    },
  );
}

export function liesInTheFuture(lsn: Lsn, end: Lsn): NeonError {
  return new NeonError(
    ErrorCode.NotFound,
    `${formatLsn(lsn)} lies in the future: the timeline ends at ${formatLsn(end)}`,
    { data: { lsn: formatLsn(lsn), end: formatLsn(end) } },
  );
}
