/** Times as the original's clients write them, `7 days` or `1h 30m`, and as they are shown to them. */
import type { JsonFields } from "./json-fields.ts";

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const UNITS_MS: ReadonlyMap<string, number> = new Map([
  ...["ms", "msec", "millis", "millisecond"].map((unit) => [unit, 1] as const),
  ...["s", "sec", "second"].map((unit) => [unit, SECOND] as const),
  ...["m", "min", "minute"].map((unit) => [unit, MINUTE] as const),
  ...["h", "hr", "hour"].map((unit) => [unit, HOUR] as const),
  ...["d", "day"].map((unit) => [unit, DAY] as const),
  ...["w", "wk", "week"].map((unit) => [unit, 7 * DAY] as const),
]);

const TEXT_LENGTH_MAX = 60;

/** Reads a field, in milliseconds. Throws for what is no such time, or not between the bounds. */
export function readDuration(body: JsonFields, name: string, range: { min: number; max: number }): number {
  if (body.isNumber(name))
    throw body.wrong(name, "must be a time with its unit, such as 7 days, 1h 30m or 0s");
  const ms = parseDuration(body.text(name, { maxLength: TEXT_LENGTH_MAX }));
  if (ms === undefined) throw body.wrong(name, "must be a time such as 7 days, 1h 30m or 0s");
  if (ms >= range.min && ms <= range.max) return ms;
  throw body.wrong(name, `must be from ${formatDuration(range.min)} to ${formatDuration(range.max)}`);
}

/** Undefined for what is no such time. */
export function parseDuration(text: string): number | undefined {
  let sum = 0;
  let rest = text.trim();
  if (rest === "") return undefined;
  while (rest !== "") {
    const [part, amount, unit] = /^(\d{1,12}) *([a-z]+) */.exec(rest) ?? [];
    if (part === undefined || unit === undefined) return undefined;
    const unitMs = UNITS_MS.get(unit) ?? UNITS_MS.get(unit.replace(/s$/, ""));
    if (unitMs === undefined) return undefined;
    sum += Number(amount) * unitMs;
    rest = rest.slice(part.length);
  }
  return sum;
}

/** `7days`, `1h 30m`, `0s`. */
export function formatDuration(ms: number): string {
  const parts: string[] = [];
  let rest = ms;
  for (const [unit, size] of [
    ["day", DAY],
    ["h", HOUR],
    ["m", MINUTE],
    ["s", SECOND],
    ["ms", 1],
  ] as const) {
    const amount = Math.floor(rest / size);
    rest -= amount * size;
    if (amount > 0) parts.push(`${amount}${unit}${unit === "day" && amount > 1 ? "s" : ""}`);
  }
  return parts.length === 0 ? "0s" : parts.join(" ");
}
