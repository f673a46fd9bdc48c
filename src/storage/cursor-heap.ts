/** The cursors of a scan, least key first; among equal keys the newer layer first. A binary heap. */
import { type KeyPrefix, compareKeyPrefixes } from "./key.ts";
import type { Cursor } from "./scan.ts";

interface Ranked {
  readonly cursor: Cursor;
  /** Position among the layers: the newest has the lowest. */
  readonly rank: number;
}

export class CursorHeap {
  private readonly heap: Ranked[] = [];

  /** Takes the cursors newest layer first. */
  constructor(cursors: readonly Cursor[]) {
    for (const [rank, cursor] of cursors.entries()) {
      if (!cursor.atEnd) this.heap.push({ cursor, rank });
    }
    for (let at = (this.heap.length >> 1) - 1; at >= 0; at--) this.sink(at);
  }

  /** The cursor with the least key. */
  top(): Cursor | undefined {
    return this.heap[0]?.cursor;
  }

  /** True if the least key is this one. */
  isAt(prefix: KeyPrefix, block: number): boolean {
    const top = this.heap[0];
    return (
      top !== undefined &&
      top.cursor.block === block &&
      (top.cursor.prefix === prefix || compareKeyPrefixes(top.cursor.prefix, prefix) === 0)
    );
  }

  /** Restores the order after the top cursor has moved. */
  fixTop(): void {
    const top = this.heap[0];
    if (top === undefined) return;
    if (top.cursor.atEnd) {
      const last = this.heap.pop();
      if (this.heap.length === 0 || last === undefined) return;
      this.heap[0] = last;
    }
    this.sink(0);
  }

  private sink(start: number): void {
    const { heap } = this;
    const item = heap[start];
    if (item === undefined) return;
    let at = start;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Ranked, heap[child] as Ranked)) child++;
      const least = heap[child] as Ranked;
      if (!isBefore(least, item)) break;
      heap[at] = least;
      at = child;
    }
    heap[at] = item;
  }
}

function isBefore(a: Ranked, b: Ranked): boolean {
  const order = compareKeyPrefixes(a.cursor.prefix, b.cursor.prefix) || a.cursor.block - b.cursor.block;
  return order === 0 ? a.rank < b.rank : order < 0;
}
