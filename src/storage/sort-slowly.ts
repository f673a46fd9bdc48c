/** Sorting of very many things that gives way to the event loop: pieces are sorted at once, and then merged. */
import type { Yielder } from "./yielder.ts";

/** Things that are sorted at once, and merged between two looks at the clock. */
const PIECE = 2048;

/** Stable. Returns `items` or another list. */
export async function sortSlowly<T>(
  items: T[],
  compare: (a: T, b: T) => number,
  yielder: Yielder,
): Promise<T[]> {
  if (items.length <= PIECE) return items.sort(compare);
  let pieces: T[][] = [];
  for (let start = 0; start < items.length; start += PIECE) {
    pieces.push(items.slice(start, start + PIECE).sort(compare));
    if (yielder.due()) await yielder.yield();
  }
  while (pieces.length > 1) {
    const merged: T[][] = [];
    for (let at = 0; at < pieces.length; at += 2) {
      merged.push(await merge(pieces[at] ?? [], pieces[at + 1] ?? [], compare, yielder));
    }
    pieces = merged;
  }
  return pieces[0] ?? [];
}

async function merge<T>(
  first: readonly T[],
  second: readonly T[],
  compare: (a: T, b: T) => number,
  yielder: Yielder,
): Promise<T[]> {
  const merged: T[] = [];
  let [i, k] = [0, 0];
  while (i < first.length || k < second.length) {
    const takesFirst =
      k === second.length || (i < first.length && compare(first[i] as T, second[k] as T) <= 0);
    merged.push((takesFirst ? first[i++] : second[k++]) as T);
    if (merged.length % PIECE === 0 && yielder.due()) await yielder.yield();
  }
  return merged;
}
