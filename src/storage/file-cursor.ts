/** Walks over the keys of a layer file in order, reading it sequentially. Made for one scan. */
import type { KeyPrefix, Key } from "./key.ts";
import { compareKeys } from "./key.ts";
import { type KeyRange, compareToKey } from "./key-range.ts";
import { type Found, findValues, newFound } from "./found.ts";
import type { IndexBlock } from "./index-block.ts";
import type { LayerFile, OpenLayer } from "./layer-file.ts";
import { ReadAhead } from "./read-ahead.ts";
import type { Cursor } from "./scan.ts";
import type { ChainBuilder } from "./value.ts";

const NO_BYTES = new Uint8Array(0);
const EMPTY_PREFIX: KeyPrefix = { kind: 0, spcOid: 0, dbOid: 0, relNumber: 0, fork: 0 };
/** Index blocks are small beside the data that they describe. */
const INDEX_WINDOW_SHARE = 1 / 8;

/** The part of a key that lies in one index block. */
interface Part {
  readonly block: IndexBlock;
  readonly key: number;
}

export class FileCursor implements Cursor {
  readonly upTo: number;
  readonly isImage: boolean;
  prefix: KeyPrefix = EMPTY_PREFIX;
  block = 0;
  atEnd = false;

  private readonly layer: LayerFile;
  private readonly open: OpenLayer;
  private readonly range: KeyRange;
  private readonly index: ReadAhead<IndexBlock>;
  private readonly data: ReadAhead<Uint8Array>;
  /** Index block in which the current key ends. */
  private blockNumber: number;
  private current: IndexBlock | undefined;
  private keyAt = -1;
  private run = 0;
  /** The current key, oldest part first. */
  private readonly parts: Part[] = [];
  /** The key was reached, but not all of its parts. */
  private arriving = false;
  /** Index block that `fill` has to read. */
  private wanted = 0;
  private readonly found: Found = newFound();

  private constructor(layer: LayerFile, open: OpenLayer, options: FileCursorOptions) {
    this.layer = layer;
    this.open = open;
    this.range = options.range;
    this.upTo = options.upTo;
    this.isImage = options.isImage;
    this.blockNumber = firstBlockFor(open, options.range.from) - 1;
    const indexLimit = lastBlockFor(open, options.range.to) + 1;
    const { windowBytes } = options;
    this.index = new ReadAhead<IndexBlock>(
      { layer, starts: open.indexStart, limit: indexLimit, windowBytes: windowBytes * INDEX_WINDOW_SHARE },
      (bytes, start, number) => layer.decodeIndex(open, bytes, start, number),
    );
    this.data = new ReadAhead<Uint8Array>(
      { layer, starts: open.dataStart, limit: open.dataStart.length - 1, windowBytes },
      (bytes, start, number) => layer.openData(open, bytes, start, number),
    );
  }

  /** A cursor at the first key of the range. */
  static async create(layer: LayerFile, options: FileCursorOptions): Promise<FileCursor> {
    layer.noteAccess();
    const cursor = new FileCursor(layer, await layer.open(), options);
    do {
      while (!cursor.advance()) await cursor.fill();
    } while (!cursor.atEnd && compareToKey(cursor.prefix, cursor.block, options.range.from) < 0);
    return cursor;
  }

  advance(): boolean {
    if (!this.arriving) {
      if (!this.step()) return false;
      if (this.atEnd) return true;
      this.arriving = true;
    }
    if (!this.reachEndOfKey()) return false;
    this.arriving = false;
    return true;
  }

  async fill(): Promise<void> {
    await this.index.load(this.wanted);
  }

  collect(chain: ChainBuilder): Promise<void> | undefined {
    const { found } = this;
    found.count = 0;
    for (let i = this.parts.length - 1; i >= 0; i--) {
      const { block, key } = this.parts[i] as Part;
      if (findValues(block, key, chain, found)) break;
    }
    for (let i = 0; i < found.count; i++) {
      if (found.lengths[i] !== 0 && this.data.now(found.dataBlocks[i] as number) === undefined) {
        return this.collectSlowly(chain);
      }
    }
    for (let i = 0; i < found.count; i++) {
      const payload = found.lengths[i] === 0 ? NO_BYTES : this.data.now(found.dataBlocks[i] as number);
      this.add(i, payload ?? NO_BYTES, chain);
    }
    return undefined;
  }

  /** Data blocks are read in file order, from the oldest value on; the chain wants the newest first. */
  private async collectSlowly(chain: ChainBuilder): Promise<void> {
    const { found, data } = this;
    const payloads: Uint8Array[] = [];
    for (let i = found.count - 1; i >= 0; i--) {
      const number = found.dataBlocks[i] as number;
      if (found.lengths[i] === 0) {
        payloads[i] = NO_BYTES;
      } else if (data.isPast(number)) {
        payloads[i] = await this.layer.readDataBlock(this.open, number);
      } else {
        if (data.now(number) === undefined) await data.load(number);
        payloads[i] = data.now(number) ?? NO_BYTES;
      }
    }
    for (let i = 0; i < found.count; i++) this.add(i, payloads[i] ?? NO_BYTES, chain);
  }

  private add(i: number, payload: Uint8Array, chain: ChainBuilder): void {
    const { found } = this;
    const data = found.dataBlocks[i] as number;
    const length = found.lengths[i] as number;
    const bytes = this.layer.slice(this.open, payload, data, found.offsets[i] as number, length);
    chain.add(found.lsns[i] as number, found.flags[i] as number, bytes);
  }

  /** Goes to the next key; false if its index block has to be read first. */
  private step(): boolean {
    const { current } = this;
    if (current === undefined || this.keyAt + 1 >= current.blocks.length) {
      const next = this.blockNumber + 1;
      if (next >= this.open.firstKeys.length) {
        this.atEnd = true;
        return true;
      }
      const block = this.index.now(next);
      if (block === undefined) return this.want(next);
      this.enter(next, block);
    } else {
      this.keyAt++;
    }
    const block = this.current as IndexBlock;
    while (this.keyAt >= (block.runStart[this.run + 1] as number)) this.run++;
    this.prefix = block.prefixes[this.run] as KeyPrefix;
    this.block = block.blocks[this.keyAt] as number;
    this.parts.length = 0;
    this.parts.push({ block, key: this.keyAt });
    this.atEnd = compareToKey(this.prefix, this.block, this.range.to) >= 0;
    return true;
  }

  /** Adds the parts of the key in the blocks that follow; false if one has to be read first. */
  private reachEndOfKey(): boolean {
    for (;;) {
      if (this.keyAt + 1 < (this.current as IndexBlock).blocks.length) return true;
      const next = this.blockNumber + 1;
      const first = this.open.firstKeys[next];
      if (first === undefined || compareToKey(this.prefix, this.block, first) !== 0) return true;
      const block = this.index.now(next);
      if (block === undefined) return this.want(next);
      this.enter(next, block);
      this.parts.push({ block, key: 0 });
    }
  }

  private enter(number: number, block: IndexBlock): void {
    this.blockNumber = number;
    this.current = block;
    this.keyAt = 0;
    this.run = 0;
  }

  private want(number: number): false {
    this.wanted = number;
    return false;
  }
}

export interface FileCursorOptions {
  readonly range: KeyRange;
  /** Values above this LSN are not visible. */
  readonly upTo: number;
  readonly isImage: boolean;
  /** How many bytes of data to read at once. */
  readonly windowBytes: number;
}

/** The first index block that can hold a key at or above `key`. */
function firstBlockFor(open: OpenLayer, key: Key): number {
  let at = countBelow(open, key);
  // The block before the first one that starts at or above the key may still hold it.
  if (at > 0) at--;
  return at;
}

/** The last index block that can hold a key below `key`. */
function lastBlockFor(open: OpenLayer, key: Key): number {
  return Math.max(countBelow(open, key) - 1, 0);
}

/** The number of index blocks whose first key is below `key`. */
function countBelow(open: OpenLayer, key: Key): number {
  let low = 0;
  let high = open.firstKeys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareKeys(open.firstKeys[middle] as Key, key) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
