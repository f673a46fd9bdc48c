/** A file in memory that knows what of it is on disk: content as written, content as synced, and what lies between. */
const SECTOR_SIZE = 512;

/** A change of content that is not durable yet. */
type Change =
  | { readonly kind: "write"; readonly bytes: Uint8Array; readonly position: number }
  | { readonly kind: "truncate"; readonly sizeBytes: number };

export class DurableFile {
  private bytes: Uint8Array = new Uint8Array(0);
  private length = 0;
  private durable: Uint8Array = new Uint8Array(0);
  private changes: Change[] = [];

  get sizeBytes(): number {
    return this.length;
  }

  /** Copy. */
  content(): Uint8Array {
    return this.bytes.slice(0, this.length);
  }

  /** Fills `target` as far as the file reaches. */
  read(target: Uint8Array, position: number): number {
    const count = Math.max(Math.min(target.length, this.length - position), 0);
    target.set(this.bytes.subarray(position, position + count));
    return count;
  }

  write(bytes: Uint8Array, position: number): void {
    const own = bytes.slice();
    this.changes.push({ kind: "write", bytes: own, position });
    this.put(own, position);
  }

  truncate(sizeBytes: number): void {
    this.changes.push({ kind: "truncate", sizeBytes });
    this.resize(sizeBytes);
  }

  sync(): void {
    this.durable = this.content();
    this.changes = [];
  }

  /** What is on disk after a power loss: of each change since the last sync all, nothing, or some sectors. */
  afterPowerLoss(random: () => number): DurableFile {
    const after = new DurableFile();
    after.put(this.durable, 0);
    for (const change of this.changes) {
      const fate = random() % 3;
      if (fate === 0) continue;
      if (change.kind === "truncate") after.resize(change.sizeBytes);
      else if (fate === 1) after.put(change.bytes, change.position);
      else after.putSectors(change.bytes, change.position, random);
    }
    after.sync();
    return after;
  }

  private put(bytes: Uint8Array, position: number): void {
    const end = position + bytes.length;
    if (end > this.length) this.resize(end);
    this.bytes.set(bytes, position);
  }

  private putSectors(bytes: Uint8Array, position: number, random: () => number): void {
    for (let at = 0; at < bytes.length; at += SECTOR_SIZE) {
      if (random() % 2 === 0) this.put(bytes.subarray(at, at + SECTOR_SIZE), position + at);
    }
  }

  private resize(sizeBytes: number): void {
    if (sizeBytes > this.bytes.length) {
      const grown = new Uint8Array(Math.max(sizeBytes, this.bytes.length * 2));
      grown.set(this.bytes.subarray(0, this.length));
      this.bytes = grown;
    }
    if (sizeBytes < this.length) this.bytes.fill(0, sizeBytes, this.length);
    this.length = sizeBytes;
  }
}
