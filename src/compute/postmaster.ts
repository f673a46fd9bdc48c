/**
 * One Postgres server process: starting it detached from us, finding it again later, stopping it, and making sure that
 * nothing of it is left. Every signal goes to a process that was verified right before.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync, realpathSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError, systemCode } from "../base/errors.ts";
import { fileError } from "../repository/atomic-file.ts";
import type { RecordedProcess } from "./compute-file.ts";
import { excerptOf, logSize, readLogFrom } from "./postgres-log.ts";
import { bootId, processesWorkingIn, readProcessIdentity } from "./process-identity.ts";
import { programEnvironment } from "./program-environment.ts";
import type { RunAs } from "./run-as.ts";
import type { Setting } from "./settings.ts";

/** How often a condition is looked at, milliseconds. */
const POLL_MS = 5;
/**
 * How long Postgres may take until it accepts connections, milliseconds. Long, because with `commit = local` it may
 * have WAL to recover from; a Postgres that fails is noticed at once.
 */
const START_TIMEOUT_MS = 15 * 60_000;
/** How long orphans of a dead postmaster may take to notice, milliseconds. They poll, so usually it is far less. */
const ORPHAN_PATIENCE_MS = 5_000;
/** How long the system may take to end a process after SIGKILL, milliseconds. */
const KILL_TIMEOUT_MS = 30_000;

export interface PostmasterOptions {
  readonly bindir: string;
  readonly pgdata: string;
  readonly logPath: string;
  readonly user: RunAs | undefined;
  /** Given on the command line, where they win over every file. */
  readonly settings: readonly Setting[];
}

/** A Postgres that has been started and may not be ready yet. */
export class StartingPostmaster {
  readonly process: RecordedProcess;
  private readonly child: ChildProcess;
  private readonly options: PostmasterOptions;
  private readonly logStart: number;

  private constructor(
    child: ChildProcess,
    options: PostmasterOptions,
    logStart: number,
    recorded: RecordedProcess,
  ) {
    this.child = child;
    this.options = options;
    this.logStart = logStart;
    this.process = recorded;
  }

  /** Starts the server in a session of its own, so that it outlives us and our terminal. Throws `postgres`. */
  static async spawn(options: PostmasterOptions): Promise<StartingPostmaster> {
    const program = join(options.bindir, "postgres");
    const args = ["-D", options.pgdata];
    for (const [name, value] of options.settings) args.push("-c", `${name}=${value}`);
    const logStart = logSize(options.logPath);
    const log = openLog(options.logPath);
    const { user } = options;
    let child: ChildProcess;
    try {
      child = spawn(program, args, {
        cwd: "/",
        detached: true,
        env: programEnvironment(),
        stdio: ["ignore", log, log],
        ...(user ? { uid: user.uid, gid: user.gid } : {}),
      });
    } finally {
      closeSync(log);
    }
    const failed = new Promise<Error>((resolve) => child.once("error", resolve));
    const { pid } = child;
    if (pid === undefined) {
      const cause = await failed;
      throw new NeonError(ErrorCode.Postgres, `cannot run ${program}: ${cause.message}`, { cause });
    }
    // A process that has ended already has no start time; `waitUntilReady` reports its end.
    const startTime = readProcessIdentity(pid)?.startTime ?? "ended";
    return new StartingPostmaster(child, options, logStart, { pid, startTime, bootId: bootId() });
  }

  /** Until connections are accepted. Throws `postgres` with the log's last lines if the server ends, or `timeout`. */
  async waitUntilReady(timeoutMs = START_TIMEOUT_MS): Promise<void> {
    const { child } = this;
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      if (child.exitCode !== null || child.signalCode !== null) throw this.earlyEnd();
      const file = readPidFile(this.options.pgdata);
      if (file?.pid === child.pid && file?.status === "ready") break;
      if (performance.now() > deadline) {
        throw new NeonError(ErrorCode.Timeout, "Postgres did not become ready", {
          hint: `Its log is ${this.options.logPath}.`,
        });
      }
      await sleep(POLL_MS);
    }
    child.unref();
  }

  private earlyEnd(): NeonError {
    const { logPath } = this.options;
    const log = readLogFrom(logPath, this.logStart);
    const port = this.options.settings.find(([name]) => name === "port")?.[1];
    if (port !== undefined && /could not bind .*: Address already in use/.test(log)) {
      return new NeonError(ErrorCode.Resource, `port ${port} of 127.0.0.1 is in use`, {
        hint: "End what listens there, or choose another port with --port.",
        data: { port: Number(port) },
      });
    }
    const lines = excerptOf(log);
    const how = this.child.signalCode ?? `exit code ${this.child.exitCode}`;
    return new NeonError(ErrorCode.Postgres, `Postgres did not start (${how})${lines ? `:\n${lines}` : ""}`, {
      hint: `The whole log is ${logPath}.`,
      data: { log: logPath },
    });
  }
}

/**
 * The process id of the server that runs on a data directory, or undefined. `recorded` is what was noted when it was
 * started: a process with that pid must have that start time.
 */
export function findPostmaster(pgdata: string, recorded: RecordedProcess | null): number | undefined {
  const pid = readPidFile(pgdata)?.pid;
  return pid !== undefined && isPostmaster(pid, pgdata, recorded) ? pid : undefined;
}

/** Asks a server to stop and waits until it and all its children have gone. Returns false after `timeoutMs`. */
export async function stopPostmaster(
  pgdata: string,
  recorded: RecordedProcess | null,
  signal: "SIGINT" | "SIGQUIT",
  timeoutMs: number,
): Promise<boolean> {
  const pid = findPostmaster(pgdata, recorded);
  if (pid === undefined) return true;
  const directory = realpathSync(pgdata);
  sendSignal(pid, signal);
  const deadline = performance.now() + timeoutMs;
  while (isPostmaster(pid, pgdata, recorded) || processesWorkingIn(directory).length > 0) {
    if (performance.now() > deadline) return false;
    await sleep(POLL_MS);
  }
  return true;
}

/** Ends a server that does not react, with all its children. */
export async function killPostmaster(pgdata: string, recorded: RecordedProcess | null): Promise<void> {
  const pid = findPostmaster(pgdata, recorded);
  if (pid !== undefined) sendSignal(pid, "SIGKILL");
  await waitForOrphans(pgdata, 0);
}

/**
 * Waits until no process works in a data directory whose postmaster is dead: backends outlive it for a moment, and
 * must not write into a directory that is used again. Those that do not notice in time are killed.
 */
export async function waitForOrphans(pgdata: string, patienceMs = ORPHAN_PATIENCE_MS): Promise<void> {
  // A directory that was removed under its processes has left them with its name.
  const directory = existsSync(pgdata) ? realpathSync(pgdata) : pgdata;
  const start = performance.now();
  let killed = false;
  for (;;) {
    const pids = processesWorkingIn(directory);
    if (pids.length === 0) return;
    const waited = performance.now() - start;
    if (waited > patienceMs && !killed) {
      for (const pid of pids) sendSignal(pid, "SIGKILL");
      killed = true;
    }
    if (waited > patienceMs + KILL_TIMEOUT_MS) {
      throw new NeonError(ErrorCode.Conflict, `processes ${pids.join(", ")} still work in ${pgdata}`, {
        hint: "End them, then try again.",
        data: { pids: pids.join(" ") },
      });
    }
    await sleep(POLL_MS);
  }
}

interface PidFile {
  readonly pid: number;
  /** `starting`, `stopping`, `ready`, `standby` (up, but no connections yet). */
  readonly status: string;
}

/**
 * postmaster.pid. Source: PostgreSQL 14-18, src/include/utils/pidfile.h: one item a line; pid, data directory, start
 * time, port, socket directory, listen address, shared memory, status.
 */
function readPidFile(pgdata: string): PidFile | undefined {
  let text: string;
  try {
    text = readFileSync(join(pgdata, "postmaster.pid"), "latin1");
  } catch (error) {
    const code = systemCode(error);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw fileError(`cannot read the pid file of ${pgdata}`, error);
  }
  const lines = text.split("\n");
  // Negative for a single-user server, which is nothing that we start, stop or tolerate.
  const pid = Math.abs(Number(lines[0]));
  return Number.isSafeInteger(pid) && pid > 0 ? { pid, status: lines[7]?.trim() ?? "" } : undefined;
}

/** Whether `pid` is the postgres that was started with this data directory. */
function isPostmaster(pid: number, pgdata: string, recorded: RecordedProcess | null): boolean {
  const identity = readProcessIdentity(pid);
  if (!identity) return false;
  const [program, ...args] = identity.commandLine;
  if (program === undefined || basename(program) !== "postgres") return false;
  // The same process for certain, even where the directory has been moved since.
  if (recorded?.pid === pid) {
    return recorded.bootId === bootId() && recorded.startTime === identity.startTime;
  }
  // Children have the directory as their working directory too, but not on their command line.
  return args.includes(pgdata) || args.join(" ").includes(pgdata);
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (systemCode(error) === "ESRCH") return;
    throw new NeonError(ErrorCode.Resource, `cannot send ${signal} to process ${pid}`, {
      hint: "Postgres was started by another user: run the command as that user.",
      cause: error,
    });
  }
}

function openLog(path: string): number {
  try {
    return openSync(path, "a", 0o600);
  } catch (error) {
    throw fileError(`cannot write ${path}`, error);
  }
}
