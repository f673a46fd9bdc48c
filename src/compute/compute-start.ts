/**
 * Starting a compute. A writing one first opens a writer epoch at the pageserver, which from then on refuses the WAL
 * of every earlier one, then makes sure that its data directory is at the end of the branch, then starts Postgres.
 * After each step `compute.json` says what has been done, so that an interruption anywhere can be taken up by the next
 * start.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError, messageOf } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import type { WriterSource } from "../client/pageserver-client.ts";
import { ClusterState } from "../postgres/control-file.ts";
import { isPortInUse, reservePort } from "../repository/ports.ts";
import type { PgBinaries } from "./binaries.ts";
import { findBranch, waitUntilFollowed } from "./compute-branch.ts";
import { type ComputeContext, leaseName } from "./compute-context.ts";
import { type ComputeRecord, writeComputeFile } from "./compute-file.ts";
import { COMPUTE_HOST } from "./compute-info.ts";
import type { ComputePaths } from "./compute-paths.ts";
import {
  type DirectoryState,
  readDirectoryState,
  removeStaleLocks,
  removeLeftovers,
  replaceDirectory,
  saveAutoConf,
  writeConfiguration,
} from "./directory-setup.ts";
import { SUPERUSER } from "./initdb.ts";
import { rotateLog } from "./postgres-log.ts";
import { StartingPostmaster, stopPostmaster, waitForOrphans } from "./postmaster.ts";
import { bootId } from "./process-identity.ts";
import { checkExecutable, checkReachable } from "./run-as.ts";
import { type ComputeSettings, fixedSettings, waitsForPageserver } from "./settings.ts";
import { decideStart } from "./start-decision.ts";

/** How long an immediate shutdown may take, milliseconds. */
const IMMEDIATE_TIMEOUT_MS = 20_000;

/** A directory that is ready for Postgres, and the record as it is by then. */
/** A lease is renewed at each start and ends with the compute; in milliseconds. */
const LEASE_MS = 366 * 86_400_000;
/** How long a port is waited for that some connection holds, in milliseconds. */
const PORT_PATIENCE_MS = 10_000;
const PORT_RETRY_MS = 200;

interface Prepared {
  readonly record: ComputeRecord;
  readonly rebuilt: boolean;
}

/** Starts a compute that is not running. Returns its record as written to disk. */
export async function startCompute(
  context: ComputeContext,
  stopped: ComputeRecord,
  paths: ComputePaths,
): Promise<ComputeRecord> {
  const binaries = await context.binaries();
  checkMachine(context, binaries, stopped, paths);
  await waitForOrphans(paths.pgdata);
  await removeStaleLocks(paths);
  const port = await reservePort({
    first: stopped.port,
    wanted: stopped.port,
    patienceMs: PORT_PATIENCE_MS,
    owner: paths.file,
  });
  try {
    const prepared =
      stopped.mode === "read-only"
        ? await prepareReadOnly(context, stopped, paths)
        : await prepareReadWrite(context, stopped, paths);
    try {
      return await runOnPort(context, binaries, prepared, paths);
    } catch (error) {
      await undoStart(context, prepared, paths);
      throw error;
    }
  } finally {
    port.release();
  }
}

function checkMachine(
  context: ComputeContext,
  binaries: PgBinaries,
  record: ComputeRecord,
  paths: ComputePaths,
): void {
  if (binaries.major !== record.pgVersion) {
    throw new NeonError(
      ErrorCode.Postgres,
      `compute "${record.name}" needs Postgres ${record.pgVersion}, but ${binaries.bindir} has ${binaries.version}`,
      { hint: `Name the programs of a Postgres ${record.pgVersion} with --pg-bin or NEON_PG_BIN.` },
    );
  }
  checkReachable(paths.directory, context.user);
  checkExecutable(join(binaries.bindir, "postgres"), context.user);
}

async function prepareReadOnly(
  context: ComputeContext,
  record: ComputeRecord,
  paths: ComputePaths,
): Promise<Prepared> {
  const branchName = (await findBranch(context, record)).name;
  const moment = { lsn: record.lsn, durationMs: LEASE_MS };
  await context.pageserver.lease?.(record.timelineId, leaseName(record, context.root), moment);
  const state = readDirectoryState(paths.pgdata)?.control.state;
  // Not the state after a promotion, which would show something else than the moment that was asked for.
  const usable = state === ClusterState.ShutDownInRecovery && record.bootId === bootId();
  if (!usable) await rebuild(context, record, paths, record.lsn);
  return { record: { ...record, branch: branchName }, rebuilt: !usable };
}

async function prepareReadWrite(
  context: ComputeContext,
  record: ComputeRecord,
  paths: ComputePaths,
): Promise<Prepared> {
  const { pageserver } = context;
  const branch = await findBranch(context, record);
  // A writer of this name can only be an earlier run of this compute, and nothing of it is alive any more.
  const takeover = branch.writer?.name === record.name;
  const opened = await pageserver.openWriter(record.timelineId, {
    name: record.name,
    source: writerSource(record, paths),
    takeover,
  });
  const state = readDirectoryState(paths.pgdata);
  const decision = decideStart({
    commit: record.commit,
    control: state && isOfVersion(state, record) ? state : undefined,
    sameBoot: record.bootId === bootId(),
    stop: record.stop,
    epoch: record.epoch,
    openEpoch: branch.writer?.epoch ?? null,
    branchEnd: opened.lsn,
  });
  if (decision.kind === "conflict") {
    await pageserver.closeWriter(record.timelineId, opened.epoch);
    throw new NeonError(
      ErrorCode.Conflict,
      `compute "${record.name}" may hold commits that branch "${branch.name}" does not have, and ${decision.reason}`,
      {
        hint: `Save what you need from ${paths.pgdata} with a Postgres of your own; then \`neon pg destroy ${record.name} --force\`.`,
      },
    );
  }
  const rebuilt = decision.kind === "rebuild";
  let next: ComputeRecord = { ...record, branch: branch.name, epoch: opened.epoch };
  try {
    // From here on the directory belongs to the new epoch; should we be interrupted, the next start must know.
    await writeComputeFile(paths.file, next);
    if (rebuilt) {
      await rebuild(context, record, paths, opened.lsn);
      next = { ...next, lsn: opened.lsn };
    }
  } catch (error) {
    if (rebuilt) await closeQuietly(context, next);
    throw error;
  }
  return { record: next, rebuilt };
}

function isOfVersion(state: DirectoryState, record: ComputeRecord): boolean {
  return state.control.version.major === record.pgVersion;
}

async function rebuild(
  context: ComputeContext,
  record: ComputeRecord,
  paths: ComputePaths,
  lsn: Lsn,
): Promise<void> {
  const { events } = context;
  events.step?.(`building the data directory of ${record.name}`);
  const readOnly = record.mode === "read-only";
  const backup = await context.pageserver.baseBackup(record.timelineId, { lsn, readOnly });
  if (backup.lsn !== lsn) {
    throw new NeonError(ErrorCode.Failed, "the pageserver sent a base backup of another moment", {
      data: { asked: lsn, received: backup.lsn },
    });
  }
  let known = 0;
  await replaceDirectory(paths, backup.stream, {
    owner: context.user,
    trustOld: record.bootId === bootId(),
    progress: (bytes) => {
      events.progress?.(bytes - known);
      known = bytes;
    },
  });
}

/**
 * Runs Postgres; again if an outgoing connection of some program has been given its port since it was tested. Postgres
 * ends then before it has touched anything.
 */
async function runOnPort(
  context: ComputeContext,
  binaries: PgBinaries,
  prepared: Prepared,
  paths: ComputePaths,
): Promise<ComputeRecord> {
  const deadline = Date.now() + PORT_PATIENCE_MS;
  for (;;) {
    try {
      return await runPostgres(context, binaries, prepared, paths);
    } catch (error) {
      if (!isPortInUse(error) || Date.now() > deadline) throw error;
    }
    await sleep(PORT_RETRY_MS);
  }
}

async function runPostgres(
  context: ComputeContext,
  binaries: PgBinaries,
  prepared: Prepared,
  paths: ComputePaths,
): Promise<ComputeRecord> {
  const { record } = prepared;
  const state = readDirectoryState(paths.pgdata);
  if (!state) {
    throw new NeonError(ErrorCode.Corrupt, `the base backup left no usable pg_control in ${paths.pgdata}`);
  }
  const settings: ComputeSettings = {
    mode: record.mode,
    commit: record.commit,
    port: record.port,
    socketDirectory: paths.socketDirectory(record.port),
    epoch: record.epoch,
  };
  writeConfiguration(paths, settings, state.control, context.user);
  rotateLog(paths.log);
  const postmaster = await StartingPostmaster.spawn({
    bindir: binaries.bindir,
    pgdata: paths.pgdata,
    logPath: paths.log,
    user: context.user,
    settings: fixedSettings(settings),
  });
  const running: ComputeRecord = { ...record, process: postmaster.process, bootId: bootId(), stop: null };
  await writeComputeFile(paths.file, running);
  await postmaster.waitUntilReady();
  saveAutoConf(paths);
  const cleaning = removeLeftovers(paths);
  // Before the pageserver streams from it, every COMMIT would wait.
  const following = waitsForPageserver(record) ? waitUntilFollowed(context, running) : undefined;
  await Promise.all([cleaning, following]);
  return running;
}

/** Takes back what a failed start has done, as far as nothing can be lost by it. */
async function undoStart(context: ComputeContext, prepared: Prepared, paths: ComputePaths): Promise<void> {
  const { record, rebuilt } = prepared;
  try {
    await stopPostmaster(paths.pgdata, null, "SIGQUIT", IMMEDIATE_TIMEOUT_MS);
    await waitForOrphans(paths.pgdata);
    await writeComputeFile(paths.file, { ...record, process: null, bootId: bootId() });
  } catch (error) {
    context.events.caution?.(`After the failed start of ${record.name}: ${messageOf(error)}.`);
  }
  // A directory that was kept may hold WAL that the pageserver lacks; its epoch stays open for the next attempt.
  if (rebuilt && record.mode === "read-write") await closeQuietly(context, record);
}

async function closeQuietly(context: ComputeContext, record: ComputeRecord): Promise<void> {
  if (record.epoch === null) return;
  try {
    await context.pageserver.closeWriter(record.timelineId, record.epoch);
  } catch (error) {
    context.events.caution?.(`The pageserver still waits for compute ${record.name}: ${messageOf(error)}.`);
  }
}

function writerSource(record: ComputeRecord, paths: ComputePaths): WriterSource {
  const socketDirectory = paths.socketDirectory(record.port);
  const where = socketDirectory === null ? { host: COMPUTE_HOST } : { socketDirectory };
  return { ...where, port: record.port, user: SUPERUSER };
}
