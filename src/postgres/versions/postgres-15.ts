/** PostgreSQL 15. Source: its headers, as for 17. */
import { RECORD_KINDS_15 } from "./record-kinds.ts";
import type { PgVersion } from "./version.ts";

export const POSTGRES_15: PgVersion = {
  major: 15,
  walPageMagic: 0xd110,
  controlVersion: 1300,
  catalogVersion: 202209061,
  controlCrcOffset: 288,
  checkpointHasWalLevel: false,
  image: { apply: 0x02, pglz: 0x04, lz4: 0x08, zstd: 0x10 },
  // The server sets no limit of its own: it has to fit into one allocation.
  walRecordLengthMax: 2 ** 30 - 1,
  customRmgrs: true,
  records: RECORD_KINDS_15,
  database: { createFileCopy: 0x00, createWalLog: 0x10, drop: 0x20 },
  relationMapSize: 512,
  twoPhaseNameDigits: 8,
  readReplicationSlot: true,
  directories: [],
  initdbArguments: [],
  embeddedRelease: "15.18.0-beta.17",
  redo: {
    heapPrune: "freeze-tuples",
    pruneShortensLinePointers: true,
    btreeVacuumClearsCycleId: false,
    slruPageNumberSize: 4,
    droppedStatsEntrySize: 12,
    hashSqueezeAlwaysStamps: true,
    gistDeleteListOffset: 6,
    spgistRedirectListOffset: 8,
  },
};
