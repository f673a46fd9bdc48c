/**
 * Keeps the most useful of what was read and verified, up to a number of bytes. Second chance: what was used since the
 * last sweep goes to the end of the queue instead of out, so that a hit costs one map look-up.
 */
interface Entry<T> {
  readonly value: T;
  readonly sizeBytes: number;
  used: boolean;
}

/** Counted in addition to the value, for the map and the entry. */
const ENTRY_COST = 128;

export class BlockCache<T, K extends number | string = number> {
  private readonly capacityBytes: number;
  private readonly entries = new Map<K, Entry<T>>();
  private usedBytes = 0;
  private hitCount = 0;
  private missCount = 0;

  constructor(capacityBytes: number) {
    this.capacityBytes = capacityBytes;
  }

  get sizeBytes(): number {
    return this.usedBytes;
  }

  /** How often something was looked for and found, or not. */
  get counts(): { readonly hits: number; readonly misses: number } {
    return { hits: this.hitCount, misses: this.missCount };
  }

  get(id: K): T | undefined {
    const entry = this.entries.get(id);
    if (entry === undefined) {
      this.missCount++;
      return undefined;
    }
    this.hitCount++;
    entry.used = true;
    return entry.value;
  }

  /** What is larger than the whole cache is not kept. */
  add(id: K, value: T, valueBytes: number): void {
    const sizeBytes = valueBytes + ENTRY_COST;
    if (sizeBytes > this.capacityBytes) return;
    this.remove(id);
    this.entries.set(id, { value, sizeBytes, used: false });
    this.usedBytes += sizeBytes;
    if (this.usedBytes > this.capacityBytes) this.evict();
  }

  remove(id: K): void {
    const entry = this.entries.get(id);
    if (entry === undefined) return;
    this.entries.delete(id);
    this.usedBytes -= entry.sizeBytes;
  }

  private evict(): void {
    for (const [id, entry] of this.entries) {
      this.entries.delete(id);
      if (entry.used) {
        entry.used = false;
        this.entries.set(id, entry);
      } else {
        this.usedBytes -= entry.sizeBytes;
        if (this.usedBytes <= this.capacityBytes) return;
      }
    }
  }
}
