/**
 * The local pageserver as a child that outlives the command line: starting it, finding it again, stopping it. It is
 * found through `pageserver.pid`, which it writes itself, and is believed only while process number, start time and
 * boot agree; so a stale file never leads to a signal to somebody else's process.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";
import { PageserverClient } from "../client/pageserver-client.ts";
import { fileError, writeFileAtomically } from "../repository/atomic-file.ts";
import { parseListenAddress } from "../repository/config-keys.ts";
import { pageserverUrl } from "../repository/config.ts";
import { withLock } from "../repository/lock.ts";
import { noteOwner } from "../repository/port-notes.ts";
import { type ReservedPort, isPortInUse, portInUse, portIsFree, reservePort } from "../repository/ports.ts";
import { bootId, processStartTime } from "../repository/process.ts";
import type { Repository } from "../repository/repository.ts";
import { setTomlValue } from "../repository/toml-edit.ts";

export type PageserverState = "running" | "starting" | "stopping" | "stopped" | "not_answering";

export interface PageserverReport {
  readonly state: PageserverState;
  readonly pid: number | null;
  readonly uri: string;
  readonly version: string | null;
  readonly startedAt: string | null;
}

export interface WaitOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called while it waits; with the state that the server reports. */
  readonly onWait?: (state: string) => void;
}

const PID_FILE = "pageserver.pid";
/** How long a status request may take, in milliseconds. */
const STATUS_TIMEOUT_MS = 2000;
/** How long a living server may be silent after its start. One that replays WAL answers `starting`. */
const SILENCE_MS = 30_000;
const STOP_TIMEOUT_MS = 60_000;
const POLL_MS = 25;
/** The services beside HTTP: their setting, what a client speaks, and where the search for a free port begins. */
const SERVICES = [
  { setting: "listen_libpq", field: "listenLibpq", protocol: "libpq", firstPort: 64_000 },
  { setting: "listen_grpc", field: "listenGrpc", protocol: "gRPC", firstPort: 51_051 },
] as const;
type Service = (typeof SERVICES)[number];
/**
 * How long a port of ours is waited for that a server before may not have given back yet, or that some connection to
 * elsewhere has been given meanwhile.
 */
const PORT_PATIENCE_MS = 10_000;
/** A log that is longer than this when the server starts is set aside. */
const LOG_BYTES_MAX = 64 * 1024 * 1024;

export class PageserverProcess {
  private readonly repository: Repository;
  private readonly client: PageserverClient;
  private readonly script: string;

  /** `script` is bin/pageserver.js unless a test says otherwise. */
  constructor(repository: Repository, options: { script?: string } = {}) {
    this.repository = repository;
    this.script = options.script ?? join(import.meta.dirname, "..", "..", "bin", "pageserver.js");
    this.client = new PageserverClient({
      baseUrl: pageserverUrl(repository.config),
      token: repository.config.pageserver.authToken,
      tenantId: repository.config.defaultTenantId,
    });
  }

  get logPath(): string {
    return join(this.repository.pageserverDirectory, "pageserver.log");
  }

  /** What it is doing now. Never throws for a server that is not well. */
  async inspect(): Promise<PageserverReport> {
    const pid = this.livingPid();
    const uri = pageserverUrl(this.repository.config);
    const nothing = { pid: pid ?? null, uri, version: null, startedAt: null };
    if (pid === undefined) return { ...nothing, state: "stopped" };
    try {
      const status = await this.client.status({ timeoutMs: STATUS_TIMEOUT_MS });
      if (status.pid !== pid) return { ...nothing, state: "not_answering" };
      const state = status.state === "ready" ? "running" : knownState(status.state);
      return { state, pid, uri, version: status.version, startedAt: status.startedAt };
    } catch {
      return { ...nothing, state: this.livingPid() === pid ? "not_answering" : "stopped" };
    }
  }

  /** Starts it unless it runs, and returns when it is ready. */
  async start(options: WaitOptions = {}): Promise<{ readonly pid: number; readonly started: boolean }> {
    return this.locked(options, async () => {
      const before = await this.inspect();
      if (before.pid !== null && before.state !== "stopped") {
        await this.waitUntilReady(before.pid, undefined, options);
        return { pid: before.pid, started: false };
      }
      await this.checkPort();
      const reserved: ReservedPort[] = [];
      try {
        for (const service of SERVICES) reserved.push(await this.servicePort(service));
        await this.writeServerConfig();
        const child = this.spawnServer();
        await this.waitUntilReady(child.pid, child, options);
        return { pid: child.pid, started: true };
      } finally {
        for (const port of reserved) port.release();
      }
    });
  }

  /** Stops it; false if it did not run. With `force` by SIGKILL, which it survives without loss. */
  async stop(options: WaitOptions & { force?: boolean; timeoutMs?: number } = {}): Promise<boolean> {
    return this.locked(options, async () => {
      const pid = this.livingPid();
      if (pid === undefined) return false;
      sendSignal(pid, options.force ? "SIGKILL" : "SIGTERM");
      const timeoutMs = options.timeoutMs ?? STOP_TIMEOUT_MS;
      const deadline = performance.now() + timeoutMs;
      while (this.livingPid() === pid) {
        options.signal?.throwIfAborted();
        if (performance.now() > deadline) {
          throw new NeonError(
            ErrorCode.Timeout,
            `the pageserver (process ${pid}) has not ended within ${timeoutMs / 1000} s`,
            {
              hint: "Run `neon stop` again to wait longer, or `neon stop --force`; no data is lost.",
              data: { pid },
            },
          );
        }
        options.onWait?.("stopping");
        await sleep(POLL_MS);
      }
      if (options.force) rmSync(join(this.repository.pageserverDirectory, PID_FILE), { force: true });
      return true;
    });
  }

  private async locked<T>(options: WaitOptions, fn: () => Promise<T>): Promise<T> {
    const path = this.repository.lockPath("pageserver");
    return withLock(path, "the pageserver", fn, {
      waitMs: STOP_TIMEOUT_MS,
      ...(options.signal ? { signal: options.signal } : {}),
    });
  }

  /** The pid of our server if it lives. */
  private livingPid(): number | undefined {
    let value: unknown;
    try {
      value = JSON.parse(readFileSync(join(this.repository.pageserverDirectory, PID_FILE), "utf8"));
    } catch {
      return undefined;
    }
    if (typeof value !== "object" || value === null) return undefined;
    const { pid, start_time: startTime, boot_id: boot } = value as Record<string, unknown>;
    if (typeof pid !== "number" || boot !== bootId()) return undefined;
    return processStartTime(pid) === startTime ? pid : undefined;
  }

  /** Reserves the port of a service; the first time it is chosen here, and noted in the config. */
  private async servicePort({ setting, field, protocol, firstPort: first }: Service): Promise<ReservedPort> {
    const { config, pageserverDirectory: owner } = this.repository;
    const key = `pageserver.${setting}`;
    const address = config.pageserver[field];
    const wanted = address === undefined ? undefined : parseListenAddress(address)?.port;
    if (wanted === undefined) {
      const reserved = await reservePort({ first, owner, purpose: protocol });
      await this.repository.changeSetting(key, `127.0.0.1:${reserved.port}`);
      return reserved;
    }
    try {
      return await reservePort({ first, wanted, owner, purpose: protocol, patienceMs: PORT_PATIENCE_MS });
    } catch (error) {
      if (!isPortInUse(error)) throw error;
      const { data } = await portInUse(wanted);
      const example = `127.0.0.1:${typeof data["free"] === "number" ? data["free"] : "PORT"}`;
      throw new NeonError(
        ErrorCode.Resource,
        `port ${wanted}, where the pageserver should listen for ${protocol}, is in use`,
        {
          hint: `End the program that uses it, or choose another: \`neon config set ${key} ${example}\`.`,
          data,
        },
      );
    }
  }

  /** Addresses, certificate, token and verify_redo are the repository's; whatever else is in pageserver.toml stays. */
  private async writeServerConfig(): Promise<void> {
    const path = join(this.repository.pageserverDirectory, "pageserver.toml");
    const {
      listen,
      authToken,
      listenLibpq,
      listenGrpc,
      tlsCert,
      tlsKey,
      jwtPublicKey,
      insecure,
      verifyRedo,
    } = this.repository.config.pageserver;
    const before = readTextOr(
      path,
      "# Settings of the pageserver. `neon start` writes listen, auth_token, listen_libpq, listen_grpc, tls_cert, tls_key, jwt_public_key,\n" +
        "# insecure and verify_redo; they are those of config.toml.\n",
    );
    let text = setTomlValue(before, ["listen"], listen);
    text = setTomlValue(text, ["auth_token"], authToken);
    text = setTomlValue(text, ["listen_libpq"], listenLibpq);
    text = setTomlValue(text, ["listen_grpc"], listenGrpc);
    text = setTomlValue(text, ["tls_cert"], tlsCert);
    text = setTomlValue(text, ["tls_key"], tlsKey);
    text = setTomlValue(text, ["jwt_public_key"], jwtPublicKey);
    text = setTomlValue(text, ["insecure"], insecure);
    text = setTomlValue(text, ["verify_redo"], verifyRedo);
    if (text !== before) await writeFileAtomically(path, text, 0o600);
  }

  private async checkPort(): Promise<void> {
    const address = parseListenAddress(this.repository.config.pageserver.listen);
    if (!address) return;
    if (await portIsFree(address.port)) {
      noteOwner(address.port, this.repository.configPath);
      return;
    }
    const { data } = await portInUse(address.port);
    const example = `127.0.0.1:${typeof data["free"] === "number" ? data["free"] : "PORT"}`;
    throw new NeonError(
      ErrorCode.Resource,
      `port ${address.port}, where the pageserver should listen, is in use`,
      {
        hint: `End the program that uses it, or choose another: \`neon config set pageserver.listen ${example}\`.`,
        data,
      },
    );
  }

  private spawnServer(): Child {
    this.rotateLog();
    const logFile = openSync(this.logPath, "a", 0o600);
    const { NEON_NODE_RESTARTED: _, ...environment } = process.env;
    const directory = this.repository.pageserverDirectory;
    try {
      const logStart = statSync(this.logPath).size;
      const child = spawn(process.execPath, [this.script, "--workdir", directory], {
        cwd: directory,
        detached: true,
        env: environment,
        stdio: ["ignore", logFile, logFile],
      });
      const state: { failure: string | undefined } = { failure: undefined };
      child.on("error", (error) => (state.failure = error.message));
      child.on("exit", (code, signal) => (state.failure = `it ended with ${signal ?? `exit code ${code}`}`));
      child.unref();
      if (child.pid === undefined) {
        throw new NeonError(ErrorCode.Resource, `cannot start ${process.execPath} for the pageserver`);
      }
      return { pid: child.pid, logStart, state };
    } finally {
      closeSync(logFile);
    }
  }

  private rotateLog(): void {
    try {
      if (statSync(this.logPath).size > LOG_BYTES_MAX) renameSync(this.logPath, `${this.logPath}.1`);
    } catch (error) {
      if (systemCode(error) !== "ENOENT") throw fileError(`cannot use ${this.logPath}`, error);
    }
  }

  private async waitUntilReady(pid: number, child: Child | undefined, options: WaitOptions): Promise<void> {
    let lastAnswer = performance.now();
    for (;;) {
      options.signal?.throwIfAborted();
      const state = await this.askState(pid);
      if (state === "ready") return;
      if (child?.state.failure !== undefined) throw this.startFailure(child.state.failure, child.logStart);
      if (!child && processStartTime(pid) === undefined) throw this.startFailure("it has ended", 0);
      if (state !== undefined) lastAnswer = performance.now();
      if (performance.now() - lastAnswer > SILENCE_MS) {
        throw new NeonError(
          ErrorCode.Timeout,
          `the pageserver (process ${pid}) runs, but does not answer at ${pageserverUrl(this.repository.config)}`,
          {
            hint: "Its log may say why: `neon logs`. `neon stop --force` ends it without loss.",
            data: { pid },
          },
        );
      }
      options.onWait?.(state ?? "starting");
      await sleep(POLL_MS);
    }
  }

  private async askState(pid: number): Promise<string | undefined> {
    try {
      const status = await this.client.status({ timeoutMs: STATUS_TIMEOUT_MS });
      return status.pid === pid ? status.state : undefined;
    } catch {
      return undefined;
    }
  }

  private startFailure(what: string, logStart: number): NeonError {
    const reason = lastFailure(readTextOr(this.logPath, "").slice(logStart));
    if (/no space left on device|quota exceeded/i.test(reason?.message ?? "")) {
      return new NeonError(ErrorCode.Resource, `the pageserver did not start: ${reason?.message}`, {
        hint: "The disk is full: make room and try again. No data is lost.",
      });
    }
    return new NeonError(
      reason?.code ?? ErrorCode.Failed,
      `the pageserver did not start: ${reason?.message ?? what}`,
      { hint: reason?.hint ?? `Its log says more: \`neon logs\` (${this.logPath}).` },
    );
  }
}

interface Child {
  readonly pid: number;
  /** Length of the log before it started. */
  readonly logStart: number;
  /** Set when it has ended. */
  readonly state: { readonly failure: string | undefined };
}

function knownState(state: string): PageserverState {
  return state === "stopping" ? "stopping" : "starting";
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    // It may have ended by itself just now.
    if (systemCode(error) === "ESRCH") return;
    throw new NeonError(
      ErrorCode.Resource,
      `cannot stop the pageserver (process ${pid}): ${messageOf(error)}`,
      {
        hint: "It was started by another user: stop it as that user.",
        cause: error,
      },
    );
  }
}

interface LoggedFailure {
  readonly message: string;
  readonly code: ErrorCode | undefined;
  readonly hint: string | undefined;
}

/** How many lines from the end of the log are searched for a reason. */
const LOG_LINES_MAX = 50;

/** The last failure that the log tells of: the server logs JSON, Node itself logs text. */
function lastFailure(log: string): LoggedFailure | undefined {
  const lines = log.split("\n").filter((line) => line.trim() !== "");
  for (const line of lines.reverse().slice(0, LOG_LINES_MAX)) {
    try {
      const { level, msg, code, hint } = JSON.parse(line) as Record<string, unknown>;
      if (Number(level) < 50 || typeof msg !== "string") continue;
      const known = Object.values(ErrorCode).find((value) => value === code);
      return { message: msg, code: known, hint: typeof hint === "string" ? hint : undefined };
    } catch {
      if (/^\S*error\b/i.test(line)) return { message: line.trim(), code: undefined, hint: undefined };
    }
  }
  return undefined;
}

function readTextOr(path: string, otherwise: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return otherwise;
  }
}
