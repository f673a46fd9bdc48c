/** A reconstructor that knows what redo must know about the server: whether changes of hint bits were logged. */
import type { Lsn } from "../../base/lsn.ts";
import { parseControlFile } from "../../postgres/control-file.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { CheckpointState } from "../ingest/checkpoint-state.ts";
import { CHECKPOINT_STATE_KEY, CONTROL_FILE_KEY } from "../ingest/keyspace.ts";
import { Reconstructor } from "./reconstruct.ts";

/** A reconstructor for what the cluster's settings were at an LSN. */
export async function makeReconstructor(
  store: TimelineStore,
  version: PgVersion,
  lsn: Lsn,
): Promise<Reconstructor> {
  const first = new Reconstructor({ version, hintBitsLogged: false });
  const control = first.value(CONTROL_FILE_KEY, (await store.get(CONTROL_FILE_KEY, lsn)).values);
  const state = first.value(CHECKPOINT_STATE_KEY, (await store.get(CHECKPOINT_STATE_KEY, lsn)).values);
  const hintBitsLogged =
    (control !== undefined && parseControlFile(control).dataChecksums) ||
    (state !== undefined && CheckpointState.decode(state).walLogHints);
  return new Reconstructor({ version, hintBitsLogged });
}

/** Postgres' own timeline number at the end of what is durable. */
export async function readTimelineNumber(store: TimelineStore, version: PgVersion): Promise<number> {
  const { values } = await store.get(CHECKPOINT_STATE_KEY, store.durableLsn);
  const state = new Reconstructor({ version, hintBitsLogged: false }).value(CHECKPOINT_STATE_KEY, values);
  return state === undefined ? 1 : CheckpointState.decode(state).timelineNumber;
}
