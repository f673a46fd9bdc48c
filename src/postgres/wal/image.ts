/**
 * Restores the page image that a WAL record carries. The image comes without its hole (the zero bytes between line
 * pointers and tuples) and may be compressed.
 * Source: PostgreSQL 14-18, src/include/access/xlogrecord.h and xlogreader.c, RestoreBlockImage.
 */
import { constants, zstdDecompressSync } from "node:zlib";
import { assert, corrupt, messageOf } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../constants.ts";
import type { PgVersion } from "../versions/version.ts";
import { decompressLz4Block } from "./lz4.ts";
import { decompressPglz } from "./pglz.ts";
import type { BlockRef, WalRecord } from "./record.ts";

/** Log2 of the window that a zstd frame may ask for; a page needs 13. */
const ZSTD_WINDOW_LOG_MAX = 17;

/**
 * Writes the whole page image of `block` to `target[0..8192)`, its hole zeroed. The LSN inside is still the one from
 * before the record. Throws `corrupt` with the record's LSN when the image cannot be decompressed; `target` is then
 * undefined. The block must have an image.
 */
export function restoreBlockImage(
  record: WalRecord,
  block: BlockRef,
  version: PgVersion,
  target: Uint8Array,
): void {
  assert(block.hasImage, "block reference has an image");
  assert(target.length === PAGE_SIZE, "page buffer has the size of a page");
  const { pglz, lz4, zstd } = version.image;
  const start = block.imageOffset;
  const end = start + block.imageLength;
  const length = PAGE_SIZE - block.holeLength;
  const compression = block.imageInfo & (pglz | lz4 | zstd);
  if (compression === 0) {
    assert(block.imageLength === length, "image and hole make a page");
    const holeStart = start + block.holeOffset;
    target.set(record.bytes.subarray(start, holeStart), 0);
    target.set(record.bytes.subarray(holeStart, end), block.holeOffset + block.holeLength);
  } else {
    try {
      if (compression === pglz) decompressPglz(record.bytes, start, end, target, length);
      else if (compression === lz4) decompressLz4Block(record.bytes, start, end, target, length);
      else if (compression === zstd) decompressZstd(record.bytes.subarray(start, end), target, length);
      else throw corrupt("more than one compression method");
    } catch (error) {
      throw corrupt(
        `page image of block reference ${block.id} in the WAL record at ${formatLsn(record.lsn)} cannot be restored: ${messageOf(error)}`,
        { lsn: formatLsn(record.lsn), block_id: block.id },
        error,
      );
    }
    if (block.holeLength > 0)
      target.copyWithin(block.holeOffset + block.holeLength, block.holeOffset, length);
  }
  target.fill(0, block.holeOffset, block.holeOffset + block.holeLength);
}

function decompressZstd(source: Uint8Array, target: Uint8Array, length: number): void {
  const page = zstdDecompressSync(source, {
    maxOutputLength: PAGE_SIZE,
    params: { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG_MAX },
  });
  if (page.length !== length) throw corrupt(`zstd frame holds ${page.length} bytes, expected ${length}`);
  target.set(page);
}
