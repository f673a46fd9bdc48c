/** Metadata of the values of a key that a read wants, newest first, before their bytes are fetched. */
import type { IndexBlock } from "./index-block.ts";
import { isBase } from "./key.ts";
import type { ChainBuilder } from "./value.ts";

/** Columns; the first `count` entries are valid. */
export interface Found {
  count: number;
  readonly lsns: number[];
  readonly flags: number[];
  readonly dataBlocks: number[];
  readonly offsets: number[];
  readonly lengths: number[];
}

export function newFound(): Found {
  return { count: 0, lsns: [], flags: [], dataBlocks: [], offsets: [], lengths: [] };
}

/** Appends what `chain` wants of the key at `key` in an index block; true if nothing older matters. */
export function findValues(block: IndexBlock, key: number, chain: ChainBuilder, found: Found): boolean {
  const first = block.valueStart[key] as number;
  for (let value = (block.valueStart[key + 1] as number) - 1; value >= first; value--) {
    const lsn = block.lsns[value] as number;
    if (lsn >= chain.below) continue;
    if (lsn <= chain.floor) return true;
    const at = found.count++;
    const flags = block.flags[value] as number;
    found.lsns[at] = lsn;
    found.flags[at] = flags;
    found.dataBlocks[at] = block.dataBlocks[value] as number;
    found.offsets[at] = block.offsets[value] as number;
    found.lengths[at] = block.lengths[value] as number;
    if (isBase(flags)) return true;
  }
  return false;
}
