/**
 * Kinds of WAL records: the operations of each resource manager, as in 17 and 18, and how other versions differ. What
 * is not listed is written by no server that we know, and is refused.
 * Source: PostgreSQL 14-18, src/include/access/*_xlog.h, xact.h, nbtxlog.h, catalog/pg_control.h, storage_xlog.h,
 * commands/{dbcommands_xlog,tablespace}.h, utils/relmapper.h, storage/standbydefs.h.
 */
import { Rmgr } from "../constants.ts";

export interface RmgrKinds {
  /** The bits of `info` that say which operation it is; the other high bits are flags. */
  readonly mask: number;
  readonly operations: readonly number[];
}

/** By resource manager. */
export type RecordKinds = ReadonlyMap<number, RmgrKinds>;

/** Every multiple of 0x10 from `first` to `last`. */
function range(first: number, last: number): number[] {
  const operations: number[] = [];
  for (let operation = first; operation <= last; operation += 0x10) operations.push(operation);
  return operations;
}

/** PostgreSQL 17 and 18. */
export const RECORD_KINDS: RecordKinds = new Map<number, RmgrKinds>([
  [Rmgr.Xlog, { mask: 0xf0, operations: [...range(0x00, 0xb0), 0xd0, 0xe0] }],
  [Rmgr.Xact, { mask: 0x70, operations: range(0x00, 0x60) }],
  [Rmgr.Smgr, { mask: 0xf0, operations: [0x10, 0x20] }],
  [Rmgr.Clog, { mask: 0xf0, operations: [0x00, 0x10] }],
  [Rmgr.Dbase, { mask: 0xf0, operations: [0x00, 0x10, 0x20] }],
  [Rmgr.Tblspc, { mask: 0xf0, operations: [0x00, 0x10] }],
  [Rmgr.Multixact, { mask: 0xf0, operations: range(0x00, 0x30) }],
  [Rmgr.Relmap, { mask: 0xf0, operations: [0x00] }],
  [Rmgr.Standby, { mask: 0xf0, operations: [0x00, 0x10, 0x20] }],
  [Rmgr.Heap2, { mask: 0x70, operations: range(0x00, 0x70) }],
  [Rmgr.Heap, { mask: 0x70, operations: range(0x00, 0x70) }],
  [Rmgr.Btree, { mask: 0xf0, operations: range(0x00, 0xe0) }],
  [Rmgr.Hash, { mask: 0xf0, operations: range(0x00, 0xc0) }],
  [Rmgr.Gin, { mask: 0xf0, operations: range(0x10, 0x90) }],
  [Rmgr.Gist, { mask: 0xf0, operations: [0x00, 0x10, 0x20, 0x30, 0x60, 0x70] }],
  [Rmgr.Seq, { mask: 0xf0, operations: [0x00] }],
  [Rmgr.Spgist, { mask: 0xf0, operations: range(0x10, 0x80) }],
  [Rmgr.Brin, { mask: 0x70, operations: range(0x00, 0x50) }],
  [Rmgr.CommitTs, { mask: 0xf0, operations: [0x00, 0x10] }],
  [Rmgr.ReplOrigin, { mask: 0xf0, operations: [0x00, 0x10] }],
  [Rmgr.Generic, { mask: 0xf0, operations: [0x00] }],
  [Rmgr.LogicalMsg, { mask: 0xf0, operations: [0x00] }],
]);

/** 15 and 16: online checkpoints do not mark where redo begins. */
export const RECORD_KINDS_15: RecordKinds = changed(RECORD_KINDS, [
  [Rmgr.Xlog, [...range(0x00, 0xb0), 0xd0]],
]);

/** 14: databases are created by copying files only. */
export const RECORD_KINDS_14: RecordKinds = changed(RECORD_KINDS_15, [[Rmgr.Dbase, [0x00, 0x10]]]);

function changed(base: RecordKinds, changes: readonly (readonly [number, readonly number[]])[]): RecordKinds {
  const kinds = new Map(base);
  for (const [rmgr, operations] of changes) kinds.set(rmgr, { mask: 0xf0, operations });
  return kinds;
}
