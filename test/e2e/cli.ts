/** The command line as a user runs it: real processes in a temporary directory. Needs `npm run build`. */
import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { Client } from "pg";

const PROGRAM = resolve(import.meta.dirname, "../../bin/neon.js");

export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export type Json = Record<string, unknown>;

export class Cli implements AsyncDisposable {
  readonly directory = mkdtempSync("/tmp/neon-e2e-");
  readonly environment: NodeJS.ProcessEnv;

  constructor(environment: NodeJS.ProcessEnv = {}) {
    // Postgres runs as another user when we are root, and must be able to enter.
    chmodSync(this.directory, 0o755);
    this.environment = { ...process.env, NEON_REPO_DIR: undefined, NO_COLOR: "1", ...environment };
  }

  /** Runs a command and returns what it did, whatever that was. */
  run(...args: readonly string[]): Promise<Run> {
    return new Promise((fulfil, reject) => {
      const child = spawn(process.execPath, [PROGRAM, ...args], {
        cwd: this.directory,
        env: this.environment,
        stdio: ["ignore", "pipe", "pipe"],
      });
      let stdout = "";
      let stderr = "";
      child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
      child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
      child.on("error", reject);
      child.on("close", (code) => {
        fulfil({ code: code ?? -1, stdout, stderr });
      });
    });
  }

  /** Runs a command that must succeed; its standard output without the last newline. */
  async ok(...args: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(...args);
    if (code !== 0) throw new Error(`neon ${args.join(" ")} exited with ${code}\n${stdout}\n${stderr}`);
    return stdout.trimEnd();
  }

  /** Runs a command with --json; its one object, whether it succeeded or not. */
  async json(...args: readonly string[]): Promise<Json> {
    const { stdout, stderr } = await this.run(...args, "--json");
    try {
      return JSON.parse(stdout) as Json;
    } catch {
      throw new Error(`neon ${args.join(" ")} --json printed no JSON\n${stdout}\n${stderr}`);
    }
  }

  /** The process id of the pageserver. */
  async pageserverPid(): Promise<number> {
    const status = await this.json("status");
    return Number((status["pageserver"] as Json)["pid"]);
  }

  /** The process id of a compute's postmaster. */
  async computePid(name: string): Promise<number> {
    const list = (await this.json("pg", "list"))["computes"] as Json[];
    return Number(list.find((compute) => compute["name"] === name)?.["pid"]);
  }

  /** A connection; the caller ends it. */
  async connect(uri: string): Promise<Client> {
    const client = new Client({ connectionString: uri, connectionTimeoutMillis: 10_000 });
    client.on("error", () => undefined);
    await client.connect();
    return client;
  }

  /** One value from a compute. */
  async value(uri: string, sql: string): Promise<unknown> {
    const client = await this.connect(uri);
    try {
      const result = await client.query<Json>(sql);
      return Object.values(result.rows[0] ?? {})[0];
    } finally {
      await client.end();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (existsSync(join(this.directory, ".neon"))) {
      const stopped = await this.run("stop");
      if (stopped.code !== 0) console.error(stopped.stderr, tailOfLogs(this.directory));
    }
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

function tailOfLogs(directory: string): string {
  const log = join(directory, ".neon/pageserver/pageserver.log");
  return existsSync(log) ? readFileSync(log, "utf8").slice(-2000) : "";
}

export function sleep(ms: number): Promise<void> {
  return new Promise((fulfil) => {
    setTimeout(fulfil, ms);
  });
}
