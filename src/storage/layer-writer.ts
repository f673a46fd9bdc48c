/**
 * Writes a layer file: values in key and LSN order in, a synced file out. Adding is synchronous and fills buffers;
 * `drain` writes them. The file is temporary until its maker renames it.
 */
import { assert } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import type { FileHandle, Files } from "../base/seams.ts";
import { sealBlock } from "./block.ts";
import { IndexWriter, type ValuePlace } from "./index-writer.ts";
import { type Key, type KeyPrefix } from "./key.ts";
import { type KeyRange, makeKey, nextKey } from "./key-range.ts";
import { SpanBuilder } from "./key-spans.ts";
import { type LayerHeader, encodeDirectory, encodeFooter, encodeHeader } from "./layer-codec.ts";
import {
  BLOCK_HEADER_SIZE,
  DATA_PAYLOAD_TARGET,
  FILE_SIZE_MAX,
  FOOTER_SIZE,
  HEADER_SIZE,
  LayerKind,
} from "./layer-format.ts";

import { Yielder } from "./yielder.ts";

/** Size in bytes of the buffers that collect data blocks. */
const BUFFER_SIZE = 512 * 1024;
/**
 * Synced on the way so often, in bytes: a disk that gets all of a large file at once keeps every commit waiting that is
 * synced meanwhile.
 */
const SYNC_BYTES = 8 * 1024 * 1024;

/** What became of the file. */
export interface WrittenLayer {
  readonly sizeBytes: number;
  readonly valueCount: number;
  readonly keyCount: number;
  readonly range: KeyRange;
  /** Of a delta layer. */
  readonly spans?: readonly KeyRange[];
}

interface FullBuffer {
  readonly bytes: Uint8Array;
  readonly position: number;
}

export class LayerWriter implements AsyncDisposable {
  private readonly handle: FileHandle;
  private readonly index: IndexWriter;
  private readonly seed: number;
  /** Undefined for an image layer, which has something to say about every key. */
  private readonly spans: SpanBuilder | undefined;
  private closed = false;

  /** Position in the file of the first byte of `buffer`. */
  private bufferPosition = HEADER_SIZE;
  private buffer: Uint8Array = new Uint8Array(BUFFER_SIZE);
  private filled = 0;
  private full: FullBuffer[] = [];
  private writing: Promise<void> = Promise.resolve();
  /** Written buffers to fill again. */
  private readonly spare: Uint8Array[] = [];

  private unsyncedBytes = 0;
  /** Start of the open data block in `buffer`, or -1. */
  private blockStart = -1;
  private readonly dataStart: number[] = [];
  private valueCount = 0;
  private keyCount = 0;
  private firstKey: Key | undefined;
  private prefix: KeyPrefix | undefined;
  private block = 0;

  private constructor(handle: FileHandle, header: LayerHeader, seed: number) {
    this.handle = handle;
    this.seed = seed;
    this.index = new IndexWriter(header.startLsn);
    this.spans = header.kind === LayerKind.Delta ? new SpanBuilder() : undefined;
  }

  static async create(path: string, header: LayerHeader, files: Files): Promise<LayerWriter> {
    const handle = await files.open(path, "w");
    try {
      const { bytes, seed } = encodeHeader(header);
      await handle.write(bytes, 0);
      return new LayerWriter(handle, header, seed);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** True when enough has been collected that `drain` should be called. */
  get wantsDrain(): boolean {
    return this.full.length > 0;
  }

  /** True if no value was added. */
  get isEmpty(): boolean {
    return this.valueCount === 0;
  }

  /** Size of the file so far in bytes, without its index. */
  get dataBytes(): number {
    return this.bufferPosition + this.filled;
  }

  /** Keys must come in order. The values added next belong to this key. */
  beginKey(prefix: KeyPrefix, block: number): void {
    this.prefix = prefix;
    this.block = block;
    this.keyCount++;
    this.spans?.add(prefix, block);
    this.firstKey ??= makeKey(prefix, block);
  }

  /** Adds a value of the key, in LSN order; `source[start..end)` is copied. Returns where it lies. */
  addValue(lsn: number, flags: number, source: Uint8Array, start: number, end: number): ValuePlace {
    const length = end - start;
    this.makeRoom(length);
    const place = this.place();
    this.buffer.set(start === 0 && end === source.length ? source : source.subarray(start, end), this.filled);
    this.filled += length;
    this.addReference(lsn, flags, length, place);
    return place;
  }

  /** Adds a value whose bytes were added before, at `place`. */
  addReference(lsn: number, flags: number, length: number, place: ValuePlace): void {
    assert(this.prefix !== undefined, "a value before any key");
    const { data, offset } = place;
    this.index.add(this.prefix, this.block, { lsn, flags, length, data, offset });
    this.valueCount++;
  }

  /** Begins to write what has been collected, once the write before is done: one is under way at a time. */
  async drain(): Promise<void> {
    await this.writing;
    const { full } = this;
    if (full.length === 0) return;
    this.full = [];
    this.writing = this.writeBuffers(full);
    // A failure counts when the next drain waits for it.
    this.writing.catch(() => undefined);
  }

  /** Writes the rest and syncs. `range` is what the layer covers; without it, what it contains. */
  async finish(range?: KeyRange): Promise<WrittenLayer> {
    this.closeBlock();
    this.pushBuffer();
    await this.drain();
    await this.writing;
    this.index.finish();
    const covered = range ?? this.containedRange();
    const indexPosition = this.bufferPosition;
    const directory = encodeDirectory({
      dataStart: this.dataStart,
      index: this.index.blocks.map((b) => ({
        position: indexPosition + b.start,
        firstKey: b.firstKey,
        firstLsn: b.firstLsn as Lsn,
      })),
    });
    const directoryPosition = indexPosition + this.index.sizeBytes;
    const directorySize = BLOCK_HEADER_SIZE + directory.length;
    const sizeBytes = directoryPosition + directorySize + FOOTER_SIZE;
    assert(sizeBytes <= FILE_SIZE_MAX, `layer of ${sizeBytes} bytes`);
    await this.writeIndex(indexPosition);
    const tail = new Uint8Array(directorySize + FOOTER_SIZE);
    tail.set(directory, BLOCK_HEADER_SIZE);
    sealBlock(tail, 0, { payloadSize: directory.length, position: directoryPosition, seed: this.seed });
    const { valueCount, keyCount, seed } = this;
    const footer = { directoryPosition, directorySize, valueCount, keyCount, range: covered, seed };
    tail.set(encodeFooter(footer), directorySize);
    await this.handle.write(tail, directoryPosition);
    await this.handle.sync();
    await this[Symbol.asyncDispose]();
    const spans = range === undefined ? this.spans?.finish() : undefined;
    return { sizeBytes, valueCount, keyCount, range: covered, ...(spans ? { spans } : {}) };
  }

  /** Closes the file; what was not finished is useless. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.writing.catch(() => undefined);
    await this.handle.close();
  }

  /** Where the next value lies if it goes into the open block; before the first block, at its start. */
  private place(): ValuePlace {
    if (this.blockStart < 0) return { data: Math.max(this.dataStart.length - 1, 0), offset: 0 };
    return { data: this.dataStart.length - 1, offset: this.filled - this.blockStart - BLOCK_HEADER_SIZE };
  }

  /** Opens a data block where the value does not fit into the open one. */
  private makeRoom(length: number): void {
    if (length === 0) return;
    const used = this.filled - this.blockStart - BLOCK_HEADER_SIZE;
    if (this.blockStart >= 0 && used + length <= DATA_PAYLOAD_TARGET) return;
    this.closeBlock();
    const needed = BLOCK_HEADER_SIZE + Math.max(length, DATA_PAYLOAD_TARGET);
    if (this.filled + needed > this.buffer.length) {
      this.pushBuffer();
      if (needed > this.buffer.length) this.buffer = new Uint8Array(needed);
    }
    assert(this.dataBytes + needed <= FILE_SIZE_MAX, "the layer is too large");
    this.blockStart = this.filled;
    this.dataStart.push(this.bufferPosition + this.filled);
    this.filled += BLOCK_HEADER_SIZE;
  }

  private closeBlock(): void {
    if (this.blockStart < 0) return;
    const payloadSize = this.filled - this.blockStart - BLOCK_HEADER_SIZE;
    const position = this.bufferPosition + this.blockStart;
    sealBlock(this.buffer, this.blockStart, { payloadSize, position, seed: this.seed });
    this.blockStart = -1;
  }

  private pushBuffer(): void {
    if (this.filled === 0) return;
    this.full.push({ bytes: this.buffer.subarray(0, this.filled), position: this.bufferPosition });
    this.bufferPosition += this.filled;
    this.filled = 0;
    this.buffer = this.spare.pop() ?? new Uint8Array(BUFFER_SIZE);
  }

  private async writeBuffers(buffers: readonly FullBuffer[]): Promise<void> {
    for (const { bytes, position } of buffers) {
      await this.handle.write(bytes, position);
      this.unsyncedBytes += bytes.length;
      if (this.unsyncedBytes >= SYNC_BYTES) {
        await this.handle.sync();
        this.unsyncedBytes = 0;
      }
      if (bytes.buffer.byteLength === BUFFER_SIZE) this.spare.push(new Uint8Array(bytes.buffer));
    }
  }

  private async writeIndex(position: number): Promise<void> {
    const { index, seed } = this;
    const yielder = new Yielder();
    for (const { start, payloadSize } of index.blocks) {
      sealBlock(index.bytes, start, { payloadSize, position: position + start, seed });
      if (yielder.due()) await yielder.yield();
    }
    if (index.sizeBytes > 0) await this.handle.write(index.bytes.subarray(0, index.sizeBytes), position);
  }

  private containedRange(): KeyRange {
    assert(this.firstKey !== undefined && this.prefix !== undefined, "a layer without keys needs a range");
    return { from: this.firstKey, to: nextKey(makeKey(this.prefix, this.block)) };
  }
}
