/**
 * Changing one value in a TOML text without touching anything else: what people write into a file by hand, comments
 * and order, is theirs. Knows tables and plain `key = value` lines, which is all that we write ourselves; the caller
 * parses the result and so notices what this does not know.
 */

/** A string, number or boolean as TOML. A JSON string is a valid basic string of TOML. */
export function formatTomlValue(value: string | number | boolean): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/** Sets (or, with undefined, removes) the value at a path of keys, adding the table where it is missing. */
export function setTomlValue(
  text: string,
  path: readonly string[],
  value: string | number | boolean | undefined,
): string {
  const table = path.slice(0, -1).map(formatKey).join(".");
  const key = formatKey(path[path.length - 1] ?? "");
  const lines = text.split("\n");
  const [start, end] = tableLines(lines, table);
  if (start < 0) return value === undefined ? text : appendTable(text, table, key, value);
  const at = lines.findIndex((line, i) => i >= start && i < end && keyOfLine(line) === key);
  if (at >= 0) {
    if (value === undefined) lines.splice(at, 1);
    else lines[at] = `${key} = ${formatTomlValue(value)}${trailingComment(lines[at] ?? "")}`;
  } else if (value !== undefined) {
    lines.splice(lastContent(lines, start, end) + 1, 0, `${key} = ${formatTomlValue(value)}`);
  }
  return lines.join("\n");
}

function formatKey(key: string): string {
  return /^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key);
}

/** First line after the table's header and the line that ends it; the root table has no header. */
function tableLines(lines: readonly string[], table: string): [number, number] {
  const header = table === "" ? -1 : lines.findIndex((line) => isHeader(line) && headerName(line) === table);
  if (table !== "" && header < 0) return [-1, -1];
  const next = lines.findIndex((line, i) => i > header && isHeader(line));
  return [header + 1, next < 0 ? lines.length : next];
}

function isHeader(line: string): boolean {
  return /^\s*\[/.test(line);
}

function headerName(line: string): string {
  const name = /^\s*\[\s*((?:"(?:[^"\\]|\\.)*"|[^"\]#])*?)\s*\]/.exec(line)?.[1] ?? "";
  return name.replaceAll(/\s*\.\s*/g, ".");
}

function keyOfLine(line: string): string | undefined {
  return /^\s*("(?:[^"\\]|\\.)*"|[A-Za-z0-9_-]+)\s*=/.exec(line)?.[1];
}

/** The comment behind a value, with the space before it. */
function trailingComment(line: string): string {
  const match = /=\s*(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^#"']*?)(\s*#.*)?$/.exec(line);
  return match?.[1] ?? "";
}

function lastContent(lines: readonly string[], start: number, end: number): number {
  for (let i = end - 1; i >= start; i--) if (lines[i]?.trim() !== "") return i;
  return start - 1;
}

function appendTable(text: string, table: string, key: string, value: string | number | boolean): string {
  const before = text === "" || text.endsWith("\n") ? text : `${text}\n`;
  return `${before}${before === "" ? "" : "\n"}[${table}]\n${key} = ${formatTomlValue(value)}\n`;
}
