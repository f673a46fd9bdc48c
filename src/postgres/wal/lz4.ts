/**
 * Decompression of one raw LZ4 block of known output size, without frame.
 * Source of the format: the LZ4 block format description, lz4_Block_format.md.
 *
 * Sequences of: a token (high four bits: number of literals, low four: copy length - 4; 15 means that bytes follow
 * which add up, until one is not 255), the literals, and a copy from a 16-bit little-endian distance. The last sequence
 * ends after its literals.
 */
import { corrupt, type NeonError } from "../../base/errors.ts";

const COPY_LENGTH_MIN = 4;
const NIBBLE_MAX = 15;

/**
 * Decompresses `source[start..end)` to exactly `target[0..targetLength)`. Throws `corrupt` with the offset when the
 * input is damaged, is left over or is too short.
 */
export function decompressLz4Block(
  source: Uint8Array,
  start: number,
  end: number,
  target: Uint8Array,
  targetLength: number,
): void {
  let at = start;
  let out = 0;
  for (;;) {
    if (at >= end) throw damaged("input ends before a token", at - start);
    const token = source[at++] as number;
    let literals = token >>> 4;
    if (literals === NIBBLE_MAX) {
      let more: number;
      do {
        if (at >= end) throw damaged("input ends inside a length", at - start);
        more = source[at++] as number;
        literals += more;
      } while (more === 255);
    }
    if (literals > end - at) throw damaged("input ends inside literals", at - start);
    if (literals > targetLength - out) throw damaged("more output than announced", at - start);
    target.set(source.subarray(at, at + literals), out);
    at += literals;
    out += literals;
    if (at === end) break;

    if (end - at < 2) throw damaged("input ends inside a distance", at - start);
    const distance = (source[at] as number) | ((source[at + 1] as number) << 8);
    at += 2;
    let length = (token & NIBBLE_MAX) + COPY_LENGTH_MIN;
    if (length === NIBBLE_MAX + COPY_LENGTH_MIN) {
      let more: number;
      do {
        if (at >= end) throw damaged("input ends inside a length", at - start);
        more = source[at++] as number;
        length += more;
      } while (more === 255);
    }
    if (distance === 0 || distance > out)
      throw damaged(`copy from distance ${distance} after ${out} bytes`, at - start);
    if (length > targetLength - out) throw damaged("more output than announced", at - start);
    // Byte by byte: source and destination overlap when the distance is shorter than the length.
    for (const stop = out + length; out < stop; out++) target[out] = target[out - distance] as number;
  }
  if (out !== targetLength)
    throw damaged(`input ends after ${out} of ${targetLength} bytes of output`, at - start);
}

function damaged(what: string, offset: number): NeonError {
  return corrupt(`LZ4 block is damaged: ${what} (offset ${offset})`, { offset });
}
