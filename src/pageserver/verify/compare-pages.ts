/**
 * Two versions of a page of a relation that should be the same: one made by redo, one from a file of a stopped server.
 * What may differ is what Postgres masks for wal_consistency_checking, and a few things that servers remember on pages
 * without ever logging them. Source: PostgreSQL 14-18, src/backend/access, the files named below.
 */
import { Fork, PAGE_SIZE, Rmgr } from "../../postgres/constants.ts";
import {
  PAGE_HEADER_SIZE,
  type PageBuffer,
  isNewPage,
  pageLower,
  pageSpecial,
  pageUpper,
} from "../../postgres/page/layout.ts";
import { maskPage } from "../../postgres/redo/mask.ts";

const SEQUENCE_MAGIC = 0x1717;
/** Databases with oids below are made by initdb, all others by CREATE DATABASE. */
const FIRST_USER_OID = 16384;

/**
 * How the server came by its pages, which decides in what its visibility maps may differ from ours: as a primary, by
 * recovery from one checkpoint on, or by a recovery that was stopped and started again.
 */
export type MadeBy = "primary" | "recovery" | "restarted-recovery";

/**
 * The first byte in which the server's page and ours differ, or undefined. Changes both. Throws `corrupt` for a page
 * whose header makes no sense.
 */
export function comparePages(
  theirs: PageBuffer,
  ours: PageBuffer,
  page: {
    readonly dbOid: number;
    readonly fork: number;
    readonly block: number;
    readonly madeBy: MadeBy;
  },
): number | undefined {
  if (isNewPage(theirs) && isNewPage(ours)) return undefined;
  if (page.fork === Fork.VisibilityMap) return compareMaps(theirs, ours, page);
  if (isNewPage(theirs) || isNewPage(ours)) {
    // A server that extends a table may set up a page on which then nothing is put, or logged.
    return isEmptyHeap(theirs) && isNewPage(ours) ? undefined : firstDifference(theirs, ours);
  }
  const rmgr = rmgrOf(theirs);
  for (const each of [theirs, ours]) {
    if (rmgr === Rmgr.Seq) forgetLoggedAhead(each);
    if (rmgr === Rmgr.Spgist && page.block === 0) forgetPagesWithRoom(each);
    maskPage(rmgr, each, page.block);
  }
  if (rmgr === Rmgr.Gist) forgetReplayOfDelete(theirs, ours);
  return firstDifference(theirs, ours);
}

function firstDifference(a: PageBuffer, b: PageBuffer): number | undefined {
  if (Buffer.compare(a.bytes, b.bytes) === 0) return undefined;
  for (let i = 0; i < PAGE_SIZE; i++) if (a.bytes[i] !== b.bytes[i]) return i;
  return undefined;
}

function isEmptyHeap(page: PageBuffer): boolean {
  return (
    pageSpecial(page) === PAGE_SIZE && pageUpper(page) === PAGE_SIZE && pageLower(page) === PAGE_HEADER_SIZE
  );
}

/**
 * The mask would hide the whole map, so its bits are compared as they are, but for two things.
 *
 * When CREATE DATABASE copies a map page by page (STRATEGY = wal_log), it takes all bits for the hole of the page and
 * does not log them (storage/buffer/bufmgr.c, RelationCopyStorageUsingBuffer): where that may have happened, recovery
 * has fewer bits than the primary. More would be wrong anywhere.
 *
 * When recovery is started again from a checkpoint before the point that its pages had reached, it clears bits a second
 * time, whatever the LSN of the page, but does not set them again on a page that is newer (access/heap/heapam.c,
 * heap_xlog_visible): then it has fewer bits than recovery in one go.
 */
function compareMaps(
  theirs: PageBuffer,
  ours: PageBuffer,
  page: { readonly dbOid: number; readonly madeBy: MadeBy },
): number | undefined {
  const weMayLack = page.madeBy === "primary" && page.dbOid >= FIRST_USER_OID;
  const theyMayLack = page.madeBy === "restarted-recovery";
  for (let i = PAGE_HEADER_SIZE; i < PAGE_SIZE; i++) {
    const [there, here] = [theirs.bytes[i] as number, ours.bytes[i] as number];
    if (there === here) continue;
    if ((weMayLack && (here & ~there) === 0) || (theyMayLack && (there & ~here) === 0)) continue;
    return i;
  }
  return undefined;
}

/** What the last two bytes of the special area say about the kind of page, for those kinds that say it there. */
const PAGE_IDS: Readonly<Record<number, number>> = {
  0xff80: Rmgr.Hash,
  0xff81: Rmgr.Gist,
  0xff82: Rmgr.Spgist,
  // Indexes of the extension bloom.
  0xff83: Rmgr.Generic,
  0xf091: Rmgr.Brin,
  0xf092: Rmgr.Brin,
  0xf093: Rmgr.Brin,
};

/** The kind of page by its special area: heaps have none, the others are told apart by its size and what is in there. */
function rmgrOf(page: PageBuffer): number {
  const size = PAGE_SIZE - pageSpecial(page);
  if (size === 0) return Rmgr.Heap;
  if (size === 8 && page.view.getUint32(PAGE_SIZE - 8, true) === SEQUENCE_MAGIC) return Rmgr.Seq;
  const id = PAGE_IDS[page.view.getUint16(PAGE_SIZE - 2, true)];
  if (id !== undefined) return id;
  if (size === 16) return Rmgr.Btree;
  return size === 8 ? Rmgr.Gin : Rmgr.Heap;
}

/**
 * The first page of an SP-GiST index remembers pages with room behind its magic number; that is not logged
 * (spgist/spgutils.c, SpGistUpdateMetaPage).
 */
function forgetPagesWithRoom(page: PageBuffer): void {
  page.bytes.fill(0, 28, 92);
}

/**
 * Whoever deletes dead tuples on the way through a GiST index does not note on the page that it was done, but replay of
 * the record does (gist/gist.c, gistprunepage; gist/gistxlog.c, gistRedoDeleteRecord). So a server that has recovered may
 * have the flag where a primary, whom our redo follows, has not. Its own check under wal_consistency_checking stumbles over it.
 */
function forgetReplayOfDelete(theirs: PageBuffer, ours: PageBuffer): void {
  const TUPLES_DELETED = 0x04;
  const flags = theirs.view.getUint16(8188, true);
  if (ours.view.getUint16(8188, true) === (flags & ~TUPLES_DELETED)) {
    theirs.view.setUint16(8188, flags & ~TUPLES_DELETED, true);
  }
}

/**
 * WAL has a sequence some values ahead of the server's own page: last value and count of those logged
 * (commands/sequence.c, nextval_internal).
 */
function forgetLoggedAhead(page: PageBuffer): void {
  const offset = page.view.getUint32(24, true) & 0x7fff;
  if (offset > 0 && offset + 41 <= PAGE_SIZE) page.bytes.fill(0, offset + 24, offset + 41);
}
