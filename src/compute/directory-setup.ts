/**
 * Everything around Postgres that must be in place on disk before it starts: the data directory from a base backup,
 * configuration files, the socket directory. Under root all of this is written by root and some of it is owned by the
 * unprivileged user, who runs other people's SQL; so nothing is ever written *through* a path that this user could
 * have turned into a link.
 */
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fchownSync,
  fsyncSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { ErrorCode, NeonError, systemCode } from "../base/errors.ts";
import { type ControlFile, ClusterState, parseControlFile } from "../postgres/control-file.ts";
import { checkpointEndLsn } from "../postgres/wal/start-point.ts";
import type { Lsn } from "../base/lsn.ts";
import { fileError } from "../repository/atomic-file.ts";
import type { ComputePaths } from "./compute-paths.ts";
import type { RunAs } from "./run-as.ts";
import { type ComputeSettings, renderPgHbaConf, renderPostgresqlConf } from "./settings.ts";

/** More than ALTER SYSTEM could ever have to say. */
const AUTO_CONF_BYTES_MAX = 1024 * 1024;

const USER_CONF_TEXT = `# Settings of your own for this compute, one a line: work_mem = '64MB'
# They are read at every start of the compute and survive a rebuild of its data directory.
`;

/** What pg_control says about a data directory. */
export interface DirectoryState {
  readonly control: ControlFile;
  readonly shutDown: boolean;
  /** End of the last checkpoint record: the end of all WAL if `shutDown`. */
  readonly endLsn: Lsn;
}

/** Reads pg_control; undefined if there is no data directory or it is unreadable, so that it has to be rebuilt. */
export function readDirectoryState(pgdata: string): DirectoryState | undefined {
  try {
    const control = parseControlFile(readFileSync(join(pgdata, "global", "pg_control")));
    return {
      control,
      shutDown: control.state === ClusterState.ShutDown || control.state === ClusterState.ShutDownInRecovery,
      endLsn: checkpointEndLsn(control),
    };
  } catch (error) {
    const damaged = error instanceof NeonError && error.code === ErrorCode.Corrupt;
    if (damaged || systemCode(error) === "ENOENT" || systemCode(error) === "ENOTDIR") return undefined;
    throw error instanceof NeonError ? error : fileError(`cannot read pg_control of ${pgdata}`, error);
  }
}

/**
 * Replaces the data directory by one from a base backup. What ALTER SYSTEM has set so far goes along. The old one stays
 * as `oldPgdata`, to be removed when there is time: on ext4, making files right after removing many is slow.
 * @param trustOld the old directory was written in this boot, so its files hold what was written to them.
 */
export async function replaceDirectory(
  paths: ComputePaths,
  stream: AsyncIterable<Uint8Array>,
  options: { owner: RunAs | undefined; trustOld: boolean; progress?: ((bytes: number) => void) | undefined },
): Promise<void> {
  if (options.trustOld) saveAutoConf(paths);
  await removeTree(paths.newPgdata);
  await removeTree(paths.oldPgdata);
  // Loaded here only: most commands have no use for it.
  const { extractDataDirectory } = await import("./data-directory.ts");
  try {
    await extractDataDirectory(stream, paths.newPgdata, {
      owner: options.owner,
      ...(options.progress ? { progress: options.progress } : {}),
    });
    const saved = readSmallFile(paths.savedAutoConf);
    if (saved !== undefined) replaceFile(join(paths.newPgdata, "postgresql.auto.conf"), saved, options.owner);
    if (existsSync(paths.pgdata)) renameSync(paths.pgdata, paths.oldPgdata);
    renameSync(paths.newPgdata, paths.pgdata);
  } catch (error) {
    await removeTree(paths.newPgdata);
    throw systemCode(error) === undefined ? error : fileError(`cannot replace ${paths.pgdata}`, error);
  }
}

/** Keeps a copy of what ALTER SYSTEM has set, for the day on which the data directory is gone or not to be trusted. */
export function saveAutoConf(paths: ComputePaths): void {
  const text = readSmallFile(paths.autoConf);
  if (text !== undefined && text !== readSmallFile(paths.savedAutoConf))
    replaceFile(paths.savedAutoConf, text, undefined);
}

function hasTablespaces(pgdata: string): boolean {
  const directory = join(pgdata, "pg_tblspc");
  return existsSync(directory) && readdirSync(directory).length > 0;
}

/** Writes the configuration files and makes the socket directory. */
export function writeConfiguration(
  paths: ComputePaths,
  settings: ComputeSettings,
  control: ControlFile,
  owner: RunAs | undefined,
): void {
  try {
    if (!existsSync(paths.userConf)) replaceFile(paths.userConf, USER_CONF_TEXT, owner);
    const conf = renderPostgresqlConf(settings, control, paths.userConf);
    // A standby panics about tablespaces that are plain directories, unless it is told that they are meant.
    const inPlace = settings.mode === "read-only" && hasTablespaces(paths.pgdata);
    const text = inPlace ? `${conf}allow_in_place_tablespaces = on\n` : conf;
    replaceFile(join(paths.pgdata, "postgresql.conf"), text, owner);
    replaceFile(join(paths.pgdata, "pg_hba.conf"), renderPgHbaConf(), owner);
    if (!lstatSync(join(paths.pgdata, "pg_ident.conf"), { throwIfNoEntry: false })) {
      replaceFile(join(paths.pgdata, "pg_ident.conf"), "", owner);
    }
    const standby = join(paths.pgdata, "standby.signal");
    if (settings.mode === "read-only") replaceFile(standby, "", owner);
    else rmSync(standby, { force: true });
    if (settings.socketDirectory !== null) makeSocketDirectory(settings.socketDirectory, owner);
  } catch (error) {
    throw systemCode(error) === undefined ? error : fileError(`cannot configure ${paths.pgdata}`, error);
  }
}

/**
 * Removes the lock files of a server that did not end in order. Postgres removes them itself unless a process with that
 * pid exists, and for that it takes a zombie, or whoever got the number since. Only after every process of the
 * directory is known to have gone.
 */
export async function removeStaleLocks(paths: ComputePaths): Promise<void> {
  await removeTree(join(paths.pgdata, "postmaster.pid"));
  await removeTree(paths.sockets);
}

/** Removes what commands that were killed have left in a compute's directory. Its lock must be held. */
export async function removeLeftovers(paths: ComputePaths): Promise<void> {
  const unfinished = readdirSync(paths.directory).filter((name) => name.endsWith(".tmp"));
  for (const name of unfinished) await removeTree(join(paths.directory, name));
  await removeTree(paths.newPgdata);
  await removeTree(paths.oldPgdata);
}

function makeSocketDirectory(path: string, owner: RunAs | undefined): void {
  if (!lstatSync(path, { throwIfNoEntry: false })) mkdirSync(path, { mode: 0o700 });
  // Its parent is ours, so nobody else can have put a link here.
  chmodSync(path, 0o700);
  if (owner) lchownSync(path, owner.uid, owner.gid);
}

/** Creates or replaces a file in one step, never following a link that is in its place. */
function replaceFile(path: string, text: string, owner: RunAs | undefined): void {
  const temporary = `${path}.neon-new`;
  rmSync(temporary, { force: true });
  const flags = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW;
  const descriptor = openSync(temporary, flags, 0o600);
  try {
    fchmodSync(descriptor, 0o600);
    if (owner) fchownSync(descriptor, owner.uid, owner.gid);
    writeFileSync(descriptor, text);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(temporary, path);
}

/** A small regular file's text; undefined if it is absent, a link or suspiciously large. */
function readSmallFile(path: string): string | undefined {
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (!status?.isFile() || status.size > AUTO_CONF_BYTES_MAX) return undefined;
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    return readFileSync(descriptor, "utf8");
  } finally {
    closeSync(descriptor);
  }
}

/** Gives a directory to a user; nothing below it. */
export function giveTo(path: string, owner: RunAs | undefined): void {
  if (owner) chownSync(path, owner.uid, owner.gid);
}

export async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true, maxRetries: 3 });
  } catch (error) {
    throw fileError(`cannot remove ${path}`, error);
  }
}
