/** What ingest must know about the end of a timeline, read from the store. */
import { corrupt } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Key } from "../../storage/key.ts";
import type { Slru } from "../../postgres/slru.ts";
import type { TimelineStore } from "../../storage/store.ts";
import type { Reconstructor } from "../read/reconstruct.ts";
import { CheckpointState } from "./checkpoint-state.ts";
import type { IngestState } from "./ingest.ts";
import {
  CHECKPOINT_STATE_KEY,
  Kind,
  decodeOriginProgress,
  kindRange,
  recordWindowKey,
  windowOfLsn,
} from "./keyspace.ts";
import { OpenRecordWindow, decodeRecordWindow, startOfEntry } from "./record-index.ts";
import { RelationTable } from "./relation-table.ts";

export interface LoadOptions {
  readonly store: TimelineStore;
  readonly reconstructor: Reconstructor;
  /** The end of the last record that the store holds. */
  readonly lsn: Lsn;
  /** The start of that record. */
  readonly previousLsn: Lsn;
  /** Where the timeline begins: records below are its ancestor's. */
  readonly startLsn: Lsn;
}

export async function loadIngestState(options: LoadOptions): Promise<IngestState> {
  const { store, reconstructor, lsn } = options;
  const relations = new RelationTable();
  await eachValue(options, Kind.RelationSize, (key, value) => {
    const entry = relations.entry(key.spcOid, key.dbOid, key.relNumber);
    const blocks = new DataView(value.buffer, value.byteOffset, value.byteLength).getUint32(0, true);
    entry.sizes[key.fork as 0 | 1 | 2 | 3] = blocks;
  });
  const databases = new Map<string, { spcOid: number; dbOid: number }>();
  await eachValue(options, Kind.Database, (key) => {
    databases.set(`${key.spcOid}/${key.dbOid}`, { spcOid: key.spcOid, dbOid: key.dbOid });
  });
  const relationMaps = new Map<string, { spcOid: number; dbOid: number }>();
  await eachValue(options, Kind.RelationMap, (key) => {
    relationMaps.set(`${key.spcOid}/${key.dbOid}`, { spcOid: key.spcOid, dbOid: key.dbOid });
  });
  const slruPages: IngestState["slruPages"] = [new Set(), new Set(), new Set(), new Set()];
  await eachValue(options, Kind.SlruPage, (key) => {
    slruPages[key.spcOid as Slru].add(key.block);
  });
  const origins = new Map<number, bigint>();
  await eachValue(options, Kind.ReplicationOrigin, (key, value) => {
    origins.set(key.block, decodeOriginProgress(value));
  });
  const chain = await store.get(CHECKPOINT_STATE_KEY, lsn);
  const checkpoint = reconstructor.value(CHECKPOINT_STATE_KEY, chain.values);
  if (checkpoint === undefined)
    throw corrupt(`no checkpoint state at ${formatLsn(lsn)}`, { lsn: formatLsn(lsn) });
  return {
    relations,
    databases,
    relationMaps,
    slruPages,
    origins,
    checkpoint: CheckpointState.decode(checkpoint),
    window: await resumeWindow(options),
    lastRecordLsn: lsn,
    previousLsn: options.previousLsn,
  };
}

/** The window of the last record goes on where it was saved; before the first record there is none. */
async function resumeWindow(options: LoadOptions): Promise<OpenRecordWindow> {
  const window = new OpenRecordWindow();
  if (options.lsn === options.startLsn) return window;
  const number = windowOfLsn(options.previousLsn);
  const key = recordWindowKey(number);
  const stored = options.reconstructor.value(key, (await options.store.get(key, options.lsn)).values);
  if (stored === undefined) return window;
  window.resume(
    number,
    decodeRecordWindow(number, stored).filter((entry) => startOfEntry(entry) >= options.startLsn),
  );
  return window;
}

async function eachValue(
  { store, reconstructor, lsn }: LoadOptions,
  kind: number,
  emit: (key: Key, value: Uint8Array) => void,
): Promise<void> {
  for await (const batch of store.scan(kindRange(kind), lsn)) {
    for (const entry of batch) {
      const value = reconstructor.value(entry.key, entry.values);
      if (value !== undefined) emit(entry.key, value);
    }
  }
}
