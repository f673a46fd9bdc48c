/**
 * Payload of an index block. Little-endian; prefixes are big-endian; `varint` is base 128, low part first.
 *
 *   offset  size  field
 *        0     4  valueCount
 *        4     4  keyCount
 *        8     4  runCount
 *       12     4  startData     number of the data block in which the first value lies, unless it says otherwise
 *       16     4  startOffset   where in the payload of that block
 *       20        run*
 *
 *   run   = prefix (14 bytes) key*                  keys of one prefix
 *   key   = block (varint) value*                   the first of a run as it is, then the distance from the last one
 *   value = flags (1 byte) lsn (varint) length (varint) [data (varint) offset (varint)]
 *
 * The low four bits of `flags` are the value's flags; the others are `EntryFlag`. `lsn` is the distance from the key's
 * last value, or for the first value of a key in the block from the layer's start. Values follow each other in the
 * data blocks, so that most need no place; one that does not lie where the last ended carries `data` and `offset`.
 * A key whose values do not fit goes on in the next block, which then begins with the same key.
 */
import { corrupt } from "../base/errors.ts";
import { BLOB_SIZE_MAX } from "./arena.ts";
import { type Key, type KeyPrefix, compareKeyPrefixes } from "./key.ts";
import { PREFIX_SIZE, decodePrefix } from "./key-range.ts";

export const INDEX_FIXED_SIZE = 20;

/** Bits that the index adds to the flags of a value. */
export const EntryFlag = {
  LastOfKey: 0x10,
  /** With LastOfKey. */
  LastOfRun: 0x20,
  /** The value starts the next data block. */
  NextBlock: 0x40,
  /** The value carries its place, which does not move the place of the next one. */
  Elsewhere: 0x80,
} as const;
export const VALUE_FLAGS_MASK = 0x0f;

/** Smallest encodings, which bound what a count may claim. */
const VALUE_SIZE_MIN = 3;
const KEY_SIZE_MIN = 1 + VALUE_SIZE_MIN;
const RUN_SIZE_MIN = PREFIX_SIZE + KEY_SIZE_MIN;

/** A decoded index block: columns by value, by key and by run, all in key and LSN order. */
export interface IndexBlock {
  /** Of each run. */
  readonly prefixes: readonly KeyPrefix[];
  /** First key of each run, and the number of keys at the end. */
  readonly runStart: Uint32Array;
  /** Block number of each key. */
  readonly blocks: Uint32Array;
  /** First value of each key, and the number of values at the end. */
  readonly valueStart: Uint32Array;
  readonly lsns: Float64Array;
  readonly flags: Uint8Array;
  /** Number of the data block, offset in its payload, and length of each value. */
  readonly dataBlocks: Uint32Array;
  readonly offsets: Uint32Array;
  readonly lengths: Uint32Array;
  /** Memory that the block takes, in bytes. */
  readonly sizeBytes: number;
}

/** What the rest of the layer says about its index, to check the entries against. */
export interface IndexBounds {
  readonly startLsn: number;
  readonly endLsn: number;
  readonly dataCount: number;
}

export function decodeIndexBlock(payload: Uint8Array, bounds: IndexBounds): IndexBlock {
  const decoder = new IndexDecoder(payload, bounds);
  return decoder.decode();
}

/** Position of a key among the keys of a block, or -1. */
export function findKey(block: IndexBlock, key: Key): number {
  let low = 0;
  let high = block.prefixes.length - 1;
  while (low <= high) {
    const run = (low + high) >> 1;
    const order = compareKeyPrefixes(block.prefixes[run] as KeyPrefix, key);
    if (order === 0) return findBlock(block, run, key.block);
    if (order < 0) low = run + 1;
    else high = run - 1;
  }
  return -1;
}

function findBlock(block: IndexBlock, run: number, wanted: number): number {
  let low = block.runStart[run] as number;
  let high = (block.runStart[run + 1] as number) - 1;
  while (low <= high) {
    const at = (low + high) >> 1;
    const found = block.blocks[at] as number;
    if (found === wanted) return at;
    if (found < wanted) low = at + 1;
    else high = at - 1;
  }
  return -1;
}

class IndexDecoder {
  private readonly payload: Uint8Array;
  private readonly bounds: IndexBounds;
  private at = INDEX_FIXED_SIZE;
  private data: number;
  private offset: number;
  private values = 0;
  private keys = 0;
  private readonly block: IndexBlock & { prefixes: KeyPrefix[] };

  constructor(payload: Uint8Array, bounds: IndexBounds) {
    this.payload = payload;
    this.bounds = bounds;
    if (payload.length < INDEX_FIXED_SIZE) throw this.wrong("is too short");
    const valueCount = this.u32(0);
    const keyCount = this.u32(4);
    const runCount = this.u32(8);
    this.data = this.u32(12);
    this.offset = this.u32(16);
    const room = payload.length - INDEX_FIXED_SIZE;
    if (
      valueCount < keyCount ||
      keyCount < runCount ||
      valueCount * VALUE_SIZE_MIN > room ||
      keyCount * KEY_SIZE_MIN > room ||
      runCount * RUN_SIZE_MIN > room
    ) {
      throw this.wrong(`claims ${valueCount} values, ${keyCount} keys, ${runCount} runs`);
    }
    this.block = {
      prefixes: [],
      runStart: new Uint32Array(runCount + 1),
      blocks: new Uint32Array(keyCount),
      valueStart: new Uint32Array(keyCount + 1),
      lsns: new Float64Array(valueCount),
      flags: new Uint8Array(valueCount),
      dataBlocks: new Uint32Array(valueCount),
      offsets: new Uint32Array(valueCount),
      lengths: new Uint32Array(valueCount),
      sizeBytes: valueCount * 21 + keyCount * 8 + runCount * 64 + 512,
    };
  }

  decode(): IndexBlock {
    const { block } = this;
    const runCount = block.runStart.length - 1;
    for (let run = 0; run < runCount; run++) {
      if (this.payload.length - this.at < RUN_SIZE_MIN) throw this.wrong("ends within a run");
      const prefix = decodePrefix(this.payload, this.at);
      this.at += PREFIX_SIZE;
      const last = block.prefixes[run - 1];
      if (last !== undefined && compareKeyPrefixes(last, prefix) >= 0)
        throw this.wrong("has keys out of order");
      block.prefixes.push(prefix);
      block.runStart[run] = this.keys;
      this.decodeRun();
    }
    if (this.keys !== block.blocks.length) throw this.wrong(`has ${this.keys} keys`);
    if (this.values !== block.lsns.length) throw this.wrong(`has ${this.values} values`);
    if (this.at !== this.payload.length) throw this.wrong("does not end where its last value does");
    block.runStart[runCount] = this.keys;
    block.valueStart[this.keys] = this.values;
    return block;
  }

  private decodeRun(): void {
    const { block } = this;
    let number = -1;
    for (;;) {
      const distance = this.varint();
      if (number >= 0 && distance === 0) throw this.wrong("has the same key twice");
      number = number < 0 ? distance : number + distance;
      if (number > 0xffffffff) throw this.wrong("has a block number above 32 bits");
      if (this.keys >= block.blocks.length) throw this.wrong("has more keys than it claims");
      block.blocks[this.keys] = number;
      block.valueStart[this.keys] = this.values;
      this.keys++;
      if (this.decodeValues() & EntryFlag.LastOfRun) return;
    }
  }

  /** The flags of the key's last value. */
  private decodeValues(): number {
    const { block, payload, bounds } = this;
    let lsn = bounds.startLsn;
    for (let first = true; ; first = false) {
      if (this.values >= block.lsns.length) throw this.wrong("has more values than it claims");
      const flags = this.at < payload.length ? (payload[this.at++] as number) : 0;
      const distance = this.varint();
      lsn += distance;
      if (lsn > bounds.endLsn || (distance === 0 && !first)) throw this.wrong(`has a value at LSN ${lsn}`);
      const length = this.varint();
      if (length > BLOB_SIZE_MAX) throw this.wrong(`has a value of ${length} bytes`);
      const value = this.values++;
      block.lsns[value] = lsn;
      block.flags[value] = flags & VALUE_FLAGS_MASK;
      block.lengths[value] = length;
      this.place(value, flags, length);
      if (flags & EntryFlag.LastOfKey) return flags;
    }
  }

  private place(value: number, flags: number, length: number): void {
    const { block } = this;
    let data: number;
    if (flags & EntryFlag.Elsewhere) {
      data = this.varint();
      block.dataBlocks[value] = data;
      block.offsets[value] = this.varint();
    } else {
      if (flags & EntryFlag.NextBlock) {
        this.data++;
        this.offset = 0;
      }
      data = this.data;
      block.dataBlocks[value] = data;
      block.offsets[value] = this.offset;
      this.offset += length;
    }
    if (length > 0 && data >= this.bounds.dataCount) throw this.wrong(`refers to data block ${data}`);
  }

  /** Up to 2^53. */
  private varint(): number {
    const { payload } = this;
    let byte = this.at < payload.length ? (payload[this.at++] as number) : 0x100;
    if (byte < 0x80) return byte;
    let value = byte & 0x7f;
    let scale = 0x80;
    for (;;) {
      if (byte > 0xff) throw this.wrong("ends within a value");
      byte = this.at < payload.length ? (payload[this.at++] as number) : 0x100;
      value += (byte & 0x7f) * scale;
      if (value > Number.MAX_SAFE_INTEGER) throw this.wrong("has a number above 2^53");
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
  }

  private u32(at: number): number {
    const p = this.payload;
    return (
      ((p[at] as number) |
        ((p[at + 1] as number) << 8) |
        ((p[at + 2] as number) << 16) |
        ((p[at + 3] as number) << 24)) >>>
      0
    );
  }

  private wrong(what: string): Error {
    return corrupt(`index block ${what} (at byte ${this.at} of its payload)`, { offset: this.at });
  }
}
