/**
 * Layer files: immutable, written once. Little-endian, except that keys are big-endian (`key.ts`). Described in
 * `docs/formats/layer-file.md`. Reader and writer share what is here and in `index-block.ts`, nothing else.
 *
 *   file      = header data* index* directory footer
 *   data      = block whose payload is the bytes of values, one after another
 *   index     = block whose payload lists keys and versions in key order (`index-block.ts`)
 *   directory = block whose payload says where the data and index blocks are
 *
 * Header, 32 bytes:
 *
 *   offset  size  field
 *        0     8  magic        "NEONLAYR"
 *        8     4  crc          CRC-32C over bytes 12–31
 *       12     2  version      1
 *       14     1  kind         1 delta, 2 image
 *       15     1  (zero)
 *       16     8  startLsn     the values of a delta are above it; of an image: at it
 *       24     8  endLsn       no value is above it
 *
 * Block header, 16 bytes, before each payload:
 *
 *   offset  size  field
 *        0     4  crc          CRC-32C over the rest of the header and the payload
 *        4     4  payloadSize  in bytes, without this header
 *        8     4  position     of this header in the file, so that a misplaced block is noticed
 *       12     4  seed         crc of the file's header, so that a block of another file is noticed
 *
 * Directory payload:
 *
 *   offset  size  field
 *        0     4  dataCount
 *        4     4  indexCount
 *        8   4×d  position of each data block, ascending
 *           30×i  per index block: position (4), first key in it (18), LSN of the first value in it (8)
 *
 * Footer, the last 80 bytes:
 *
 *   offset  size  field
 *        0     4  directoryPosition
 *        4     4  directorySize   header of the block included
 *        8     8  valueCount
 *       16     8  keyCount        a key with several versions counts once
 *       24    18  fromKey         no key is below it
 *       42    18  toKey           all keys are below it
 *       60     4  seed            as in the blocks
 *       64     4  crc             CRC-32C over bytes 0–63
 *       68     4  (zero)
 *       72     8  magic           "LAYREND1"
 */

export const LAYER_MAGIC = "NEONLAYR";
export const LAYER_END_MAGIC = "LAYREND1";
export const LAYER_VERSION = 1;

export const HEADER_SIZE = 32;
export const BLOCK_HEADER_SIZE = 16;
export const DIRECTORY_FIXED_SIZE = 8;
export const DIRECTORY_DATA_SIZE = 4;
export const DIRECTORY_INDEX_SIZE = 30;
export const FOOTER_SIZE = 80;

/** The kinds are written to disk: do not renumber. */
export const LayerKind = { Delta: 1, Image: 2 } as const;
export type LayerKind = (typeof LayerKind)[keyof typeof LayerKind];

/** A data block is closed before it would exceed this; a longer value gets a block of its own. */
export const DATA_PAYLOAD_TARGET = 16 * 1024;
/** An index block is closed when it reaches this. */
export const INDEX_PAYLOAD_TARGET = 8 * 1024;
/** No position in a layer file is at or above this, because positions have 32 bits. */
export const FILE_SIZE_MAX = 0xffffffff;
/** Shared values of at least this size are stored once and referred to; shorter ones are repeated. */
export const SHARE_MIN_BYTES = 512;
