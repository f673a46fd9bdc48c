/** A moment as a field of a request's body. */

/** Milliseconds, or microseconds where they are needed. */
export function renderTime(unixMs: number): Record<string, number> {
  return Number.isInteger(unixMs) ? { timestamp_ms: unixMs } : { timestamp_us: Math.round(unixMs * 1000) };
}
