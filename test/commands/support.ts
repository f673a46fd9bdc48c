/** Running the built command line, and repositories whose pageserver is a fake one. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { parseTenantId } from "../../src/base/ids.ts";
import { bootId, processStartTime } from "../../src/repository/process.ts";
import { Repository, newConfig } from "../../src/repository/repository.ts";
import { type Answer, type Seen, fakeHttp, sendJson } from "../client/fake-http.ts";

export const ROOT = join(import.meta.dirname, "..", "..");
export const TIMELINE = "1".repeat(32);

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly elapsedMs: number;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly input?: string;
  /** The Node to start it with; the one that runs the test unless given. */
  readonly node?: string;
}

/** What tests of the command line must not inherit from whoever runs them. */
function cleanEnvironment(): Record<string, string | undefined> {
  const environment: Record<string, string | undefined> = { ...process.env, NO_COLOR: "1" };
  for (const name of ["NEON_REPO_DIR", "NEON_PG_BIN", "NEON_DEBUG", "NEON_NODE_RESTARTED", "FORCE_COLOR"]) {
    delete environment[name];
  }
  return environment;
}

export function startNeon(args: readonly string[], options: RunOptions = {}): ChildProcess {
  if (!existsSync(join(ROOT, "dist", "commands", "shared", "main.js")))
    throw new Error("npm run build comes first");
  return spawn(options.node ?? process.execPath, [join(ROOT, "bin", "neon.js"), ...args], {
    cwd: options.cwd ?? "/",
    env: { ...cleanEnvironment(), ...options.env },
    stdio: ["pipe", "pipe", "pipe"],
  });
}

export async function neon(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const startedAt = performance.now();
  const child = startNeon(args, options);
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  // A command that fails early does not read what it is sent.
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(options.input ?? "");
  const [code] = (await once(child, "close")) as [number | null];
  return { code, stdout, stderr, elapsedMs: performance.now() - startedAt };
}

/** The object that --json prints. */
export function json(outcome: Outcome): Record<string, unknown> {
  return JSON.parse(outcome.stdout) as Record<string, unknown>;
}

export function branch(name: string, more: object = {}): Record<string, unknown> {
  return {
    name,
    timeline_id: TIMELINE,
    ancestor: null,
    last_record_lsn: "0/2000",
    durable_lsn: "0/2000",
    state: "active",
    error: null,
    lag_bytes: null,
    writer: null,
    created_at: "2026-11-21T10:00:00Z",
    physical_bytes: 2048,
    followers: [],
    upstream: null,
    ...more,
  };
}

/** A repository in `root` whose pageserver is this process, answering as `answer` says. */
export async function fakeRepository(
  t: TestContext,
  root: string,
  answer: Answer,
): Promise<{ repository: Repository; seen: Seen[] }> {
  const server = await fakeHttp(t, (request, response) => {
    if (request.url === "/v1/status") {
      sendJson(response, 200, { pid: process.pid, version: "1", state: "ready" });
      return;
    }
    answer(request, response);
  });
  const config = newConfig({
    tenantId: parseTenantId("0".repeat(32)),
    pgVersion: 17,
    pageserverPort: server.port,
  });
  const repository = await Repository.create(root, config);
  await repository.finishCreation();
  const stamp = { pid: process.pid, start_time: processStartTime(process.pid), boot_id: bootId() };
  writeFileSync(join(repository.pageserverDirectory, "pageserver.pid"), JSON.stringify(stamp));
  return { repository, seen: server.seen };
}

export const notFound = { error: { code: "not_found", message: "there is no branch", hint: "h" } };
