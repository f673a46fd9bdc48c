/** PostgreSQL 17. Source: its headers, src/include/access/{xlog_internal,xlogrecord}.h and catalog/{pg_control,catversion}.h. */
import { RECORD_KINDS } from "./record-kinds.ts";
import type { PgVersion } from "./version.ts";

export const POSTGRES_17: PgVersion = {
  major: 17,
  walPageMagic: 0xd116,
  controlVersion: 1700,
  catalogVersion: 202406281,
  controlCrcOffset: 288,
  checkpointHasWalLevel: true,
  image: { apply: 0x02, pglz: 0x04, lz4: 0x08, zstd: 0x10 },
  walRecordLengthMax: 1020 * 1024 * 1024,
  customRmgrs: true,
  records: RECORD_KINDS,
  database: { createFileCopy: 0x00, createWalLog: 0x10, drop: 0x20 },
  relationMapSize: 524,
  twoPhaseNameDigits: 16,
  readReplicationSlot: true,
  directories: ["pg_wal/summaries"],
  initdbArguments: ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"],
  embeddedRelease: "17.10.0-beta.17",
  redo: {
    heapPrune: "combined",
    pruneShortensLinePointers: true,
    btreeVacuumClearsCycleId: false,
    slruPageNumberSize: 8,
    droppedStatsEntrySize: 12,
    hashSqueezeAlwaysStamps: false,
    gistDeleteListOffset: 8,
    spgistRedirectListOffset: 10,
  },
};
