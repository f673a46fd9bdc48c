/** Commands that must be refused: a clear error with the next step, and nothing changed. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join, relative } from "node:path";
import type { Cli, Json } from "./cli.ts";
import { type RunOptions, isAlive, neon, processesBelow } from "./support.ts";

/** Comes and goes, or grows, without any command. */
const VOLATILE =
  /(^|\/)(locks|pgdata|pgdata\.new|pgdata\.old|socket|wal)(\/|$)|\.log(\.1)?$|\.(delta|image|durable|tmp)$|\/index\.json$|\.durable|pageserver\.pid/;

/** What a repository consists of: its files, and of the small ones the contents. */
export function snapshot(directory: string): Map<string, string> {
  const found = new Map<string, string>();
  const walk = (path: string): void => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const full = join(path, entry.name);
      const name = relative(directory, full);
      if (VOLATILE.test(name)) continue;
      if (entry.isDirectory()) {
        found.set(`${name}/`, "");
        walk(full);
      } else found.set(name, entry.isFile() ? contentsOf(full) : "special");
    }
  };
  walk(directory);
  return found;
}

/** Without the epochs of writers that never wrote, which an attempt may leave, and the checksum over them. */
function contentsOf(path: string): string {
  const text = readFileSync(path, "latin1");
  if (!path.endsWith("/metadata.json")) return text;
  return text.replace(/^.*\n/, "").replace(/"history": \[[^\]]*\]/, "");
}

export interface Refusal {
  readonly exit: number;
  readonly code: string;
  readonly message: RegExp;
  /** The next step. */
  readonly hint: RegExp;
  /** Text and JSON at the same time, where each takes long. */
  readonly together?: boolean;
}

/**
 * A command that must be refused: in text and in JSON with the same message, hint and exit code, nothing on stdout but
 * the JSON, and the repository (and all that runs in it) as before.
 */
export async function refused(
  cli: Cli,
  args: readonly string[],
  refusal: Refusal,
  options: RunOptions = {},
): Promise<void> {
  const what = `neon ${args.join(" ")}`;
  const before = snapshot(cli.directory);
  // Backends and workers come and go by themselves; servers do not.
  const running = processesBelow(cli.directory).filter(isServer);
  // Options of a program that is passed through stand behind `--`.
  const end = args.indexOf("--");
  const jsonArgs = args.toSpliced(end < 0 ? args.length : end, 0, "--json");
  const early = refusal.together ? neon(cli, jsonArgs, options) : undefined;
  const text = await neon(cli, args, options);
  assert.equal(text.stdout, "", what);
  const match = /^error: ([^]*?)\nhint: ([^\n]*)\n$/.exec(withoutProgress(text.stderr));
  assert(match, `${what} says error and hint: ${text.stderr}`);
  const [, message = "", hint = ""] = match;
  assert.match(message, refusal.message, what);
  assert.match(hint, refusal.hint, what);
  assert.equal(text.code, refusal.exit, `${what}: ${text.stderr}`);
  const inJson = await (early ?? neon(cli, jsonArgs, options));
  assert.equal(inJson.code, refusal.exit, `${what} --json: ${inJson.stdout}${inJson.stderr}`);
  const answer = JSON.parse(inJson.stdout) as { ok: boolean; error: Json };
  assert.equal(answer.ok, false, what);
  assert.equal(answer.error["code"], refusal.code, what);
  assert.match(String(answer.error["message"]), refusal.message, what);
  assert.match(String(answer.error["hint"]), refusal.hint, what);
  assert.deepEqual(snapshot(cli.directory), before, `${what} changes nothing`);
  for (const pid of running) assert(isAlive(pid), `${what} leaves process ${pid} alone`);
}

/** A pageserver or a postmaster. */
function isServer(pid: number): boolean {
  try {
    return /pageserver\.js|postgres\0-D/.test(readFileSync(`/proc/${pid}/cmdline`, "latin1"));
  } catch {
    return false;
  }
}

/** Lines about steps that take longer than a moment may stand before the error. */
function withoutProgress(stderr: string): string {
  const at = stderr.indexOf("error: ");
  return at < 0 ? stderr : stderr.slice(at);
}

export function refusal(exit: number, code: string, message: RegExp, hint: RegExp): Refusal {
  return { exit, code, message, hint };
}

/** As many at a time as a small machine has processors. */
export async function inParallel<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  const rest = [...items];
  const worker = async (): Promise<void> => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) await run(item);
  };
  await Promise.all([worker(), worker()]);
}
