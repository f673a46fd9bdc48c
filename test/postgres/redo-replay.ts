/**
 * Replays the WAL of a real server with our redo, from a copy of its data directory, and holds every page against what
 * the server says: the images that wal_consistency_checking puts into each record, and in the end its own files.
 */
import { closeSync, existsSync, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { type Lsn, formatLsn, lsnAdd } from "../../src/base/lsn.ts";
import {
  Fork,
  PAGE_SIZE,
  RELATION_SEGMENT_PAGES,
  Rmgr,
  SLRU_SEGMENT_PAGES,
  rmgrName,
} from "../../src/postgres/constants.ts";
import { type ControlFile, parseControlFile } from "../../src/postgres/control-file.ts";
import {
  ItemState,
  PageBuffer,
  PageFlag,
  isNewPage,
  itemId,
  itemOffset,
  itemState,
  maxOffsetNumber,
  pageFlags,
  pageLsn,
} from "../../src/postgres/page/layout.ts";
import { redoBlock } from "../../src/postgres/redo/apply.ts";
import { clogPagesOfXact, clogZeroedPage, redoClogPage } from "../../src/postgres/redo/clog.ts";
import { RedoContext } from "../../src/postgres/redo/context.ts";
import { maskPage } from "../../src/postgres/redo/mask.ts";
import {
  multixactMemberPages,
  multixactOffsetPages,
  redoMultixactMembersPage,
  redoMultixactOffsetsPage,
} from "../../src/postgres/redo/multixact.ts";
import {
  forEachImplicitVisibilityClear,
  mapBlockOf,
  mapPagesAfterTruncate,
  redoImplicitVisibility,
  truncateVisibilityPage,
} from "../../src/postgres/redo/visibility.ts";
import { parseXactRecord } from "../../src/postgres/redo/xact.ts";
import { relationPath } from "../../src/postgres/relation.ts";
import { Slru, slruPath } from "../../src/postgres/slru.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { restoreBlockImage } from "../../src/postgres/wal/image.ts";
import { nextRecordLsn, recordEndLsn, segmentName, segmentStart } from "../../src/postgres/wal/layout.ts";
import type { BlockRef, WalRecord } from "../../src/postgres/wal/record.ts";
import { WalStream } from "../../src/postgres/wal/stream.ts";

/** Of the record, in bytes. */
export const SHUTDOWN_CHECKPOINT_SIZE = 114;
const PARAMETER_CHANGE = 0x60;
const SMGR_TRUNCATE = 0x20;
const DIFFERENCES_KEPT = 20;
const SLRU_RMGRS: ReadonlySet<number> = new Set([Rmgr.Xact, Rmgr.Clog, Rmgr.Multixact, Rmgr.Smgr]);

/** Sees each block of each record just before redo, with the page as it is; must not change either. */
export type BlockObserver = (record: WalRecord, blockIndex: number, page: PageBuffer) => void;

export interface ReplayOptions {
  readonly hintBitsLogged: boolean;
  readonly observer?: BlockObserver;
  /** Sees each record before it is applied. */
  readonly onRecord?: (record: WalRecord) => void;
}

export interface KindCount {
  /** Blocks changed by redo proper: neither image nor compared. */
  redone: number;
  /** Blocks whose page was restored from an applied image. */
  restored: number;
  /** Blocks compared with the server's image after redo. */
  compared: number;
}

interface RelationKey {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
}

/** Pages of one fork as far as the WAL has touched them. */
interface ForkPages {
  readonly pages: Map<number, PageBuffer>;
  /** Blocks from here on are not taken from the base directory any more. */
  baseBlocks: number;
}

export function readControl(dataDir: string): ControlFile {
  return parseControlFile(readFileSync(join(dataDir, "global/pg_control")));
}

export class Replay {
  readonly counts = new Map<string, KindCount>();
  readonly differences: string[] = [];
  differenceCount = 0;
  lsnChecks = 0;
  records = 0;
  /** The record before the shutdown checkpoint that `run` has come to. */
  lastBefore: { readonly lsn: Lsn; readonly endLsn: Lsn } | undefined;
  readonly version: PgVersion;
  private readonly base: string;
  private readonly baseControl: ControlFile;
  private context: RedoContext;
  private readonly observer: BlockObserver | undefined;
  private readonly onRecord: ReplayOptions["onRecord"];
  private readonly forks = new Map<string, ForkPages>();
  private readonly slrus = new Map<string, Uint8Array>();
  private readonly image = new PageBuffer();
  private readonly ours = new PageBuffer();

  /** `base` is a data directory of a server that was stopped cleanly. */
  constructor(base: string, options: ReplayOptions) {
    this.base = base;
    this.baseControl = readControl(base);
    this.version = this.baseControl.version;
    this.observer = options.observer;
    this.onRecord = options.onRecord;
    this.context = new RedoContext({ version: this.version, hintBitsLogged: options.hintBitsLogged });
  }

  /** Replays everything in `dataDir/pg_wal` up to the checkpoint with which that server was stopped. */
  run(dataDir: string): void {
    const target = readControl(dataDir).checkpointLsn;
    const { walSegmentSize: segmentSize, checkpointLsn, checkpoint } = this.baseControl;
    const startLsn = recordEndLsn(checkpointLsn, SHUTDOWN_CHECKPOINT_SIZE, segmentSize);
    const stream = new WalStream({
      version: this.version,
      segmentSize,
      startLsn,
      previousLsn: checkpointLsn,
    });
    let lsn: Lsn = startLsn;
    while (nextRecordLsn(stream.position, segmentSize) <= target) {
      const start = segmentStart(lsn, segmentSize);
      const file = join(dataDir, "pg_wal", segmentName(checkpoint.timeline, lsn, segmentSize));
      const bytes = new Uint8Array(readFileSync(file).subarray(lsn - start));
      stream.feed(lsn, bytes);
      lsn = lsnAdd(lsn, bytes.length);
      for (;;) {
        const record = stream.next();
        if (record === undefined) break;
        this.apply(record);
        if (record.lsn === target) return;
        this.lastBefore = { lsn: record.lsn, endLsn: record.endLsn };
      }
    }
  }

  apply(record: WalRecord): void {
    this.records++;
    this.onRecord?.(record);
    if (record.blockCount === 0 && SLRU_RMGRS.has(record.rmgr)) this.count(record, "record").redone++;
    switch (record.rmgr) {
      case Rmgr.Xlog:
        if ((record.info & 0xf0) === PARAMETER_CHANGE) this.changeParameters(record);
        this.applyBlocks(record);
        return;
      case Rmgr.Smgr:
        if ((record.info & 0xf0) === SMGR_TRUNCATE) this.truncate(record);
        return;
      case Rmgr.Xact: {
        const xact = parseXactRecord(record, this.version);
        clogPagesOfXact(xact, (page) => {
          redoClogPage(this.slruPage(Slru.Xact, page), page, record, this.version);
        });
        return;
      }
      case Rmgr.Clog: {
        const page = clogZeroedPage(record, this.version);
        if (page !== undefined) redoClogPage(this.slruPage(Slru.Xact, page), page, record, this.version);
        return;
      }
      case Rmgr.Multixact:
        multixactOffsetPages(record, this.version, (page) => {
          const bytes = this.slruPage(Slru.MultixactOffsets, page);
          redoMultixactOffsetsPage(bytes, page, record, this.version);
        });
        multixactMemberPages(record, this.version, (page) => {
          const bytes = this.slruPage(Slru.MultixactMembers, page);
          redoMultixactMembersPage(bytes, page, record, this.version);
        });
        return;
      default:
        this.applyBlocks(record);
    }
  }

  /** The server was started with other settings; only one of them matters to pages. */
  private changeParameters(record: WalRecord): void {
    const walLogHints = record.view.getUint8(record.mainOffset + 24) !== 0;
    const hintBitsLogged = walLogHints || this.baseControl.dataChecksums;
    this.context = new RedoContext({ version: this.version, hintBitsLogged });
  }

  private applyBlocks(record: WalRecord): void {
    forEachImplicitVisibilityClear(record, (relation, heapBlock, mask) => {
      const mapBlock = mapBlockOf(heapBlock);
      const page = this.page(relation, Fork.VisibilityMap, mapBlock);
      redoImplicitVisibility(page, mapBlock, record);
      this.count(record, `implicit VM clear mask ${mask}`).redone++;
    });
    for (let i = 0; i < record.blockCount; i++) this.applyBlock(record, record.blocks[i] as BlockRef, i);
  }

  private applyBlock(record: WalRecord, block: BlockRef, index: number): void {
    const page = this.page(block, block.fork, block.blockNumber);
    const count = this.count(record, record.rmgr === Rmgr.Xlog ? "blocks" : `block ${block.id}`);
    this.observer?.(record, index, page);
    if (block.hasImage) this.checkLsnBefore(record, block, page);
    try {
      redoBlock(page, record, index, this.context);
    } catch (error) {
      this.differ(record, block, error instanceof Error ? error.message : "not an Error");
      if (!block.hasImage) return;
      restoreBlockImage(record, block, this.version, page.bytes);
    }
    if (block.applyImage) count.restored++;
    else if (block.hasImage) {
      count.compared++;
      this.compareWithImage(record, block, page);
    } else count.redone++;
  }

  /** The image was taken before the record's LSN was known, so it has the LSN that the page got last. */
  private checkLsnBefore(record: WalRecord, block: BlockRef, page: PageBuffer): void {
    if (block.willInit || isNewPage(page) || block.fork === Fork.FreeSpaceMap) return;
    restoreBlockImage(record, block, this.version, this.image.bytes);
    if (isNewPage(this.image)) return;
    this.lsnChecks++;
    const expected = pageLsn(this.image);
    if (expected === pageLsn(page)) return;
    this.differ(record, block, `LSN before ${formatLsn(pageLsn(page))}, server ${formatLsn(expected)}`);
  }

  private compareWithImage(record: WalRecord, block: BlockRef, page: PageBuffer): void {
    restoreBlockImage(record, block, this.version, this.image.bytes);
    const difference = firstDifference(record.rmgr, page, this.image, this.ours, block.blockNumber);
    if (difference !== undefined) this.differ(record, block, difference);
    if (block.fork === Fork.VisibilityMap) {
      // Others may have cleared bits whose records come later, so the server may have fewer bits, but never more.
      restoreBlockImage(record, block, this.version, this.image.bytes);
      for (let i = 24; i < PAGE_SIZE; i++) {
        const theirs = this.image.bytes[i] as number;
        if (theirs & ~(page.bytes[i] as number)) {
          this.differ(record, block, `map byte ${i}: ${page.bytes[i]}, server ${theirs}`);
          return;
        }
      }
    }
  }

  private differ(record: WalRecord, block: BlockRef, message: string): void {
    this.differenceCount++;
    if (this.differences.length >= DIFFERENCES_KEPT) return;
    const page = `${block.spcOid}/${block.dbOid}/${block.relNumber} fork ${block.fork} block ${block.blockNumber}`;
    const kind = `${rmgrName(record.rmgr)} 0x${record.info.toString(16)} block ${block.id}`;
    this.differences.push(`${formatLsn(record.lsn)} ${kind} (${page}): ${message}`);
  }

  private count(record: WalRecord, what: string): KindCount {
    const key = `${kindOf(record, this.version)} ${what}`;
    let count = this.counts.get(key);
    if (count === undefined) {
      count = { redone: 0, restored: 0, compared: 0 };
      this.counts.set(key, count);
    }
    return count;
  }

  private fork(relation: RelationKey, fork: number): ForkPages {
    const key = `${relation.spcOid}/${relation.dbOid}/${relation.relNumber}/${fork}`;
    let pages = this.forks.get(key);
    if (pages === undefined) {
      pages = { pages: new Map(), baseBlocks: Infinity };
      this.forks.set(key, pages);
    }
    return pages;
  }

  /** The page as replayed so far; pages that nothing has touched come from the base directory, or are zero. */
  page(relation: RelationKey, fork: number, block: number): PageBuffer {
    const pages = this.fork(relation, fork);
    let page = pages.pages.get(block);
    if (page === undefined) {
      page = new PageBuffer();
      const { spcOid, dbOid, relNumber } = relation;
      const segment = Math.floor(block / RELATION_SEGMENT_PAGES);
      const path = join(this.base, relationPath({ spcOid, dbOid, relNumber, fork, segment }, this.version));
      if (block < pages.baseBlocks) readBlock(path, block % RELATION_SEGMENT_PAGES, page.bytes);
      pages.pages.set(block, page);
    }
    return page;
  }

  slruPage(slru: Slru, pageNumber: number): Uint8Array {
    const key = `${slru}/${pageNumber}`;
    let page = this.slrus.get(key);
    if (page === undefined) {
      page = new Uint8Array(PAGE_SIZE);
      const path = join(this.base, slruPath(slru, Math.floor(pageNumber / SLRU_SEGMENT_PAGES)));
      readBlock(path, pageNumber % SLRU_SEGMENT_PAGES, page);
      this.slrus.set(key, page);
    }
    return page;
  }

  private truncate(record: WalRecord): void {
    const at = record.mainOffset;
    const { view } = record;
    const blocks = view.getUint32(at, true);
    const relation = {
      spcOid: view.getUint32(at + 4, true),
      dbOid: view.getUint32(at + 8, true),
      relNumber: view.getUint32(at + 12, true),
    };
    cut(this.fork(relation, Fork.Main), blocks);
    cut(this.fork(relation, Fork.VisibilityMap), mapPagesAfterTruncate(blocks));
    truncateVisibilityPage(this.page(relation, Fork.VisibilityMap, mapBlockOf(blocks)), blocks);
  }
}

/** The record's kind, with the flags that make redo take another way. */
function kindOf(record: WalRecord, version: PgVersion): string {
  const isHeap = record.rmgr === Rmgr.Heap || record.rmgr === Rmgr.Heap2;
  const operation = record.info & (isHeap || record.rmgr === Rmgr.Xact ? 0x70 : 0xf0);
  let kind = `${rmgrName(record.rmgr)} 0x${operation.toString(16).padStart(2, "0")}`;
  if (isHeap && record.info & 0x80) kind += "+init";
  const main = record.mainOffset;
  const byte = (at: number) => record.view.getUint8(main + at);
  if (record.rmgr === Rmgr.Heap && operation === 0x10) {
    if (byte(7) & 0x08) kind += "+super";
    if (byte(7) & 0x10) kind += "+moved";
  } else if (record.rmgr === Rmgr.Heap && (operation === 0x20 || operation === 0x40)) {
    if (byte(7) & 0x20) kind += "+prefix";
    if (byte(7) & 0x40) kind += "+suffix";
  } else if (record.rmgr === Rmgr.Heap2 && operation >= 0x10 && operation <= 0x30) {
    const isCombined = version.redo.heapPrune === "combined";
    if (isCombined && byte(1) & 0x04) kind += "+cleanup";
    if (isCombined && byte(1) & 0x10) kind += "+freeze";
    if (isCombined ? byte(1) & 0x20 : operation === 0x10 && byte(4) > 0) kind += "+redirect";
  } else if (record.rmgr === Rmgr.Btree && (operation === 0x30 || operation === 0x40)) {
    if (record.view.getUint16(main + 8, true) !== 0) kind += "+posting";
  }
  return kind;
}

function cut(fork: ForkPages, blocks: number): void {
  fork.baseBlocks = Math.min(fork.baseBlocks, blocks);
  for (const block of fork.pages.keys()) if (block >= blocks) fork.pages.delete(block);
}

/** Reads one page of a file, if it is there. */
export function readBlock(path: string, index: number, target: Uint8Array): boolean {
  if (!existsSync(path)) return false;
  const file = openSync(path, "r");
  try {
    return readSync(file, target, 0, PAGE_SIZE, index * PAGE_SIZE) === PAGE_SIZE;
  } finally {
    closeSync(file);
  }
}

/** Masks both pages (`theirs` itself, ours in `scratch`) and says where they differ first. */
export function firstDifference(
  rmgr: number,
  page: PageBuffer,
  theirs: PageBuffer,
  scratch: PageBuffer,
  blockNumber: number,
): string | undefined {
  if (isNewPage(page) && isNewPage(theirs)) return undefined;
  if (rmgr === Rmgr.Heap || rmgr === Rmgr.Heap2) {
    const difference = strictHeapDifference(page, theirs);
    if (difference !== undefined) return difference;
  }
  scratch.bytes.set(page.bytes);
  try {
    maskPage(rmgr, scratch, blockNumber);
    maskPage(rmgr, theirs, blockNumber);
  } catch (error) {
    return `mask: ${error instanceof Error ? error.message : "not an Error"}`;
  }
  if (Buffer.compare(scratch.bytes, theirs.bytes) === 0) return undefined;
  const different: number[] = [];
  for (let i = 0; i < PAGE_SIZE; i++) if (scratch.bytes[i] !== theirs.bytes[i]) different.push(i);
  const first = different[0] as number;
  return `${different.length} bytes differ, first at ${first}: ${scratch.bytes[first]}, server ${theirs.bytes[first]} (${different.slice(0, 8).join(" ")})`;
}

/** Bits of a tuple's infomask that are hints (committed, invalid) or not in WAL (combined command id). */
const INFOMASK_HINTS = 0x0f20;

/** Postgres' mask hides more than it must: what locks and updates say in infomask, and whether a page is all-visible. */
function strictHeapDifference(page: PageBuffer, theirs: PageBuffer): string | undefined {
  const flags = pageFlags(page) & PageFlag.AllVisible;
  if (flags !== (pageFlags(theirs) & PageFlag.AllVisible)) return `all-visible flag ${flags}`;
  const count = Math.min(maxOffsetNumber(page), maxOffsetNumber(theirs));
  for (let number = 1; number <= count; number++) {
    const id = itemId(page, number);
    if (itemState(id) !== ItemState.Normal || id !== itemId(theirs, number)) continue;
    const at = itemOffset(id) + 20;
    const ours = page.view.getUint16(at, true) & ~INFOMASK_HINTS;
    const expected = theirs.view.getUint16(at, true) & ~INFOMASK_HINTS;
    if (ours !== expected) {
      return `infomask of item ${number}: ${ours.toString(16)}, server ${expected.toString(16)}`;
    }
  }
  return undefined;
}
