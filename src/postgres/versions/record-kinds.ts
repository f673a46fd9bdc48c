/**
 * Kinds of WAL records: the operations of each resource manager, as in 17 and 18, and how other versions differ. What
 * is not listed is written by no server that we know, and is refused. Names are those that pg_waldump prints.
 * What redo does with each: docs/formats/wal-records.md.
 * Source: PostgreSQL 14-18, src/include/access/*_xlog.h, xact.h, nbtxlog.h, catalog/pg_control.h, storage_xlog.h,
 * commands/{dbcommands_xlog,tablespace}.h, utils/relmapper.h, storage/standbydefs.h.
 */
import { Rmgr } from "../constants.ts";

export interface RmgrKinds {
  /** The bits of `info` that say which operation it is; the other high bits are flags. */
  readonly mask: number;
  /** Name by operation, which is `info & mask`. */
  readonly operations: ReadonlyMap<number, string>;
}

/** By resource manager. */
export type RecordKinds = ReadonlyMap<number, RmgrKinds>;

/** Operations that follow one another in steps of 0x10 from `first` on. */
function named(first: number, names: string): [number, string][] {
  return names.split(" ").map((name, index) => [first + 0x10 * index, name]);
}

function kinds(mask: number, ...operations: [number, string][][]): RmgrKinds {
  return { mask, operations: new Map(operations.flat()) };
}

const XLOG_KINDS = named(
  0x00,
  "CHECKPOINT_SHUTDOWN CHECKPOINT_ONLINE NOOP NEXTOID SWITCH BACKUP_END PARAMETER_CHANGE RESTORE_POINT FPW_CHANGE " +
    "END_OF_RECOVERY FPI_FOR_HINT FPI",
);
const OVERWRITE_CONTRECORD = named(0xd0, "OVERWRITE_CONTRECORD");
const HEAP2_COMMON = [...named(0x00, "REWRITE"), ...named(0x40, "VISIBLE MULTI_INSERT LOCK_UPDATED NEW_CID")];

/** PostgreSQL 17 and 18. */
export const RECORD_KINDS: RecordKinds = new Map<number, RmgrKinds>([
  [Rmgr.Xlog, kinds(0xf0, XLOG_KINDS, OVERWRITE_CONTRECORD, named(0xe0, "CHECKPOINT_REDO"))],
  [
    Rmgr.Xact,
    kinds(0x70, named(0x00, "COMMIT PREPARE ABORT COMMIT_PREPARED ABORT_PREPARED ASSIGNMENT INVALIDATION")),
  ],
  [Rmgr.Smgr, kinds(0xf0, named(0x10, "CREATE TRUNCATE"))],
  [Rmgr.Clog, kinds(0xf0, named(0x00, "ZEROPAGE TRUNCATE"))],
  [Rmgr.Dbase, kinds(0xf0, named(0x00, "CREATE_FILE_COPY CREATE_WAL_LOG DROP"))],
  [Rmgr.Tblspc, kinds(0xf0, named(0x00, "CREATE DROP"))],
  [Rmgr.Multixact, kinds(0xf0, named(0x00, "ZERO_OFF_PAGE ZERO_MEM_PAGE CREATE_ID TRUNCATE_ID"))],
  [Rmgr.Relmap, kinds(0xf0, named(0x00, "UPDATE"))],
  [Rmgr.Standby, kinds(0xf0, named(0x00, "LOCK RUNNING_XACTS INVALIDATIONS"))],
  [
    Rmgr.Heap2,
    kinds(0x70, HEAP2_COMMON, named(0x10, "PRUNE_ON_ACCESS PRUNE_VACUUM_SCAN PRUNE_VACUUM_CLEANUP")),
  ],
  [Rmgr.Heap, kinds(0x70, named(0x00, "INSERT DELETE UPDATE TRUNCATE HOT_UPDATE HEAP_CONFIRM LOCK INPLACE"))],
  [
    Rmgr.Btree,
    kinds(
      0xf0,
      named(
        0x00,
        "INSERT_LEAF INSERT_UPPER INSERT_META SPLIT_L SPLIT_R INSERT_POST DEDUP DELETE UNLINK_PAGE",
      ),
      named(0x90, "UNLINK_PAGE_META NEWROOT MARK_PAGE_HALFDEAD VACUUM REUSE_PAGE META_CLEANUP"),
    ),
  ],
  [
    Rmgr.Hash,
    kinds(
      0xf0,
      named(0x00, "INIT_META_PAGE INIT_BITMAP_PAGE INSERT ADD_OVFL_PAGE SPLIT_ALLOCATE_PAGE SPLIT_PAGE"),
      named(0x60, "SPLIT_COMPLETE MOVE_PAGE_CONTENTS SQUEEZE_PAGE DELETE SPLIT_CLEANUP UPDATE_META_PAGE"),
      named(0xc0, "VACUUM_ONE_PAGE"),
    ),
  ],
  [
    Rmgr.Gin,
    kinds(
      0xf0,
      named(0x10, "CREATE_PTREE INSERT SPLIT VACUUM_PAGE DELETE_PAGE UPDATE_META_PAGE INSERT_LISTPAGE"),
      named(0x80, "DELETE_LISTPAGE VACUUM_DATA_LEAF_PAGE"),
    ),
  ],
  [
    Rmgr.Gist,
    kinds(
      0xf0,
      named(0x00, "PAGE_UPDATE DELETE PAGE_REUSE PAGE_SPLIT"),
      named(0x60, "PAGE_DELETE ASSIGN_LSN"),
    ),
  ],
  [Rmgr.Seq, kinds(0xf0, named(0x00, "LOG"))],
  [
    Rmgr.Spgist,
    kinds(
      0xf0,
      named(
        0x10,
        "ADD_LEAF MOVE_LEAFS ADD_NODE SPLIT_TUPLE PICKSPLIT VACUUM_LEAF VACUUM_ROOT VACUUM_REDIRECT",
      ),
    ),
  ],
  [
    Rmgr.Brin,
    kinds(0x70, named(0x00, "CREATE_INDEX INSERT UPDATE SAMEPAGE_UPDATE REVMAP_EXTEND DESUMMARIZE")),
  ],
  [Rmgr.CommitTs, kinds(0xf0, named(0x00, "ZEROPAGE TRUNCATE"))],
  [Rmgr.ReplOrigin, kinds(0xf0, named(0x00, "SET DROP"))],
  [Rmgr.Generic, kinds(0xf0, named(0x00, "Generic"))],
  [Rmgr.LogicalMsg, kinds(0xf0, named(0x00, "MESSAGE"))],
]);

/** 15 and 16: online checkpoints do not mark where redo begins; pruning, vacuum and freezing are told apart. */
export const RECORD_KINDS_15: RecordKinds = new Map([
  ...RECORD_KINDS,
  [Rmgr.Xlog, kinds(0xf0, XLOG_KINDS, OVERWRITE_CONTRECORD)],
  [Rmgr.Heap2, kinds(0x70, HEAP2_COMMON, named(0x10, "PRUNE VACUUM FREEZE_PAGE"))],
]);

/** 14: databases are created by copying files only. */
export const RECORD_KINDS_14: RecordKinds = new Map([
  ...RECORD_KINDS_15,
  [Rmgr.Dbase, kinds(0xf0, named(0x00, "CREATE DROP"))],
]);

/** The name of a record's kind, such as `HOT_UPDATE`; undefined if no server that we know writes it. */
export function recordKindName(kinds: RecordKinds, rmgr: number, info: number): string | undefined {
  const known = kinds.get(rmgr);
  return known?.operations.get(info & known.mask);
}
