/**
 * The newest values of a timeline, in memory. Blobs lie in an arena in the order of arrival; the values of a key are
 * a chain from newest to oldest in typed arrays; a hash table leads from `(handle, block)` to the chain. A put takes
 * about 100 ns and makes no objects. Once frozen, a layer does not change any more.
 */
import { AssertionError, assert } from "../base/errors.ts";
import { type Lsn, MAX_LSN } from "../base/lsn.ts";
import { Arena, type BlobRef } from "./arena.ts";
import { isBase, type Key, ValueFlag, compareKeyPrefixes } from "./key.ts";
import { type KeyRange, compareToKey } from "./key-range.ts";
import { type PrefixTable, grownU32 } from "./prefix-table.ts";
import { radixSort } from "./radix-sort.ts";
import type { ChainBuilder } from "./value.ts";
import type { Yielder } from "./yielder.ts";

/** Little, because most timelines are idle. */
const INITIAL_KEYS = 64;
const INITIAL_VALUES = 256;
/** Bytes of index per value and per key, for `sizeBytes`. */
const VALUE_COST = 17;
const KEY_COST = 12;
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

  private slotCount = 0;
  private handles: Uint32Array<ArrayBuffer>;
  private blocks: Uint32Array<ArrayBuffer>;
  /** Newest value of the slot. */
  private heads: Int32Array<ArrayBuffer>;
  /** Values of the slot since the last one that is a base. */
  private lengths: Uint32Array<ArrayBuffer>;
  /** Slot + 1, or 0 for an empty place. At most half full. */
  private places: Int32Array<ArrayBuffer>;

  private valueCount = 0;
  /** The next older value of the same key, or -1. */
  private older: Int32Array<ArrayBuffer>;
  private lsns: Float64Array<ArrayBuffer>;
  private blobs: Uint32Array<ArrayBuffer>;
  private flags: Uint8Array<ArrayBuffer>;

  /**
   * Values are above `startLsn`, or with `startInclusive` at it too. Takes room for as many keys and values as `like`
   * has: the next layer of a timeline resembles the last.
   */
  constructor(
    startLsn: Lsn,
    prefixes: PrefixTable,
    options: { startInclusive?: boolean; like?: MemoryLayer } = {},
  ) {
    const { like } = options;
    this.startLsn = startLsn;
    this.lowestLsn = options.startInclusive ? startLsn : startLsn + 1;
    this.lastLsn = startLsn;
    this.prefixes = prefixes;
    const keys = like?.handles.length ?? INITIAL_KEYS;
    const values = like?.lsns.length ?? INITIAL_VALUES;
    this.handles = new Uint32Array(keys);
    this.blocks = new Uint32Array(keys);
    this.heads = new Int32Array(keys);
    this.lengths = new Uint32Array(keys);
    this.places = new Int32Array(keys * 2);
    this.older = new Int32Array(values);
    this.lsns = new Float64Array(values);
    this.blobs = new Uint32Array(values);
    this.flags = new Uint8Array(values);
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
    return this.slotCount;
  }

  get entryCount(): number {
    return this.valueCount;
  }

  /** Memory taken by content, in bytes. */
  get sizeBytes(): number {
    return this.arena.sizeBytes + this.valueCount * VALUE_COST + this.slotCount * KEY_COST;
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
    const head = this.heads[slot] as number;
    this.arena.refer(blob);
    if (head >= 0 && this.lsns[head] === lsn) {
      this.blobs[head] = blob;
      this.flags[head] = flags;
      return this.count(slot, flags, 0);
    }
    const value = this.valueCount;
    if (value === this.lsns.length) this.growValues();
    this.valueCount = value + 1;
    this.older[value] = head;
    this.lsns[value] = lsn;
    this.blobs[value] = blob;
    this.flags[value] = flags;
    this.heads[slot] = value;
    return this.count(slot, flags, 1);
  }

  private count(slot: number, flags: number, more: number): number {
    const length = isBase(flags) ? 0 : (this.lengths[slot] as number) + more;
    this.lengths[slot] = length;
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
    const slot = (this.places[this.placeOf(handle, key.block)] as number) - 1;
    if (slot >= 0) this.collectSlot(slot, chain);
  }

  collectSlot(slot: number, chain: ChainBuilder): void {
    for (let value = this.heads[slot] as number; value >= 0; value = this.older[value] as number) {
      const lsn = this.lsns[value] as number;
      if (lsn >= chain.below) continue;
      if (lsn <= chain.floor) return;
      chain.add(lsn, this.flags[value] as number, this.arena.read(this.blobs[value] as number as BlobRef));
      if (chain.done) return;
    }
  }

  /** Slots are numbered from 0 in the order of first puts. */
  slotHandle(slot: number): number {
    return this.handles[slot] as number;
  }

  slotBlock(slot: number): number {
    return this.blocks[slot] as number;
  }

  /** Values of a slot, oldest first, appended to `target` from its start; returns their number. Grows `target`. */
  slotValues(slot: number, target: { values: Uint32Array }): number {
    let count = 0;
    for (let value = this.heads[slot] as number; value >= 0; value = this.older[value] as number) {
      if (count === target.values.length) {
        const grown = new Uint32Array(count * 2);
        grown.set(target.values);
        target.values = grown;
      }
      target.values[count++] = value;
    }
    target.values.subarray(0, count).reverse();
    return count;
  }

  valueLsn(value: number): number {
    return this.lsns[value] as number;
  }

  valueFlags(value: number): number {
    return this.flags[value] as number;
  }

  valueBlob(value: number): BlobRef {
    return this.blobs[value] as number as BlobRef;
  }

  /** The slots of a range in key order. What is put after the call is not among them. */
  async sortedSlots(range: KeyRange | undefined, yielder: Yielder): Promise<Uint32Array> {
    const count = this.slotCount;
    const membership = range && this.handlesIn(range);
    const slots = new Uint32Array(count);
    let found = 0;
    for (let slot = 0; slot < count; slot++) {
      if (slot % SLICE === 0 && yielder.due()) await yielder.yield();
      if (!range || !membership || this.slotInRange(slot, range, membership)) slots[found++] = slot;
    }
    const picked = slots.slice(0, found);
    const ranks = await this.rankHandles(yielder);
    const ranked = new Uint32Array(count);
    for (let i = 0; i < found; i++) {
      if (i % SLICE === 0 && yielder.due()) await yielder.yield();
      const slot = picked[i] as number;
      ranked[slot] = ranks[this.handles[slot] as number] as number;
    }
    return radixSort(picked, [this.blocks, ranked], yielder);
  }

  /** For each handle whether its keys are in a range: all, none, or those with the right blocks. */
  private handlesIn(range: KeyRange): Uint8Array {
    const membership = new Uint8Array(this.prefixes.size);
    for (const [handle, prefix] of this.prefixes.prefixes.entries()) {
      const above = compareKeyPrefixes(prefix, range.from);
      const below = compareKeyPrefixes(prefix, range.to);
      membership[handle] = above < 0 || below > 0 ? NO_KEY : above > 0 && below < 0 ? EVERY_KEY : SOME_KEYS;
    }
    return membership;
  }

  private slotInRange(slot: number, range: KeyRange, membership: Uint8Array): boolean {
    const handle = this.handles[slot] as number;
    const member = membership[handle];
    if (member !== SOME_KEYS) return member === EVERY_KEY;
    const prefix = this.prefixes.prefix(handle);
    const block = this.blocks[slot] as number;
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

  private placeOf(handle: number, block: number): number {
    const mask = this.places.length - 1;
    let at = Math.imul(Math.imul(block ^ (block >>> 15), 0x9e3779b1) + handle, 0x85ebca6b);
    at = (at ^ (at >>> 15)) & mask;
    for (;;) {
      const slot = (this.places[at] as number) - 1;
      if (slot < 0 || (this.blocks[slot] === block && this.handles[slot] === handle)) return at;
      at = (at + 1) & mask;
    }
  }

  private slotFor(handle: number, block: number): number {
    const place = this.placeOf(handle, block);
    const found = (this.places[place] as number) - 1;
    if (found >= 0) return found;
    assert(block >>> 0 === block, `block ${block} is out of range`);
    assert(handle >= 0 && handle < this.prefixes.size, `no key handle ${handle}`);
    const slot = this.slotCount;
    if (slot === this.handles.length) this.growKeys();
    this.slotCount = slot + 1;
    this.handles[slot] = handle;
    this.blocks[slot] = block;
    this.heads[slot] = -1;
    this.lengths[slot] = 0;
    this.places[this.placeOf(handle, block)] = slot + 1;
    return slot;
  }

  private growKeys(): void {
    this.handles = grownU32(this.handles);
    this.blocks = grownU32(this.blocks);
    const heads = new Int32Array(this.heads.length * 2);
    heads.set(this.heads);
    this.heads = heads;
    const lengths = new Uint32Array(heads.length);
    lengths.set(this.lengths);
    this.lengths = lengths;
    this.places = new Int32Array(this.places.length * 2);
    for (let slot = 0; slot < this.slotCount; slot++) {
      this.places[this.placeOf(this.handles[slot] as number, this.blocks[slot] as number)] = slot + 1;
    }
  }

  private growValues(): void {
    const capacity = this.lsns.length * 2;
    const older = new Int32Array(capacity);
    older.set(this.older);
    this.older = older;
    const lsns = new Float64Array(capacity);
    lsns.set(this.lsns);
    this.lsns = lsns;
    this.blobs = grownU32(this.blobs);
    const flags = new Uint8Array(capacity);
    flags.set(this.flags);
    this.flags = flags;
  }
}
