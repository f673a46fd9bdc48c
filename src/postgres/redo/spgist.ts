/**
 * Redo of SP-GiST index records: dispatch, insertions and vacuum. Splits of lists of leaf tuples are in
 * `spgist-picksplit.ts`.
 * Source: PostgreSQL 17, src/backend/access/spgist/spgxlog.c, src/include/access/spgxlog.h.
 */
import { deleteIndexItems } from "../page/items.ts";
import {
  type PageBuffer,
  checkSpecialSize,
  itemIdPosition,
  maxOffsetNumber,
  pageCorrupt,
  storedItemId,
} from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import { findBlock, mainData, requireBlock, unexpectedBlock } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";
import {
  NO_REDIRECT,
  SPGIST_SPECIAL_SIZE,
  SpgistFlag,
  TupleState,
  addOrReplaceTuple,
  addPlaceholders,
  addRedirects,
  initSpgistPage,
  innerTupleSize,
  killTuples,
  leafTupleSize,
  redirectToPlaceholder,
  replaceByDeadTuple,
  replaceTuple,
  setNextTuple,
  setNodeLink,
} from "./spgist-page.ts";
import { redoPickSplit } from "./spgist-picksplit.ts";

const SpgistOp = {
  AddLeaf: 0x10,
  MoveLeafs: 0x20,
  AddNode: 0x30,
  SplitTuple: 0x40,
  PickSplit: 0x50,
  VacuumLeaf: 0x60,
  VacuumRoot: 0x70,
  VacuumRedirect: 0x80,
} as const;

/** Applies an SP-GiST record to one of its pages; returns whether the page gets the record's LSN (always). */
export function redoSpgist(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): boolean {
  if (!block.willInit) checkSpecialSize(page, SPGIST_SPECIAL_SIZE);
  switch (record.info & 0xf0) {
    case SpgistOp.AddLeaf:
      redoAddLeaf(page, record, block);
      return true;
    case SpgistOp.MoveLeafs:
      redoMoveLeafs(page, record, block, context);
      return true;
    case SpgistOp.AddNode:
      redoAddNode(page, record, block);
      return true;
    case SpgistOp.SplitTuple:
      redoSplitTuple(page, record, block);
      return true;
    case SpgistOp.PickSplit:
      redoPickSplit(page, record, block, context);
      return true;
    case SpgistOp.VacuumLeaf:
      redoVacuumLeaf(page, record, block, context);
      return true;
    case SpgistOp.VacuumRoot:
      redoVacuumRoot(page, record, block, context);
      return true;
    case SpgistOp.VacuumRedirect:
      redoVacuumRedirect(page, record, block, context);
      return true;
    default:
      return unknownRecord(record);
  }
}

function leafFlags(storesNulls: boolean): number {
  return SpgistFlag.Leaf | (storesNulls ? SpgistFlag.Nulls : 0);
}

/**
 * Main data: whether the page is new u8 0, whether it is for nulls u8 1, number of the tuple u16 2, of the head of its
 * chain u16 4, of the parent's tuple u16 6, node u16 8, the tuple from 10. Block 0: leaf; 1: parent.
 */
function redoAddLeaf(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view, bytes } = record;
  const main = mainData(record, 10);
  const offsetNumber = view.getUint16(main + 2, true);
  const head = view.getUint16(main + 4, true);
  if (block.id === 1) {
    const parent = { offsetNumber: view.getUint16(main + 6, true), node: view.getUint16(main + 8, true) };
    setNodeLink(page, parent, { block: requireBlock(record, 0).blockNumber, offsetNumber });
    return;
  }
  if (block.id !== 0) unexpectedBlock(block);
  const size = leafTupleSize(view, main + 10, main + record.mainLength);
  const source = { bytes, offset: main + 10, size };
  if (view.getUint8(main) !== 0) initSpgistPage(page, block, leafFlags(view.getUint8(main + 1) !== 0));
  if (offsetNumber === head) {
    // The head of the chain was dead.
    replaceTuple(page, offsetNumber, source);
    return;
  }
  addOrReplaceTuple(page, offsetNumber, source);
  if (head !== 0) setNextTuple(page, head, offsetNumber);
}

/**
 * Main data: number of moved tuples u16 0, whether the target page is new u8 2, whether the chain was one dead tuple
 * u8 3, whether the page is for nulls u8 4, number of the parent's tuple u16 6, node u16 8, state (xid u32, whether
 * building u8) 12, then from 20 the numbers at the source u16, those at the target u16, the tuples. The target gets
 * one tuple more than were moved, or only one if the chain was dead. Block 0: source; 1: target; 2: parent.
 */
function redoMoveLeafs(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  const { view, bytes } = record;
  const main = mainData(record, 20);
  const end = main + record.mainLength;
  const moved = view.getUint16(main, true);
  const added = view.getUint8(main + 3) !== 0 ? 1 : moved + 1;
  mainData(record, 20 + 2 * moved + 2 * added);
  const targets = main + 20 + 2 * moved;
  const head = {
    block: requireBlock(record, 1).blockNumber,
    offsetNumber: view.getUint16(targets + 2 * (added - 1), true),
  };
  switch (block.id) {
    case 0: {
      const isBuild = view.getUint8(main + 16) !== 0;
      const states = {
        first: isBuild ? TupleState.Placeholder : TupleState.Redirect,
        rest: TupleState.Placeholder,
        redirect: { ...head, xid: view.getUint32(main + 12, true) },
      };
      killTuples(page, view, main + 20, moved, states, context);
      return;
    }
    case 1: {
      if (view.getUint8(main + 2) !== 0)
        initSpgistPage(page, block, leafFlags(view.getUint8(main + 4) !== 0));
      let offset = targets + 2 * added;
      for (let i = 0; i < added; i++) {
        const size = leafTupleSize(view, offset, end);
        addOrReplaceTuple(page, view.getUint16(targets + 2 * i, true), { bytes, offset, size });
        offset += size;
      }
      return;
    }
    case 2: {
      const parent = { offsetNumber: view.getUint16(main + 6, true), node: view.getUint16(main + 8, true) };
      setNodeLink(page, parent, head);
      return;
    }
    default:
      unexpectedBlock(block);
  }
}

/**
 * Main data: number of the inner tuple u16 0, its new number u16 2, whether the page for it is new u8 4, which block is
 * the parent i8 5, number of the parent's tuple u16 6, node u16 8, state (xid u32, whether building u8) 12, the larger
 * inner tuple from 20. Block 0: page of the tuple; 1: page to which it moves, if it does; 2: parent, if it is neither.
 */
function redoAddNode(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view, bytes } = record;
  const main = mainData(record, 20);
  const offsetNumber = view.getUint16(main, true);
  const offset = main + 20;
  const source = { bytes, offset, size: innerTupleSize(view, offset, main + record.mainLength) };
  const moved = findBlock(record, 1);
  if (moved === undefined) {
    if (block.id !== 0) unexpectedBlock(block);
    replaceTuple(page, offsetNumber, source);
    return;
  }
  const target = { block: moved.blockNumber, offsetNumber: view.getUint16(main + 2, true) };
  if (block.id === 0) {
    const isBuild = view.getUint8(main + 16) !== 0;
    replaceByDeadTuple(page, offsetNumber, isBuild ? TupleState.Placeholder : TupleState.Redirect, {
      ...target,
      xid: view.getUint32(main + 12, true),
    });
  } else if (block.id === 1) {
    if (view.getUint8(main + 4) !== 0) initSpgistPage(page, block, 0);
    addOrReplaceTuple(page, target.offsetNumber, source);
  } else if (block.id !== 2) {
    unexpectedBlock(block);
  }
  if (view.getInt8(main + 5) === block.id) {
    const parent = { offsetNumber: view.getUint16(main + 6, true), node: view.getUint16(main + 8, true) };
    setNodeLink(page, parent, target);
  }
}

/**
 * Main data: number of the prefix tuple u16 0, of the postfix tuple u16 2, whether the page for the latter is new u8 4,
 * whether it is the same page u8 5, prefix tuple from 6, postfix tuple. Block 0: page of the tuple that is split, where
 * the prefix tuple takes its place; 1: page of the postfix tuple, if it is another.
 */
function redoSplitTuple(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view, bytes } = record;
  const main = mainData(record, 6);
  const end = main + record.mainLength;
  const prefix = { bytes, offset: main + 6, size: innerTupleSize(view, main + 6, end) };
  const offset = prefix.offset + prefix.size;
  const postfix = { bytes, offset, size: innerTupleSize(view, offset, end) };
  const isSamePage = view.getUint8(main + 5) !== 0;
  if (block.id === 0) replaceTuple(page, view.getUint16(main, true), prefix);
  else if (block.id !== 1 || isSamePage) unexpectedBlock(block);
  else if (view.getUint8(main + 4) !== 0) initSpgistPage(page, block, 0);
  if (block.id === 1 || isSamePage) addOrReplaceTuple(page, view.getUint16(main + 2, true), postfix);
}

/**
 * Main data: number of tuples that become dead u16 0, placeholders u16 2, that move u16 4, whose chain changes u16 6,
 * state 8, then from 16 six lists of u16: dead, placeholders, from where and to where tuples move, whose next tuple
 * becomes which. Block 0: the page.
 */
function redoVacuumLeaf(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  if (block.id !== 0) unexpectedBlock(block);
  const { view } = record;
  const main = mainData(record, 16);
  const [dead, placeholders, moves, chains] = [0, 2, 4, 6].map((at) => view.getUint16(main + at, true)) as [
    number,
    number,
    number,
    number,
  ];
  mainData(record, 16 + 2 * (dead + placeholders + 2 * moves + 2 * chains));
  const [toDead, toPlaceholder] = [main + 16, main + 16 + 2 * dead];
  const moveFrom = toPlaceholder + 2 * placeholders;
  const chainFrom = moveFrom + 4 * moves;
  const all = (state: number) => ({ first: state, rest: state, redirect: NO_REDIRECT });
  killTuples(page, view, toDead, dead, all(TupleState.Dead), context);
  killTuples(page, view, toPlaceholder, placeholders, all(TupleState.Placeholder), context);
  for (let i = 0; i < moves; i++) {
    const at = moveFrom + 2 * i;
    swapItems(page, view.getUint16(at, true), view.getUint16(at + 2 * moves, true));
  }
  killTuples(page, view, moveFrom, moves, all(TupleState.Placeholder), context);
  for (let i = 0; i < chains; i++) {
    const at = chainFrom + 2 * i;
    setNextTuple(page, view.getUint16(at, true), view.getUint16(at + 2 * chains, true));
  }
}

/** Exchanges two line pointers. */
function swapItems(page: PageBuffer, a: number, b: number): void {
  const [idA, idB] = [storedItemId(page, a), storedItemId(page, b)];
  page.view.setUint32(itemIdPosition(a), idB, true);
  page.view.setUint32(itemIdPosition(b), idA, true);
}

/** Main data: number of items u16 0, state 4, their numbers from 12, ascending u16. Block 0: the root. */
function redoVacuumRoot(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  if (block.id !== 0) unexpectedBlock(block);
  const count = record.view.getUint16(mainData(record, 12), true);
  const list = mainData(record, 12 + 2 * count) + 12;
  if (count > 0) deleteIndexItems(page, record.view, list, count, context.scratchPage);
}

/**
 * Main data: number of redirects that become placeholders u16 0, first item of those to be removed at the end u16 2 (0:
 * none), conflict xid u32 4, and from 10 (before 16: from 8) the numbers of the redirects u16. Block 0: the page.
 */
function redoVacuumRedirect(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): void {
  if (block.id !== 0) unexpectedBlock(block);
  const { view } = record;
  const { spgistRedirectListOffset } = context.version.redo;
  const main = mainData(record, spgistRedirectListOffset);
  const count = view.getUint16(main, true);
  const list = mainData(record, spgistRedirectListOffset + 2 * count) + spgistRedirectListOffset;
  for (let i = 0; i < count; i++) redirectToPlaceholder(page, view.getUint16(list + 2 * i, true));
  addRedirects(page, -count);
  addPlaceholders(page, count);
  const first = view.getUint16(main + 2, true);
  if (first !== 0) removeFrom(page, first, context);
}

/** Removes all items from a number on: placeholders at the end of the page. */
function removeFrom(page: PageBuffer, first: number, context: RedoContext): void {
  const count = maxOffsetNumber(page) - first + 1;
  if (count <= 0) pageCorrupt(page, `items from ${first} on are to be removed, but there are none`);
  const { view } = context.scratchTuple;
  for (let i = 0; i < count; i++) view.setUint16(2 * i, first + i, true);
  addPlaceholders(page, -count);
  deleteIndexItems(page, view, 0, count, context.scratchPage);
}
