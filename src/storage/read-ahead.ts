/** Reads the blocks of a layer in order, many with one read, and the next ones while these are in use. */
import type { LayerFile } from "./layer-file.ts";

/** Blocks `[first, end)`, whose first header is at the start of `bytes`. */
interface Window {
  readonly first: number;
  readonly end: number;
  readonly bytes: Uint8Array;
}

export class ReadAhead<T> {
  private readonly layer: LayerFile;
  /** Position of each block, and where the last one ends. */
  private readonly starts: Uint32Array;
  private readonly windowBytes: number;
  /** Blocks from this number on are not wanted. */
  private readonly limit: number;
  private readonly decode: (bytes: Uint8Array, start: number, number: number) => T;

  private window: Window | undefined;
  /** What was decoded of the window. */
  private decoded: (T | undefined)[] = [];
  private ahead: { readonly first: number; readonly reading: Promise<Window> } | undefined;

  constructor(
    source: { layer: LayerFile; starts: Uint32Array; limit: number; windowBytes: number },
    decode: (bytes: Uint8Array, start: number, number: number) => T,
  ) {
    this.layer = source.layer;
    this.starts = source.starts;
    this.limit = Math.min(source.limit, source.starts.length - 1);
    this.windowBytes = source.windowBytes;
    this.decode = decode;
  }

  /** True if the block lies before what was read last: it will not come again. */
  isPast(number: number): boolean {
    return this.window !== undefined && number < this.window.first;
  }

  /** The block, if it has been read; verified and decoded on first use. */
  now(number: number): T | undefined {
    const { window } = this;
    if (window === undefined || number < window.first || number >= window.end) return undefined;
    const at = number - window.first;
    const start = (this.starts[number] as number) - (this.starts[window.first] as number);
    return (this.decoded[at] ??= this.decode(window.bytes, start, number));
  }

  /** Reads the window that begins with a block; afterwards `now` has it. */
  async load(number: number): Promise<void> {
    const { ahead } = this;
    this.ahead = undefined;
    const window = await (ahead?.first === number ? ahead.reading : this.read(number));
    this.window = window;
    this.decoded = [];
    if (window.end >= this.limit) return;
    const reading = this.read(window.end);
    // It may never be looked at; an error counts only if it is.
    reading.catch(() => undefined);
    this.ahead = { first: window.end, reading };
  }

  private async read(first: number): Promise<Window> {
    const position = this.starts[first] as number;
    let end = first + 1;
    while (end < this.limit && (this.starts[end + 1] as number) - position <= this.windowBytes) end++;
    const bytes = await this.layer.read(position, (this.starts[end] as number) - position);
    return { first, end, bytes };
  }
}
