/** Ingest by itself, on a fresh timeline. */
import { Ingest } from "../../src/pageserver/ingest/ingest.ts";
import { loadIngestState } from "../../src/pageserver/ingest/load-state.ts";
import { makeReconstructor } from "../../src/pageserver/read/make-reconstructor.ts";
import type { Lab } from "../pageserver/branch-harness.ts";

export async function makeIngest(lab: Lab): Promise<Ingest> {
  const { store, cluster, lastRecordLsn: lsn, startLsn } = await lab.init();
  const reconstructor = await makeReconstructor(store, cluster.pgVersion, lsn);
  const state = await loadIngestState({ store, reconstructor, lsn, previousLsn: startLsn, startLsn });
  const writeOut = (): Promise<void> => Promise.resolve();
  return new Ingest({ store, version: cluster.pgVersion, state, reconstructor, writeOut });
}
