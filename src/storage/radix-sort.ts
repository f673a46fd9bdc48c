/**
 * Stable radix sort of ids by columns of 32-bit numbers. Linear, without objects, and it can give way to the event
 * loop, where a native sort of a million numbers would hold it up for fifty milliseconds.
 */
import type { Yielder } from "./yielder.ts";

const DIGIT_BITS = 11;
const DIGITS = 1 << DIGIT_BITS;
/** Ids between two looks at the clock. */
const SLICE = 32_768;

/**
 * Sorts `ids` by `columns[k][id]`; the last column matters most. Returns the sorted ids (`ids` or another array; `ids`
 * is used as scratch space). The columns must not change meanwhile.
 */
export async function radixSort(
  ids: Uint32Array,
  columns: readonly Uint32Array[],
  yielder: Yielder,
): Promise<Uint32Array> {
  let from = ids;
  let to: Uint32Array = new Uint32Array(ids.length);
  const places = new Uint32Array(DIGITS);
  for (const column of columns) {
    for (let shift = 0; shift < 32; shift += DIGIT_BITS) {
      places.fill(0);
      for (let start = 0; start < from.length; start += SLICE) {
        countDigits(from.subarray(start, start + SLICE), column, shift, places);
        if (yielder.due()) await yielder.yield();
      }
      if (!countsToPlaces(places, from.length)) continue;
      for (let start = 0; start < from.length; start += SLICE) {
        distribute(from.subarray(start, start + SLICE), to, column, shift, places);
        if (yielder.due()) await yielder.yield();
      }
      [from, to] = [to, from];
    }
  }
  return from;
}

function countDigits(ids: Uint32Array, column: Uint32Array, shift: number, counts: Uint32Array): void {
  for (let i = 0; i < ids.length; i++) {
    const digit = ((column[ids[i] as number] as number) >>> shift) & (DIGITS - 1);
    counts[digit] = (counts[digit] as number) + 1;
  }
}

/** Turns counts into the first place of each digit; false if all ids share one digit, so that no pass is needed. */
function countsToPlaces(counts: Uint32Array, total: number): boolean {
  let place = 0;
  for (let digit = 0; digit < DIGITS; digit++) {
    const count = counts[digit] as number;
    if (count === total) return false;
    counts[digit] = place;
    place += count;
  }
  return true;
}

function distribute(
  ids: Uint32Array,
  to: Uint32Array,
  column: Uint32Array,
  shift: number,
  places: Uint32Array,
): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i] as number;
    const digit = ((column[id] as number) >>> shift) & (DIGITS - 1);
    const place = places[digit] as number;
    places[digit] = place + 1;
    to[place] = id;
  }
}
