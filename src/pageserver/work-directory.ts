/**
 * The pageserver's working directory belongs to one process at a time. The right to it is a lock that the operating
 * system drops when its owner ends, however it ends: Node.js has no flock of its own, but its SQLite locks the file it
 * opens. `pageserver.pid` beside it is for people and for the command line:
 *
 *     {"pid": 4711, "start_time": "123456", "boot_id": "…", "listen": "127.0.0.1:9898",
 *      "listen_libpq": "127.0.0.1:64000", "listen_grpc": "127.0.0.1:51051"}
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { ErrorCode, NeonError, messageOf } from "../base/errors.ts";
import { ownProcessStamp } from "./process-stamp.ts";

export const PID_FILE = "pageserver.pid";
const LOCK_FILE = "pageserver.lock";
/** SQLITE_BUSY: somebody else holds the lock. */
const SQLITE_BUSY = 5;

export class WorkDirectory implements Disposable {
  readonly path: string;
  private lock: DatabaseSync | undefined;

  private constructor(path: string, lock: DatabaseSync) {
    this.path = path;
    this.lock = lock;
  }

  /** Takes the directory and creates it if it is missing. Throws `conflict` while another process has it. */
  static acquire(path: string): WorkDirectory {
    const file = join(path, LOCK_FILE);
    let database: DatabaseSync;
    try {
      mkdirSync(path, { recursive: true, mode: 0o700 });
      database = new DatabaseSync(file);
    } catch (error) {
      throw cannotLock(file, error);
    }
    try {
      // Held until the file is closed. Nothing is ever written, so the file stays empty.
      database.exec("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
      return new WorkDirectory(path, database);
    } catch (error) {
      database.close();
      if (!isBusy(error)) throw cannotLock(file, error);
      const pid = holderOf(path);
      throw new NeonError(
        ErrorCode.Conflict,
        `another pageserver${pid === undefined ? "" : ` (process ${pid})`} works in ${path}`,
        {
          hint: "Use that one, or stop it first with `neon stop`.",
          data: { pid: pid ?? null },
          cause: error,
        },
      );
    }
  }

  /** Says in pageserver.pid who works here and where it listens for HTTP and, if it does, for libpq and gRPC. */
  writePidFile(listen: string, listenLibpq: string | undefined, listenGrpc: string | undefined): void {
    const { pid, startTime, bootId } = ownProcessStamp();
    const path = join(this.path, PID_FILE);
    const text = JSON.stringify({
      pid,
      start_time: startTime,
      boot_id: bootId,
      listen,
      listen_libpq: listenLibpq,
      listen_grpc: listenGrpc,
    });
    // A reader sees all of it or the one before. It describes a living process, so it need not survive a crash.
    writeFileSync(`${path}.new`, `${text}\n`, { mode: 0o600 });
    renameSync(`${path}.new`, path);
  }

  /** Gives the directory back. Safe to call again. */
  [Symbol.dispose](): void {
    if (!this.lock) return;
    rmSync(join(this.path, PID_FILE), { force: true });
    this.lock.close();
    this.lock = undefined;
  }
}

function holderOf(path: string): number | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(join(path, PID_FILE), "utf8"));
    if (typeof value !== "object" || value === null || !("pid" in value)) return undefined;
    return typeof value.pid === "number" ? value.pid : undefined;
  } catch {
    return undefined;
  }
}

function isBusy(error: unknown): boolean {
  return typeof error === "object" && error !== null && "errcode" in error && error.errcode === SQLITE_BUSY;
}

function cannotLock(file: string, error: unknown): NeonError {
  return new NeonError(ErrorCode.Resource, `cannot lock ${file}: ${messageOf(error)}`, {
    hint: "Check that the directory exists, that it belongs to you and that its disk has room.",
    cause: error,
  });
}
