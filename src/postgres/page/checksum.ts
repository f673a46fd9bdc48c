/**
 * The checksum of a page, as Postgres writes it into its files when data checksums are on: 32 interleaved FNV-1a-like
 * sums over the page's words, folded to 16 bits together with the block number.
 * Source: PostgreSQL 14-18, src/include/storage/checksum_impl.h.
 */
import { assert } from "../../base/errors.ts";
import { PAGE_SIZE } from "../constants.ts";

const COLUMNS = 32;
const ROWS = PAGE_SIZE / 4 / COLUMNS;
const PRIME = 16777619;
/** The word that holds the checksum in its low half: it counts as zero there. */
const CHECKSUM_WORD = 2;

const SEEDS = Uint32Array.of(
  0x5b1f36e9, 0xb8525960, 0x02ab50aa, 0x1de66d2a, 0x79ff467a, 0x9bb9f8a3, 0x217e7cd2, 0x83e13d2c,
  0xf8d4474f, 0xe39eb970, 0x42c6ae16, 0x993216fa, 0x7b093b5d, 0x98daff3c, 0xf718902a, 0x0b1c9cdb,
  0xe58f764b, 0x187636bc, 0x5d7b3bb1, 0xe73de7de, 0x92bec979, 0xcca6c0b2, 0x304a0979, 0x85aa43d4,
  0x783125bb, 0x6ca8eaa2, 0xe407eac6, 0x4b5cfc3e, 0x9fbf8c76, 0x15ca20be, 0xf2ca9fd3, 0x959bd756,
); // prettier-ignore

/**
 * The checksum (1 to 65535) of a page with the given number within its fork. The checksum field itself does not
 * count. Postgres never computes it for a page that was not initialised.
 */
export function pageChecksum(page: DataView, blockNumber: number): number {
  assert(page.byteLength === PAGE_SIZE, `a page has ${PAGE_SIZE} bytes, not ${page.byteLength}`);
  let folded = 0;
  for (let column = 0; column < COLUMNS; column++) {
    let sum = SEEDS[column] as number;
    for (let row = 0; row < ROWS; row++) {
      const index = row * COLUMNS + column;
      let word = page.getUint32(index * 4, true);
      if (index === CHECKSUM_WORD) word &= 0xffff0000;
      sum = mix(sum, word);
    }
    folded ^= mix(mix(sum, 0), 0);
  }
  folded = (folded ^ blockNumber) >>> 0;
  return (folded % 65535) + 1;
}

function mix(sum: number, word: number): number {
  const t = sum ^ word;
  return Math.imul(t, PRIME) ^ (t >>> 17);
}
