/** What reads of the store return. */
import { type Lsn } from "../base/lsn.ts";
import { type Key, isBase } from "./key.ts";

/** One version of a key. */
export interface StoredValue {
  readonly lsn: Lsn;
  /** `ValueFlag` bits. */
  readonly flags: number;
  /**
   * View: it never changes, but it keeps a block of up to 1 MiB alive; copy what is kept for long. Empty for a
   * tombstone.
   */
  readonly bytes: Uint8Array;
}

/** How the search for the oldest value that matters ended. */
export type ChainBase =
  /** The last value is an image, a record that needs nothing before it, or a tombstone. */
  | "found"
  /** There is nothing older: the key did not exist before the values returned. */
  | "missing"
  /** Everything above the caller's floor was returned, and none of it is a base. */
  | "floor";

/** Everything needed to know a key at an LSN, newest first. A tombstone counts as a base. */
export interface ValueChain {
  readonly values: readonly StoredValue[];
  readonly base: ChainBase;
}

/** A key as a scan returns it. */
export interface ScanEntry {
  readonly key: Key;
  /** Newest first, at least one. */
  readonly values: readonly StoredValue[];
  readonly base: "found" | "missing";
}

/**
 * Collects values from newest to oldest. Layers are asked one after another, newest first; where two hold the same
 * LSN, the value of the newer layer counts, because `below` then already excludes it.
 */
export class ChainBuilder {
  readonly values: StoredValue[] = [];
  /** Only values below this LSN are wanted. */
  below: number;
  /** Only values above this LSN are wanted. */
  floor: number;
  /** A base has been added; nothing older matters. */
  done = false;

  constructor(lsn: number, floor: number) {
    this.below = lsn + 1;
    this.floor = floor;
  }

  add(lsn: number, flags: number, bytes: Uint8Array): void {
    this.values.push({ lsn: lsn as Lsn, flags, bytes });
    this.below = lsn;
    if (isBase(flags)) this.done = true;
  }
}
