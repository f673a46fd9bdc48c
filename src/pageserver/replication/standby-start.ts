/**
 * Where a standby that follows a branch must begin: at a checkpoint of the branch's own WAL. A made-up one would do for a
 * server that stays where it is; but what follows it in the branch's WAL is something else.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd } from "../../base/lsn.ts";
import { ValueFlag } from "../../storage/key.ts";
import type { StoredValue, TimelineStore } from "../../storage/store.ts";
import { CHECKPOINT_STATE_KEY } from "../ingest/keyspace.ts";
import type { TimelineWal } from "../timeline/timeline-wal.ts";
import { type RecoveryStart, checkpointIn } from "../verify/recovery.ts";

/** The last checkpoint whose record ends at or below an LSN and whose WAL is all there; undefined if there is none. */
export async function lastCheckpoint(
  wal: TimelineWal,
  store: TimelineStore,
  lsn: Lsn,
): Promise<RecoveryStart | undefined> {
  const { floorLsn } = wal;
  for (let at = lsn; at > floorLsn;) {
    const { values } = await store.get(CHECKPOINT_STATE_KEY, at);
    for (const value of values) {
      if (value.lsn <= floorLsn) return undefined;
      const checkpoint = await checkpointOf(wal, value);
      if (checkpoint !== undefined) return checkpoint.redoLsn >= floorLsn ? checkpoint : undefined;
    }
    const oldest = values.at(-1);
    if (oldest === undefined) return undefined;
    at = lsnAdd(oldest.lsn, -1);
  }
  return undefined;
}

async function checkpointOf(wal: TimelineWal, value: StoredValue): Promise<RecoveryStart | undefined> {
  if (!(value.flags & ValueFlag.Record)) return undefined;
  const found = checkpointIn(value.bytes, value.lsn);
  if (found === undefined) return undefined;
  return { ...found, checkpointLsn: (await wal.recordBoundary(value.lsn)).previousLsn };
}

/** There is nothing to begin from. */
export function noCheckpoint(lsn: Lsn): NeonError {
  return new NeonError(
    ErrorCode.NotFound,
    `there is no checkpoint at or before ${formatLsn(lsn)} from which a standby could follow the branch`,
    {
      hint: "Run CHECKPOINT on the compute that writes to the branch, or start one there (`neon pg start`), then ask again.",
      data: { lsn: formatLsn(lsn) },
    },
  );
}
