/**
 * The checksum of a page, as Postgres writes it into its files when data checksums are on: 32 interleaved FNV-1a-like
 * sums over the page's words, folded to 16 bits together with the block number.
 * Source: PostgreSQL 14-18, src/include/storage/checksum_impl.h.
 */
import { assert } from "../../base/errors.ts";
import { PAGE_SIZE } from "../constants.ts";

const COLUMNS = 32;
const ROW_SIZE = 4 * COLUMNS;
const PRIME = 16777619;
/** The word that holds the checksum in its low half, which counts as zero; its column is the third of four. */
const CHECKSUM_WORD_OFFSET = 8;

const SEEDS = Int32Array.of(
  0x5b1f36e9,
  0xb8525960,
  0x02ab50aa,
  0x1de66d2a,
  0x79ff467a,
  0x9bb9f8a3,
  0x217e7cd2,
  0x83e13d2c,
  0xf8d4474f,
  0xe39eb970,
  0x42c6ae16,
  0x993216fa,
  0x7b093b5d,
  0x98daff3c,
  0xf718902a,
  0x0b1c9cdb,
  0xe58f764b,
  0x187636bc,
  0x5d7b3bb1,
  0xe73de7de,
  0x92bec979,
  0xcca6c0b2,
  0x304a0979,
  0x85aa43d4,
  0x783125bb,
  0x6ca8eaa2,
  0xe407eac6,
  0x4b5cfc3e,
  0x9fbf8c76,
  0x15ca20be,
  0xf2ca9fd3,
  0x959bd756,
);

/**
 * The checksum (1 to 65535) of a page with the given number within its fork. The checksum field itself does not
 * count. Postgres never computes it for a page that was not initialised.
 */
export function pageChecksum(page: DataView, blockNumber: number): number {
  assert(page.byteLength === PAGE_SIZE, `a page has ${PAGE_SIZE} bytes, not ${page.byteLength}`);
  let folded = blockNumber;
  // Four sums at a time: each step depends on the one before, so that one alone leaves the processor idle.
  for (let column = 0; column < COLUMNS; column += 4) {
    let a = SEEDS[column] as number;
    let b = SEEDS[column + 1] as number;
    let c = SEEDS[column + 2] as number;
    let d = SEEDS[column + 3] as number;
    for (let at = column * 4; at < PAGE_SIZE; at += ROW_SIZE) {
      a = mix(a, page.getUint32(at, true));
      b = mix(b, page.getUint32(at + 4, true));
      const word = page.getUint32(at + 8, true);
      c = mix(c, at + 8 === CHECKSUM_WORD_OFFSET ? word & 0xffff0000 : word);
      d = mix(d, page.getUint32(at + 12, true));
    }
    folded ^= mix(mix(a, 0), 0) ^ mix(mix(b, 0), 0) ^ mix(mix(c, 0), 0) ^ mix(mix(d, 0), 0);
  }
  return ((folded >>> 0) % 65535) + 1;
}

function mix(sum: number, word: number): number {
  const t = sum ^ word;
  return Math.imul(t, PRIME) ^ (t >>> 17);
}
