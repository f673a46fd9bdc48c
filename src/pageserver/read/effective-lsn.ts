/**
 * At which LSN a client of the page service reads. It gives two: where it wants to read, and the LSN up to which it
 * knows that nothing has changed what it asks for since. The second spares waiting for WAL that does not matter.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, MAX_LSN, formatLsn, lsnMin } from "../../base/lsn.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";

export interface ReadLsn {
  /** `MAX_LSN`: the latest. */
  readonly lsn: Lsn;
  /** The answer is the same from here up to `lsn`. */
  readonly notModifiedSince: Lsn;
}

/** How long a request waits for WAL up to where it wants to read, unless its protocol says otherwise. */
export const LSN_WAIT_MS = 300_000;

/** Where to read; undefined if WAL must come first that is not here yet. Throws `usage` for LSNs that make no sense. */
export function effectiveLsnNow(
  { lastRecordLsn }: Pick<ServedTimeline, "lastRecordLsn">,
  { lsn, notModifiedSince }: ReadLsn,
): Lsn | undefined {
  if (lsn === 0) throw new NeonError(ErrorCode.Usage, "invalid LSN(0) in request");
  if (lsn < notModifiedSince) {
    throw new NeonError(
      ErrorCode.Usage,
      `invalid request with request LSN ${formatLsn(lsn)} and not_modified_since ${formatLsn(notModifiedSince)}`,
    );
  }
  if (notModifiedSince <= lastRecordLsn) return lsnMin(lastRecordLsn, lsn);
  if (notModifiedSince === MAX_LSN) {
    throw new NeonError(ErrorCode.Usage, "no such LSN: the latest never comes", {
      hint: "To read at the end of what is here, say that nothing is modified since an early LSN, such as 8.",
    });
  }
  return undefined;
}

/** Where to read, as soon as everything that the answer may depend on is here. Throws `usage`, `timeout`. */
export async function effectiveLsn(
  timeline: Pick<ServedTimeline, "lastRecordLsn" | "waitForLsn">,
  read: ReadLsn,
  waitMs: number = LSN_WAIT_MS,
): Promise<Lsn> {
  const now = effectiveLsnNow(timeline, read);
  if (now !== undefined) return now;
  await timeline.waitForLsn(read.notModifiedSince, waitMs);
  return read.notModifiedSince;
}
