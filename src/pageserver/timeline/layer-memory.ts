/**
 * The memory of all layers that are not on disk yet, of all timelines together. Near the limit the largest of them are
 * written early; at the limit, those who bring more wait. What is in no layer file is replayed after a crash, so the
 * limit bounds the time of a restart, too.
 */
import { setTimeout as sleep } from "node:timers/promises";

/** Part of the limit from which on layers are written early. */
const EARLY = 0.75;
/** Buffers of a stream of WAL beside its layers: socket, WAL log, a layer that is being written. */
const STREAM_BYTES = 3 * 2 ** 20;
/** Part of the limit that layers have in any case, however many streams there are. */
const LAYERS_MIN = 0.5;
/** Layers that are written early at a time: each takes buffers, and one disk has to take them all. */
const WRITES_MAX = 2;
/** Pause before the layers of a timeline are tried again that could not be written, in milliseconds. */
const RETRY_MS = 1000;
/** Pause while all that could be written is being written by others, in milliseconds. */
const POLL_MS = 10;

/** A timeline that takes in WAL. */
export interface LayerHolder {
  /** Bytes of its layers that are in memory only. */
  readonly memoryBytes: number;
  /** Those of them that nobody is writing at the moment. */
  readonly restingBytes: number;
  /** Puts them on disk; the answer is whether they are. What is not written is still held. */
  writeEarly(): Promise<boolean>;
}

export class LayerMemory {
  private readonly limitBytes: number;
  private readonly holders = new Set<LayerHolder>();
  private readonly writing = new Map<LayerHolder, Promise<void>>();

  constructor({ limitBytes }: { readonly limitBytes: number }) {
    this.limitBytes = limitBytes;
  }

  /** Bytes of all layers in memory. */
  get usedBytes(): number {
    let sum = 0;
    for (const holder of this.holders) sum += holder.memoryBytes;
    return sum;
  }

  /** What they may have, at most. */
  get allowedBytes(): number {
    return Math.max(this.limitBytes - this.holders.size * STREAM_BYTES, this.limitBytes * LAYERS_MIN);
  }

  /** Counts a holder's layers until it is disposed of. */
  join(holder: LayerHolder): Disposable {
    this.holders.add(holder);
    return { [Symbol.dispose]: () => void this.holders.delete(holder) };
  }

  /**
   * Has layers written where there are too many. The promise is for whoever brings more: it resolves once there is room,
   * or soon after it is given up.
   */
  makeRoom(isGivenUp: () => boolean): Promise<void> | undefined {
    const used = this.usedBytes;
    const allowed = this.allowedBytes;
    if (used <= allowed * EARLY) return undefined;
    this.writeLargest();
    return used <= allowed ? undefined : this.waitForRoom(isGivenUp);
  }

  private async waitForRoom(isGivenUp: () => boolean): Promise<void> {
    while (!isGivenUp() && this.usedBytes > this.allowedBytes) {
      this.writeLargest();
      if (this.writing.size === 0) await sleep(POLL_MS);
      else await Promise.race(this.writing.values());
    }
  }

  /** Begins to write the largest, until what is left is below the limit by enough. */
  private writeLargest(): void {
    let resting = 0;
    for (const holder of this.holders) if (!this.writing.has(holder)) resting += holder.restingBytes;
    while (resting > this.allowedBytes * EARLY && this.writing.size < WRITES_MAX) {
      const largest = this.largest();
      if (largest === undefined) return;
      resting -= largest.restingBytes;
      this.writing.set(largest, this.write(largest));
    }
  }

  private async write(holder: LayerHolder): Promise<void> {
    try {
      // A full disk: others may have more luck.
      if (!(await holder.writeEarly())) await sleep(RETRY_MS);
    } finally {
      this.writing.delete(holder);
    }
  }

  private largest(): LayerHolder | undefined {
    let largest: LayerHolder | undefined;
    for (const holder of this.holders) {
      if (this.writing.has(holder) || holder.restingBytes === 0) continue;
      if (largest === undefined || holder.restingBytes > largest.restingBytes) largest = holder;
    }
    return largest;
  }
}
