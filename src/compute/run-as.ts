/**
 * The user that Postgres runs as. Postgres refuses to run as root, so under root it is started as an unprivileged user;
 * otherwise it runs as we do. That user must be able to reach the data directory and to execute the binaries: what is
 * in the way is named with the next step, because Postgres' own message for it is "Permission denied" and no more.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, realpathSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { ErrorCode, NeonError, systemCode } from "../base/errors.ts";

export interface RunAs {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/** Tried in this order when root has not configured a user. */
const DEFAULT_USERS = ["postgres", "nobody"] as const;

/**
 * The user to switch to, or undefined when no switch is needed (we are not root).
 * @param configured setting `run_as`; only root may use it. Throws `resource` if there is no such user.
 */
export function chooseRunAs(configured?: string): RunAs | undefined {
  if (process.getuid?.() !== 0) return undefined;
  if (configured !== undefined) {
    const user = lookUpUser(configured);
    if (user && user.uid !== 0) return user;
    throw new NeonError(
      ErrorCode.Resource,
      user
        ? `Postgres cannot run as "${configured}", which is the superuser`
        : `there is no user "${configured}" on this machine`,
      { hint: "Set run_as in config.toml to an existing unprivileged user.", data: { user: configured } },
    );
  }
  for (const name of DEFAULT_USERS) {
    const user = lookUpUser(name);
    if (user && user.uid !== 0) return user;
  }
  throw new NeonError(
    ErrorCode.Resource,
    "Postgres refuses to run as root and no unprivileged user was found",
    {
      hint: "Run neon as an ordinary user, or set run_as in config.toml to an unprivileged user.",
    },
  );
}

/** Checks that `user` can walk down to an existing `directory`. Throws `resource` that names the first directory in the way. */
export function checkReachable(directory: string, user: RunAs | undefined): void {
  if (!user) return;
  for (const parent of pathFromRoot(realpathSync(directory))) {
    if (hasAccess(parent, user, 1)) continue;
    throw new NeonError(
      ErrorCode.Resource,
      `Postgres runs as user "${user.name}" here, who may not enter the directory ${parent}`,
      {
        hint: `Run "chmod o+x ${shellQuote(parent)}", put the repository elsewhere, or choose another user: \`neon config set run_as NAME\`.`,
        data: { directory: parent, user: user.name },
      },
    );
  }
}

/** Checks that `user` can reach and execute a program. Throws `resource`. */
export function checkExecutable(file: string, user: RunAs | undefined): void {
  if (!user) return;
  for (const parent of pathFromRoot(dirname(file))) {
    if (hasAccess(parent, user, 1)) continue;
    throw new NeonError(
      ErrorCode.Resource,
      `Postgres' programs are in ${dirname(file)}, but user "${user.name}" may not enter the directory ${parent}`,
      {
        hint: `Run "chmod o+x ${shellQuote(parent)}", or give binaries elsewhere with --pg-bin.`,
        data: { directory: parent, user: user.name },
      },
    );
  }
  if (hasAccess(file, user, 5)) return;
  throw new NeonError(ErrorCode.Resource, `user "${user.name}" may not read and execute ${file}`, {
    hint: `Run "chmod -R o+rX ${shellQuote(dirname(dirname(file)))}", or give binaries elsewhere with --pg-bin.`,
    data: { file, user: user.name },
  });
}

/** A name, from the password file or from whatever else `id` knows (directory services). */
function lookUpUser(name: string): RunAs | undefined {
  for (const line of readText("/etc/passwd").split("\n")) {
    const [entry, , uid, gid] = line.split(":");
    if (entry === name && uid && gid) return checkedUser(name, uid, gid);
  }
  try {
    const ask = (flag: string): string =>
      execFileSync("id", [flag, "--", name], {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
      }).trim();
    return checkedUser(name, ask("-u"), ask("-g"));
  } catch {
    return undefined;
  }
}

function checkedUser(name: string, uidText: string, gidText: string): RunAs | undefined {
  // macOS gives nobody the number -2; the system calls take it as unsigned.
  const uid = Number(uidText) >>> 0;
  const gid = Number(gidText) >>> 0;
  return Number.isInteger(Number(uidText)) && Number.isInteger(Number(gidText))
    ? { name, uid, gid }
    : undefined;
}

/** Whether `user` has the permission bits `wanted` (4 read, 1 enter or execute) on a path. */
function hasAccess(path: string, user: RunAs, wanted: number): boolean {
  const status = statSync(path, { throwIfNoEntry: false });
  if (!status) {
    throw new NeonError(ErrorCode.Resource, `${path} does not exist`, { data: { path } });
  }
  const shift = status.uid === user.uid ? 6 : status.gid === user.gid ? 3 : 0;
  if (((status.mode >> shift) & wanted) === wanted) return true;
  // Permission bits are not the whole truth (access control lists): before complaining, try as that user.
  const script = (wanted & 4) !== 0 ? 'test -r "$1" && test -x "$1"' : 'test -x "$1"';
  const trial = spawnSync("/bin/sh", ["-c", script, "sh", path], {
    uid: user.uid,
    gid: user.gid,
    cwd: "/",
    stdio: "ignore",
  });
  return trial.status === 0;
}

/** `/`, `/a`, `/a/b`, … down to the path itself. */
function pathFromRoot(path: string): string[] {
  const parts = [path];
  for (let parent = dirname(path); parent !== parts.at(-1); parent = dirname(parent)) parts.push(parent);
  return parts.reverse();
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT") return "";
    throw error;
  }
}

function shellQuote(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
