/**
 * Names of the files outside relations that replay keeps: SLRU segments (32 pages, four upper-case hexadecimal
 * digits or more) and two-phase state files.
 * Source: PostgreSQL 14-18, src/backend/access/transam/{slru,twophase}.c.
 */
import { assert } from "../base/errors.ts";
import type { PgVersion } from "./versions/version.ts";

/** The SLRUs whose content WAL restores; the number is ours. */
export const Slru = { Xact: 0, MultixactOffsets: 1, MultixactMembers: 2, CommitTs: 3 } as const;
export type Slru = (typeof Slru)[keyof typeof Slru];

const DIRECTORIES: readonly string[] = [
  "pg_xact",
  "pg_multixact/offsets",
  "pg_multixact/members",
  "pg_commit_ts",
];
const SEGMENT_NAME = /^[0-9A-F]{4,6}$/;
const TWO_PHASE_NAME = /^(?:[0-9A-F]{8}|[0-9A-F]{16})$/;
const TWO_PHASE_DIRECTORY = "pg_twophase/";

export interface SlruSegment {
  readonly slru: Slru;
  readonly segment: number;
}

export function slruDirectory(slru: Slru): string {
  const directory = DIRECTORIES[slru];
  assert(directory !== undefined, `SLRU ${slru}`);
  return directory;
}

/** `pg_xact/0000`: the path of a segment, relative to the data directory. */
export function slruPath(slru: Slru, segment: number): string {
  assert(Number.isInteger(segment) && segment >= 0 && segment <= 0xffffff, `SLRU segment ${segment}`);
  return `${slruDirectory(slru)}/${segment.toString(16).toUpperCase().padStart(4, "0")}`;
}

/** The segment that a path names, or undefined. */
export function parseSlruPath(path: string): SlruSegment | undefined {
  const slash = path.lastIndexOf("/");
  const slru = DIRECTORIES.indexOf(path.slice(0, Math.max(slash, 0)));
  const name = path.slice(slash + 1);
  if (slru < 0 || !SEGMENT_NAME.test(name)) return undefined;
  const segment = Number.parseInt(name, 16);
  // Postgres writes no leading zeros beyond four digits.
  if (name.length > 4 && name.startsWith("0")) return undefined;
  return { slru: slru as Slru, segment };
}

/** `pg_twophase/0000000000000345`: where a prepared transaction's state is kept. */
export function twoPhasePath(fullXid: bigint, version: PgVersion): string {
  assert(fullXid >= 0n, "transaction ids are not negative");
  const shown = version.twoPhaseNameDigits === 16 ? BigInt.asUintN(64, fullXid) : BigInt.asUintN(32, fullXid);
  return TWO_PHASE_DIRECTORY + shown.toString(16).toUpperCase().padStart(version.twoPhaseNameDigits, "0");
}

/** The transaction whose state file a path names (without epoch before 17), or undefined. */
export function parseTwoPhasePath(path: string, version: PgVersion): bigint | undefined {
  if (!path.startsWith(TWO_PHASE_DIRECTORY)) return undefined;
  const name = path.slice(TWO_PHASE_DIRECTORY.length);
  if (name.length !== version.twoPhaseNameDigits || !TWO_PHASE_NAME.test(name)) return undefined;
  return BigInt(`0x${name}`);
}
