/**
 * What neon commands tell each other about ports: locks on those that a server is about to listen on, and notes on
 * those whose server is stopped and wants its port back later. Such a server has an owner, a file that exists as long
 * as the server is of any use; the note names it.
 *
 * Each user writes a directory of its own, `neon-ports-UID` among the temporary files, and reads those of all: servers
 * of two users get in each other's way like those of one. Nothing in the directory of another user is trusted with more
 * than to keep a port. Notes are a courtesy: they may get lost, and then a port that is taken is reported when the
 * server starts.
 */
import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ErrorCode, NeonError, systemCode } from "../base/errors.ts";
import { type Lock, isLocked, tryLock } from "./lock.ts";

interface Note {
  readonly owner: string;
  readonly purpose: string;
}

const DIRECTORY_NAME = /^neon-ports-(\d+)$/;
const DIRECTORY_MODE = 0o755;
const FILE_MODE = 0o644;
/** A path and a word; more than that is no note. */
const NOTE_BYTES_MAX = 8192;

/** The lock of a port; undefined if another process of any user has it. */
export function lockPort(port: number): Lock | undefined {
  const own = ownDirectory();
  const path = join(own, String(port));
  const lock = tryLock(path);
  if ("heldBy" in lock) return undefined;
  chmodSync(path, DIRECTORY_MODE);
  // As within one directory: of two that come at once, at least the later look sees the other.
  if (!directories().some((directory) => directory !== own && lockedIn(directory, port))) return lock;
  lock.release();
  return undefined;
}

/** Notes that a port belongs to the owner, and no other port does for the same purpose. */
export function noteOwner(port: number, owner: string, purpose = ""): void {
  const own = ownDirectory();
  const notes = join(own, "owners");
  mkdirSync(notes, { recursive: true, mode: DIRECTORY_MODE });
  chmodSync(notes, DIRECTORY_MODE);
  for (const name of readdirSync(notes)) {
    const noted = readNote(own, name);
    if (noted?.owner === owner && noted.purpose === purpose) rmSync(join(notes, name), { force: true });
  }
  const path = join(notes, String(port));
  writeFileSync(path, purpose === "" ? owner : `${owner}\n${purpose}`);
  chmodSync(path, FILE_MODE);
}

/** Whether a port is kept for a server of another owner. */
export function belongsToOther(port: number, owner: string | undefined): boolean {
  return directories().some((directory) => {
    const noted = readNote(directory, String(port));
    return noted !== undefined && noted.owner !== owner && mayExist(noted.owner);
  });
}

/** Whether a file exists, or may: what we are not allowed to see belongs to another user. */
function mayExist(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch (error) {
    return systemCode(error) === "EACCES";
  }
}

/** Anything may lie in the directory of another user, so this neither waits for anybody nor reads without end. */
function readNote(directory: string, port: string): Note | undefined {
  let file: number;
  try {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    file = openSync(join(directory, "owners", port), flags);
  } catch {
    return undefined;
  }
  try {
    const stats = fstatSync(file);
    if (!stats.isFile() || stats.size > NOTE_BYTES_MAX) return undefined;
    const bytes = Buffer.alloc(stats.size);
    const [owner = "", purpose = ""] = bytes
      .toString("utf8", 0, readSync(file, bytes, 0, bytes.length, 0))
      .split("\n");
    return { owner, purpose };
  } finally {
    closeSync(file);
  }
}

function lockedIn(directory: string, port: number): boolean {
  try {
    return isLocked(join(directory, String(port)));
  } catch {
    // Somebody else's directory that is not as it should be holds nothing up.
    return false;
  }
}

/** Those of all users that are what they say. */
function directories(): string[] {
  const shared = sharedDirectory();
  return readdirSync(shared)
    .filter((name) => {
      const user = DIRECTORY_NAME.exec(name)?.[1];
      const stats = user === undefined ? undefined : lstatSync(join(shared, name), { throwIfNoEntry: false });
      return stats?.isDirectory() === true && stats.uid === Number(user);
    })
    .map((name) => join(shared, name));
}

/** Shared by all repositories of a user, also by those whose temporary files are somewhere else. */
function ownDirectory(): string {
  const user = process.getuid?.() ?? 0;
  const directory = join(sharedDirectory(), `neon-ports-${user}`);
  mkdirSync(directory, { recursive: true, mode: DIRECTORY_MODE });
  const stats = lstatSync(directory);
  if (!stats.isDirectory() || stats.uid !== user) {
    throw new NeonError(ErrorCode.Resource, `${directory} belongs to somebody else`, {
      hint: "Remove it, or set TMPDIR to a directory of your own.",
    });
  }
  if ((stats.mode & 0o777) !== DIRECTORY_MODE) chmodSync(directory, DIRECTORY_MODE);
  return directory;
}

function sharedDirectory(): string {
  return process.env["NEON_PORTS_DIR"] || tmpdir();
}
