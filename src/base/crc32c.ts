/**
 * CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), slicing by 16. The raw state is a signed 32-bit integer
 * that starts at -1 and is inverted at the end; `crc32cUpdate` works on raw states so that pieces can be chained.
 */
import { makeWideUpdate } from "./crc32c-wasm.ts";

const TABLES = buildTables();

function buildTables(): Int32Array {
  const tables = new Int32Array(16 * 256);
  for (let i = 0; i < 256; i++) {
    let c = i;
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
    tables[i] = c;
  }
  for (let t = 1; t < 16; t++) {
    for (let i = 0; i < 256; i++) {
      const c = tables[(t - 1) * 256 + i] as number;
      tables[t * 256 + i] = (c >>> 8) ^ (tables[c & 255] as number);
    }
  }
  return tables;
}

/** From this length on the copy into WebAssembly's memory is worth what it costs. */
const WIDE_BYTES_MIN = 512;

/** Its memory holds nothing between two calls. */
const updateWide = makeWideUpdate(TABLES) ?? updateBytes;

/** The raw state after `bytes[start..end)`. Start with -1. */
export function crc32cUpdate(state: number, bytes: Uint8Array, start: number, end: number): number {
  if (end - start < WIDE_BYTES_MIN) return updateBytes(state, bytes, start, end);
  const whole = end - ((end - start) % 16);
  return updateBytes(updateWide(state, bytes, start, whole), bytes, whole, end);
}

function updateBytes(state: number, bytes: Uint8Array, start: number, end: number): number {
  const T = TABLES;
  let c = state;
  let i = start;
  const last = end - 15;
  for (; i < last; i += 16) {
    const b = bytes;
    c ^=
      (b[i] as number) |
      ((b[i + 1] as number) << 8) |
      ((b[i + 2] as number) << 16) |
      ((b[i + 3] as number) << 24);
    c =
      (T[3840 + (c & 255)] as number) ^
      (T[3584 + ((c >>> 8) & 255)] as number) ^
      (T[3328 + ((c >>> 16) & 255)] as number) ^
      (T[3072 + (c >>> 24)] as number) ^
      (T[2816 + (b[i + 4] as number)] as number) ^
      (T[2560 + (b[i + 5] as number)] as number) ^
      (T[2304 + (b[i + 6] as number)] as number) ^
      (T[2048 + (b[i + 7] as number)] as number) ^
      (T[1792 + (b[i + 8] as number)] as number) ^
      (T[1536 + (b[i + 9] as number)] as number) ^
      (T[1280 + (b[i + 10] as number)] as number) ^
      (T[1024 + (b[i + 11] as number)] as number) ^
      (T[768 + (b[i + 12] as number)] as number) ^
      (T[512 + (b[i + 13] as number)] as number) ^
      (T[256 + (b[i + 14] as number)] as number) ^
      (T[b[i + 15] as number] as number);
  }
  for (; i < end; i++) c = (c >>> 8) ^ (T[(c ^ (bytes[i] as number)) & 255] as number);
  return c;
}

/** The unsigned checksum of `bytes[start..end)`. */
export function crc32c(bytes: Uint8Array, start = 0, end: number = bytes.length): number {
  return (crc32cUpdate(-1, bytes, start, end) ^ -1) >>> 0;
}
