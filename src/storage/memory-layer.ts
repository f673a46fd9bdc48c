/**
 * The newest values of a timeline, in memory. Blobs lie in an arena in the order of arrival; the values of a key are
 * a chain from newest to oldest; a hash index leads from `(handle, block)` to the chain. All of it lies in pieces of
 * bounded size, so growing is never a long turn of the event loop. A put takes about 100 ns and makes no objects. Once
 * frozen, a layer does not change any more.
 */
import { AssertionError, assert } from "../base/errors.ts";
import { type Lsn, MAX_LSN } from "../base/lsn.ts";
import { Arena, type BlobRef } from "./arena.ts";
import { HashIndex, firstPair } from "./hash-index.ts";
import { isBase, type Key, ValueFlag, compareKeyPrefixes } from "./key.ts";
import { type KeyRange, compareToKey } from "./key-range.ts";
import type { PrefixTable } from "./prefix-table.ts";
import { radixSort } from "./radix-sort.ts";
import { PIECE_BITS, PIECE_MASK, SLOT_WORDS, SlotTable, SlotWord } from "./slot-table.ts";
import type { ChainBuilder } from "./value.ts";
import { ValueTable } from "./value-table.ts";
import type { Yielder } from "./yielder.ts";

/** Bytes of index per value, and per key with its places in the hash index, for `sizeBytes`. */
const VALUE_COST = 17;
const KEY_COST = 28;
/** Steps of short loops between two looks at the clock. */
const SLICE = 8192;
/** Which keys of a prefix are in a range. */
const NO_KEY = 0;
const EVERY_KEY = 1;
const SOME_KEYS = 2;
const FLAGS_MASK = ValueFlag.Image | ValueFlag.Record | ValueFlag.WillInit | ValueFlag.Tombstone;

export class MemoryLayer {
  readonly startLsn: Lsn;
  readonly arena = new Arena();
  private readonly prefixes: PrefixTable;
  private frozenAt: Lsn | undefined;
  private lastLsn: number;
  private readonly lowestLsn: number;
  private readonly slots = new SlotTable();
  private readonly values = new ValueTable();
  private readonly index = new HashIndex();

  /** Values are above `startLsn`, or with `startInclusive` at it too. */
  constructor(startLsn: Lsn, prefixes: PrefixTable, options: { startInclusive?: boolean } = {}) {
    this.startLsn = startLsn;
    this.lowestLsn = options.startInclusive ? startLsn : startLsn + 1;
    this.lastLsn = startLsn;
    this.prefixes = prefixes;
  }

  /** Everything in the layer is at or below this LSN. */
  get endLsn(): Lsn {
    return this.frozenAt ?? MAX_LSN;
  }

  /** Whether values at `startLsn` are taken. */
  get startInclusive(): boolean {
    return this.lowestLsn === this.startLsn;
  }

  get keyCount(): number {
    return this.slots.count;
  }

  get entryCount(): number {
    return this.values.count;
  }

  /** Memory taken by content, in bytes. */
  get sizeBytes(): number {
    return this.arena.sizeBytes + this.values.count * VALUE_COST + this.slots.count * KEY_COST;
  }

  /**
   * The same key at the same LSN again replaces the value. LSNs never decrease. Returns how many values of the key are
   * in this layer since the last one that is a base.
   */
  put(handle: number, block: number, lsn: number, flags: number, blob: BlobRef): number {
    assert(this.frozenAt === undefined, "put into a frozen layer");
    if (lsn < this.lastLsn || lsn < this.lowestLsn)
      throw new AssertionError(`LSN ${lsn} after ${this.lastLsn}`);
    if (flags === 0 || (flags & ~FLAGS_MASK) !== 0) throw new AssertionError(`value flags ${flags}`);
    const slot = this.slotFor(handle, block);
    this.lastLsn = lsn;
    this.arena.refer(blob);
    const { values } = this;
    const piece = this.slots.pieces[slot >>> PIECE_BITS] as Uint32Array;
    const at = (slot & PIECE_MASK) * SLOT_WORDS;
    const newest = (piece[at + SlotWord.Newest] as number) - 1;
    let length = piece[at + SlotWord.Length] as number;
    if (newest >= 0 && values.lsn(newest) === lsn) {
      values.replace(newest, flags, blob);
    } else {
      piece[at + SlotWord.Newest] = values.add(newest, lsn, flags, blob) + 1;
      length++;
    }
    if (isBase(flags)) length = 0;
    piece[at + SlotWord.Length] = length;
    return length;
  }

  freeze(endLsn: Lsn): void {
    assert(this.frozenAt === undefined, "the layer is frozen already");
    assert(endLsn >= this.lastLsn, `freeze at ${endLsn} after a value at ${this.lastLsn}`);
    this.frozenAt = endLsn;
  }

  /** Adds the values of a key that `chain` wants, newest first, down to a base. */
  collect(key: Key, chain: ChainBuilder): void {
    if (chain.below <= this.startLsn) return;
    const handle = this.prefixes.find(key);
    if (handle === undefined) return;
    const slot = this.findSlot(handle, key.block, hashKey(handle, key.block));
    if (slot >= 0) this.collectSlot(slot, chain);
  }

  collectSlot(slot: number, chain: ChainBuilder): void {
    const { values, arena } = this;
    for (let value = this.slots.newest(slot); value >= 0; value = values.older(value)) {
      const lsn = values.lsn(value);
      if (lsn >= chain.below) continue;
      if (lsn <= chain.floor) return;
      chain.add(lsn, values.flags(value), arena.read(values.blob(value) as BlobRef));
      if (chain.done) return;
    }
  }

  /** Slots are numbered from 0 in the order of first puts. */
  slotHandle(slot: number): number {
    return this.slots.handle(slot);
  }

  slotBlock(slot: number): number {
    return this.slots.block(slot);
  }

  /** Values of a slot, oldest first, appended to `target` from its start; returns their number. Grows `target`. */
  slotValues(slot: number, target: { values: Uint32Array }): number {
    let count = 0;
    const { values } = this;
    for (let value = this.slots.newest(slot); value >= 0; value = values.older(value)) {
      if (count === target.values.length) {
        const grown = new Uint32Array(count * 2);
        grown.set(target.values);
        target.values = grown;
      }
      target.values[count++] = value;
    }
    reverse(target.values, count);
    return count;
  }

  valueLsn(value: number): number {
    return this.values.lsn(value);
  }

  valueFlags(value: number): number {
    return this.values.flags(value);
  }

  valueBlob(value: number): BlobRef {
    return this.values.blob(value) as BlobRef;
  }

  /** The slots of a range in key order. What is put after the call is not among them. */
  async sortedSlots(range: KeyRange | undefined, yielder: Yielder): Promise<Uint32Array> {
    const count = this.slots.count;
    const membership = range && (await this.handlesIn(range, yielder));
    const ranks = await this.rankHandles(yielder);
    const slots = new Uint32Array(count);
    const blocks = new Uint32Array(count);
    const ranked = new Uint32Array(count);
    let found = 0;
    for (let slot = 0; slot < count; slot++) {
      if (slot % SLICE === 0 && yielder.due()) await yielder.yield();
      if (range && membership && !this.slotInRange(slot, range, membership)) continue;
      slots[found++] = slot;
      blocks[slot] = this.slotBlock(slot);
      ranked[slot] = ranks[this.slotHandle(slot)] as number;
    }
    return radixSort(slots.slice(0, found), [blocks, ranked], yielder);
  }

  /** For each handle whether its keys are in a range: all, none, or those with the right blocks. */
  private async handlesIn(range: KeyRange, yielder: Yielder): Promise<Uint8Array> {
    const { prefixes } = this.prefixes;
    const membership = new Uint8Array(prefixes.length);
    for (let handle = 0; handle < membership.length; handle++) {
      if (handle % SLICE === 0 && yielder.due()) await yielder.yield();
      const prefix = this.prefixes.prefix(handle);
      const above = compareKeyPrefixes(prefix, range.from);
      const below = compareKeyPrefixes(prefix, range.to);
      membership[handle] = above < 0 || below > 0 ? NO_KEY : above > 0 && below < 0 ? EVERY_KEY : SOME_KEYS;
    }
    return membership;
  }

  private slotInRange(slot: number, range: KeyRange, membership: Uint8Array): boolean {
    const handle = this.slotHandle(slot);
    const member = membership[handle];
    if (member !== SOME_KEYS) return member === EVERY_KEY;
    const prefix = this.prefixes.prefix(handle);
    const block = this.slotBlock(slot);
    return compareToKey(prefix, block, range.from) >= 0 && compareToKey(prefix, block, range.to) < 0;
  }

  /** The rank of each handle in the order of prefixes. */
  private async rankHandles(yielder: Yielder): Promise<Uint32Array> {
    const p = this.prefixes;
    const count = p.size;
    const ids = new Uint32Array(count);
    for (let handle = 0; handle < count; handle++) ids[handle] = handle;
    const columns = [p.forks, p.relNumbers, p.dbOids, p.spcOids, p.kinds];
    const sorted = await radixSort(ids, columns, yielder);
    const ranks = new Uint32Array(count);
    for (let rank = 0; rank < count; rank++) ranks[sorted[rank] as number] = rank;
    return ranks;
  }

  /** -1 if there is none. */
  private findSlot(handle: number, block: number, hash: number): number {
    const pairs = this.index.segment(hash);
    const { pieces } = this.slots;
    const mask = pairs.length - 1;
    for (let at = firstPair(hash, pairs); ; at = (at + 2) & mask) {
      const slot = (pairs[at + 1] as number) - 1;
      if (slot < 0) return -1;
      if (pairs[at] !== hash) continue;
      const piece = pieces[slot >>> PIECE_BITS] as Uint32Array;
      const word = (slot & PIECE_MASK) * SLOT_WORDS;
      if (piece[word + SlotWord.Block] === block && piece[word + SlotWord.Handle] === handle) return slot;
    }
  }

  private slotFor(handle: number, block: number): number {
    const hash = hashKey(handle, block);
    const found = this.findSlot(handle, block, hash);
    if (found >= 0) return found;
    assert(block >>> 0 === block, `block ${block} is out of range`);
    assert(handle >= 0 && handle < this.prefixes.size, `no key handle ${handle}`);
    const slot = this.slots.add(handle, block);
    this.index.add(hash, slot);
    return slot;
  }
}

/** The first `count` numbers, without a view: one for each key would keep the garbage collector busy. */
function reverse(numbers: Uint32Array, count: number): void {
  for (let low = 0, high = count - 1; low < high; low++, high--) {
    const last = numbers[high] as number;
    numbers[high] = numbers[low] as number;
    numbers[low] = last;
  }
}

function hashKey(handle: number, block: number): number {
  const hash = Math.imul(Math.imul(block ^ (block >>> 15), 0x9e3779b1) + handle, 0x85ebca6b);
  return hash ^ (hash >>> 15);
}
