/** An immutable layer file, opened on first use. Every block is verified when it is read; see `layer-format.ts`. */
import { NeonError, corrupt, messageOf } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import { openBlock } from "./block.ts";
import { type Found, findValues, newFound } from "./found.ts";
import { type IndexBlock, decodeIndexBlock, findKey } from "./index-block.ts";
import { type Key, compareKeys } from "./key.ts";
import type { KeyRange } from "./key-range.ts";
import { type LayerDirectory, decodeDirectory, decodeFooter, decodeHeader } from "./layer-codec.ts";
import { BLOCK_HEADER_SIZE, FOOTER_SIZE, HEADER_SIZE, LayerKind } from "./layer-format.ts";
import { readExactly } from "./read-file.ts";
import type { StoreCache } from "./store-cache.ts";
import type { ChainBuilder } from "./value.ts";

/** What the index file says about a layer. */
export interface LayerDescriptor {
  readonly name: string;
  readonly kind: LayerKind;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  readonly range: KeyRange;
  /** Of a delta layer: where in the range its keys lie. Missing if that is not known. */
  readonly spans?: readonly KeyRange[] | undefined;
  readonly sizeBytes: number;
  readonly valueCount: number;
  /** An image layer that was computed from older layers, and could be computed again. */
  readonly derived?: true | undefined;
  /** A delta layer that was made by merging others. */
  readonly merged?: true | undefined;
}

/** Reads of a layer since it was opened: look-ups of keys, and scans. */
export interface LayerAccesses {
  readonly count: number;
  /** Of the last one, milliseconds since 1970; undefined where there was none, or nobody gave a clock. */
  readonly lastMs: number | undefined;
}

export interface OpenLayer extends LayerDirectory {
  readonly seed: number;
}

/** Data blocks that lie side by side are read together, up to this many bytes. */
const READ_SIZE_MAX = 256 * 1024;
const READS_AT_ONCE = 4;
const NO_BYTES = new Uint8Array(0);

export class LayerFile {
  readonly path: string;
  readonly descriptor: LayerDescriptor;
  readonly cache: StoreCache;
  /** Outside of them it has no keys. */
  readonly spans: readonly KeyRange[];
  private readonly idBase: number;
  private opening: Promise<OpenLayer> | undefined;
  private accessCount = 0;
  private accessedMs: number | undefined;

  constructor(path: string, descriptor: LayerDescriptor, cache: StoreCache) {
    this.path = path;
    this.descriptor = descriptor;
    this.cache = cache;
    this.spans = descriptor.spans ?? [descriptor.range];
    this.idBase = cache.newFileBase();
  }

  get startLsn(): Lsn {
    return this.descriptor.startLsn;
  }

  get endLsn(): Lsn {
    return this.descriptor.endLsn;
  }

  get range(): KeyRange {
    return this.descriptor.range;
  }

  get accesses(): LayerAccesses {
    return { count: this.accessCount, lastMs: this.accessedMs };
  }

  /** Notes that somebody reads it. */
  noteAccess(): void {
    this.accessCount++;
    this.accessedMs = this.cache.clock?.now();
  }

  /** Reads and checks header, footer and directory; once. */
  open(): Promise<OpenLayer> {
    this.opening ??= this.readDirectory().catch((error: unknown) => {
      this.opening = undefined;
      throw error;
    });
    return this.opening;
  }

  /** Adds the values of a key that `chain` wants, newest first, down to a base. */
  async collect(key: Key, chain: ChainBuilder): Promise<void> {
    this.noteAccess();
    const open = await this.open();
    const found = newFound();
    let at = lastBlockBefore(open, key, chain.below);
    let enough = false;
    while (at >= 0 && !enough) {
      const block = this.cachedIndexBlock(open, at) ?? (await this.readIndexBlock(open, at));
      const keyAt = findKey(block, key);
      enough = keyAt >= 0 && findValues(block, keyAt, chain, found);
      // The key's older values can only be before this block if the block begins with the key.
      if (compareKeys(open.firstKeys[at] as Key, key) !== 0) break;
      at--;
    }
    if (found.count > 0) await this.addFound(open, found, chain);
  }

  /** An index block that was read before. */
  cachedIndexBlock(open: OpenLayer, number: number): IndexBlock | undefined {
    return this.cache.index.get(this.idBase + (open.indexStart[number] as number));
  }

  async readIndexBlock(open: OpenLayer, number: number): Promise<IndexBlock> {
    const position = open.indexStart[number] as number;
    const sizeBytes = (open.indexStart[number + 1] as number) - position;
    const bytes = await this.read(position, sizeBytes);
    const block = this.decodeIndex(open, bytes, 0, number);
    this.cache.index.add(this.idBase + position, block, block.sizeBytes);
    return block;
  }

  /** Verifies and decodes the index block whose header is at `bytes[start]`. */
  decodeIndex(open: OpenLayer, bytes: Uint8Array, start: number, number: number): IndexBlock {
    const position = open.indexStart[number] as number;
    const sizeBytes = (open.indexStart[number + 1] as number) - position;
    const payload = openBlock(bytes, start, { path: this.path, position, sizeBytes, seed: open.seed });
    const { startLsn, endLsn } = this.descriptor;
    try {
      return decodeIndexBlock(payload, { startLsn, endLsn, dataCount: open.dataStart.length - 1 });
    } catch (error) {
      const offset = position + BLOCK_HEADER_SIZE + offsetOf(error);
      throw corrupt(
        `${this.path}: ${messageOf(error)}, at offset ${offset}`,
        { file: this.path, offset },
        error,
      );
    }
  }

  /** Verifies the data block whose header is at `bytes[start]`; returns its payload, a view. */
  openData(open: OpenLayer, bytes: Uint8Array, start: number, number: number): Uint8Array {
    const position = open.dataStart[number] as number;
    const sizeBytes = (open.dataStart[number + 1] as number) - position;
    return openBlock(bytes, start, { path: this.path, position, sizeBytes, seed: open.seed });
  }

  async readDataBlock(open: OpenLayer, number: number): Promise<Uint8Array> {
    const cached = this.cache.data.get(this.idBase + (open.dataStart[number] as number));
    if (cached !== undefined) return cached;
    const blocks = new Map<number, Uint8Array>();
    await this.readData(open, number, number + 1, blocks);
    return blocks.get(number) as Uint8Array;
  }

  /** The bytes of a value in the payload of its data block. View. */
  slice(open: OpenLayer, payload: Uint8Array, data: number, offset: number, length: number): Uint8Array {
    if (length === 0) return NO_BYTES;
    if (offset + length > payload.length) {
      const position = open.dataStart[data] as number;
      throw corrupt(`${this.path}: block at offset ${position} ends within a value`, {
        file: this.path,
        offset: position,
      });
    }
    return payload.subarray(offset, offset + length);
  }

  read(position: number, length: number): Promise<Uint8Array> {
    return this.cache.handles.use(this.path, (handle) => readExactly(handle, position, length, this.path));
  }

  private async readDirectory(): Promise<OpenLayer> {
    const { path, descriptor } = this;
    const { sizeBytes } = descriptor;
    const foundBytes = await this.cache.handles.use(path, (handle) => handle.size());
    if (foundBytes !== sizeBytes) {
      const offset = Math.min(foundBytes, sizeBytes);
      throw corrupt(`${path}: has ${foundBytes} bytes, the index says ${sizeBytes}`, { file: path, offset });
    }
    const header = decodeHeader(await this.read(0, HEADER_SIZE), path);
    const footer = decodeFooter(await this.read(sizeBytes - FOOTER_SIZE, FOOTER_SIZE), sizeBytes, path);
    if (
      header.kind !== descriptor.kind ||
      header.startLsn !== descriptor.startLsn ||
      header.endLsn !== descriptor.endLsn ||
      header.seed !== footer.seed
    ) {
      throw corrupt(`${path}: is not the layer that the index describes`, { file: path, offset: 0 });
    }
    const { directoryPosition: position, directorySize, seed } = footer;
    const bytes = await this.read(position, directorySize);
    const payload = openBlock(bytes, 0, { path, position, sizeBytes: directorySize, seed });
    return { ...decodeDirectory(payload, position, path), seed };
  }

  private async addFound(open: OpenLayer, found: Found, chain: ChainBuilder): Promise<void> {
    const blocks = await this.dataBlocks(open, found);
    for (let i = 0; i < found.count; i++) {
      const length = found.lengths[i] as number;
      const data = found.dataBlocks[i] as number;
      const payload = length === 0 ? NO_BYTES : (blocks.get(data) as Uint8Array);
      const bytes =
        length === 0 ? NO_BYTES : this.slice(open, payload, data, found.offsets[i] as number, length);
      chain.add(found.lsns[i] as number, found.flags[i] as number, bytes);
    }
  }

  /** The data blocks that hold the found values: from the cache, or read, side by side ones together. */
  private async dataBlocks(open: OpenLayer, found: Found): Promise<Map<number, Uint8Array>> {
    const blocks = new Map<number, Uint8Array>();
    const missing: number[] = [];
    let last = -1;
    for (let i = 0; i < found.count; i++) {
      const data = found.dataBlocks[i] as number;
      if (data === last || found.lengths[i] === 0) continue;
      last = data;
      const cached = this.cache.data.get(this.idBase + (open.dataStart[data] as number));
      if (cached !== undefined) blocks.set(data, cached);
      else missing.push(data);
    }
    if (missing.length > 0) await this.readMissing(open, missing, blocks);
    return blocks;
  }

  private async readMissing(
    open: OpenLayer,
    missing: number[],
    blocks: Map<number, Uint8Array>,
  ): Promise<void> {
    missing.sort((a, b) => a - b);
    let reads: Promise<void>[] = [];
    for (let i = 0; i < missing.length;) {
      const first = missing[i] as number;
      let end = first + 1;
      for (i++; i < missing.length; i++) {
        const next = missing[i] as number;
        const size = (open.dataStart[next + 1] as number) - (open.dataStart[first] as number);
        if (next > end || size > READ_SIZE_MAX) break;
        end = next + 1;
      }
      reads.push(this.readData(open, first, end, blocks));
      if (reads.length === READS_AT_ONCE) {
        await Promise.all(reads);
        reads = [];
      }
    }
    await Promise.all(reads);
  }

  /** Reads the data blocks `[first, end)` and keeps each in the cache. */
  private async readData(
    open: OpenLayer,
    first: number,
    end: number,
    blocks: Map<number, Uint8Array>,
  ): Promise<void> {
    const position = open.dataStart[first] as number;
    const bytes = await this.read(position, (open.dataStart[end] as number) - position);
    for (let number = first; number < end; number++) {
      const start = open.dataStart[number] as number;
      const payload = this.openData(open, bytes, start - position, number);
      // A cached block must not keep its neighbours alive.
      const own = end - first === 1 ? payload : payload.slice();
      this.cache.data.add(this.idBase + start, own, own.buffer.byteLength);
      blocks.set(number, own);
    }
  }
}

function offsetOf(error: unknown): number {
  const offset = error instanceof NeonError ? error.data["offset"] : undefined;
  return typeof offset === "number" ? offset : 0;
}

/** The last index block that may hold values of `key` below an LSN, or -1. */
function lastBlockBefore(open: OpenLayer, key: Key, below: number): number {
  let low = 0;
  let high = open.firstKeys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const order = compareKeys(open.firstKeys[middle] as Key, key);
    if (order < 0 || (order === 0 && (open.firstLsns[middle] as number) < below)) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
