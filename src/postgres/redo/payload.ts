/**
 * Access to a record's main data and block data. The decoder has made sure that these lie within the record; here is
 * made sure that they are as long as redo wants to read. Everything that does not add up is `corrupt`.
 */
import { corrupt } from "../../base/errors.ts";
import { type PageBuffer, pageInit } from "../page/layout.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";

/** Where the main data starts, if it has at least `size` bytes. */
export function mainData(record: WalRecord, size: number): number {
  if (record.mainLength < size) {
    throw corrupt(`the main data has ${record.mainLength} bytes, at least ${size} are needed`);
  }
  return record.mainOffset;
}

/** Where the block's data starts, if it has at least `size` bytes. */
export function blockData(block: BlockRef, size: number): number {
  if (block.dataLength < size) {
    throw corrupt(`the block data has ${block.dataLength} bytes, at least ${size} are needed`);
  }
  return block.dataOffset;
}

/** Throws `corrupt` unless reading has come exactly to the end of a payload. */
export function checkPayloadEnd(position: number, end: number): void {
  if (position !== end) throw corrupt(`the payload is ${end - position} bytes longer than its content`);
}

/** The block reference with an id, or undefined. */
export function findBlock(record: WalRecord, id: number): BlockRef | undefined {
  for (let i = 0; i < record.blockCount; i++) {
    const block = record.blocks[i];
    if (block !== undefined && block.id === id) return block;
  }
  return undefined;
}

/** The block reference with an id. Throws `corrupt` if the record has none. */
export function requireBlock(record: WalRecord, id: number): BlockRef {
  const block = findBlock(record, id);
  if (block === undefined) throw corrupt(`the record has no block reference ${id}`);
  return block;
}

/** Makes the page anew. Throws `corrupt` if the record does not say that it does so. */
export function initPage(page: PageBuffer, block: BlockRef, specialSize: number): void {
  if (!block.willInit) throw corrupt("the record initialises a page without announcing it");
  pageInit(page, specialSize);
}

/** The end of a switch over block reference ids: the record has one that its kind does not. */
export function unexpectedBlock(block: BlockRef): never {
  throw corrupt(`block reference ${block.id} (fork ${block.fork}) does not belong to this kind of record`);
}

/** Throws `corrupt` unless `size` bytes from `at` on lie before the end of a payload. */
export function checkRoom(at: number, size: number, end: number): void {
  if (at + size > end) throw corrupt(`the block data ends ${at + size - end} bytes too early`);
}
