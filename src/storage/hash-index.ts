/**
 * Finds small numbers (ids from 0 on) by a hash of what they stand for; the keys themselves are kept by its owner, who
 * compares them. Extendible hashing: the lower bits of a hash choose a segment, the upper ones a place in it, from which on
 * one looks place by place. A full segment is divided in two, so growth never takes longer than that, however much there
 * is; a table that is rehashed as a whole would hold up the event loop for tens of milliseconds.
 *
 * A segment is an array of pairs: the hash, and the id + 1, or 0 for an empty place.
 */

/** Places of a segment that has its full size, as a power of two: 32 KiB. */
const SEGMENT_BITS = 14;
const PLACES_MAX = 1 << SEGMENT_BITS;
const PLACES_MIN = 64;
/** Part of the places that may be taken. */
const LOAD_MAX = 0.75;
/** Bits of a hash that choose a segment. */
const DIRECTORY_BITS = 32 - SEGMENT_BITS;
/** With fewer ids for each place of the directory, it grows no more: their hashes are not spread. */
const IDS_PER_SEGMENT_MIN = 256;

interface Segment {
  /** The hashes of all ids in it are alike in this many lower bits. */
  readonly depth: number;
  used: number;
}

export class HashIndex {
  /** By the lower bits of a hash; a segment stands wherever these are the ones of its ids. */
  private directory: Int32Array[] = [new Int32Array(PLACES_MIN * 2)];
  private segments: Segment[] = [{ depth: 0, used: 0 }];
  private count = 0;

  /**
   * Where ids with this hash are, if there are any: look at the pairs from `firstPair` on, around the end, up to an empty
   * one.
   */
  segment(hash: number): Int32Array {
    return this.directory[hash & (this.directory.length - 1)] as Int32Array;
  }

  /** Adds an id that is not there. */
  add(hash: number, id: number): void {
    const at = hash & (this.directory.length - 1);
    const segment = this.segments[at] as Segment;
    const pairs = this.directory[at] as Int32Array;
    putPair(pairs, hash, id + 1);
    this.count++;
    if (++segment.used > (pairs.length >> 1) * LOAD_MAX) this.grow(at);
  }

  private grow(at: number): void {
    const pairs = this.directory[at] as Int32Array;
    const segment = this.segments[at] as Segment;
    const isFull = pairs.length >= PLACES_MAX * 2;
    if (isFull && this.makeRoomToSplit(segment)) {
      this.split(at & ((1 << segment.depth) - 1), segment, pairs);
      return;
    }
    const grown = new Int32Array(pairs.length * 2);
    for (let pair = 0; pair < pairs.length; pair += 2) {
      if (pairs[pair + 1] !== 0) putPair(grown, pairs[pair] as number, pairs[pair + 1] as number);
    }
    this.replace(at & ((1 << segment.depth) - 1), segment, grown);
  }

  /** Whether the directory tells more bits of a hash than the segment has in common. */
  private makeRoomToSplit({ depth }: Segment): boolean {
    const { directory, segments } = this;
    if (1 << depth < directory.length) return true;
    if (depth === DIRECTORY_BITS || directory.length * IDS_PER_SEGMENT_MIN > this.count) return false;
    this.directory = [...directory, ...directory];
    this.segments = [...segments, ...segments];
    return true;
  }

  private split(lower: number, { depth }: Segment, pairs: Int32Array): void {
    const bit = 1 << depth;
    const halves = [new Int32Array(pairs.length), new Int32Array(pairs.length)] as const;
    const used: [number, number] = [0, 0];
    for (let pair = 0; pair < pairs.length; pair += 2) {
      const content = pairs[pair + 1] as number;
      if (content === 0) continue;
      const hash = pairs[pair] as number;
      const half = (hash >>> depth) & 1 ? 1 : 0;
      putPair(halves[half], hash, content);
      used[half]++;
    }
    for (const half of [0, 1] as const) {
      this.replace(lower + half * bit, { depth: depth + 1, used: used[half] }, halves[half]);
    }
  }

  /** Puts a segment wherever the lower bits are its own. */
  private replace(lower: number, segment: Segment, pairs: Int32Array): void {
    for (let at = lower; at < this.directory.length; at += 1 << segment.depth) {
      this.directory[at] = pairs;
      this.segments[at] = segment;
    }
  }
}

/** Where in a segment the search for a hash begins. */
export function firstPair(hash: number, pairs: Int32Array): number {
  return ((hash >>> DIRECTORY_BITS) << 1) & (pairs.length - 1);
}

function putPair(pairs: Int32Array, hash: number, content: number): void {
  const mask = pairs.length - 1;
  let at = firstPair(hash, pairs);
  while (pairs[at + 1] !== 0) at = (at + 2) & mask;
  pairs[at] = hash;
  pairs[at + 1] = content;
}
