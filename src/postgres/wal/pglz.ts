/**
 * Decompression of pglz, Postgres' own LZ format, in its raw form without a header.
 * Source: the format described in PostgreSQL 17, src/common/pg_lzcompress.c.
 *
 * Items come in groups of eight behind a control byte, lowest bit first. Bit 0: one literal byte. Bit 1: a copy of
 * earlier output, two bytes `a b`: length (a & 15) + 3, distance (a & 0xF0) << 4 | b; a length of 18 is followed by a
 * byte to add. A copy may overlap what it writes; the last one may reach beyond the end and is cut there.
 */
import { corrupt, type NeonError } from "../../base/errors.ts";

const LENGTH_MIN = 3;
/** This length means that one more byte adds to it. */
const LENGTH_EXTENDED = 18;

/**
 * Decompresses `source[start..end)` to exactly `target[0..targetLength)`. Throws `corrupt` with the offset when the
 * input is damaged, is left over or is too short.
 */
export function decompressPglz(
  source: Uint8Array,
  start: number,
  end: number,
  target: Uint8Array,
  targetLength: number,
): void {
  let at = start;
  let out = 0;
  while (at < end && out < targetLength) {
    let control = source[at++] as number;
    for (let item = 0; item < 8 && at < end && out < targetLength; item++, control >>>= 1) {
      if ((control & 1) === 0) {
        target[out++] = source[at++] as number;
        continue;
      }
      if (end - at < 2) throw damaged("input ends inside a copy", at - start);
      const first = source[at] as number;
      let length = (first & 0x0f) + LENGTH_MIN;
      const distance = ((first & 0xf0) << 4) | (source[at + 1] as number);
      at += 2;
      if (length === LENGTH_EXTENDED) {
        if (at >= end) throw damaged("input ends inside a copy", at - start);
        length += source[at++] as number;
      }
      if (distance === 0 || distance > out)
        throw damaged(`copy from distance ${distance} after ${out} bytes`, at - start);
      const stop = Math.min(out + length, targetLength);
      // Byte by byte: source and destination overlap when the distance is shorter than the length.
      for (; out < stop; out++) target[out] = target[out - distance] as number;
    }
  }
  if (out !== targetLength)
    throw damaged(`input ends after ${out} of ${targetLength} bytes of output`, at - start);
  if (at !== end) throw damaged(`${end - at} bytes left over`, at - start);
}

function damaged(what: string, offset: number): NeonError {
  return corrupt(`pglz data is damaged: ${what} (offset ${offset})`, { offset });
}
