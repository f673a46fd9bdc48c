/** A history of writes in which every record follows from its LSN, so that two processes know it without talking. */
import { toLsn } from "../../src/base/lsn.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import type { TimelineStore } from "../../src/storage/store.ts";
import { blobBytes } from "./model.ts";

export const START_LSN = 1000;
const STEP = 10;
const BLOCKS = 40;
/** Every so many rounds over all keys a key gets an image. */
const IMAGE_EVERY = 7;

export const historyKey = (block: number): Key => ({
  kind: 0,
  spcOid: 1,
  dbOid: 2,
  relNumber: 3,
  fork: 0,
  block,
});
export const HISTORY_KEYS = Array.from({ length: BLOCKS }, (_, block) => historyKey(block));

/** The record at an LSN: which block, which flags, which bytes. */
function recordAt(lsn: number): { block: number; flags: number; bytes: Uint8Array } {
  const number = (lsn - START_LSN) / STEP - 1;
  const round = Math.floor(number / BLOCKS);
  const flags = round % IMAGE_EVERY === 0 ? ValueFlag.Image : ValueFlag.Record;
  return { block: number % BLOCKS, flags, bytes: blobBytes(number, 40 + (number % 300)) };
}

/** Writes the records above `from` and at or below `to`; returns the LSN of the last. */
export function writeTo(store: TimelineStore, from: number, to: number): number {
  const handle = store.intern(0, 1, 2, 3, 0);
  let lsn = from;
  for (; lsn + STEP <= to; lsn += STEP) {
    const { block, flags, bytes } = recordAt(lsn + STEP);
    store.put(handle, block, toLsn(lsn + STEP), flags, store.append(bytes, 0, bytes.length));
  }
  return lsn;
}

/** The values of a block at an LSN, newest first, down to an image, as numbers and bytes. */
export function expectedChain(block: number, lsn: number): { lsn: number; bytes: Uint8Array }[] {
  const chain: { lsn: number; bytes: Uint8Array }[] = [];
  const last = Math.floor((lsn - START_LSN) / STEP) - 1;
  for (let number = last - ((((last - block) % BLOCKS) + BLOCKS) % BLOCKS); number >= 0; number -= BLOCKS) {
    const at = START_LSN + (number + 1) * STEP;
    const { flags, bytes } = recordAt(at);
    chain.push({ lsn: at, bytes });
    if (flags === ValueFlag.Image) break;
  }
  return chain;
}
