/** Walks over the keys of a memory layer in order. Made for one scan. */
import type { KeyPrefix } from "./key.ts";
import { type KeyRange, compareToKey } from "./key-range.ts";
import type { MemoryLayer } from "./memory-layer.ts";
import type { PrefixTable } from "./prefix-table.ts";
import type { Cursor } from "./scan.ts";
import type { ChainBuilder } from "./value.ts";

/** The slots of a layer that a scan wants, in key order. */
export interface SortedMemory {
  readonly layer: MemoryLayer;
  readonly slots: Uint32Array;
  readonly prefixes: PrefixTable;
}

export class MemoryCursor implements Cursor {
  readonly upTo: number;
  readonly isImage = false;
  prefix: KeyPrefix = { kind: 0, spcOid: 0, dbOid: 0, relNumber: 0, fork: 0 };
  block = 0;
  atEnd = false;

  private readonly memory: SortedMemory;
  private readonly range: KeyRange;
  private at: number;

  /** At the first key of the range. */
  constructor(memory: SortedMemory, range: KeyRange, upTo: number) {
    this.memory = memory;
    this.range = range;
    this.upTo = upTo;
    this.at = this.firstAtOrAbove() - 1;
    this.advance();
  }

  advance(): boolean {
    const { layer, slots, prefixes } = this.memory;
    this.at++;
    if (this.at >= slots.length) {
      this.atEnd = true;
      return true;
    }
    const slot = slots[this.at] as number;
    this.prefix = prefixes.prefix(layer.slotHandle(slot));
    this.block = layer.slotBlock(slot);
    this.atEnd = compareToKey(this.prefix, this.block, this.range.to) >= 0;
    return true;
  }

  async fill(): Promise<void> {
    // Memory never has to wait.
  }

  collect(chain: ChainBuilder): undefined {
    this.memory.layer.collectSlot(this.memory.slots[this.at] as number, chain);
  }

  private firstAtOrAbove(): number {
    const { layer, slots, prefixes } = this.memory;
    let low = 0;
    let high = slots.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const slot = slots[middle] as number;
      const prefix = prefixes.prefix(layer.slotHandle(slot));
      if (compareToKey(prefix, layer.slotBlock(slot), this.range.from) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
