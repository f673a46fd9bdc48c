/**
 * Locks between processes that do not outlive their owner, however it ends.
 *
 * A lock is a directory of claims. Each claim is an empty file of its own whose *name* tells its owner: process
 * number, start time and boot. To lock: create a claim, then look; whoever sees no other living claim holds the lock,
 * anyone else takes the claim back and tries again. Of two that come at once at least the later look sees the other,
 * so there are never two holders. A claim of a dead process is removed by whoever finds it: its name is never used
 * again, so nothing alive can be removed by mistake. No lock file has to be stolen, which is where races hide.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, unlinkSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";
import { bootId, processStartTime } from "./process.ts";

/** How long `withLock` waits for another command, in milliseconds. */
const WAIT_MS = 30_000;

export interface Lock {
  /** Gives the lock back; safe to call again. */
  release(): void;
}

/** Runs `fn` while holding the lock at `path`; `what` names the thing that is busy when waiting was in vain. */
export async function withLock<T>(
  path: string,
  what: string,
  fn: () => Promise<T>,
  options: { waitMs?: number; signal?: AbortSignal } = {},
): Promise<T> {
  const lock = await acquireLock(path, what, options);
  try {
    return await fn();
  } finally {
    lock.release();
  }
}

/** Waits for the lock. Throws `conflict` that names the holder's process after `waitMs`. */
export async function acquireLock(
  path: string,
  what: string,
  options: { waitMs?: number; signal?: AbortSignal } = {},
): Promise<Lock> {
  const waitMs = options.waitMs ?? WAIT_MS;
  const deadline = performance.now() + waitMs;
  for (;;) {
    options.signal?.throwIfAborted();
    const lock = tryLock(path);
    if (!("heldBy" in lock)) return lock;
    if (performance.now() >= deadline) {
      throw new NeonError(
        ErrorCode.Conflict,
        `${what} is in use by another neon command (process ${lock.heldBy})`,
        { hint: `Wait until it is done, or end it: \`kill ${lock.heldBy}\`.`, data: { pid: lock.heldBy } },
      );
    }
    // A random pause, so that two that met do not meet again.
    await sleep(5 + Math.random() * 40);
  }
}

/** Takes the lock if nobody alive has it, otherwise tells whose it is. */
export function tryLock(path: string): Lock | { readonly heldBy: number } {
  const own = claimName();
  const claim = join(path, own);
  try {
    mkdirSync(path, { recursive: true });
    writeFileSync(claim, "", { flag: "wx", mode: 0o600 });
  } catch (error) {
    // The directory may vanish only when its repository does.
    throw new NeonError(ErrorCode.Resource, `cannot lock ${path}: ${messageOf(error)}`, {
      hint: `Check the permissions of ${dirname(path)} and the space on its disk.`,
      cause: error,
    });
  }
  const holder = otherHolder(path, own);
  if (holder === undefined) return { release: () => removeClaim(claim) };
  removeClaim(claim);
  return { heldBy: holder };
}

/** Whether somebody alive has the lock. For the locks of others: changes nothing. */
export function isLocked(path: string): boolean {
  try {
    return readdirSync(path).some((name) => livingClaimant(name) !== undefined);
  } catch (error) {
    if (systemCode(error) === "ENOENT") return false;
    throw error;
  }
}

function otherHolder(path: string, own: string): number | undefined {
  for (const name of readdirSync(path)) {
    if (name === own) continue;
    const pid = livingClaimant(name);
    if (pid !== undefined) return pid;
    removeClaim(join(path, name));
  }
  return undefined;
}

function livingClaimant(claim: string): number | undefined {
  const [pidText, startTime, boot] = claim.split("-");
  const pid = Number(pidText);
  return boot === bootStamp() && processStartTime(pid) === startTime ? pid : undefined;
}

function claimName(): string {
  const startTime = processStartTime(process.pid) ?? "unknown";
  return [process.pid, startTime, bootStamp(), randomBytes(6).toString("hex")].join("-");
}

function bootStamp(): string {
  return bootId().replaceAll("-", "");
}

function removeClaim(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (systemCode(error) !== "ENOENT") {
      throw new NeonError(
        ErrorCode.Resource,
        `cannot unlock ${basename(dirname(path))}: ${messageOf(error)}`,
        {
          cause: error,
        },
      );
    }
  }
}
