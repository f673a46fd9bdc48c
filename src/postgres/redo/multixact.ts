/**
 * Redo of pages of pg_multixact. A multixact stands for several transactions that lock a row together. `offsets` says
 * for each multixact where its members begin (u32, 2048 per page; 0: not set); `members` has the members in groups
 * of four: four bytes of status, then four xids (1636 members per page). No page headers. Little-endian.
 * Source: PostgreSQL 14-18, src/backend/access/transam/multixact.c.
 */
import { PAGE_SIZE, Rmgr, SLRU_SEGMENT_PAGES } from "../constants.ts";
import type { PgVersion } from "../versions/version.ts";
import type { WalRecord } from "../wal/record.ts";
import { PayloadCursor } from "./payload-cursor.ts";
import { segmentPrecedes } from "./slru-order.ts";

const MULTIS_PER_PAGE = PAGE_SIZE / 4;
const GROUP_MEMBERS = 4;
const GROUP_SIZE = 4 + 4 * GROUP_MEMBERS;
const GROUPS_PER_PAGE = Math.floor(PAGE_SIZE / GROUP_SIZE);
const MEMBERS_PER_PAGE = GROUPS_PER_PAGE * GROUP_MEMBERS;
const FIRST_MULTI = 1;
const MEMBER_SIZE = 8;
/** The last segment of members; behind it comes segment 0. */
const LAST_MEMBERS_SEGMENT = Math.floor(0xffffffff / MEMBERS_PER_PAGE / SLRU_SEGMENT_PAGES);

const MultixactOp = { ZeroOffsetsPage: 0x00, ZeroMembersPage: 0x10, Create: 0x20, Truncate: 0x30 } as const;

/** One of `MultixactOp`, or -1 for a record of another resource manager. */
function operationOf(record: WalRecord): number {
  return record.rmgr === Rmgr.Multixact ? record.info & 0xf0 : -1;
}

function offsetsPageOf(multi: number): number {
  return Math.floor(multi / MULTIS_PER_PAGE);
}

function membersPageOf(offset: number): number {
  return Math.floor(offset / MEMBERS_PER_PAGE);
}

/** The multixact after one: 0 is none. */
function nextMulti(multi: number): number {
  return (multi + 1) >>> 0 || FIRST_MULTI;
}

/** Calls `emit` once for each page of `offsets` that a MULTIXACT record changes. */
export function multixactOffsetPages(
  record: WalRecord,
  version: PgVersion,
  emit: (pageNumber: number) => void,
): void {
  const operation = operationOf(record);
  const cursor = new PayloadCursor(record);
  if (operation === MultixactOp.ZeroOffsetsPage) {
    emit(cursor.slruPage(version));
  } else if (operation === MultixactOp.Create) {
    const multi = cursor.u32();
    emit(offsetsPageOf(multi));
    const next = offsetsPageOf(nextMulti(multi));
    if (next !== offsetsPageOf(multi)) emit(next);
  }
}

/** Calls `emit` once for each page of `members` that a MULTIXACT record changes. */
export function multixactMemberPages(
  record: WalRecord,
  version: PgVersion,
  emit: (pageNumber: number) => void,
): void {
  const operation = operationOf(record);
  const cursor = new PayloadCursor(record);
  if (operation === MultixactOp.ZeroMembersPage) {
    emit(cursor.slruPage(version));
  } else if (operation === MultixactOp.Create) {
    cursor.skip(4);
    const first = cursor.u32();
    const count = cursor.count(MEMBER_SIZE);
    let emitted = -1;
    for (let i = 0; i < count; i++) {
      const pageNumber = membersPageOf((first + i) >>> 0);
      if (pageNumber !== emitted) emit(pageNumber);
      emitted = pageNumber;
    }
  }
}

/** True if the record makes a page of `members` anew, so that nothing older is needed to know it. */
export function isMembersPageZeroed(record: WalRecord): boolean {
  return operationOf(record) === MultixactOp.ZeroMembersPage;
}

export interface MultixactTruncation {
  readonly oldestMulti: number;
  readonly oldestMultiDb: number;
  /** Segments of `offsets` that lie wholly before it go: see `isOffsetsSegmentRemoved`. */
  readonly offsetsCutoffPage: number;
  /** Segments of `members` from the first on, up to but not including the second, around the circle. */
  readonly membersFromSegment: number;
  readonly membersToSegment: number;
}

/** What a MULTIXACT record removes, or undefined if it is of another kind. */
export function multixactTruncation(record: WalRecord): MultixactTruncation | undefined {
  if (operationOf(record) !== MultixactOp.Truncate) return undefined;
  const cursor = new PayloadCursor(record);
  const oldestMultiDb = cursor.u32();
  cursor.skip(4);
  const oldestMulti = cursor.u32();
  const membersFrom = cursor.u32();
  const membersTo = cursor.u32();
  const previous = (oldestMulti - 1) >>> 0;
  return {
    oldestMulti,
    oldestMultiDb,
    offsetsCutoffPage: offsetsPageOf(previous < FIRST_MULTI ? 0xffffffff : previous),
    membersFromSegment: Math.floor(membersPageOf(membersFrom) / SLRU_SEGMENT_PAGES),
    membersToSegment: Math.floor(membersPageOf(membersTo) / SLRU_SEGMENT_PAGES),
  };
}

/** True if a truncation removes a segment of `offsets` (32 pages). */
export function isOffsetsSegmentRemoved(segment: number, truncation: MultixactTruncation): boolean {
  return segmentPrecedes(segment, truncation.offsetsCutoffPage, MULTIS_PER_PAGE, FIRST_MULTI);
}

/** True if a truncation removes a segment of `members` (32 pages). */
export function isMembersSegmentRemoved(segment: number, truncation: MultixactTruncation): boolean {
  const { membersFromSegment: from, membersToSegment: to } = truncation;
  if (segment > LAST_MEMBERS_SEGMENT) return false;
  return from <= to ? segment >= from && segment < to : segment >= from || segment < to;
}

/**
 * Applies a MULTIXACT record to a page of `offsets`, as far as it is about it. A page that does not exist is given as
 * zeros. Creating a multixact sets the entry of the next one, too, because that is where its members end; where
 * the next one is the first of its page, this may come before the record that makes the page (servers before the
 * minor releases of 2025 write them in this order): the entry must outlive it.
 */
export function redoMultixactOffsetsPage(
  page: Uint8Array,
  pageNumber: number,
  record: WalRecord,
  version: PgVersion,
): void {
  const cursor = new PayloadCursor(record);
  switch (operationOf(record)) {
    case MultixactOp.ZeroOffsetsPage:
      if (cursor.slruPage(version) === pageNumber && !holdsFirstEntryOnly(page)) page.fill(0);
      return;
    case MultixactOp.Create: {
      const multi = cursor.u32();
      const offset = cursor.u32();
      const count = cursor.count(MEMBER_SIZE);
      const next = nextMulti(multi);
      // Offset 0 means "not set", so members never begin there.
      const nextOffset = (offset + count) >>> 0 || 1;
      if (offsetsPageOf(multi) === pageNumber) writeU32(page, 4 * (multi % MULTIS_PER_PAGE), offset);
      if (offsetsPageOf(next) === pageNumber) writeU32(page, 4 * (next % MULTIS_PER_PAGE), nextOffset);
      return;
    }
    default:
  }
}

/** True for a page on which nothing but the first entry is set. */
function holdsFirstEntryOnly(page: Uint8Array): boolean {
  let first = 0;
  for (let i = 0; i < 4; i++) first |= page[i] as number;
  if (first === 0) return false;
  for (let i = 4; i < PAGE_SIZE; i++) if (page[i] !== 0) return false;
  return true;
}

/** Applies a MULTIXACT record to a page of `members`, as far as it is about it. */
export function redoMultixactMembersPage(
  page: Uint8Array,
  pageNumber: number,
  record: WalRecord,
  version: PgVersion,
): void {
  const cursor = new PayloadCursor(record);
  switch (operationOf(record)) {
    case MultixactOp.ZeroMembersPage:
      if (cursor.slruPage(version) === pageNumber) page.fill(0);
      return;
    case MultixactOp.Create: {
      cursor.skip(4);
      const first = cursor.u32();
      const count = cursor.count(MEMBER_SIZE);
      for (let i = 0; i < count; i++) {
        const xid = cursor.u32();
        const status = cursor.u32();
        const offset = (first + i) >>> 0;
        if (membersPageOf(offset) === pageNumber) setMember(page, offset, xid, status);
      }
      return;
    }
    default:
  }
}

function setMember(page: Uint8Array, offset: number, xid: number, status: number): void {
  const index = offset % GROUP_MEMBERS;
  const group = (Math.floor(offset / GROUP_MEMBERS) % GROUPS_PER_PAGE) * GROUP_SIZE;
  page[group + index] = status;
  writeU32(page, group + GROUP_MEMBERS + 4 * index, xid);
}

function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}
