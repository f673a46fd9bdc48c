/** WAL that somebody has kept, such as an archive, into a timeline that nobody writes to: for libpq and HTTP. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import { KeptWal } from "../receive/kept-wal.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";

/**
 * Takes in the WAL between the end of the timeline and `endLsn`, from a tar of segment files: all of it or nothing.
 * Throws `conflict` for a timeline that ends elsewhere or is written to, `usage` for WAL that is not what it should be.
 */
export async function importWal(
  tenant: Tenant<ServedTimeline>,
  timeline: ServedTimeline,
  wal: { readonly startLsn: Lsn; readonly endLsn: Lsn; readonly tar: AsyncIterable<Uint8Array> },
): Promise<void> {
  const { startLsn, endLsn } = wal;
  checkStart(timeline, startLsn);
  if (endLsn <= startLsn) throw new NeonError(ErrorCode.Usage, "the end of the WAL lies before its start");
  await using spool = tenant.newSpool();
  const kept = await KeptWal.read(wal.tar, timeline.cluster, spool);
  await tenant.change(async () => {
    checkStart(timeline, startLsn);
    const { exchange } = timeline;
    if (!exchange) throw new NeonError(ErrorCode.Unsupported, "this timeline takes no WAL");
    const { previousLsn } = await timeline.recordBoundary(startLsn);
    await kept.check({ startLsn, previousLsn, endLsn });
    await exchange.takeWal((intake) => kept.feed(intake, { startLsn, endLsn }));
  });
}

function checkStart(timeline: ServedTimeline, startLsn: Lsn): void {
  if (timeline.writer) {
    throw new NeonError(ErrorCode.Conflict, `compute "${timeline.writer.name}" writes to this timeline`, {
      hint: "Stop it first.",
      data: { writer: timeline.writer.name },
    });
  }
  const end = timeline.lastRecordLsn;
  if (startLsn === end) return;
  throw new NeonError(
    ErrorCode.Conflict,
    `the timeline ends at ${formatLsn(end)}, so that is where the WAL must begin, not at ${formatLsn(startLsn)}`,
    { data: { last_record_lsn: formatLsn(end), start_lsn: formatLsn(startLsn) } },
  );
}
