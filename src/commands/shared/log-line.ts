/** The pageserver logs lines of JSON; people get a line of text for each. */
import { paint } from "./output.ts";

const LEVELS: Readonly<Record<number, string>> = {
  10: "TRACE",
  20: "DEBUG",
  30: "INFO ",
  40: "WARN ",
  50: "ERROR",
  60: "FATAL",
};
/** Fields that are shown elsewhere in the line, or say nothing on one machine. */
const HIDDEN = new Set(["level", "time", "msg", "pid", "hostname", "err", "v"]);

/** `2026-11-21 10:00:00.123 INFO  message  key=value`; what is no JSON stays as it is. */
export function formatLogLine(line: string): string {
  if (!line.startsWith("{")) return line;
  let entry: Record<string, unknown>;
  try {
    entry = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return line;
  }
  const level = LEVELS[Number(entry["level"])] ?? "     ";
  const severe = Number(entry["level"]) >= 50;
  const details = Object.entries(entry)
    .filter(([key]) => !HIDDEN.has(key))
    .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  const error = entry["err"];
  if (typeof error === "object" && error !== null && "stack" in error)
    details.push(`\n${String(error.stack)}`);
  const text = [
    timeText(entry["time"]),
    severe ? paint("red", level) : level,
    typeof entry["msg"] === "string" ? entry["msg"] : "",
  ];
  return [...text, details.length > 0 ? paint("dim", details.join(" ")) : ""].join(" ").trimEnd();
}

function timeText(value: unknown): string {
  const time = typeof value === "number" || typeof value === "string" ? new Date(value) : undefined;
  return time && !Number.isNaN(time.getTime()) ? time.toISOString().replace("T", " ").replace("Z", "") : "-";
}
