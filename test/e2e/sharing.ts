/** What the tests of sharing have in common: where a repository's pageserver listens, and whether two have the same bytes. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { type ReadEntry, Parser } from "tar";
import type { Json, Run } from "./cli.ts";
import { Lab } from "./support.ts";

/** Directories and their processes, removed in the reverse order. */
export class Labs implements AsyncDisposable {
  private readonly stack = new AsyncDisposableStack();

  /** With a repository, and with these computes on branches of the same name. */
  async init(...computes: string[]): Promise<Lab> {
    return this.stack.use(await Lab.init(...computes));
  }

  /** An empty directory. */
  empty(environment: NodeJS.ProcessEnv = {}): Lab {
    const lab = new Lab(environment);
    this.stack.use(lab);
    return lab;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack[Symbol.asyncDispose]();
  }
}

/** What is asked of a lab here, so that one whose repository is further down can be asked as well. */
type Place = Pick<Lab, "neonDirectory">;

/** One setting of a repository. */
export function setting(lab: Place, key: string): string {
  const text = readFileSync(join(lab.neonDirectory, "config.toml"), "utf8");
  const value = new RegExp(`^${key} = "([^"]*)"`, "m").exec(text)?.[1];
  assert(value !== undefined, `${key} in ${text}`);
  return value;
}

export function libpqPort(lab: Place): number {
  return Number(setting(lab, "listen_libpq").replace(/.*:/, ""));
}

/** The URI under which others reach a repository's pageserver, or a proxy before it. */
export function uriOf(lab: Place, port = libpqPort(lab)): string {
  return `postgresql://neon:${setting(lab, "auth_token")}@127.0.0.1:${port}`;
}

/** The outcome of a transfer, as its JSON has it. */
export async function transfer(lab: Lab, ...args: string[]): Promise<Json> {
  const outcome = await lab.json(...args);
  assert.equal(outcome["ok"], true, `neon ${args.join(" ")}: ${JSON.stringify(outcome)}`);
  return outcome;
}

/** A command that must fail with this exit code; with --json it must fail alike. Returns what it said. */
export async function refused(lab: Lab, code: number, ...args: string[]): Promise<string> {
  const outcome: Run = await lab.run(...args);
  assert.equal(outcome.code, code, `neon ${args.join(" ")}: ${outcome.stdout}${outcome.stderr}`);
  assert.equal(outcome.stdout, "");
  return outcome.stderr;
}

export async function branchOf(lab: Lab, name: string, ...flags: string[]): Promise<Json> {
  const list = (await lab.json("branch", ...flags))["branches"] as Json[];
  const found = list.find((branch) => branch["name"] === name);
  assert(found, `branch ${name}`);
  return found;
}

/** How a branch stands to its upstream: `origin:main ahead`. */
export async function standing(lab: Lab, name: string, ...flags: string[]): Promise<string> {
  const upstream = (await branchOf(lab, name, ...flags))["upstream"] as Json | null;
  return upstream === null
    ? "none"
    : `${String(upstream["origin"])}:${String(upstream["branch"])} ${String(upstream["state"])}`;
}

/** Digests of all files of a base backup, by their names. */
export async function backupDigests(
  lab: Lab,
  tenant: string,
  branch: string,
  lsn: string,
): Promise<Map<string, string>> {
  const { timeline_id: timeline } = await branchOf(lab, branch, "--tenant-id", tenant);
  const path = `/v1/tenant/${tenant}/timeline/${String(timeline)}/basebackup?lsn=${lsn}&read_only=true`;
  const digests = new Map<string, string>();
  const parser = new Parser({
    onReadEntry: (entry: ReadEntry) => {
      const hash = createHash("sha256");
      entry.on("data", (chunk: Buffer) => hash.update(chunk));
      entry.on("end", () => {
        // These two are made for the occasion and hold the time at which they were.
        const isOwn = entry.path === "global/pg_control" || /^pg_wal\/[0-9A-F]{24}$/.test(entry.path);
        digests.set(entry.path, isOwn ? "" : `${entry.size} ${hash.digest("hex")}`);
      });
    },
  });
  await new Promise<void>((resolve, reject) => {
    const headers = { authorization: `Bearer ${setting(lab, "auth_token")}` };
    const request = get(`http://${setting(lab, "listen")}${path}`, { headers, agent: false }, (answer) => {
      if (answer.statusCode !== 200) reject(new Error(`${path}: ${String(answer.statusCode)}`));
      answer.on("error", reject);
      parser.on("end", () => resolve());
      parser.on("error", reject);
      answer.pipe(parser);
    });
    request.on("error", reject);
  });
  return digests;
}

/** Whether two pageservers make the same data directory of a branch, file by file, at these LSNs. */
export async function assertSameAt(
  sides: readonly [Lab, Lab],
  tenant: string,
  branches: readonly [string, string],
  lsns: readonly string[],
): Promise<void> {
  for (const lsn of lsns) {
    const [ours, theirs] = [
      await backupDigests(sides[0], tenant, branches[0], lsn),
      await backupDigests(sides[1], tenant, branches[1], lsn),
    ];
    assert.ok(ours.size > 500, `only ${ours.size} files at ${lsn}`);
    const different = [...ours].filter(([name, digest]) => theirs.get(name) !== digest).map(([name]) => name);
    assert.deepEqual(different, [], `files that differ at ${lsn}`);
    assert.equal(theirs.size, ours.size);
  }
}

/** What a table holds, in one number. */
export const CHECKSUM =
  "select count(*)::text || ' ' || coalesce(sum(hashtext(t::text)::bigint), 0)::text from t";
