/** PostgreSQL 18. Source: its headers, as for 17. */
import { RECORD_KINDS } from "./record-kinds.ts";
import type { PgVersion } from "./version.ts";

export const POSTGRES_18: PgVersion = {
  major: 18,
  walPageMagic: 0xd118,
  controlVersion: 1800,
  catalogVersion: 202506291,
  // Behind the checksum version of 17 comes whether the type `char` is signed.
  controlCrcOffset: 292,
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
  initdbArguments: ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-data-checksums"],
  embeddedRelease: "18.4.0-beta.17",
  redo: {
    heapPrune: "combined",
    pruneShortensLinePointers: true,
    btreeVacuumClearsCycleId: true,
    slruPageNumberSize: 8,
    droppedStatsEntrySize: 16,
    hashSqueezeAlwaysStamps: false,
    gistDeleteListOffset: 8,
    spgistRedirectListOffset: 10,
  },
};
