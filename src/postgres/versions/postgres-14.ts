/** PostgreSQL 14. Source: its headers, as for 17. */
import { RECORD_KINDS_14 } from "./record-kinds.ts";
import type { PgVersion } from "./version.ts";

export const POSTGRES_14: PgVersion = {
  major: 14,
  walPageMagic: 0xd10d,
  controlVersion: 1300,
  catalogVersion: 202107181,
  controlCrcOffset: 288,
  checkpointHasWalLevel: false,
  image: { apply: 0x04, pglz: 0x02, lz4: 0, zstd: 0 },
  // The server sets no limit of its own: it has to fit into one allocation.
  walRecordLengthMax: 2 ** 30 - 1,
  customRmgrs: false,
  records: RECORD_KINDS_14,
  database: { createFileCopy: 0x00, createWalLog: undefined, drop: 0x10 },
  relationMapSize: 512,
  twoPhaseNameDigits: 8,
  readReplicationSlot: false,
  directories: [],
  initdbArguments: [],
  embeddedRelease: "14.23.0-beta.17",
  redo: {
    heapPrune: "freeze-tuples",
    pruneShortensLinePointers: false,
    btreeVacuumClearsCycleId: false,
    slruPageNumberSize: 4,
    droppedStatsEntrySize: 0,
    hashSqueezeAlwaysStamps: true,
    gistDeleteListOffset: 6,
    spgistRedirectListOffset: 8,
  },
};
