/**
 * The keys of a memory layer, numbered from 0 ("slots"): four words of 32 bits each, which are read and written together,
 * in pieces of bounded size, so that adding one never copies more than a piece. What has to be quick works in place: on
 * `pieces[slot >>> PIECE_BITS]`, from `(slot & PIECE_MASK) * SLOT_WORDS` on.
 */

/** Words of a slot. */
export const SlotWord = {
  Handle: 0,
  Block: 1,
  /** Newest value + 1; 0 while there is none. */
  Newest: 2,
  /** Values since the last one that is a base. */
  Length: 3,
} as const;
export const SLOT_WORDS = 4;

/** Slots of a piece, as a power of two: 256 KiB. */
export const PIECE_BITS = 15;
const PIECE_SLOTS = 1 << PIECE_BITS;
export const PIECE_MASK = PIECE_SLOTS - 1;
/** The first piece begins with less, because most timelines are idle. */
const FIRST_SLOTS = 64;

export class SlotTable {
  readonly pieces: Uint32Array[] = [];
  private size = 0;
  private capacity = 0;

  get count(): number {
    return this.size;
  }

  add(handle: number, block: number): number {
    const slot = this.size;
    if (slot === this.capacity) this.grow();
    const piece = this.pieces[slot >>> PIECE_BITS] as Uint32Array;
    const at = (slot & PIECE_MASK) * SLOT_WORDS;
    piece[at + SlotWord.Handle] = handle;
    piece[at + SlotWord.Block] = block;
    this.size = slot + 1;
    return slot;
  }

  handle(slot: number): number {
    const piece = this.pieces[slot >>> PIECE_BITS] as Uint32Array;
    return piece[(slot & PIECE_MASK) * SLOT_WORDS + SlotWord.Handle] as number;
  }

  block(slot: number): number {
    const piece = this.pieces[slot >>> PIECE_BITS] as Uint32Array;
    return piece[(slot & PIECE_MASK) * SLOT_WORDS + SlotWord.Block] as number;
  }

  /** The newest value, or -1. */
  newest(slot: number): number {
    const piece = this.pieces[slot >>> PIECE_BITS] as Uint32Array;
    return (piece[(slot & PIECE_MASK) * SLOT_WORDS + SlotWord.Newest] as number) - 1;
  }

  private grow(): void {
    const [first] = this.pieces;
    if (first !== undefined && this.capacity < PIECE_SLOTS) {
      const grown = new Uint32Array(first.length * 2);
      grown.set(first);
      this.pieces[0] = grown;
      this.capacity *= 2;
      return;
    }
    const slots = first === undefined ? FIRST_SLOTS : PIECE_SLOTS;
    this.pieces.push(new Uint32Array(slots * SLOT_WORDS));
    this.capacity += slots;
  }
}
