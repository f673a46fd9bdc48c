/**
 * Bytes of one WAL record, contiguous, to a `WalRecord`: fixed header, block headers, and where images, block data
 * and main data lie. The CRC is a separate step. Little-endian.
 * Source: PostgreSQL 14-18, src/include/access/xlogrecord.h; checks as in xlogreader.c, DecodeXLogRecord.
 *
 *   offset  size  field (fixed header, 24 bytes)
 *        0     4  total length, this header included
 *        4     4  xid
 *        8     8  start of the record before this one
 *       16     1  info
 *       17     1  resource manager
 *       18     2  (zero)
 *       20     4  CRC-32C over bytes 24 to the end, then bytes 0 to 19
 *
 * Then block headers, origin, top-level xid and the main-data header in any number, each led by an id byte; then per
 * block its image and its data; then the main data. Nothing is aligned.
 */
import { crc32cUpdate } from "../../base/crc32c.ts";
import { corrupt, type NeonError } from "../../base/errors.ts";
import { lsnFromWords } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../constants.ts";
import type { PgVersion } from "../versions/version.ts";
import { BlockRef, type WalRecord } from "./record.ts";

/** Size of the fixed header in bytes: no record is shorter. */
export const RECORD_HEADER_SIZE = 24;

const BLOCK_ID_MAX = 32;
const ID_MAIN_SHORT = 255;
const ID_MAIN_LONG = 254;
const ID_ORIGIN = 253;
const ID_TOP_XID = 252;

const FORK_MASK = 0x0f;
const FORK_MAX = 3;
const HAS_IMAGE = 0x10;
const HAS_DATA = 0x20;
const WILL_INIT = 0x40;
const SAME_RELATION = 0x80;

const IMAGE_HAS_HOLE = 0x01;

/** Whether the CRC of the record at `offset` is right. `length` is at least 24. */
export function recordCrcOk(bytes: Uint8Array, offset: number, length: number): boolean {
  let state = crc32cUpdate(-1, bytes, offset + RECORD_HEADER_SIZE, offset + length);
  state = crc32cUpdate(state, bytes, offset, offset + 20);
  const stored =
    (bytes[offset + 20] as number) |
    ((bytes[offset + 21] as number) << 8) |
    ((bytes[offset + 22] as number) << 16) |
    ((bytes[offset + 23] as number) << 24);
  return (state ^ -1) === stored;
}

/**
 * Fills `record` from `bytes[offset..offset+length)`, which must be one whole record; `view` covers the same bytes as
 * `bytes`. Everything but `lsn` and `endLsn` is set. Throws `corrupt` with the offset when the parts do not add up.
 */
export function decodeRecord(
  record: WalRecord,
  bytes: Uint8Array,
  view: DataView,
  offset: number,
  length: number,
  version: PgVersion,
): void {
  if (length < RECORD_HEADER_SIZE || offset < 0 || length > bytes.length - offset)
    throw malformed("record does not fit its buffer", offset, offset);
  if (view.getUint32(offset, true) !== length)
    throw malformed(`record length is not ${length}`, offset, offset);
  record.bytes = bytes;
  record.view = view;
  record.offset = offset;
  record.length = length;
  record.xid = view.getUint32(offset + 4, true);
  record.previousLsn = lsnFromWords(view.getUint32(offset + 12, true), view.getUint32(offset + 8, true));
  record.info = bytes[offset + 16] as number;
  record.rmgr = bytes[offset + 17] as number;
  record.origin = 0;
  record.topXid = 0;
  record.blockCount = 0;
  record.mainLength = 0;
  const bodyOffset = decodeHeaders(record, version);
  placeBody(record, bodyOffset);
}

/** Reads the block headers and their like; returns where the first image or data begins. */
function decodeHeaders(record: WalRecord, version: PgVersion): number {
  const { bytes, view } = record;
  const end = record.offset + record.length;
  let at = record.offset + RECORD_HEADER_SIZE;
  /** Bytes that the headers read so far announce; headers go on while more than that is left. */
  let announced = 0;
  while (end - at > announced) {
    const id = bytes[at] as number;
    if (id <= BLOCK_ID_MAX) {
      const block = nextBlock(record, id, at);
      at = decodeBlockHeader(record, block, at, end, version);
      announced += block.imageLength + block.dataLength;
      record.blockCount++;
    } else if (id === ID_MAIN_SHORT) {
      need(record, at, 2, end);
      record.mainLength = bytes[at + 1] as number;
      announced += record.mainLength;
      at += 2;
      break;
    } else if (id === ID_MAIN_LONG) {
      need(record, at, 5, end);
      record.mainLength = view.getUint32(at + 1, true);
      announced += record.mainLength;
      at += 5;
      break;
    } else if (id === ID_ORIGIN) {
      need(record, at, 3, end);
      record.origin = view.getUint16(at + 1, true);
      at += 3;
    } else if (id === ID_TOP_XID) {
      need(record, at, 5, end);
      record.topXid = view.getUint32(at + 1, true);
      at += 5;
    } else {
      throw malformed(`invalid block id ${id}`, record.offset, at);
    }
  }
  if (end - at !== announced) {
    throw malformed(`headers announce ${announced} bytes, ${end - at} are left`, record.offset, at);
  }
  return at;
}

/** Assigns positions to what the headers announced, in wire order. */
function placeBody(record: WalRecord, bodyOffset: number): void {
  let at = bodyOffset;
  for (let i = 0; i < record.blockCount; i++) {
    const block = record.blocks[i] as BlockRef;
    block.imageOffset = at;
    at += block.imageLength;
    block.dataOffset = at;
    at += block.dataLength;
  }
  record.mainOffset = at;
}

/** The next block reference to fill; ids must increase. */
function nextBlock(record: WalRecord, id: number, at: number): BlockRef {
  const index = record.blockCount;
  if (index > 0 && id <= (record.blocks[index - 1] as BlockRef).id)
    throw malformed(`block id ${id} out of order`, record.offset, at);
  let block = record.blocks[index];
  if (!block) {
    block = new BlockRef();
    record.blocks.push(block);
  }
  block.id = id;
  return block;
}

function decodeBlockHeader(
  record: WalRecord,
  block: BlockRef,
  start: number,
  end: number,
  version: PgVersion,
): number {
  const { bytes, view } = record;
  need(record, start, 4, end);
  const flags = bytes[start + 1] as number;
  block.fork = flags & FORK_MASK;
  if (block.fork > FORK_MAX) throw malformed(`invalid fork ${block.fork}`, record.offset, start);
  block.willInit = (flags & WILL_INIT) !== 0;
  block.hasImage = (flags & HAS_IMAGE) !== 0;
  block.dataLength = view.getUint16(start + 2, true);
  if (((flags & HAS_DATA) !== 0) !== block.dataLength > 0)
    throw malformed(`data flag and data length ${block.dataLength} disagree`, record.offset, start);
  let at = start + 4;
  if (block.hasImage) {
    at = decodeImageHeader(record, block, at, end, version);
  } else {
    block.applyImage = false;
    block.imageInfo = 0;
    block.imageLength = 0;
    block.holeOffset = 0;
    block.holeLength = 0;
  }
  if ((flags & SAME_RELATION) === 0) {
    need(record, at, 12, end);
    block.spcOid = view.getUint32(at, true);
    block.dbOid = view.getUint32(at + 4, true);
    block.relNumber = view.getUint32(at + 8, true);
    at += 12;
  } else {
    if (record.blockCount === 0)
      throw malformed("first block refers to the relation before it", record.offset, start);
    const before = record.blocks[record.blockCount - 1] as BlockRef;
    block.spcOid = before.spcOid;
    block.dbOid = before.dbOid;
    block.relNumber = before.relNumber;
  }
  need(record, at, 4, end);
  block.blockNumber = view.getUint32(at, true);
  return at + 4;
}

function decodeImageHeader(
  record: WalRecord,
  block: BlockRef,
  start: number,
  end: number,
  version: PgVersion,
): number {
  const { view } = record;
  need(record, start, 5, end);
  const length = view.getUint16(start, true);
  const holeOffset = view.getUint16(start + 2, true);
  const info = record.bytes[start + 4] as number;
  const kinds = version.image;
  const compressed = (info & (kinds.pglz | kinds.lz4 | kinds.zstd)) !== 0;
  const hasHole = (info & IMAGE_HAS_HOLE) !== 0;
  let at = start + 5;
  let holeLength = 0;
  if (!compressed) {
    holeLength = PAGE_SIZE - length;
  } else if (hasHole) {
    need(record, at, 2, end);
    holeLength = view.getUint16(at, true);
    at += 2;
  }
  const valid = hasHole
    ? holeOffset > 0 && holeLength > 0 && holeOffset + holeLength <= PAGE_SIZE && length < PAGE_SIZE
    : holeOffset === 0 && holeLength === 0 && (compressed ? length < PAGE_SIZE : true);
  if (!valid || length === 0) {
    throw malformed(
      `invalid image: length ${length}, hole ${holeOffset}+${holeLength}, info 0x${info.toString(16)}`,
      record.offset,
      start,
    );
  }
  block.applyImage = (info & kinds.apply) !== 0;
  block.imageInfo = info;
  block.imageLength = length;
  block.holeOffset = holeOffset;
  block.holeLength = holeLength;
  return at;
}

function need(record: WalRecord, at: number, sizeBytes: number, end: number): void {
  if (end - at < sizeBytes) throw malformed("record ends inside a header", record.offset, at);
}

function malformed(what: string, recordOffset: number, at: number): NeonError {
  return corrupt(`malformed WAL record: ${what} (at byte ${at - recordOffset} of the record)`, {
    offset: at,
    record_offset: recordOffset,
  });
}
