/**
 * Redo of BRIN index records. The special area of a page has 8 bytes: flags u16 at 8188, kind of page u16 at 8190. The
 * range map ("revmap") is an array of TIDs from byte 24 on, one for each range of heap blocks.
 * Source: PostgreSQL 14-18, src/backend/access/brin/{brin_xlog,brin_pageops,brin_revmap}.c,
 * src/include/access/{brin_xlog,brin_page}.h.
 */
import { corrupt } from "../../base/errors.ts";
import { deleteItemKeepingNumbers, overwriteIndexItem, reserveItem } from "../page/items.ts";
import {
  PAGE_HEADER_SIZE,
  type PageBuffer,
  checkSpecialSize,
  copyBytes,
  setPageLower,
} from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";
import { TID_SIZE, setTidBlock } from "./btree-tuple.ts";
import { blockData, initPage, mainData, requireBlock, unexpectedBlock } from "./payload.ts";
import { unknownRecord } from "./record-errors.ts";

const BrinOp = {
  CreateIndex: 0x00,
  Insert: 0x10,
  Update: 0x20,
  SamePageUpdate: 0x30,
  RevmapExtend: 0x40,
  Desummarize: 0x50,
} as const;

const SPECIAL_SIZE = 8;
const PAGE_KIND_OFFSET = 8190;
const PageKind = { Meta: 0xf091, Revmap: 0xf092, Regular: 0xf093 } as const;

const META_MAGIC = 0xa8109cfa;
/** Magic, version, pages per range, last block of the range map: u32 each. */
const META_LOWER = PAGE_HEADER_SIZE + 16;
const META_LAST_REVMAP_OFFSET = PAGE_HEADER_SIZE + 12;
const REVMAP_ENTRIES = 1360;
const NO_BLOCK = 0xffffffff;

/** Applies a BRIN record to one of its pages; returns whether the page gets the record's LSN (always). */
export function redoBrin(page: PageBuffer, record: WalRecord, block: BlockRef): boolean {
  if (!block.willInit) checkSpecialSize(page, SPECIAL_SIZE);
  switch (record.info & 0x70) {
    case BrinOp.CreateIndex:
      redoCreateIndex(page, record, block);
      return true;
    case BrinOp.Insert:
      redoInsert(page, record, block, mainData(record, 10));
      return true;
    case BrinOp.Update:
      redoUpdate(page, record, block);
      return true;
    case BrinOp.SamePageUpdate:
      redoSamePageUpdate(page, record, block);
      return true;
    case BrinOp.RevmapExtend:
      redoRevmapExtend(page, record, block);
      return true;
    case BrinOp.Desummarize:
      redoDesummarize(page, record, block);
      return true;
    default:
      return unknownRecord(record);
  }
}

function initBrinPage(page: PageBuffer, block: BlockRef, kind: number): void {
  initPage(page, block, SPECIAL_SIZE);
  page.view.setUint16(PAGE_KIND_OFFSET, kind, true);
}

/** Main data: pages per range u32 0, version u16 4. */
function redoCreateIndex(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  if (block.id !== 0) unexpectedBlock(block);
  const main = mainData(record, 6);
  initBrinPage(page, block, PageKind.Meta);
  page.view.setUint32(PAGE_HEADER_SIZE, META_MAGIC, true);
  page.view.setUint32(PAGE_HEADER_SIZE + 4, record.view.getUint16(main + 4, true), true);
  page.view.setUint32(PAGE_HEADER_SIZE + 8, record.view.getUint32(main, true), true);
  setPageLower(page, META_LOWER);
}

/**
 * `main`: heap block u32 0, pages per range u32 4, offset number u16 8. Block 0: page for the tuple (data: the tuple);
 * 1: range map, whose entry for the heap block is pointed to it.
 */
function redoInsert(page: PageBuffer, record: WalRecord, block: BlockRef, main: number): void {
  const { view } = record;
  const offsetNumber = view.getUint16(main + 8, true);
  if (block.id === 0) {
    const source = blockData(block, 1);
    const size = block.dataLength;
    if (block.willInit) initBrinPage(page, block, PageKind.Regular);
    const target = reserveItem(page, offsetNumber, size);
    copyBytes(page.bytes, target, record.bytes, source, size);
  } else if (block.id === 1) {
    const target = requireBlock(record, 0).blockNumber;
    const entry = revmapEntry(view.getUint32(main, true), view.getUint32(main + 4, true));
    setRevmapEntry(page, entry, target, offsetNumber);
  } else {
    unexpectedBlock(block);
  }
}

/** Main data: former offset number u16 0, from 4 on as in an insertion. Block 2: page that the tuple leaves. */
function redoUpdate(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const main = mainData(record, 14);
  if (block.id === 2) deleteItemKeepingNumbers(page, record.view.getUint16(main, true));
  else redoInsert(page, record, block, main + 4);
}

/** Main data: offset number u16. Block data: the tuple. */
function redoSamePageUpdate(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  if (block.id !== 0) unexpectedBlock(block);
  const offsetNumber = record.view.getUint16(mainData(record, 2), true);
  overwriteIndexItem(page, offsetNumber, record.bytes, blockData(block, 1), block.dataLength);
}

/** Main data: new block of the range map u32. Block 0: metapage; 1: the new block. */
function redoRevmapExtend(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const target = record.view.getUint32(mainData(record, 4), true);
  if (block.id === 0) {
    page.view.setUint32(META_LAST_REVMAP_OFFSET, target, true);
    setPageLower(page, META_LOWER);
  } else if (block.id === 1) {
    initBrinPage(page, block, PageKind.Revmap);
  } else {
    unexpectedBlock(block);
  }
}

/** Main data: pages per range u32 0, heap block u32 4, offset number u16 8. Block 0: range map; 1: the tuple's page. */
function redoDesummarize(page: PageBuffer, record: WalRecord, block: BlockRef): void {
  const { view } = record;
  const main = mainData(record, 10);
  if (block.id === 0) {
    const entry = revmapEntry(view.getUint32(main + 4, true), view.getUint32(main, true));
    setRevmapEntry(page, entry, NO_BLOCK, 0);
  } else if (block.id === 1) {
    deleteItemKeepingNumbers(page, view.getUint16(main + 8, true));
  } else {
    unexpectedBlock(block);
  }
}

/** Where on its page of the range map the entry for a heap block lies. */
function revmapEntry(heapBlock: number, pagesPerRange: number): number {
  if (pagesPerRange === 0) throw corrupt("ranges of 0 pages");
  return PAGE_HEADER_SIZE + TID_SIZE * (Math.floor(heapBlock / pagesPerRange) % REVMAP_ENTRIES);
}

function setRevmapEntry(page: PageBuffer, entry: number, blockNumber: number, offsetNumber: number): void {
  setTidBlock(page, entry, blockNumber);
  page.view.setUint16(entry + 4, offsetNumber, true);
}
