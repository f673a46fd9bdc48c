/**
 * Append-only memory for blobs. A blob's reference is a 32-bit address: slab number and offset. Before each blob
 * stand four bytes, little-endian: its length, and in the two highest bits how often it has been referred to.
 */
import { assert } from "../base/errors.ts";

/** Names a blob of the open layer. Valid until that layer is frozen. */
export type BlobRef = number & { readonly __brand: "BlobRef" };

/** What a tombstone refers to. */
export const NO_BLOB = 0 as BlobRef;

/** Longest blob in bytes; the longest WAL record is 1020 MiB. */
export const BLOB_SIZE_MAX = 0x3fffffff;

const SLAB_BITS = 20;
const SLAB_SIZE = 1 << SLAB_BITS;
/** The first slabs are smaller, each twice as large as the one before: most timelines take in little at a time. */
const SMALL_SLABS = 4;
const SLABS_MAX = 1 << (32 - SLAB_BITS);
const PREFIX = 4;
/** Blobs above this size get a slab of their own. */
const OWN_SLAB_MIN = SLAB_SIZE / 8;
const USED_BIT = 0x40;
const SHARED_BIT = 0x80;
const NO_BYTES = new Uint8Array(0);

export class Arena {
  private readonly slabs: Uint8Array[] = [];
  private current: Uint8Array = NO_BYTES;
  private currentBase = 0;
  private used = 0;
  private reserved = 0;

  /** Memory taken, in bytes. */
  get sizeBytes(): number {
    return this.reserved;
  }

  /** Copies `bytes[start..end)`. */
  append(bytes: Uint8Array, start: number, end: number): BlobRef {
    const length = end - start;
    assert(length >= 0 && length <= BLOB_SIZE_MAX && end <= bytes.length, `blob of ${length} bytes`);
    if (length >= OWN_SLAB_MIN) return this.appendLarge(bytes, start, end);
    if (this.used + PREFIX + length > this.current.length) this.openSlab(PREFIX + length);
    const at = this.used;
    this.used = at + PREFIX + length;
    writeBlob(this.current, at, bytes, start, end);
    return (this.currentBase + at) as BlobRef;
  }

  /** Notes one more reference; the second makes the blob shared. */
  refer(ref: BlobRef): void {
    if (ref === NO_BLOB) return;
    const offset = ref - this.currentBase;
    const slab = offset >= 0 && offset < SLAB_SIZE ? this.current : this.slab(ref);
    const at = (ref & (SLAB_SIZE - 1)) + 3;
    const marks = slab[at] as number;
    slab[at] = marks | (marks & USED_BIT ? SHARED_BIT : USED_BIT);
  }

  isShared(ref: BlobRef): boolean {
    return ref !== NO_BLOB && ((this.slab(ref)[(ref & (SLAB_SIZE - 1)) + 3] as number) & SHARED_BIT) !== 0;
  }

  /** The slab that holds a blob; the blob's bytes start at `startOf` in it. */
  slab(ref: BlobRef): Uint8Array {
    const slab = this.slabs[ref >>> SLAB_BITS];
    assert(slab !== undefined, `no blob at ${ref}`);
    return slab;
  }

  startOf(ref: BlobRef): number {
    return (ref & (SLAB_SIZE - 1)) + PREFIX;
  }

  lengthOf(ref: BlobRef): number {
    const slab = this.slab(ref);
    const at = ref & (SLAB_SIZE - 1);
    return (
      (slab[at] as number) |
      ((slab[at + 1] as number) << 8) |
      ((slab[at + 2] as number) << 16) |
      (((slab[at + 3] as number) & 0x3f) << 24)
    );
  }

  /** View: the bytes never change. */
  read(ref: BlobRef): Uint8Array {
    if (ref === NO_BLOB) return NO_BYTES;
    const start = this.startOf(ref);
    return this.slab(ref).subarray(start, start + this.lengthOf(ref));
  }

  private openSlab(neededBytes: number): void {
    const number = this.slabs.length;
    // Address 0 means "no blob", so the first slab starts a little later.
    this.used = number === 0 ? PREFIX : 0;
    this.currentBase = number * SLAB_SIZE;
    this.current = this.addSlab(
      Math.max(SLAB_SIZE >> Math.max(0, SMALL_SLABS - number), this.used + neededBytes),
    );
  }

  /** The open slab stays open: a large blob does not waste what is left of it. */
  private appendLarge(bytes: Uint8Array, start: number, end: number): BlobRef {
    if (this.slabs.length === 0) this.openSlab(0);
    const ref = this.slabs.length * SLAB_SIZE;
    writeBlob(this.addSlab(PREFIX + end - start), 0, bytes, start, end);
    return ref as BlobRef;
  }

  private addSlab(sizeBytes: number): Uint8Array {
    assert(this.slabs.length < SLABS_MAX, "the open layer was never frozen");
    const slab = new Uint8Array(sizeBytes);
    this.slabs.push(slab);
    this.reserved += sizeBytes;
    return slab;
  }
}

function writeBlob(slab: Uint8Array, at: number, bytes: Uint8Array, start: number, end: number): void {
  const length = end - start;
  slab[at] = length;
  slab[at + 1] = length >>> 8;
  slab[at + 2] = length >>> 16;
  slab[at + 3] = length >>> 24;
  slab.set(start === 0 && end === bytes.length ? bytes : bytes.subarray(start, end), at + PREFIX);
}
