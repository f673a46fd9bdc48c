/** postgres.log: what Postgres said, kept within bounds, and the part of it that explains a failure. */
import { closeSync, fstatSync, openSync, readSync, renameSync, statSync } from "node:fs";
import { fileError } from "../repository/atomic-file.ts";

/** A log that is larger when Postgres starts is put aside as `.1`, bytes. */
const ROTATE_BYTES = 16 * 1024 * 1024;
/** How much of the log's end is looked at for an explanation, bytes. */
const EXCERPT_BYTES_MAX = 64 * 1024;
const EXCERPT_LINES_MAX = 12;
const EXCERPT_LINES_BEFORE = 5;

/** Size of a log in bytes, 0 if there is none. */
export function logSize(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

/** Puts a large log aside, in place of the one that was put aside before. Only while nothing writes to it. */
export function rotateLog(path: string): void {
  if (logSize(path) < ROTATE_BYTES) return;
  try {
    renameSync(path, `${path}.1`);
  } catch (error) {
    throw fileError(`cannot put the log ${path} aside`, error);
  }
}

/** What was written from `offset` on; of that the last part if it is long. */
export function readLogFrom(path: string, offset: number): string {
  const descriptor = openSync(path, "r");
  try {
    const { size } = fstatSync(descriptor);
    const from = Math.max(offset, size - EXCERPT_BYTES_MAX);
    const bytes = Buffer.alloc(Math.max(0, size - from));
    const count = readSync(descriptor, bytes, 0, bytes.length, from);
    return bytes.toString("utf8", 0, count);
  } finally {
    closeSync(descriptor);
  }
}

/** The lines that explain a failure: the first fatal one with those around it, or the last ones. */
export function excerptOf(text: string): string {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const fatal = lines.findIndex((line) => /\b(FATAL|PANIC):/.test(line));
  // What is wrong with a configuration file stands before the fatal line.
  const from = Math.max(0, fatal >= 0 ? fatal - EXCERPT_LINES_BEFORE : lines.length - EXCERPT_LINES_MAX);
  return lines.slice(from, from + EXCERPT_LINES_MAX).join("\n");
}
