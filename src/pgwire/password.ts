/**
 * Where a password comes from: the URI, else $PGPASSWORD, else a password file (`passfile`, $PGPASSFILE, ~/.pgpass)
 * with lines host:port:database:user:password, `*` for any value, `\` before a `:` or `\` that is meant literally.
 * Source: PostgreSQL 17 documentation, "The Password File"; src/interfaces/libpq/fe-connect.c, passwordFromFile.
 */
import { type Stats, readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import type { LibpqTarget } from "./uri.ts";

export interface FoundPassword {
  readonly password: string | undefined;
  /** Something that the user should know: a password file that is not used, and why. */
  readonly warning: string | undefined;
}

/** A password file is read whole; one that is longer is none. */
const FILE_BYTES_MAX = 1024 * 1024;
const FIELDS_BEFORE_PASSWORD = 4;

export function findPassword(
  target: Pick<LibpqTarget, "host" | "port" | "user" | "password" | "database" | "passFile">,
  environment: Readonly<Record<string, string | undefined>> = process.env,
  home: string = homedir(),
): FoundPassword {
  const found = (password: string): FoundPassword => ({ password, warning: undefined });
  if (target.password !== undefined) return found(target.password);
  const fromEnvironment = environment["PGPASSWORD"];
  if (fromEnvironment) return found(fromEnvironment);
  const path = target.passFile ?? (environment["PGPASSFILE"] || join(home, ".pgpass"));
  const warning = problemOf(path);
  if (warning !== undefined) return { password: undefined, warning: warning === "" ? undefined : warning };
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return { password: undefined, warning: `the password file ${path} cannot be read; it is not used` };
  }
  return { password: passwordFromLines(text, target), warning: undefined };
}

/** The password of the first line that fits; lines that cannot be understood fit nothing. */
export function passwordFromLines(
  text: string,
  target: Pick<LibpqTarget, "host" | "port" | "database" | "user">,
): string | undefined {
  const wanted = [target.host, String(target.port), target.database ?? target.user, target.user];
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith("#")) continue;
    const { fields, rest } = splitLine(line);
    if (fields.length < FIELDS_BEFORE_PASSWORD || rest === "") continue;
    const fits = wanted.every((value, i) => fields[i]?.raw === "*" || fields[i]?.value === value);
    if (fits) return unescape(rest);
  }
  return undefined;
}

/** Why a file is not used; empty where there is none, which needs no words. */
function problemOf(path: string): string | undefined {
  let stats: Stats;
  try {
    stats = statSync(path);
  } catch {
    return "";
  }
  if (!stats.isFile()) return `the password file ${path} is no plain file; it is not used`;
  if (stats.size > FILE_BYTES_MAX) return `the password file ${path} is too long; it is not used`;
  if (process.platform !== "win32" && (stats.mode & 0o077) !== 0) {
    return `the password file ${path} is readable for others; it is not used (chmod 0600 ${path})`;
  }
  return undefined;
}

function splitLine(line: string): { fields: { raw: string; value: string }[]; rest: string } {
  const fields: { raw: string; value: string }[] = [];
  let start = 0;
  for (let at = 0; at < line.length && fields.length < FIELDS_BEFORE_PASSWORD; at++) {
    if (line[at] === "\\") at += 1;
    else if (line[at] === ":") {
      const raw = line.slice(start, at);
      fields.push({ raw, value: unescape(raw) });
      start = at + 1;
    }
  }
  return { fields, rest: line.slice(start) };
}

function unescape(text: string): string {
  return text.replaceAll(/\\(.)/gs, "$1");
}
