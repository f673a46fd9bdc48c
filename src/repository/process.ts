/**
 * Who a process is, beyond its number: numbers are used again, a number together with the start time and the boot is
 * not.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { systemCode } from "../base/errors.ts";

/** A stamp that stays the same until the machine is started again. */
export function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    const text = run("/usr/sbin/sysctl", ["-n", "kern.boottime"]);
    return /sec = (\d+)/.exec(text)?.[1] ?? "unknown";
  }
}

/** When a process was started, as an opaque text without spaces; undefined if it does not exist (any more). */
export function processStartTime(pid: number): string | undefined {
  if (!processExists(pid)) return undefined;
  if (process.platform !== "linux") {
    const text = run("/bin/ps", ["-o", "lstart=", "-p", String(pid)]).trim();
    return text === "" ? undefined : text.replaceAll(/[^0-9A-Za-z]+/g, "");
  }
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name in parentheses may contain anything; what follows the last parenthesis starts with field 3.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // A zombie has ended, its parent just has not looked.
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

function processExists(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCode(error) === "EPERM";
  }
}

function run(command: string, args: readonly string[]): string {
  try {
    return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  } catch {
    return "";
  }
}
