/**
 * Order of SLRU pages. Xids and multixact ids go around the circle of 2^32, and so do the pages that hold them; a
 * segment may be removed if it lies wholly before a page.
 * Source: PostgreSQL 14-18, src/backend/access/transam/slru.c, SlruMayDeleteSegment; clog.c and multixact.c, *PagePrecedes.
 */
import { SLRU_SEGMENT_PAGES } from "../constants.ts";

/** True if id `a` comes before `b` on the circle. Both are 32-bit unsigned. */
export function idPrecedes(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}

/**
 * True if page `a` lies wholly before page `b`, for pages of `idsPerPage` ids whose first usable id is `firstId`.
 */
export function pagePrecedes(a: number, b: number, idsPerPage: number, firstId: number): boolean {
  const idA = (a * idsPerPage + firstId + 1) >>> 0;
  const idB = (b * idsPerPage + firstId + 1) >>> 0;
  return idPrecedes(idA, idB) && idPrecedes(idA, (idB + idsPerPage - 1) >>> 0);
}

/** True if all pages of a segment lie before `cutoffPage`. */
export function segmentPrecedes(
  segment: number,
  cutoffPage: number,
  idsPerPage: number,
  firstId: number,
): boolean {
  const first = segment * SLRU_SEGMENT_PAGES;
  const last = first + SLRU_SEGMENT_PAGES - 1;
  return (
    pagePrecedes(first, cutoffPage, idsPerPage, firstId) &&
    pagePrecedes(last, cutoffPage, idsPerPage, firstId)
  );
}
