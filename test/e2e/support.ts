/** What the end-to-end tests share: a repository to work in, processes that are found and ended by their id. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, readdirSync, readlinkSync, realpathSync, rmSync } from "node:fs";
import { type AddressInfo, type Server, createServer } from "node:net";
import { constants } from "node:os";
import { join, resolve } from "node:path";
import { Cli, type Json, type Run, sleep } from "./cli.ts";

export const ROOT = resolve(import.meta.dirname, "../..");
const PROGRAM = join(ROOT, "bin/neon.js");
const POLL_MS = 20;

export interface RunOptions {
  /** Instead of the directory of the test. */
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
}

/** A command that has been started and not waited for; in a process group of its own, as a shell would do. */
export function startNeon(cli: Cli, args: readonly string[], options: RunOptions = {}): ChildProcess {
  return spawn(process.execPath, [PROGRAM, ...args], {
    cwd: options.cwd ?? cli.directory,
    env: { ...cli.environment, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
}

/** Collects what a command prints, until it ends. */
export async function finish(child: ChildProcess): Promise<Run> {
  let stdout = "";
  let stderr = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  // As a shell shows the end by a signal.
  return { code: code ?? 128 + constants.signals[signal ?? "SIGHUP"], stdout, stderr };
}

export function neon(cli: Cli, args: readonly string[], options: RunOptions = {}): Promise<Run> {
  return finish(startNeon(cli, args, options));
}

/** A repository in a temporary directory. However the test ends, nothing of it runs on. */
export class Lab extends Cli {
  /** With a repository, and with these computes on branches of the same name. */
  static async init(...computes: string[]): Promise<Lab> {
    const lab = new Lab();
    try {
      await lab.ok("init");
      for (const name of computes) {
        if (name !== "main") await lab.ok("branch", name);
        await lab.ok("pg", "create", name);
      }
      return lab;
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
  }

  private readonly leftToDo: (() => void)[] = [];

  /** Has something done at the end, when nothing runs any more and before the directory is removed. */
  atEnd(action: () => void): void {
    this.leftToDo.unshift(action);
  }

  get neonDirectory(): string {
    return join(this.directory, ".neon");
  }

  computeDirectory(name: string): string {
    return join(this.neonDirectory, "computes", name);
  }

  /** One field of `neon pg list` for a compute. */
  async computeField(name: string, field: string): Promise<unknown> {
    const list = (await this.json("pg", "list"))["computes"] as Json[];
    return list.find((compute) => compute["name"] === name)?.[field];
  }

  async branches(): Promise<Map<string, Json>> {
    const list = (await this.json("branch"))["branches"] as Json[];
    return new Map(list.map((branch) => [String(branch["name"]), branch]));
  }

  /** The first column of all rows, as a client at `uri` sees them. */
  async column(uri: string, sql: string): Promise<unknown[]> {
    const client = await this.connect(uri);
    try {
      const { rows } = await client.query<Json>(sql);
      return rows.map((row) => Object.values(row)[0]);
    } finally {
      await client.end();
    }
  }

  /** Runs statements, one after the other, each in a transaction of its own. */
  async execute(uri: string, ...statements: string[]): Promise<void> {
    const client = await this.connect(uri);
    try {
      for (const statement of statements) await client.query(statement);
    } finally {
      await client.end();
    }
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of processesBelow(this.directory)) send(pid, "SIGCONT");
    if (existsSync(join(this.neonDirectory, "config.toml"))) await this.run("stop", "--force");
    const left = processesBelow(this.directory);
    for (const pid of left) send(pid, "SIGKILL");
    await until("the processes to go", () => processesBelow(this.directory).length === 0);
    for (const action of this.leftToDo) action();
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

/**
 * Living processes that work in a directory or below it, or were started with a path in it: pageserver, Postgres,
 * initdb. Linux only.
 */
export function processesBelow(directory: string): number[] {
  const root = existsSync(directory) ? realpathSync(directory) : directory;
  return readdirSync("/proc").flatMap((name) => {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) return [];
    try {
      const cwd = readlinkSync(`/proc/${pid}/cwd`).replace(/ \(deleted\)$/, "");
      const worksThere = cwd === root || cwd.startsWith(`${root}/`);
      const isNamed = readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`${root}/`);
      return (worksThere || isNamed) && stateOf(pid) !== "Z" ? [pid] : [];
    } catch {
      return [];
    }
  });
}

/** `R`, `S`, `T` (stopped), `Z`…; undefined if there is no such process. */
export function stateOf(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    return text.slice(text.lastIndexOf(")") + 2, text.lastIndexOf(")") + 3);
  } catch {
    return undefined;
  }
}

export function isAlive(pid: number): boolean {
  const state = stateOf(pid);
  return state !== undefined && state !== "Z";
}

export function send(pid: number, signal: NodeJS.Signals): void {
  assert(Number.isInteger(pid) && pid > 1, `process id ${pid}`);
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

export async function killAndWait(pid: number): Promise<void> {
  send(pid, "SIGKILL");
  await until(`process ${pid} to end`, () => !isAlive(pid));
}

/** Looks again and again until the answer is neither undefined nor false. */
export async function until<T>(
  what: string,
  look: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 30_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs / 1000} s in vain for ${what}`);
    await sleep(POLL_MS);
  }
}

/** Whether a promise is settled after a while: to see that something hangs. */
export async function isPending(promise: Promise<unknown>, ms = 400): Promise<boolean> {
  const mark = Symbol("pending");
  return (await Promise.race([promise.catch(() => undefined), sleep(ms).then(() => mark)])) === mark;
}

/** A server of somebody else on a free port. */
export async function listenSomewhere(port = 0): Promise<{ server: Server; port: number }> {
  const server = createServer((socket) => socket.destroy());
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  return { server, port: (server.address() as AddressInfo).port };
}

/** A port that nobody listens on just now. */
export async function freePort(): Promise<number> {
  const { server, port } = await listenSomewhere();
  await new Promise((resolve) => server.close(resolve));
  return port;
}
