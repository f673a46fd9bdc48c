/** PostgreSQL 16. Source: its headers, as for 17. */
import { RECORD_KINDS_15 } from "./record-kinds.ts";
import type { PgVersion } from "./version.ts";

export const POSTGRES_16: PgVersion = {
  major: 16,
  walPageMagic: 0xd113,
  controlVersion: 1300,
  catalogVersion: 202307071,
  controlCrcOffset: 288,
  checkpointHasWalLevel: false,
  image: { apply: 0x02, pglz: 0x04, lz4: 0x08, zstd: 0x10 },
  walRecordLengthMax: 1020 * 1024 * 1024,
  customRmgrs: true,
  records: RECORD_KINDS_15,
  database: { createFileCopy: 0x00, createWalLog: 0x10, drop: 0x20 },
  relationMapSize: 524,
  twoPhaseNameDigits: 8,
  readReplicationSlot: true,
  directories: [],
  initdbArguments: [],
  embeddedRelease: "16.14.0-beta.17",
  redo: {
    heapPrune: "freeze-plans",
    pruneShortensLinePointers: true,
    btreeVacuumClearsCycleId: false,
    slruPageNumberSize: 4,
    droppedStatsEntrySize: 12,
    hashSqueezeAlwaysStamps: true,
    gistDeleteListOffset: 8,
    spgistRedirectListOffset: 10,
  },
};
