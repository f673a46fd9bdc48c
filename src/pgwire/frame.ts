/**
 * Frames of the frontend/backend protocol 3.0: a type byte, then a big-endian length that counts itself and the body,
 * then the body. Start-up packets alone have no type byte. Big-endian throughout.
 * Source: PostgreSQL 17 documentation, "Message Formats".
 */
import { assert, corrupt } from "../base/errors.ts";

/** Size of a frame's head: type byte and length. */
export const FRAME_HEAD_SIZE = 5;
/** Longest frame that is accepted unless the reader is told otherwise: rows and WAL messages stay far below. */
export const FRAME_BODY_SIZE_MAX = 2 ** 20;

export interface Frame {
  /** The type byte, an ASCII letter or digit. */
  readonly type: number;
  /** View: valid until the reader's next `next()` that finds a frame, or `feed`. */
  readonly body: Uint8Array;
}

/**
 * Cuts a byte stream into frames. Memory follows what has arrived, never a length that was only claimed. A frame that
 * lies whole in the bytes fed is returned as a view of them; others are put together in a buffer of the reader's.
 */
export class FrameReader {
  /** Longest body that is accepted, in bytes; may be changed between two frames. */
  bodySizeMax: number;
  private input: Uint8Array = new Uint8Array(0);
  private position = 0;
  /** Start of a frame whose end has not arrived. */
  private partial = new Uint8Array(0);
  private partialLength = 0;

  constructor(options: { bodySizeMax?: number } = {}) {
    this.bodySizeMax = options.bodySizeMax ?? FRAME_BODY_SIZE_MAX;
  }

  /** Adds bytes. They must stay unchanged until `next` has returned undefined. */
  feed(bytes: Uint8Array): void {
    assert(this.position === this.input.length, "the bytes fed before have been used up");
    this.input = bytes;
    this.position = 0;
  }

  /** The next whole frame, or undefined if more bytes are needed. Throws `corrupt` on a length that cannot be. */
  next(): Frame | undefined {
    if (this.partialLength > 0) return this.nextFromPartial();
    const available = this.input.length - this.position;
    if (available >= FRAME_HEAD_SIZE) {
      const size = this.frameSize(this.input, this.position);
      if (available >= size) {
        const start = this.position;
        this.position += size;
        return frameAt(this.input, start, size);
      }
    }
    this.keep(available);
    return undefined;
  }

  private nextFromPartial(): Frame | undefined {
    const lackingHead = FRAME_HEAD_SIZE - this.partialLength;
    if (lackingHead > 0) this.keep(Math.min(lackingHead, this.input.length - this.position));
    if (this.partialLength < FRAME_HEAD_SIZE) return undefined;
    const size = this.frameSize(this.partial, 0);
    this.keep(Math.min(size - this.partialLength, this.input.length - this.position));
    if (this.partialLength < size) return undefined;
    this.partialLength = 0;
    return frameAt(this.partial, 0, size);
  }

  /** Moves `count` bytes of the input behind the partial frame. */
  private keep(count: number): void {
    const needed = this.partialLength + count;
    if (needed > this.partial.length) {
      const grown = new Uint8Array(Math.max(needed, this.partial.length * 2, 64));
      grown.set(this.partial.subarray(0, this.partialLength));
      this.partial = grown;
    }
    this.partial.set(this.input.subarray(this.position, this.position + count), this.partialLength);
    this.partialLength = needed;
    this.position += count;
  }

  private frameSize(bytes: Uint8Array, at: number): number {
    const length =
      (bytes[at + 1] as number) * 2 ** 24 +
      (((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 8) | (bytes[at + 4] as number));
    if (length < 4 || length - 4 > this.bodySizeMax) {
      throw corrupt(`frame of type ${bytes[at]} claims a length of ${length}`, {
        type: bytes[at] as number,
        length,
        lengthMax: this.bodySizeMax + 4,
      });
    }
    return length + 1;
  }
}

function frameAt(bytes: Uint8Array, start: number, size: number): Frame {
  return {
    type: bytes[start] as number,
    body: bytes.subarray(start + FRAME_HEAD_SIZE, start + size),
  };
}
