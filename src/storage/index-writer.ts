/** Writes the index part of a layer: entries in key and LSN order into blocks, and the table of their first entries. */
import { INDEX_FIXED_SIZE, EntryFlag } from "./index-block.ts";
import { type Key, type KeyPrefix, compareKeyPrefixes } from "./key.ts";
import { PREFIX_SIZE, encodePrefixInto, makeKey } from "./key-range.ts";
import { BLOCK_HEADER_SIZE, INDEX_PAYLOAD_TARGET } from "./layer-format.ts";

/** More than any one entry takes, a new run included. */
const ENTRY_SIZE_MAX = 80;
const INITIAL_CAPACITY = 64 * 1024;

export interface FinishedIndexBlock {
  /** Where its header is to be in `IndexWriter.bytes`; the header is still blank. */
  readonly start: number;
  readonly payloadSize: number;
  readonly firstKey: Key;
  readonly firstLsn: number;
}

/** Where a value lies: number of the data block and offset in its payload. */
export interface ValuePlace {
  readonly data: number;
  readonly offset: number;
}

export interface IndexEntry extends ValuePlace {
  readonly lsn: number;
  readonly flags: number;
  readonly length: number;
}

export class IndexWriter {
  /** All blocks one after another, each with room for its header. */
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array(INITIAL_CAPACITY);
  readonly blocks: FinishedIndexBlock[] = [];
  private readonly startLsn: number;
  private length = 0;

  private blockStart = -1;
  private firstKey: Key | undefined;
  private firstLsn = 0;
  private values = 0;
  private keys = 0;
  private runs = 0;
  /** Where the flags of the last value written are. */
  private lastFlags = -1;
  /** What the last value written belongs to. */
  private prefix: KeyPrefix | undefined;
  private block = -1;
  private lsn = 0;
  /** Where the last value that lay in order ended. */
  private expectedData = 0;
  private expectedOffset = 0;

  constructor(startLsn: number) {
    this.startLsn = startLsn;
  }

  /** Size of all finished blocks in bytes, once `finish` was called. */
  get sizeBytes(): number {
    return this.length;
  }

  /** The next value, in key and LSN order, and where its bytes lie. */
  add(prefix: KeyPrefix, block: number, entry: IndexEntry): void {
    if (this.blockStart >= 0 && this.length - this.blockStart >= INDEX_PAYLOAD_TARGET) this.closeBlock();
    this.reserve();
    if (this.blockStart < 0) this.openBlock(prefix, block, entry);
    this.beginKey(prefix, block);
    const where = this.compareWithExpected(entry);
    this.lastFlags = this.length;
    this.bytes[this.length++] = entry.flags | where;
    this.varint(entry.lsn - this.lsn);
    this.lsn = entry.lsn;
    this.varint(entry.length);
    if (where === EntryFlag.Elsewhere) {
      this.varint(entry.data);
      this.varint(entry.offset);
    } else {
      this.expectedData = entry.data;
      this.expectedOffset = entry.offset + entry.length;
    }
    this.values++;
  }

  finish(): void {
    if (this.blockStart >= 0) this.closeBlock();
  }

  private openBlock(prefix: KeyPrefix, block: number, first: IndexEntry): void {
    this.blockStart = this.length;
    this.firstKey = makeKey(prefix, block);
    this.firstLsn = first.lsn;
    this.values = 0;
    this.keys = 0;
    this.runs = 0;
    this.prefix = undefined;
    this.length += BLOCK_HEADER_SIZE + INDEX_FIXED_SIZE;
    const payload = this.blockStart + BLOCK_HEADER_SIZE;
    this.u32(payload + 12, this.expectedData);
    this.u32(payload + 16, this.expectedOffset);
  }

  /** The flag that tells a reader where the value lies. */
  private compareWithExpected(place: ValuePlace): number {
    if (place.data === this.expectedData && place.offset === this.expectedOffset) return 0;
    if (place.data === this.expectedData + 1 && place.offset === 0) return EntryFlag.NextBlock;
    return EntryFlag.Elsewhere;
  }

  private closeBlock(): void {
    this.mark(EntryFlag.LastOfKey | EntryFlag.LastOfRun);
    const payload = this.blockStart + BLOCK_HEADER_SIZE;
    this.u32(payload, this.values);
    this.u32(payload + 4, this.keys);
    this.u32(payload + 8, this.runs);
    if (this.firstKey) {
      this.blocks.push({
        start: this.blockStart,
        payloadSize: this.length - payload,
        firstKey: this.firstKey,
        firstLsn: this.firstLsn,
      });
    }
    this.blockStart = -1;
  }

  private beginKey(prefix: KeyPrefix, block: number): void {
    const sameRun = this.prefix !== undefined && compareKeyPrefixes(this.prefix, prefix) === 0;
    if (sameRun && this.block === block) return;
    if (sameRun) {
      this.mark(EntryFlag.LastOfKey);
      this.varint(block - this.block);
    } else {
      if (this.prefix !== undefined) this.mark(EntryFlag.LastOfKey | EntryFlag.LastOfRun);
      encodePrefixInto(this.bytes, this.length, prefix);
      this.length += PREFIX_SIZE;
      this.varint(block);
      this.runs++;
    }
    this.keys++;
    this.prefix = prefix;
    this.block = block;
    this.lsn = this.startLsn;
  }

  private mark(flags: number): void {
    this.bytes[this.lastFlags] = (this.bytes[this.lastFlags] as number) | flags;
  }

  private varint(value: number): void {
    let rest = value;
    while (rest >= 0x80) {
      this.bytes[this.length++] = (rest % 0x80) + 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.bytes[this.length++] = rest;
  }

  private u32(at: number, value: number): void {
    this.bytes[at] = value;
    this.bytes[at + 1] = value >>> 8;
    this.bytes[at + 2] = value >>> 16;
    this.bytes[at + 3] = value >>> 24;
  }

  private reserve(): void {
    if (this.bytes.length - this.length >= ENTRY_SIZE_MAX + BLOCK_HEADER_SIZE + INDEX_FIXED_SIZE) return;
    const grown = new Uint8Array(this.bytes.length * 2);
    grown.set(this.bytes);
    this.bytes = grown;
  }
}
