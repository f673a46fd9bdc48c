/** Header, directory and footer of layer files (layouts in `layer-format.ts`). */
import { ByteReader, ByteWriter } from "../base/bytes.ts";
import { crc32c } from "../base/crc32c.ts";
import { corrupt } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import { type Key, KEY_SIZE, compareKeys } from "./key.ts";
import { type KeyRange, decodeKey, encodeKey } from "./key-range.ts";
import {
  BLOCK_HEADER_SIZE,
  DIRECTORY_DATA_SIZE,
  DIRECTORY_FIXED_SIZE,
  DIRECTORY_INDEX_SIZE,
  FOOTER_SIZE,
  HEADER_SIZE,
  LAYER_END_MAGIC,
  LAYER_MAGIC,
  LAYER_VERSION,
  LayerKind,
} from "./layer-format.ts";

export interface LayerHeader {
  readonly kind: LayerKind;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

export interface LayerFooter {
  readonly directoryPosition: number;
  /** Header of the block included. */
  readonly directorySize: number;
  readonly valueCount: number;
  readonly keyCount: number;
  readonly range: KeyRange;
  readonly seed: number;
}

/** Where the blocks of a layer are. */
export interface LayerDirectory {
  /** Position of each data block, and where the last one ends. */
  readonly dataStart: Uint32Array;
  /** Position of each index block, and where the last one ends. */
  readonly indexStart: Uint32Array;
  readonly firstKeys: readonly Key[];
  readonly firstLsns: Float64Array;
}

/** The header and the seed for the blocks. */
export function encodeHeader(header: LayerHeader): { bytes: Uint8Array; seed: number } {
  const rest = new ByteWriter(HEADER_SIZE)
    .u16le(LAYER_VERSION)
    .u8(header.kind)
    .u8(0)
    .u64leLsn(header.startLsn)
    .u64leLsn(header.endLsn)
    .finish();
  const seed = crc32c(rest);
  return { bytes: new ByteWriter(HEADER_SIZE).utf8(LAYER_MAGIC).u32le(seed).bytes(rest).finish(), seed };
}

export function decodeHeader(bytes: Uint8Array, path: string): LayerHeader & { seed: number } {
  const wrong = (what: string, offset: number) => corrupt(`${path}: header ${what}`, { file: path, offset });
  if (bytes.length < HEADER_SIZE) throw wrong(`has ${bytes.length} bytes of ${HEADER_SIZE}`, bytes.length);
  const reader = new ByteReader(bytes);
  if (reader.utf8(8) !== LAYER_MAGIC) throw wrong("does not begin as a layer file does", 0);
  const seed = reader.u32le();
  if (crc32c(bytes, 12, HEADER_SIZE) !== seed) throw wrong("does not match its checksum", 8);
  const version = reader.u16le();
  if (version !== LAYER_VERSION) throw wrong(`has version ${version}, known is ${LAYER_VERSION}`, 12);
  const kind = reader.u8();
  if (kind !== LayerKind.Delta && kind !== LayerKind.Image) throw wrong(`has kind ${kind}`, 14);
  if (reader.u8() !== 0) throw wrong("has a byte that should be zero", 15);
  const startLsn = reader.u64leLsn();
  const endLsn = reader.u64leLsn();
  if (endLsn < startLsn) throw wrong("ends before it starts", 24);
  return { kind, startLsn, endLsn, seed };
}

export function encodeFooter(footer: LayerFooter): Uint8Array {
  const body = new ByteWriter(FOOTER_SIZE)
    .u32le(footer.directoryPosition)
    .u32le(footer.directorySize)
    .u64le(BigInt(footer.valueCount))
    .u64le(BigInt(footer.keyCount))
    .bytes(encodeKey(footer.range.from))
    .bytes(encodeKey(footer.range.to))
    .u32le(footer.seed)
    .finish();
  return new ByteWriter(FOOTER_SIZE).bytes(body).u32le(crc32c(body)).u32le(0).utf8(LAYER_END_MAGIC).finish();
}

/** `bytes` are the last 80 of a file of `fileSize` bytes. */
export function decodeFooter(bytes: Uint8Array, fileSize: number, path: string): LayerFooter {
  const start = fileSize - FOOTER_SIZE;
  const wrong = (what: string, at: number) =>
    corrupt(`${path}: footer at offset ${start} ${what}`, { file: path, offset: start + at });
  if (bytes.length < FOOTER_SIZE) throw wrong(`has ${bytes.length} bytes of ${FOOTER_SIZE}`, 0);
  const reader = new ByteReader(bytes);
  const end = new ByteReader(bytes, FOOTER_SIZE - 16);
  const crc = end.u32le();
  const zero = end.u32le();
  if (end.utf8(8) !== LAYER_END_MAGIC) throw wrong("does not end as a layer file does", FOOTER_SIZE - 8);
  if (crc32c(bytes, 0, FOOTER_SIZE - 16) !== crc)
    throw wrong("does not match its checksum", FOOTER_SIZE - 16);
  if (zero !== 0) throw wrong("has bytes that should be zero", FOOTER_SIZE - 12);
  const footer = {
    directoryPosition: reader.u32le(),
    directorySize: reader.u32le(),
    valueCount: Number(reader.u64le()),
    keyCount: Number(reader.u64le()),
    range: { from: decodeKey(reader.subarray(KEY_SIZE), 0), to: decodeKey(reader.subarray(KEY_SIZE), 0) },
    seed: reader.u32le(),
  };
  if (footer.directoryPosition < HEADER_SIZE || footer.directoryPosition + footer.directorySize !== start) {
    throw wrong(`puts the directory at ${footer.directoryPosition}, ${footer.directorySize} bytes`, 0);
  }
  return footer;
}

export function encodeDirectory(directory: {
  readonly dataStart: readonly number[];
  readonly index: readonly { position: number; firstKey: Key; firstLsn: Lsn }[];
}): Uint8Array {
  const { dataStart, index } = directory;
  const size =
    DIRECTORY_FIXED_SIZE + dataStart.length * DIRECTORY_DATA_SIZE + index.length * DIRECTORY_INDEX_SIZE;
  const writer = new ByteWriter(size).u32le(dataStart.length).u32le(index.length);
  for (const position of dataStart) writer.u32le(position);
  for (const entry of index) {
    writer.u32le(entry.position).bytes(encodeKey(entry.firstKey)).u64leLsn(entry.firstLsn);
  }
  return writer.finish();
}

/** `end` is the position of the directory: where the blocks it names must end. */
export function decodeDirectory(payload: Uint8Array, end: number, path: string): LayerDirectory {
  const wrong = (what: string, at: number) =>
    corrupt(`${path}: directory at offset ${end} ${what}`, {
      file: path,
      offset: end + BLOCK_HEADER_SIZE + at,
    });
  if (payload.length < DIRECTORY_FIXED_SIZE) throw wrong("is too short", 0);
  const reader = new ByteReader(payload);
  const dataCount = reader.u32le();
  const indexCount = reader.u32le();
  const size = DIRECTORY_FIXED_SIZE + dataCount * DIRECTORY_DATA_SIZE + indexCount * DIRECTORY_INDEX_SIZE;
  if (size !== payload.length) throw wrong(`claims ${dataCount} data and ${indexCount} index blocks`, 0);
  const dataStart = new Uint32Array(dataCount + 1);
  const indexStart = new Uint32Array(indexCount + 1);
  const firstKeys: Key[] = [];
  const firstLsns = new Float64Array(indexCount);
  let last = HEADER_SIZE - BLOCK_HEADER_SIZE;
  const position = (): number => {
    const at = reader.offset;
    const next = reader.u32le();
    const first = last < HEADER_SIZE;
    if (first ? next !== HEADER_SIZE : next < last + BLOCK_HEADER_SIZE)
      throw wrong(`puts a block at ${next}`, at);
    if (next > end - BLOCK_HEADER_SIZE) throw wrong(`puts a block at ${next}`, at);
    last = next;
    return next;
  };
  for (let i = 0; i < dataCount; i++) dataStart[i] = position();
  for (let i = 0; i < indexCount; i++) {
    indexStart[i] = position();
    const key = decodeKey(reader.subarray(KEY_SIZE), 0);
    const before = firstKeys[i - 1];
    if (before && compareKeys(before, key) > 0)
      throw wrong("has keys out of order", reader.offset - KEY_SIZE);
    firstKeys.push(key);
    firstLsns[i] = reader.u64leLsn();
  }
  dataStart[dataCount] = indexCount > 0 ? (indexStart[0] as number) : end;
  indexStart[indexCount] = end;
  return { dataStart, indexStart, firstKeys, firstLsns };
}
