/**
 * Points in time, as users write them: `BRANCH`, `BRANCH@LSN`, `BRANCH@TIMESTAMP`, a timeline id, a timeline id with
 * `@LSN` or `@TIMESTAMP`. The only parser of that syntax; its error lists what is accepted.
 */
import { ErrorCode, NeonError, unreachable } from "../base/errors.ts";
import { type TimelineId, isId, parseTimelineId } from "../base/ids.ts";
import { type Lsn, formatLsn, parseLsn } from "../base/lsn.ts";
import { refNameProblem } from "./ref-name.ts";

export type PointSource =
  | { readonly kind: "branch"; readonly name: string }
  | { readonly kind: "timeline"; readonly timelineId: TimelineId };

export type PointTime =
  | { readonly kind: "end" }
  | { readonly kind: "lsn"; readonly lsn: Lsn }
  /** Milliseconds since 1970. */
  | { readonly kind: "timestamp"; readonly unixMs: number };

export interface Point {
  readonly source: PointSource;
  readonly at: PointTime;
}

export const POINT_FORMS =
  "BRANCH, BRANCH@LSN (main@0/1A2B3C8), BRANCH@TIME (main@2026-11-21T10:00:00Z), BRANCH@AGE (main@10m, main@2h, main@3d), " +
  "or a timeline id of 32 hexadecimal digits in the place of BRANCH";

/** Parses a point; `nowMs` is what ages are counted from. Throws `usage`. */
export function parsePoint(text: string, nowMs: number): Point {
  const split = text.indexOf("@");
  const sourceText = split < 0 ? text : text.slice(0, split);
  const source = parseSource(sourceText);
  if (!source)
    throw invalidPoint(text, `"${sourceText}" is no name of a branch: ${refNameProblem(sourceText)}`);
  if (split < 0) return { source, at: { kind: "end" } };
  return { source, at: parseTimeOf(text, text.slice(split + 1), nowMs) };
}

/**
 * What `--lsn` takes: only the part after the `@` (an LSN, a time, an age), counted on `defaultSource`, or a whole
 * point. Throws `usage`.
 */
export function parsePointOn(text: string, defaultSource: PointSource, nowMs: number): Point {
  if (text.includes("@")) return parsePoint(text, nowMs);
  const at = parseTime(text, nowMs);
  if (typeof at === "object") return { source: defaultSource, at };
  return parsePoint(text, nowMs);
}

/** ISO 8601, with microseconds where there are any. */
function formatTime(unixMs: number): string {
  const whole = Math.floor(unixMs);
  const rest = Math.round((unixMs - whole) * 1000);
  const iso = new Date(whole).toISOString();
  return rest === 0 ? iso : `${iso.slice(0, -1)}${String(rest).padStart(3, "0")}Z`;
}

/** A point as a user would write it. */
export function formatPoint(point: Point): string {
  const source = point.source.kind === "branch" ? point.source.name : point.source.timelineId;
  switch (point.at.kind) {
    case "end":
      return source;
    case "lsn":
      return `${source}@${formatLsn(point.at.lsn)}`;
    case "timestamp":
      return `${source}@${formatTime(point.at.unixMs)}`;
    default:
      return unreachable(point.at);
  }
}

function parseSource(text: string): PointSource | undefined {
  if (isId(text.toLowerCase())) return { kind: "timeline", timelineId: parseTimelineId(text) };
  return refNameProblem(text) === undefined ? { kind: "branch", name: text } : undefined;
}

function parseTimeOf(whole: string, text: string, nowMs: number): PointTime {
  const at = parseTime(text, nowMs);
  if (typeof at === "string") throw invalidPoint(whole, at);
  return at;
}

const AGE = /^(\d{1,9})\s*(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?)(?:\s+ago)?$/i;
const UNIT_MS: Readonly<Record<string, number>> = {
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 7 * 86_400_000,
};
/** ISO 8601: date, optionally time of day, optionally offset. A missing offset means local time, as in `psql`. */
const ISO =
  /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*(Z|[+-]\d{2}(?::?\d{2})?)?)?$/i;

/** The time that a text names, or why it names none. */
function parseTime(text: string, nowMs: number): PointTime | string {
  const lsn = parseLsn(text);
  if (lsn !== undefined) return { kind: "lsn", lsn };
  const age = AGE.exec(text);
  if (age) {
    const unitMs = UNIT_MS[(age[2] ?? "").charAt(0).toLowerCase()] ?? 0;
    return { kind: "timestamp", unixMs: nowMs - Number(age[1]) * unitMs };
  }
  const iso = ISO.exec(text);
  if (iso) {
    const unixMs = isoToUnixMs(iso);
    return unixMs === undefined ? `"${text}" is no date that exists` : { kind: "timestamp", unixMs };
  }
  return `"${text}" is neither an LSN nor a time`;
}

function isoToUnixMs(match: RegExpExecArray): number | undefined {
  const part = (index: number): number => Number(match[index] ?? "0");
  const [year, month, day, hour, minute, second] = [1, 2, 3, 4, 5, 6].map(part) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  // Postgres counts microseconds.
  const microseconds = Number((match[7] ?? "").padEnd(6, "0").slice(0, 6));
  const millisecond = Math.floor(microseconds / 1000);
  const rest = (microseconds % 1000) / 1000;
  if (month < 1 || month > 12 || day < 1 || day > daysInMonth(year, month)) return undefined;
  if (hour > 23 || minute > 59 || second > 59) return undefined;
  const zone = match[8];
  if (zone === undefined) {
    return new Date(year, month - 1, day, hour, minute, second, millisecond).getTime() + rest;
  }
  return Date.UTC(year, month - 1, day, hour, minute, second, millisecond) - offsetMs(zone) + rest;
}

function daysInMonth(year: number, month: number): number {
  return new Date(Date.UTC(year, month, 0)).getUTCDate();
}

function offsetMs(zone: string): number {
  if (zone.toUpperCase() === "Z") return 0;
  const digits = zone.slice(1).replace(":", "").padEnd(4, "0");
  const minutes = Number(digits.slice(0, 2)) * 60 + Number(digits.slice(2));
  return (zone.startsWith("-") ? -minutes : minutes) * 60_000;
}

function invalidPoint(text: string, why: string): NeonError {
  return new NeonError(ErrorCode.Usage, `"${text}" is no point in time: ${why}`, {
    hint: `Accepted: ${POINT_FORMS}.`,
  });
}
