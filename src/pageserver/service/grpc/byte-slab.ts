/**
 * Small buffers cut from large ones: a buffer of its own for every few bytes that are sent would cost more, in being
 * collected, than what is done with it. What has been cut is never given out again; a large one goes when all of it is gone.
 */
export class ByteSlab {
  private readonly sizeBytes: number;
  private buffer: Uint8Array = new Uint8Array();
  private used = 0;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  /** So many zeros. */
  take(sizeBytes: number): Uint8Array {
    if (sizeBytes > this.sizeBytes) return new Uint8Array(sizeBytes);
    if (sizeBytes > this.buffer.length - this.used) {
      this.buffer = new Uint8Array(this.sizeBytes);
      this.used = 0;
    }
    const start = this.used;
    this.used += sizeBytes;
    return this.buffer.subarray(start, this.used);
  }
}
