/**
 * Who this process is, for pageserver.pid: a process number is used again, together with its start time and the boot
 * it is not. Texts are opaque; on Linux the start time is field 22 of /proc/PID/stat.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

export interface ProcessStamp {
  readonly pid: number;
  /** Empty where the system does not tell. */
  readonly startTime: string;
  /** The same until the machine is started again; `unknown` where the system does not tell. */
  readonly bootId: string;
}

export function ownProcessStamp(): ProcessStamp {
  return { pid: process.pid, startTime: startTime(), bootId: bootId() };
}

function startTime(): string {
  if (process.platform !== "linux") {
    return output("/bin/ps", ["-o", "lstart=", "-p", String(process.pid)]).replaceAll(/[^0-9A-Za-z]+/g, "");
  }
  try {
    const stat = readFileSync("/proc/self/stat", "latin1");
    // The name in parentheses may contain anything; what follows the last one starts with field 3.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  } catch {
    return "";
  }
}

function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return /sec = (\d+)/.exec(output("/usr/sbin/sysctl", ["-n", "kern.boottime"]))?.[1] ?? "unknown";
  }
}

function output(command: string, args: readonly string[]): string {
  try {
    return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  } catch {
    return "";
  }
}
