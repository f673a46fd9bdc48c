/** PostgreSQL 17. Source: its headers, src/include/access/{xlog_internal,xlogrecord}.h and catalog/{pg_control,catversion}.h. */
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
  twoPhaseNameDigits: 16,
  redo: {
    pruneShortensLinePointers: true,
    btreeVacuumClearsCycleId: false,
    slruPageNumberSize: 8,
    droppedStatsEntrySize: 12,
    hashSqueezeAlwaysStamps: false,
    gistDeleteListOffset: 8,
    spgistRedirectListOffset: 10,
  },
};
