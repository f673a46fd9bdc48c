/**
 * Verifying a branch's past against stock recovery: for each moment a data directory as of a checkpoint before it, and
 * the branch's WAL from there, which stock Postgres replays. What it has made must then be what a base backup would be.
 */
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { chmod, chown, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ErrorCode, NeonError } from "../base/errors.ts";
import type { TimelineId } from "../base/ids.ts";
import { type Lsn, formatLsn, parseLsn } from "../base/lsn.ts";
import type { RecoveryPlan, RecoveryStep } from "../client/recovery.ts";
import type { Verification } from "../client/verification.ts";
import type { ComputeContext } from "./compute-context.ts";
import { readDirectoryState, removeTree } from "./directory-setup.ts";
import { excerptOf, readLogFrom } from "./postgres-log.ts";
import { StartingPostmaster, killPostmaster, stopPostmaster } from "./postmaster.ts";

/** Replaying takes as long as the WAL is long, milliseconds. */
const RECOVERY_TIMEOUT_MS = 24 * 60 * 60_000;
/** Writing out everything at the end, milliseconds. */
const STOP_TIMEOUT_MS = 10 * 60_000;

export interface RecoveredMoment extends RecoveryStep, Verification {}

export interface RecoveryRequest {
  readonly timelineId: TimelineId;
  /** Recovery begins at the first checkpoint from here on; where the branch's own history begins if undefined. */
  readonly fromLsn: Lsn | undefined;
  /** LSNs, or how many samples between the beginning and the end of the branch, which is the last of them. */
  readonly at: readonly Lsn[] | number;
}

export interface RecoveryOptions {
  readonly signal: AbortSignal;
  /** Called after each moment. */
  readonly found: (moment: RecoveredMoment) => void;
  /** Called with the number of pages of the present moment compared so far. */
  readonly pages: (count: number) => void;
}

/**
 * Compares moment after moment. Everything happens in `directory`, which is made, and removed in the end. Throws
 * `not_checked` if the WAL is not there, or recovery does not come to its end.
 */
export async function verifyByRecovery(
  context: ComputeContext,
  request: RecoveryRequest,
  directory: string,
  options: RecoveryOptions,
): Promise<RecoveryPlan> {
  const { pageserver, events } = context;
  events.step?.("reading the WAL of the branch");
  const plan = await pageserver.planRecovery(request.timelineId, request);
  const pgdata = join(directory, "pgdata");
  await clear(directory);
  try {
    mkdirSync(directory, { mode: 0o711 });
    for (const step of plan.steps) {
      options.signal.throwIfAborted();
      await recover(context, { ...step, timelineId: request.timelineId, directory }, options);
      events.step?.(`comparing at ${formatLsn(step.lsn)}`);
      const { signal, pages } = options;
      const compared = { directory: pgdata, lsn: step.lsn, recovered: true, signal, progress: pages };
      const found = await pageserver.verifyDirectory(request.timelineId, compared);
      options.found({ ...step, ...found });
    }
    return plan;
  } finally {
    await clear(directory);
  }
}

/** What an interrupted verification has left goes too. */
async function clear(directory: string): Promise<void> {
  await killPostmaster(join(directory, "pgdata"), null);
  await removeTree(directory);
}

async function recover(
  context: ComputeContext,
  step: RecoveryStep & { timelineId: TimelineId; directory: string },
  options: RecoveryOptions,
): Promise<void> {
  const { pageserver, user, events } = context;
  const pgdata = join(step.directory, "pgdata");
  const logPath = join(step.directory, "postgres.log");
  await removeTree(pgdata);
  const where = formatLsn(step.lsn);
  events.step?.(`building the data directory to recover ${where}`);
  const { signal } = options;
  const stream = await pageserver.recoveryBackup(step.timelineId, { ...step, signal });
  const { extractDataDirectory } = await import("./data-directory.ts");
  let written = 0;
  await extractDataDirectory(stream, pgdata, {
    owner: user,
    progress: (bytes) => {
      events.progress?.(bytes - written);
      written = bytes;
    },
  });
  events.step?.(`stock Postgres recovers to ${where}`);
  const binaries = await context.binaries();
  // Nobody connects, but without any socket Postgres does not start; the path of one here might be too long.
  const sockets = await mkdtemp(join(tmpdir(), "neon-verify-"));
  try {
    await chmod(sockets, 0o700);
    if (user) await chown(sockets, user.uid, user.gid);
    configure(pgdata, sockets);
    const server = await StartingPostmaster.spawn({
      bindir: binaries.bindir,
      pgdata,
      logPath,
      user,
      settings: [["config_file", join(step.directory, "postgresql.conf")]],
    });
    const kill = (): void => {
      killPostmaster(pgdata, server.process).catch(() => undefined);
    };
    signal.addEventListener("abort", kill);
    try {
      await server.waitUntilReady(RECOVERY_TIMEOUT_MS);
      await stopPostmaster(pgdata, server.process, "SIGINT", STOP_TIMEOUT_MS);
    } finally {
      signal.removeEventListener("abort", kill);
    }
  } catch (error) {
    signal.throwIfAborted();
    throw notRecovered(step, "it failed", error);
  } finally {
    rmSync(sockets, { recursive: true, force: true });
  }
  checkEnd(pgdata, step, logPath);
}

/** Configuration files lie beside the data directory, which is Postgres' user's. */
function configure(pgdata: string, sockets: string): void {
  const state = readDirectoryState(pgdata);
  if (state === undefined) throw new Error("the data directory has no pg_control");
  const { parameters, walSegmentSize } = state.control;
  const segmentMb = walSegmentSize >> 20;
  const directory = join(pgdata, "..");
  const hba = join(directory, "pg_hba.conf");
  const ident = join(directory, "pg_ident.conf");
  const settings: Record<string, string | number> = {
    data_directory: pgdata,
    hba_file: hba,
    ident_file: ident,
    // All WAL is in place.
    restore_command: "exit 1",
    hot_standby: "off",
    listen_addresses: "",
    unix_socket_directories: sockets,
    autovacuum: "off",
    // Its start alone reads catalogs, and reading tidies up pages.
    max_logical_replication_workers: 0,
    max_prepared_transactions: parameters.maxPreparedTransactions,
    track_commit_timestamp: parameters.trackCommitTimestamp ? "on" : "off",
    fsync: "off",
    shared_buffers: "128MB",
    min_wal_size: `${5 * segmentMb}MB`,
    max_wal_size: `${Math.max(1024, 10 * segmentMb)}MB`,
  };
  // Tablespaces are plain directories, which recovery refuses unless it is told that they are meant.
  if (readdirSync(join(pgdata, "pg_tblspc")).length > 0) settings["allow_in_place_tablespaces"] = "on";
  const lines = Object.entries(settings).map(
    ([name, value]) => `${name} = '${String(value).replaceAll("'", "''")}'\n`,
  );
  writeFileSync(join(directory, "postgresql.conf"), lines.join(""), { mode: 0o644 });
  writeFileSync(hba, "local all all reject\n", { mode: 0o644 });
  writeFileSync(ident, "", { mode: 0o644 });
}

/** Recovery ends by beginning a new timeline, whose history file says where it did. */
function checkEnd(pgdata: string, step: RecoveryStep, logPath: string): void {
  const wal = join(pgdata, "pg_wal");
  const name = readdirSync(wal)
    .filter((file) => /^[0-9A-F]{8}\.history$/.test(file))
    .sort()
    .at(-1);
  const text = name === undefined ? "" : readFileSync(join(wal, name), "utf8");
  const last = text.split("\n").findLast((line) => /^\d+\t/.test(line));
  const end = parseLsn(last?.split("\t")[1] ?? "");
  if (end === step.lsn) return;
  const log = excerptOf(readLogFrom(logPath, 0));
  throw notRecovered(step, `it ended at ${end === undefined ? "no known place" : formatLsn(end)}:\n${log}`);
}

function notRecovered(step: RecoveryStep, why: string, cause?: unknown): NeonError {
  const { checkpointLsn, lsn } = step;
  const said = cause instanceof Error ? `: ${cause.message}` : "";
  return new NeonError(
    ErrorCode.NotChecked,
    `stock Postgres could not recover from the checkpoint at ${formatLsn(checkpointLsn)} to ${formatLsn(lsn)}: ${why}${said}`,
    { data: { checkpoint: formatLsn(checkpointLsn), lsn: formatLsn(lsn) }, cause },
  );
}
