/**
 * Keys as the original writes them: 36 hexadecimal digits, that is field1 (1 byte), field2 to field4 (4 each), field5 (1),
 * field6 (4), big-endian. Of those there are here:
 *
 *   00 spc db rel fork block       page of a relation
 *   00 spc db rel fork FFFFFFFF    its size, u32 little-endian
 *   01 kind 1 segment 0 page       page of an SLRU within its segment; kind 0 pg_xact, 1 members, 2 offsets
 */
import { Slru } from "../../../postgres/slru.ts";
import type { RelationFork } from "../../../postgres/relation.ts";

export type OriginalKey =
  | { readonly kind: "page"; readonly fork: RelationFork; readonly block: number }
  | { readonly kind: "size"; readonly fork: RelationFork }
  | { readonly kind: "slru"; readonly slru: Slru; readonly segment: number; readonly page: number };

const KEY_TEXT = /^[0-9a-fA-F]{36}$/;
const SIZE_BLOCK = 0xffffffff;
const SLRUS: readonly Slru[] = [Slru.Xact, Slru.MultixactMembers, Slru.MultixactOffsets];

/** Undefined for what is no key, or none of these. */
export function parseOriginalKey(text: string): OriginalKey | undefined {
  if (!KEY_TEXT.test(text)) return undefined;
  const field = (offset: number, size: number): number =>
    Number.parseInt(text.slice(offset * 2, (offset + size) * 2), 16);
  const block = field(14, 4);
  if (field(0, 1) === 0) {
    const fork = { spcOid: field(1, 4), dbOid: field(5, 4), relNumber: field(9, 4), fork: field(13, 1) };
    if (fork.relNumber === 0) return undefined;
    return block === SIZE_BLOCK ? { kind: "size", fork } : { kind: "page", fork, block };
  }
  const slru = field(0, 1) === 1 && field(5, 4) === 1 ? SLRUS[field(1, 4)] : undefined;
  return slru === undefined || block === SIZE_BLOCK
    ? undefined
    : { kind: "slru", slru, segment: field(9, 4), page: block };
}

/** Of a block of a relation; `block` may be one behind the last. */
export function formatOriginalKey(fork: RelationFork, block: number): string {
  const hex = (value: number, size: number): string =>
    value
      .toString(16)
      .toUpperCase()
      .padStart(size * 2, "0");
  return `00${hex(fork.spcOid, 4)}${hex(fork.dbOid, 4)}${hex(fork.relNumber, 4)}${hex(fork.fork, 1)}${hex(block, 4)}`;
}
