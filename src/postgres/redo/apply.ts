/**
 * Applies one WAL record to one page: the heart of "this page as of that LSN".
 *
 * The model is page-wise. A page's history is a base (an image, or a record that makes the page anew) and the records
 * that change it afterwards, each applied exactly once and in LSN order; the test of the page's LSN against the
 * record's, which Postgres makes because it starts from files of unknown age, is not needed. Every block can be redone
 * by itself: no record reads one page to change another.
 */
import { assert } from "../../base/errors.ts";
import { Fork, Rmgr } from "../constants.ts";
import {
  type PageBuffer,
  checkPageHeader,
  isNewPage,
  setPageLower,
  setPageLsn,
  setPageUpper,
} from "../page/layout.ts";
import { restoreBlockImage } from "../wal/image.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import { redoBrin } from "./brin.ts";
import { redoBtree } from "./btree.ts";
import type { RedoContext } from "./context.ts";
import { redoGeneric } from "./generic.ts";
import { redoGin } from "./gin.ts";
import { finishGistImage, redoGist } from "./gist.ts";
import { finishHashImage, redoHash } from "./hash.ts";
import { redoHeap } from "./heap.ts";
import { redoHeap2 } from "./heap2.ts";
import { locateRecord, unknownRecord } from "./record-errors.ts";
import { redoSequence } from "./sequence.ts";
import { redoSpgist } from "./spgist.ts";
import { redoXlog } from "./xlog.ts";

/**
 * Applies `record` to `page`, which holds the page of `record.blocks[blockIndex]` as it was before, and stamps the LSN
 * where Postgres does. A page that does not exist is given as 8192 zero bytes. A record whose block has an applied
 * image or initialises the page does not look at what is there.
 *
 * Throws `corrupt` when record and page do not fit each other, `unsupported` for a kind that redo does not know, both
 * with resource manager, info, LSN and block; the page's content is undefined then.
 */
export function redoBlock(
  page: PageBuffer,
  record: WalRecord,
  blockIndex: number,
  context: RedoContext,
): void {
  const block = record.blocks[blockIndex];
  assert(
    block !== undefined && blockIndex < record.blockCount,
    `block ${blockIndex} of a record with ${record.blockCount}`,
  );
  try {
    apply(page, record, block, context);
  } catch (error) {
    throw locateRecord(error, record, block);
  }
}

function apply(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): void {
  if (block.applyImage) {
    if (!isRedoKnown(record.rmgr)) unknownRecord(record);
    restoreBlockImage(record, block, context.version, page.bytes);
    // A few records change the page even then.
    if (record.rmgr === Rmgr.Gist) finishGistImage(page, record, block);
    else if (record.rmgr === Rmgr.Hash) finishHashImage(page, record, block);
    if (!isNewPage(page)) setPageLsn(page, record.endLsn);
    return;
  }
  if (block.willInit) {
    // Should the record not make the page anew after all, then this page has nothing to offer: no items, no space.
    setPageLower(page, 0);
    setPageUpper(page, 0);
  } else if (!mayBeNew(page, record, block)) {
    checkPageHeader(page);
  }
  const stamp = redoOf(page, record, block, context);
  if (block.willInit) checkPageHeader(page);
  if (stamp) setPageLsn(page, record.endLsn);
}

/** Map pages come into being without a record of their own; the XLOG records that change nothing do not care. */
function mayBeNew(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  return isNewPage(page) && (block.fork === Fork.VisibilityMap || record.rmgr === Rmgr.Xlog);
}

/** True if `redoBlock` knows the resource manager. */
export function isRedoKnown(rmgr: number): boolean {
  switch (rmgr) {
    case Rmgr.Xlog:
    case Rmgr.Heap:
    case Rmgr.Heap2:
    case Rmgr.Btree:
    case Rmgr.Hash:
    case Rmgr.Gin:
    case Rmgr.Gist:
    case Rmgr.Seq:
    case Rmgr.Spgist:
    case Rmgr.Brin:
    case Rmgr.Generic:
      return true;
    default:
      return false;
  }
}

/** Returns whether the page gets the record's LSN. */
function redoOf(page: PageBuffer, record: WalRecord, block: BlockRef, context: RedoContext): boolean {
  switch (record.rmgr) {
    case Rmgr.Heap:
      return redoHeap(page, record, block, context);
    case Rmgr.Btree:
      return redoBtree(page, record, block, context);
    case Rmgr.Heap2:
      return redoHeap2(page, record, block, context);
    case Rmgr.Xlog:
      return redoXlog(page, record, block, context);
    case Rmgr.Seq:
      return redoSequence(page, record, block, context);
    case Rmgr.Generic:
      return redoGeneric(page, record, block, context);
    case Rmgr.Hash:
      return redoHash(page, record, block, context);
    case Rmgr.Gin:
      return redoGin(page, record, block, context);
    case Rmgr.Gist:
      return redoGist(page, record, block, context);
    case Rmgr.Spgist:
      return redoSpgist(page, record, block, context);
    case Rmgr.Brin:
      return redoBrin(page, record, block);
    default:
      return unknownRecord(record);
  }
}
