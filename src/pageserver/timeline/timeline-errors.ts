/** Errors of a timeline that are thrown in more than one place. */
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
    { data: { wanted: formatLsn(wanted), end: formatLsn(end) } },
  );
}

export function liesInTheFuture(lsn: Lsn, end: Lsn): NeonError {
  return new NeonError(
    ErrorCode.NotFound,
    `${formatLsn(lsn)} lies in the future: the timeline ends at ${formatLsn(end)}`,
    { data: { lsn: formatLsn(lsn), end: formatLsn(end) } },
  );
}

export function beforeHistory(lsn: Lsn, start: Lsn): NeonError {
  const begins = formatLsn(start);
  return new NeonError(
    ErrorCode.NotFound,
    `${formatLsn(lsn)} lies before the history, which begins at ${begins}`,
    { hint: `Choose an LSN from ${begins} on.`, data: { lsn: formatLsn(lsn), history_begins: begins } },
  );
}

export function beingWritten(id: string, writer: string | undefined): NeonError {
  return new NeonError(ErrorCode.Conflict, `timeline ${id} is being written to`, {
    hint: "Stop its compute first.",
    data: { writer: writer ?? null },
  });
}
