/**
 * Walks over every version in a layer file, by key and then by LSN, reading it once from front to back. Made for
 * merges, which want all versions and not, as a scan does, those visible at an LSN. Memory does not depend on how many
 * versions a key has.
 */
import type { IndexBlock } from "./index-block.ts";
import type { KeyPrefix } from "./key.ts";
import { compareToKey } from "./key-range.ts";
import type { LayerFile, OpenLayer } from "./layer-file.ts";
import { ReadAhead } from "./read-ahead.ts";

const NO_BYTES = new Uint8Array(0);
const NO_PREFIX: KeyPrefix = { kind: 0, spcOid: 0, dbOid: 0, relNumber: 0, fork: 0 };
const INDEX_WINDOW_SHARE = 1 / 8;

/** A version of the cursor's current key. */
export interface MergedValue {
  readonly lsn: number;
  readonly flags: number;
  /** Tells apart the values of a file; the same for keys that share bytes. */
  readonly place: number;
  /** View, valid until the next call. */
  readonly bytes: Uint8Array;
}

export class VersionCursor {
  prefix: KeyPrefix = NO_PREFIX;
  block = 0;
  atEnd = false;

  private readonly layer: LayerFile;
  private readonly open: OpenLayer;
  private readonly index: ReadAhead<IndexBlock>;
  private readonly data: ReadAhead<Uint8Array>;
  private blockNumber = -1;
  private current: IndexBlock | undefined;
  private keyAt = -1;
  private run = 0;

  private constructor(layer: LayerFile, open: OpenLayer, windowBytes: number) {
    this.layer = layer;
    this.open = open;
    const limits = { layer, windowBytes };
    this.index = new ReadAhead<IndexBlock>(
      {
        ...limits,
        windowBytes: windowBytes * INDEX_WINDOW_SHARE,
        starts: open.indexStart,
        limit: open.indexStart.length - 1,
      },
      (bytes, start, number) => layer.decodeIndex(open, bytes, start, number),
    );
    this.data = new ReadAhead<Uint8Array>(
      { ...limits, starts: open.dataStart, limit: open.dataStart.length - 1 },
      (bytes, start, number) => layer.openData(open, bytes, start, number),
    );
  }

  /** A cursor at the first key. */
  static async create(layer: LayerFile, windowBytes: number): Promise<VersionCursor> {
    const cursor = new VersionCursor(layer, await layer.open(), windowBytes);
    await cursor.nextKey();
    return cursor;
  }

  /** Calls `emit` for the current key's versions, oldest first, and goes to the next key. */
  async takeKey(
    emit: (value: MergedValue) => void,
    afterPart: () => Promise<void> | undefined,
  ): Promise<void> {
    const { prefix, block } = this;
    for (;;) {
      await this.emitPart(emit);
      const waiting = afterPart();
      if (waiting !== undefined) await waiting;
      const part = this.current as IndexBlock;
      const first =
        this.keyAt + 1 < part.blocks.length ? undefined : this.open.firstKeys[this.blockNumber + 1];
      if (first === undefined || compareToKey(prefix, block, first) !== 0) break;
      await this.enterNextBlock();
      this.keyAt = 0;
    }
    await this.nextKey();
  }

  /** The versions in the current index block. */
  private async emitPart(emit: (value: MergedValue) => void): Promise<void> {
    const part = this.current as IndexBlock;
    const end = part.valueStart[this.keyAt + 1] as number;
    for (let value = part.valueStart[this.keyAt] as number; value < end; value++) {
      const length = part.lengths[value] as number;
      const number = part.dataBlocks[value] as number;
      const offset = part.offsets[value] as number;
      let payload: Uint8Array | undefined = NO_BYTES;
      if (length > 0) payload = this.data.now(number) ?? (await this.payload(number));
      emit({
        lsn: part.lsns[value] as number,
        flags: part.flags[value] as number,
        place: number * 0x10000 + offset,
        bytes: this.layer.slice(this.open, payload, number, offset, length),
      });
    }
  }

  private async payload(number: number): Promise<Uint8Array> {
    // Bytes that several keys share lie with the first of them.
    if (this.data.isPast(number)) return this.layer.readDataBlock(this.open, number);
    await this.data.load(number);
    return this.data.now(number) as Uint8Array;
  }

  private async nextKey(): Promise<void> {
    if (this.current === undefined || this.keyAt + 1 >= this.current.blocks.length) {
      if (this.blockNumber + 1 >= this.open.firstKeys.length) {
        this.atEnd = true;
        return;
      }
      await this.enterNextBlock();
      this.keyAt = -1;
    }
    this.keyAt++;
    const block = this.current as IndexBlock;
    while (this.keyAt >= (block.runStart[this.run + 1] as number)) this.run++;
    this.prefix = block.prefixes[this.run] as KeyPrefix;
    this.block = block.blocks[this.keyAt] as number;
  }

  private async enterNextBlock(): Promise<void> {
    const next = this.blockNumber + 1;
    if (this.index.now(next) === undefined) await this.index.load(next);
    this.current = this.index.now(next);
    this.blockNumber = next;
    this.run = 0;
  }
}
