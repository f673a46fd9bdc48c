/** What goes to the terminal: data on stdout, everything else on stderr, the same failures in text and JSON. */
import { writeSync } from "node:fs";
import { styleText } from "node:util";
import type { Failure } from "./failure.ts";

export type Style = "bold" | "dim" | "red" | "green" | "yellow" | "cyan";

/** Colour where the stream is a terminal and neither NO_COLOR nor TERM=dumb speaks against it. */
export function paint(style: Style, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  if (process.env["TERM"] === "dumb" && !process.env["FORCE_COLOR"]) return text;
  return styleText(style, text, { stream });
}

export function failureJson(failure: Failure): object {
  return {
    ok: false,
    error: { code: failure.code, message: failure.message, hint: failure.hint ?? null },
  };
}

/** Reports a failure; works even when the process is about to end, because it writes synchronously. */
export function reportFailure(failure: Failure, json: boolean): void {
  if (json) {
    writeAll(1, `${JSON.stringify(failureJson(failure), undefined, 2)}\n`);
    return;
  }
  let text = `${paint("red", "error:", process.stderr)} ${failure.message}\n`;
  if (failure.hint) text += `${paint("yellow", "hint:", process.stderr)} ${failure.hint}\n`;
  writeAll(2, text);
}

function writeAll(descriptor: number, text: string): void {
  try {
    writeSync(descriptor, text);
  } catch {
    // Nobody reads any more (a closed pipe): there is nobody left to tell.
  }
}

/** Columns with two spaces between them, no lines, nothing cut; the header is shown dim. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((name, column) =>
    Math.max(name.length, ...rows.map((row) => (row[column] ?? "").length)),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => (column === cells.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join("  ")
      .trimEnd();
  return [paint("dim", line(header)), ...rows.map(line)].join("\n");
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** `1.5 MiB`. */
export function formatBytes(sizeBytes: number): string {
  let value = sizeBytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit] ?? ""}`;
}
