/**
 * Numbers of heap and heap2 records and their flags, as they stand in WAL: never to be changed.
 * Source: PostgreSQL 17, src/include/access/heapam_xlog.h.
 */

export const HeapOp = {
  Insert: 0x00,
  Delete: 0x10,
  Update: 0x20,
  Truncate: 0x30,
  HotUpdate: 0x40,
  Confirm: 0x50,
  Lock: 0x60,
  Inplace: 0x70,
} as const;
/** Bits of `info` that say which of `HeapOp` or `Heap2Op` a record is. */
export const HEAP_OP_MASK = 0x70;
/** Bit of `info`: the page is made anew. */
export const HEAP_INIT_PAGE = 0x80;

/** Flags of insert and multi-insert. */
export const InsertFlag = { AllVisibleCleared: 0x01, AllFrozenSet: 0x20 } as const;
export const DeleteFlag = { AllVisibleCleared: 0x01, IsSuper: 0x08, PartitionMove: 0x10 } as const;
export const UpdateFlag = {
  OldAllVisibleCleared: 0x01,
  NewAllVisibleCleared: 0x02,
  PrefixFromOld: 0x20,
  SuffixFromOld: 0x40,
} as const;
export const LockFlag = { AllFrozenCleared: 0x01 } as const;

/** PostgreSQL 17 and later; before, 0x10 to 0x30 were those of `SeparateHeap2Op`. */
export const Heap2Op = {
  Rewrite: 0x00,
  PruneOnAccess: 0x10,
  PruneVacuumScan: 0x20,
  PruneVacuumCleanup: 0x30,
  Visible: 0x40,
  MultiInsert: 0x50,
  LockUpdated: 0x60,
  NewCid: 0x70,
} as const;

/** PostgreSQL 14 to 16, in place of the three kinds of prune. */
export const SeparateHeap2Op = { Prune: 0x10, Vacuum: 0x20, FreezePage: 0x30 } as const;
