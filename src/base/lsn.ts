/**
 * LSN: a byte position in the WAL. A branded number, guarded at 2^53 (8 PiB of WAL); text `X/Y` in hexadecimal at
 * every human or JSON edge. All arithmetic on LSNs is here: bit operators would cut them to 32 bits.
 */
import { ErrorCode, NeonError, assert } from "./errors.ts";

export type Lsn = number & { readonly __brand: "Lsn" };

/** No LSN: what Postgres writes 0/0. */
export const INVALID_LSN = 0 as Lsn;
/** Later than every LSN that can occur. */
export const MAX_LSN = Number.MAX_SAFE_INTEGER as Lsn;

const TWO_32 = 2 ** 32;
/** Highest high word that keeps an LSN within 2^53. */
const HIGH_WORD_MAX = 0x1fffff;

/** Checks that a number is an LSN. */
export function toLsn(value: number): Lsn {
  assert(Number.isSafeInteger(value) && value >= 0, `LSN out of range: ${value}`);
  return value as Lsn;
}

/** From the two 32-bit words. Throws `corrupt` above 2^53. */
export function lsnFromWords(high: number, low: number): Lsn {
  if (high > HIGH_WORD_MAX) {
    throw new NeonError(ErrorCode.Corrupt, `LSN ${high.toString(16)}/${low.toString(16)} is beyond 2^53`, {
      data: { high, low },
    });
  }
  return (high * TWO_32 + low) as Lsn;
}

export function lsnHigh(lsn: Lsn): number {
  return Math.floor(lsn / TWO_32);
}

export function lsnLow(lsn: Lsn): number {
  return lsn % TWO_32;
}

/** `X/Y`, upper-case hexadecimal without leading zeros, as Postgres prints it. */
export function formatLsn(lsn: Lsn): string {
  return `${lsnHigh(lsn).toString(16).toUpperCase()}/${lsnLow(lsn).toString(16).toUpperCase()}`;
}

const LSN_TEXT = /^([0-9a-fA-F]{1,8})\/([0-9a-fA-F]{1,8})$/;

/** The LSN that a text `X/Y` names, or undefined if it names none. */
export function parseLsn(text: string): Lsn | undefined {
  const match = LSN_TEXT.exec(text);
  if (!match?.[1] || !match[2]) return undefined;
  const high = Number.parseInt(match[1], 16);
  if (high > HIGH_WORD_MAX) return undefined;
  return (high * TWO_32 + Number.parseInt(match[2], 16)) as Lsn;
}

/** `lsn + bytes`. */
export function lsnAdd(lsn: Lsn, sizeBytes: number): Lsn {
  return toLsn(lsn + sizeBytes);
}

/** Rounded up to a multiple of `alignment` (any positive integer). */
export function lsnAlignUp(lsn: Lsn, alignment: number): Lsn {
  const rest = lsn % alignment;
  return rest === 0 ? lsn : toLsn(lsn - rest + alignment);
}

/** Rounded down to a multiple of `alignment` (any positive integer). */
export function lsnAlignDown(lsn: Lsn, alignment: number): Lsn {
  return (lsn - (lsn % alignment)) as Lsn;
}

export function lsnMin(a: Lsn, b: Lsn): Lsn {
  return a < b ? a : b;
}

export function lsnMax(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}
