/**
 * The values of a memory layer, numbered from 0 in the order in which they were put, in columns: a walk along the versions
 * of a key touches little memory. The columns are in pieces of bounded size, so that adding a value never copies more than
 * one piece of each.
 */

/** Values of a piece, as a power of two: 544 KiB in all columns together. */
const PIECE_BITS = 16;
const PIECE_VALUES = 1 << PIECE_BITS;
const PIECE_MASK = PIECE_VALUES - 1;
/** The first piece begins with less, because most timelines are idle. */
const FIRST_VALUES = 256;

export class ValueTable {
  /** The next older value of the same key, or -1. */
  private readonly olderPieces: Int32Array[] = [];
  private readonly lsnPieces: Float64Array[] = [];
  private readonly blobPieces: Uint32Array[] = [];
  private readonly flagsPieces: Uint8Array[] = [];
  private size = 0;
  private capacity = 0;

  get count(): number {
    return this.size;
  }

  add(older: number, lsn: number, flags: number, blob: number): number {
    const value = this.size;
    if (value === this.capacity) this.grow();
    const piece = value >>> PIECE_BITS;
    const at = value & PIECE_MASK;
    (this.olderPieces[piece] as Int32Array)[at] = older;
    (this.lsnPieces[piece] as Float64Array)[at] = lsn;
    (this.blobPieces[piece] as Uint32Array)[at] = blob;
    (this.flagsPieces[piece] as Uint8Array)[at] = flags;
    this.size = value + 1;
    return value;
  }

  replace(value: number, flags: number, blob: number): void {
    (this.blobPieces[value >>> PIECE_BITS] as Uint32Array)[value & PIECE_MASK] = blob;
    (this.flagsPieces[value >>> PIECE_BITS] as Uint8Array)[value & PIECE_MASK] = flags;
  }

  older(value: number): number {
    return (this.olderPieces[value >>> PIECE_BITS] as Int32Array)[value & PIECE_MASK] as number;
  }

  lsn(value: number): number {
    return (this.lsnPieces[value >>> PIECE_BITS] as Float64Array)[value & PIECE_MASK] as number;
  }

  blob(value: number): number {
    return (this.blobPieces[value >>> PIECE_BITS] as Uint32Array)[value & PIECE_MASK] as number;
  }

  flags(value: number): number {
    return (this.flagsPieces[value >>> PIECE_BITS] as Uint8Array)[value & PIECE_MASK] as number;
  }

  private grow(): void {
    const [older] = this.olderPieces;
    const [lsns] = this.lsnPieces;
    const [blobs] = this.blobPieces;
    const [flags] = this.flagsPieces;
    if (older && lsns && blobs && flags && this.capacity < PIECE_VALUES) {
      this.capacity *= 2;
      this.olderPieces[0] = new Int32Array(this.capacity);
      this.olderPieces[0].set(older);
      this.lsnPieces[0] = new Float64Array(this.capacity);
      this.lsnPieces[0].set(lsns);
      this.blobPieces[0] = new Uint32Array(this.capacity);
      this.blobPieces[0].set(blobs);
      this.flagsPieces[0] = new Uint8Array(this.capacity);
      this.flagsPieces[0].set(flags);
      return;
    }
    const values = older === undefined ? FIRST_VALUES : PIECE_VALUES;
    this.olderPieces.push(new Int32Array(values));
    this.lsnPieces.push(new Float64Array(values));
    this.blobPieces.push(new Uint32Array(values));
    this.flagsPieces.push(new Uint8Array(values));
    this.capacity += values;
  }
}
