/** Randomness for tests that can be replayed: the seed is printed, and taken from NEON_TEST_SEED when that is set. */
import type { TestContext } from "node:test";

/** A small generator (mulberry32): good enough for tests, the same on every machine. */
export class SeededRandom {
  readonly seed: number;
  private state: number;

  constructor(seed: number) {
    this.seed = seed;
    this.state = seed | 0;
  }

  /** Makes a generator for a test and prints its seed. */
  static forTest(t: TestContext): SeededRandom {
    const given = process.env["NEON_TEST_SEED"];
    const seed = given === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(given);
    t.diagnostic(`NEON_TEST_SEED=${seed}`);
    return new SeededRandom(seed);
  }

  /** An unsigned 32-bit number. */
  u32(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let z = this.state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (z ^ (z >>> 14)) >>> 0;
  }

  /** An integer from 0 to `limit - 1`. */
  below(limit: number): number {
    return Math.floor((this.u32() / 2 ** 32) * limit);
  }

  /** An integer from `first` to `last`, both included. */
  between(first: number, last: number): number {
    return first + this.below(last - first + 1);
  }

  chance(probability: number): boolean {
    return this.u32() / 2 ** 32 < probability;
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error("nothing to pick from");
    return item;
  }

  bytes(count: number): Uint8Array {
    const bytes = new Uint8Array(count);
    for (let i = 0; i < count; i++) bytes[i] = this.below(256);
    return bytes;
  }
}
