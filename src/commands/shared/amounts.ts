/** Lengths of time and sizes as people write them on the command line: `7d`, `64MB`. */
import { ErrorCode, NeonError } from "../../base/errors.ts";

const MILLISECONDS: Readonly<Record<string, number>> = {
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 7 * 86_400_000,
};
const BYTES: Readonly<Record<string, number>> = { B: 1, kB: 1024, MB: 1024 ** 2, GB: 1024 ** 3 };

/** Milliseconds. Throws `usage`. */
export function parseAge(text: string, flag: string): number {
  return parse(
    text,
    MILLISECONDS,
    `${flag} is a length of time: a number with s, m, h, d or w, as in 2d, or 0`,
  );
}

/** Bytes. Throws `usage`. */
export function parseSize(text: string, flag: string): number {
  return parse(text, BYTES, `${flag} is a size: a number with B, kB, MB or GB, as in 64MB, or 0`);
}

function parse(text: string, units: Readonly<Record<string, number>>, problem: string): number {
  const match = /^(\d{1,12})([A-Za-z]*)$/.exec(text);
  const count = Number(match?.[1]);
  const unit = units[match?.[2] ?? ""];
  const value = count === 0 ? 0 : count * (unit ?? Number.NaN);
  if (match && Number.isSafeInteger(value)) return value;
  throw new NeonError(ErrorCode.Usage, `"${text}": ${problem}`);
}
