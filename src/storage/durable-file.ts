/** A file in memory that knows what of it is on disk: content as written, content as synced, and what lies between. */
const SECTOR_SIZE = 512;

/** A change of content that is not durable yet. */
type Change =
  | { readonly kind: "write"; readonly bytes: Uint8Array; readonly position: number }
  | { readonly kind: "truncate"; readonly sizeBytes: number };

/** Bytes that grow, shared with a copy until one of both changes. */
class Content {
  bytes: Uint8Array = new Uint8Array(0);
  length = 0;
  private shared = false;

  copy(): Content {
    const copy = new Content();
    copy.bytes = this.bytes;
    copy.length = this.length;
    copy.shared = this.shared = true;
    return copy;
  }

  put(bytes: Uint8Array, position: number): void {
    this.unshare();
    const end = position + bytes.length;
    if (end > this.length) this.resize(end);
    this.bytes.set(bytes, position);
  }

  putSectors(bytes: Uint8Array, position: number, random: () => number): void {
    for (let at = 0; at < bytes.length; at += SECTOR_SIZE) {
      if (random() % 2 === 0) this.put(bytes.subarray(at, at + SECTOR_SIZE), position + at);
    }
  }

  resize(sizeBytes: number): void {
    this.unshare();
    if (sizeBytes > this.bytes.length) {
      const grown = new Uint8Array(Math.max(sizeBytes, this.bytes.length * 2));
      grown.set(this.bytes.subarray(0, this.length));
      this.bytes = grown;
    }
    if (sizeBytes < this.length) this.bytes.fill(0, sizeBytes, this.length);
    this.length = sizeBytes;
  }

  private unshare(): void {
    if (this.shared) this.bytes = this.bytes.slice();
    this.shared = false;
  }

  apply(change: Change): void {
    if (change.kind === "truncate") this.resize(change.sizeBytes);
    else this.put(change.bytes, change.position);
  }
}

export class DurableFile {
  private now = new Content();
  private durable = new Content();
  private changes: Change[] = [];

  /** Another file that is as this one is now. */
  copy(): DurableFile {
    const copy = new DurableFile();
    copy.now = this.now.copy();
    copy.durable = this.durable.copy();
    copy.changes = [...this.changes];
    return copy;
  }

  get sizeBytes(): number {
    return this.now.length;
  }

  /** Copy. */
  content(): Uint8Array {
    return this.now.bytes.slice(0, this.now.length);
  }

  /** Fills `target` as far as the file reaches. */
  read(target: Uint8Array, position: number): number {
    const count = Math.max(Math.min(target.length, this.now.length - position), 0);
    target.set(this.now.bytes.subarray(position, position + count));
    return count;
  }

  write(bytes: Uint8Array, position: number): void {
    this.change({ kind: "write", bytes: bytes.slice(), position });
  }

  truncate(sizeBytes: number): void {
    this.change({ kind: "truncate", sizeBytes });
  }

  sync(): void {
    for (const change of this.changes) this.durable.apply(change);
    this.changes = [];
  }

  /**
   * A sync that failed: what was written is still to be read, but it is not on the disk, and no later sync puts it
   * there, because the kernel takes it for written.
   */
  failSync(): void {
    this.changes = [];
  }

  /** What is on disk after a power loss: of each change since the last sync all, nothing, or some sectors. */
  afterPowerLoss(random: () => number): DurableFile {
    const after = new DurableFile();
    after.now = this.durable.copy();
    for (const change of this.changes) {
      const fate = random() % 3;
      if (fate === 0) continue;
      if (fate === 1 || change.kind === "truncate") after.now.apply(change);
      else after.now.putSectors(change.bytes, change.position, random);
    }
    after.durable = after.now.copy();
    return after;
  }

  private change(change: Change): void {
    this.changes.push(change);
    this.now.apply(change);
  }
}
