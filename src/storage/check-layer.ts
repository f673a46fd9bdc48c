/**
 * Reads a whole layer file and holds every byte of it against checksums and against the rest of the file: header,
 * footer, directory, data blocks, and index entries, which must be in order, within the bounds of the layer, and point
 * to bytes that exist. Streams; the memory that it takes does not depend on the size of the file.
 */
import type { Findings } from "./findings.ts";
import type { IndexBlock } from "./index-block.ts";
import { type Key, type KeyPrefix, ValueFlag, compareKeys } from "./key.ts";
import { formatKey, makeKey, rangeContains, someContains } from "./key-range.ts";
import { type LayerFooter, decodeFooter } from "./layer-codec.ts";
import type { LayerFile, OpenLayer } from "./layer-file.ts";
import { BLOCK_HEADER_SIZE, FOOTER_SIZE, LayerKind } from "./layer-format.ts";
import { Yielder } from "./yielder.ts";

/** Blocks are read together up to this many bytes. */
const READ_SIZE_MAX = 256 * 1024;

export interface CheckOptions {
  /** Ends the check by throwing its reason. */
  readonly signal?: AbortSignal | undefined;
  /** Called for every piece with the bytes that have been read. */
  readonly progress?: ((sizeBytes: number) => void) | undefined;
}

/** Adds what is wrong with the file to `findings`. */
export async function checkLayer(
  layer: LayerFile,
  findings: Findings,
  options: CheckOptions = {},
): Promise<void> {
  const { path } = layer;
  try {
    const open = await layer.open();
    const { sizeBytes } = layer.descriptor;
    const footer = decodeFooter(await layer.read(sizeBytes - FOOTER_SIZE, FOOTER_SIZE), sizeBytes, path);
    const check = new LayerCheck(layer, { open, footer, findings, options });
    await check.run();
  } catch (error) {
    options.signal?.throwIfAborted();
    findings.addError(error, path);
  }
}

class LayerCheck {
  private readonly layer: LayerFile;
  private readonly open: OpenLayer;
  private readonly footer: LayerFooter;
  private readonly findings: Findings;
  private readonly options: CheckOptions;
  private readonly yielder = new Yielder();
  /** The last entry that was seen, unless the block with it was damaged. */
  private lastKey: Key | undefined;
  private lastLsn = 0;
  private keyCount = 0;
  private valueCount = 0;

  constructor(
    layer: LayerFile,
    parts: { open: OpenLayer; footer: LayerFooter; findings: Findings; options: CheckOptions },
  ) {
    this.layer = layer;
    this.open = parts.open;
    this.footer = parts.footer;
    this.findings = parts.findings;
    this.options = parts.options;
  }

  async run(): Promise<void> {
    const { layer, open } = this;
    await this.eachBlock(open.dataStart, (bytes, start, number) => {
      layer.openData(open, bytes, start, number);
    });
    const damagedBefore = this.findings.list.length + this.findings.omitted;
    await this.eachBlock(open.indexStart, (bytes, start, number) => {
      this.lookAt(layer.decodeIndex(open, bytes, start, number), number);
    });
    // Counts say nothing when there are blocks that could not be counted.
    if (this.findings.list.length + this.findings.omitted === damagedBefore) this.compareCounts();
  }

  /** Calls `check` for each block of a kind; what it throws is a finding, and the next block gets its turn. */
  private async eachBlock(
    starts: Uint32Array,
    check: (bytes: Uint8Array, start: number, number: number) => void,
  ): Promise<void> {
    const count = starts.length - 1;
    for (let first = 0; first < count;) {
      this.options.signal?.throwIfAborted();
      const position = starts[first] as number;
      let end = first + 1;
      while (end < count && (starts[end + 1] as number) - position <= READ_SIZE_MAX) end++;
      const bytes = await this.layer.read(position, (starts[end] as number) - position);
      for (let number = first; number < end; number++) {
        try {
          check(bytes, (starts[number] as number) - position, number);
        } catch (error) {
          this.lastKey = undefined;
          this.findings.addError(error, this.layer.path);
        }
        if (this.yielder.due()) await this.yielder.yield();
      }
      this.options.progress?.(bytes.length);
      first = end;
    }
  }

  private lookAt(block: IndexBlock, number: number): void {
    const position = this.open.indexStart[number] as number;
    const [first] = block.prefixes;
    if (first === undefined) {
      this.wrong(position, "is empty");
      return;
    }
    const firstKey = makeKey(first, block.blocks[0] as number);
    if (
      compareKeys(firstKey, this.open.firstKeys[number] as Key) !== 0 ||
      block.lsns[0] !== this.open.firstLsns[number]
    ) {
      this.wrong(position, "does not begin with the entry that the directory names");
    }
    for (let run = 0; run < block.prefixes.length; run++) {
      const end = block.runStart[run + 1] as number;
      for (let at = block.runStart[run] as number; at < end; at++) {
        const key = makeKey(block.prefixes[run] as KeyPrefix, block.blocks[at] as number);
        this.lookAtKey(block, { key, at, position });
      }
    }
  }

  private lookAtKey(
    block: IndexBlock,
    { key, at, position }: { key: Key; at: number; position: number },
  ): void {
    const { lastKey } = this;
    const order = lastKey === undefined ? -1 : compareKeys(lastKey, key);
    const from = block.valueStart[at] as number;
    const to = block.valueStart[at + 1] as number;
    if (order > 0 || (order === 0 && (block.lsns[from] as number) <= this.lastLsn)) {
      this.wrong(position, `has key ${formatKey(key)} out of order`);
    }
    if (!someContains(this.layer.spans, key) || !rangeContains(this.footer.range, key)) {
      this.wrong(position, `has key ${formatKey(key)}, which is outside of the layer`);
    }
    if (order !== 0) this.keyCount++;
    for (let value = from; value < to; value++) {
      const problem = this.problemOf(block, value);
      if (problem !== undefined) this.wrong(position, `has a value of key ${formatKey(key)} that ${problem}`);
    }
    if (this.layer.descriptor.kind === LayerKind.Image && (to - from !== 1 || order === 0)) {
      this.wrong(position, `has several values of key ${formatKey(key)} in an image layer`);
    }
    this.valueCount += to - from;
    this.lastKey = key;
    this.lastLsn = block.lsns[to - 1] as number;
  }

  private problemOf(block: IndexBlock, value: number): string | undefined {
    const flags = block.flags[value] as number;
    const length = block.lengths[value] as number;
    if (!areValueFlags(flags)) return `has flags 0x${flags.toString(16)}`;
    const { kind, endLsn } = this.layer.descriptor;
    if (kind === LayerKind.Image && (flags !== ValueFlag.Image || block.lsns[value] !== endLsn))
      return "is no image at the layer's LSN";
    if (length === 0) return undefined;
    const data = block.dataBlocks[value] as number;
    const { dataStart } = this.open;
    const payloadSize = (dataStart[data + 1] as number) - (dataStart[data] as number) - BLOCK_HEADER_SIZE;
    if ((block.offsets[value] as number) + length <= payloadSize) return undefined;
    return `goes beyond the end of data block ${data}`;
  }

  private compareCounts(): void {
    const { keyCount, valueCount, footer, layer } = this;
    const { path, descriptor } = layer;
    const at = descriptor.sizeBytes - FOOTER_SIZE;
    if (keyCount !== footer.keyCount || valueCount !== footer.valueCount) {
      this.findings.corrupt(
        `has ${keyCount} keys and ${valueCount} values, its footer says ${footer.keyCount} and ${footer.valueCount}`,
        path,
        at,
      );
    } else if (valueCount !== descriptor.valueCount) {
      this.findings.corrupt(`has ${valueCount} values, the index says ${descriptor.valueCount}`, path, at);
    }
  }

  private wrong(position: number, what: string): void {
    this.findings.corrupt(`index block at offset ${position} ${what}`, this.layer.path, position);
  }
}

function areValueFlags(flags: number): boolean {
  return (
    flags === ValueFlag.Image ||
    flags === ValueFlag.Tombstone ||
    flags === ValueFlag.Record ||
    flags === (ValueFlag.Record | ValueFlag.WillInit)
  );
}
