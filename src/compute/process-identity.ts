/**
 * Who a process is. A pid alone proves nothing: after a crash it may belong to somebody else. A pid file is believed
 * only when the process is alive, its start time is the recorded one and its command line is the expected one.
 * Linux is read from /proc; other systems are asked through `ps` and `lsof`.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, readlinkSync, realpathSync } from "node:fs";
import { systemCode } from "../base/errors.ts";
import { fileError } from "../repository/atomic-file.ts";
import { processStartTime } from "../repository/process.ts";

export { bootId } from "../repository/process.ts";

export interface ProcessIdentity {
  /**
   * Opaque text that never changes while the process lives and differs for a later process with the same pid. On
   * Linux it counts from the boot, so compare it only within one boot.
   */
  readonly startTime: string;
  /** The command and its arguments. Off Linux they are split at blanks, which is a guess. */
  readonly commandLine: readonly string[];
}

/** The identity of a living process, or undefined if there is none. A zombie counts as gone. */
export function readProcessIdentity(pid: number): ProcessIdentity | undefined {
  const startTime = processStartTime(pid);
  if (startTime === undefined) return undefined;
  const commandLine = process.platform === "linux" ? commandFromProc(pid) : commandFromPs(pid);
  // Between the two looks the process may have gone and its number may have been given to another.
  return commandLine && processStartTime(pid) === startTime ? { startTime, commandLine } : undefined;
}

/**
 * Pids of living processes whose working directory is `directory` (a real path). Every process of a Postgres works in
 * its data directory, so these are its postmaster, its backends and, for a moment after a kill -9 of the postmaster,
 * its orphans. Processes of other users are only seen by root.
 */
export function processesWorkingIn(directory: string): number[] {
  return process.platform === "linux" ? workingInFromProc(directory) : workingInFromLsof(directory);
}

function commandFromProc(pid: number): string[] | undefined {
  try {
    const commandLine = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    if (commandLine.at(-1) === "") commandLine.pop();
    return commandLine;
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

function commandFromPs(pid: number): string[] | undefined {
  const line = output("ps", ["-ww", "-o", "command=", "-p", String(pid)])?.trim();
  return line ? line.split(/\s+/) : undefined;
}

function workingInFromProc(directory: string): number[] {
  const pids: number[] = [];
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    try {
      // A directory that was removed under a process is shown with this suffix.
      if (readlinkSync(`/proc/${pid}/cwd`).replace(/ \(deleted\)$/, "") !== directory) continue;
    } catch (error) {
      if (isGone(error) || systemCode(error) === "EACCES" || systemCode(error) === "EPERM") continue;
      throw error;
    }
    if (processStartTime(pid) !== undefined) pids.push(pid);
  }
  return pids;
}

/** Ends what works in a directory: a server that has not written its pid yet, the Postgres of an initdb. */
export function killWorkers(directory: string): void {
  if (!existsSync(directory)) return;
  for (const pid of processesWorkingIn(realpathSync(directory))) {
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      if (systemCode(error) !== "ESRCH") throw fileError(`cannot end process ${pid}`, error);
    }
  }
}

function workingInFromLsof(directory: string): number[] {
  // -F prints one field a line: p<pid>, f<descriptor>, n<name>.
  const text = output("lsof", ["-w", "-a", "-d", "cwd", "-c", "postgres", "-F", "pn"]) ?? "";
  const pids: number[] = [];
  let pid = 0;
  for (const line of text.split("\n")) {
    if (line.startsWith("p")) pid = Number(line.slice(1));
    else if (line === `n${directory}` && pid > 0) pids.push(pid);
  }
  return pids;
}

/** What a program prints, or undefined if it is missing or fails: `ps` and `lsof` fail when they find nothing. */
function output(program: string, args: readonly string[]): string | undefined {
  try {
    return execFileSync(program, args, {
      encoding: "utf8",
      env: { ...process.env, LC_ALL: "C" },
      stdio: ["ignore", "pipe", "ignore"],
      maxBuffer: 16 * 1024 * 1024,
    });
  } catch {
    return undefined;
  }
}

function isGone(error: unknown): boolean {
  const code = systemCode(error);
  return code === "ENOENT" || code === "ESRCH";
}
