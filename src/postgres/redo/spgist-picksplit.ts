/**
 * Redo of the SP-GiST record that replaces a list of leaf tuples by an inner tuple and several shorter lists.
 * Source: PostgreSQL 14-18, src/backend/access/spgist/spgxlog.c, spgRedoPickSplit.
 */
import type { PageBuffer } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import type { RedoContext } from "./context.ts";
import { mainData, requireBlock, unexpectedBlock } from "./payload.ts";
import {
  NO_REDIRECT,
  SpgistFlag,
  TupleState,
  addOrReplaceTuple,
  initSpgistPage,
  innerTupleSize,
  killTuples,
  leafTupleSize,
  setNodeLink,
} from "./spgist-page.ts";

/** Offsets in the main data. What follows it are the lists and tuples. */
const Field = {
  DeleteCount: 2,
  InsertCount: 4,
  InitSource: 6,
  InitTarget: 7,
  InnerNumber: 8,
  InitInner: 10,
  StoresNulls: 11,
  InnerIsParent: 12,
  ParentNumber: 14,
  Node: 16,
  Xid: 20,
  IsBuild: 24,
  Lists: 28,
} as const;

/** Absolute positions of the lists and tuples of a record. */
interface Layout {
  readonly main: number;
  readonly end: number;
  readonly deleteCount: number;
  readonly insertCount: number;
  /** Numbers of the tuples that leave the source page, u16. */
  readonly deletes: number;
  /** Numbers that the leaf tuples get on their pages, u16. */
  readonly inserts: number;
  /** For each leaf tuple, whether it goes to the target page, u8. */
  readonly selectors: number;
  readonly inner: number;
  readonly innerSize: number;
}

function layoutOf(record: WalRecord): Layout {
  const { view } = record;
  const main = mainData(record, Field.Lists);
  const end = main + record.mainLength;
  const deleteCount = view.getUint16(main + Field.DeleteCount, true);
  const insertCount = view.getUint16(main + Field.InsertCount, true);
  mainData(record, Field.Lists + 2 * deleteCount + 3 * insertCount);
  const deletes = main + Field.Lists;
  const inserts = deletes + 2 * deleteCount;
  const selectors = inserts + 2 * insertCount;
  const inner = selectors + insertCount;
  const innerSize = innerTupleSize(view, inner, end);
  return { main, end, deleteCount, insertCount, deletes, inserts, selectors, inner, innerSize };
}

/**
 * Main data: whether the root is split u8 0, number of tuples that leave the source page u16 2, number of leaf tuples
 * u16 4, whether the source page u8 6, the target page u8 7 are made anew, number of the inner tuple u16 8, whether its
 * page is made anew u8 10, whether the pages are for nulls u8 11, whether the inner tuple's page is the parent u8 12,
 * number of the parent's tuple u16 14, node u16 16, state (xid u32, whether building u8) 20, then from 28 lists and
 * tuples as in `Layout`, last the leaf tuples. Block 0: source page, unless the root is split; 1: target page, if any;
 * 2: page of the inner tuple; 3: parent, if it is another.
 */
export function redoPickSplit(
  page: PageBuffer,
  record: WalRecord,
  block: BlockRef,
  context: RedoContext,
): void {
  const { view } = record;
  const layout = layoutOf(record);
  const { main } = layout;
  const flag = (field: number): boolean => view.getUint8(main + field) !== 0;
  const nulls = flag(Field.StoresNulls) ? SpgistFlag.Nulls : 0;
  switch (block.id) {
    case 0:
      if (flag(Field.InitSource)) initSpgistPage(page, block, SpgistFlag.Leaf | nulls);
      else killSource(page, record, layout, context);
      addLeaves(page, record, layout, false);
      return;
    case 1:
      if (flag(Field.InitTarget)) initSpgistPage(page, block, SpgistFlag.Leaf | nulls);
      addLeaves(page, record, layout, true);
      return;
    case 2:
      if (flag(Field.InitInner)) initSpgistPage(page, block, nulls);
      addOrReplaceTuple(page, view.getUint16(main + Field.InnerNumber, true), {
        bytes: record.bytes,
        offset: layout.inner,
        size: layout.innerSize,
      });
      if (flag(Field.InnerIsParent)) linkToInner(page, record, layout);
      return;
    case 3:
      linkToInner(page, record, layout);
      return;
    default:
      unexpectedBlock(block);
  }
}

/** The first of the tuples that leave becomes a redirect to the inner tuple, unless the index is being built. */
function killSource(page: PageBuffer, record: WalRecord, layout: Layout, context: RedoContext): void {
  const { view } = record;
  const { main } = layout;
  const isBuild = view.getUint8(main + Field.IsBuild) !== 0;
  const redirect = {
    block: requireBlock(record, 2).blockNumber,
    offsetNumber: view.getUint16(main + Field.InnerNumber, true),
    xid: view.getUint32(main + Field.Xid, true),
  };
  const states = {
    first: isBuild ? TupleState.Placeholder : TupleState.Redirect,
    rest: TupleState.Placeholder,
    redirect: isBuild ? NO_REDIRECT : redirect,
  };
  killTuples(page, view, layout.deletes, layout.deleteCount, states, context);
}

/** Adds those leaf tuples that go to the target page, or those that stay. */
function addLeaves(page: PageBuffer, record: WalRecord, layout: Layout, isTarget: boolean): void {
  const { view, bytes } = record;
  let offset = layout.inner + layout.innerSize;
  for (let i = 0; i < layout.insertCount; i++) {
    const size = leafTupleSize(view, offset, layout.end);
    if ((view.getUint8(layout.selectors + i) !== 0) === isTarget) {
      addOrReplaceTuple(page, view.getUint16(layout.inserts + 2 * i, true), { bytes, offset, size });
    }
    offset += size;
  }
}

/** Points the parent's node to the inner tuple. */
function linkToInner(page: PageBuffer, record: WalRecord, layout: Layout): void {
  const { view } = record;
  const { main } = layout;
  const parent = {
    offsetNumber: view.getUint16(main + Field.ParentNumber, true),
    node: view.getUint16(main + Field.Node, true),
  };
  const offsetNumber = view.getUint16(main + Field.InnerNumber, true);
  setNodeLink(page, parent, { block: requireBlock(record, 2).blockNumber, offsetNumber });
}
