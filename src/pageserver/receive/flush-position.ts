/**
 * Up to where a compute's WAL must have arrived so that every commit that has returned is included.
 *
 * The flush position itself will not do: it may lie inside a record (Postgres flushes whole pages in the background)
 * and nobody could wait for it; and commits with `synchronous_commit = off` return before they are flushed. The
 * insert position is always the end of a record. When it is ahead of what is flushed, one small message is committed
 * with a local flush: everything before it is flushed along, and its own end is the answer.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { WriterEpoch } from "../../base/ids.ts";
import { type Lsn, lsnAlignDown } from "../../base/lsn.ts";
import type { PgConnection } from "../../pgwire/client.ts";
import { PAGE_SIZE } from "../../postgres/constants.ts";
import { pageHeaderSize } from "../../postgres/wal/page-header.ts";
import {
  type ComputeSource,
  EPOCH_SETTING,
  checkEpoch,
  connectToCompute,
  lsnOf,
  singleRow,
} from "./compute-source.ts";

/** Time for the whole dialogue, without and with a checkpoint. */
const TIMEOUT_MS = 10_000;
const CHECKPOINT_TIMEOUT_MS = 5 * 60_000;

export interface FlushOptions {
  /** Has the compute make a checkpoint first. */
  readonly checkpoint?: boolean;
}

/** The end of a record that is flushed on the compute and lies after every commit that returned before the call. */
export async function queryFlushPosition(
  source: ComputeSource,
  epoch: WriterEpoch,
  { checkpoint = false }: FlushOptions = {},
): Promise<Lsn> {
  const abort = new AbortController();
  const timeoutMs = checkpoint ? CHECKPOINT_TIMEOUT_MS : TIMEOUT_MS;
  const timer = setTimeout(() => {
    abort.abort(new NeonError(ErrorCode.Timeout, `the compute did not answer in ${timeoutMs} ms`));
  }, timeoutMs);
  try {
    await using connection = await connectToCompute(source, "database", abort.signal);
    const position = await askFlushPosition(connection, epoch);
    if (!checkpoint) return position;
    // Only now is it known that this is the compute that was meant.
    await connection.query("CHECKPOINT");
    return await askFlushPosition(connection, epoch);
  } finally {
    clearTimeout(timer);
  }
}

async function askFlushPosition(connection: PgConnection, epoch: WriterEpoch): Promise<Lsn> {
  const [found, insertText, flushText, segmentSizeText] = singleRow(
    await connection.query(
      `SELECT pg_catalog.current_setting('${EPOCH_SETTING}', true), pg_catalog.pg_current_wal_insert_lsn(), ` +
        "pg_catalog.pg_current_wal_flush_lsn(), " +
        "(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size')",
    ),
  );
  checkEpoch(found ?? undefined, epoch);
  const insertEnd = recordEndBefore(lsnOf(insertText), Number(segmentSizeText));
  if (lsnOf(flushText) >= insertEnd) return insertEnd;
  const results = await connection.query(
    "BEGIN; SET LOCAL synchronous_commit = local; " +
      "SELECT pg_catalog.pg_logical_emit_message(true, 'neon', ''); COMMIT",
  );
  return lsnOf(results[2]?.rows[0]?.[0]);
}

/**
 * The end of the record before an insert position. They differ where the next record starts a page: then the insert
 * position is behind the page header, but a record that fills a page ends at the page's end.
 */
export function recordEndBefore(insertLsn: Lsn, segmentSize: number): Lsn {
  const pageStart = lsnAlignDown(insertLsn, PAGE_SIZE);
  const behindHeader = insertLsn - pageStart === pageHeaderSize(pageStart, segmentSize);
  return behindHeader ? pageStart : insertLsn;
}
