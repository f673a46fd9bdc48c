/**
 * Stopping a compute. A clean stop is over when the pageserver has everything, the shutdown checkpoint included; only
 * then is the writer epoch closed, and only then may the directory be used again as the end of the branch.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError, messageOf } from "../base/errors.ts";
import { formatLsn } from "../base/lsn.ts";
import { waitUntilFollowed } from "./compute-branch.ts";
import type { ComputeContext } from "./compute-context.ts";
import { type ComputeRecord, writeComputeFile } from "./compute-file.ts";
import type { ComputePaths } from "./compute-paths.ts";
import { readDirectoryState, saveAutoConf } from "./directory-setup.ts";
import { findPostmaster, killPostmaster, stopPostmaster, waitForOrphans } from "./postmaster.ts";

const POLL_MS = 20;

/** `fast` ends sessions and shuts down cleanly; `immediate` just ends, as a crash would. */
export type StopMode = "fast" | "immediate";

/** How long a fast shutdown may take, milliseconds. */
const FAST_TIMEOUT_MS = 90_000;
/** How long an immediate shutdown may take, milliseconds. Postgres itself kills children that take longer than 5 s. */
const IMMEDIATE_TIMEOUT_MS = 7_000;
/** How long the pageserver may take to store the end of the WAL, milliseconds. */
const INGEST_TIMEOUT_MS = 120_000;
/** How long the pageserver may take to say that it is there, milliseconds. */
const STATUS_TIMEOUT_MS = 5_000;

/** Stops a compute, running or crashed. Returns its record as written to disk. */
export async function stopCompute(
  context: ComputeContext,
  record: ComputeRecord,
  paths: ComputePaths,
  mode: StopMode,
): Promise<ComputeRecord> {
  if (findPostmaster(paths.pgdata, record.process) === undefined)
    return settleCrashed(context, record, paths);
  if (mode === "immediate") return stopImmediately(context, record, paths);
  if (record.mode === "read-only") return stopReadOnly(record, paths);
  return stopReadWrite(context, record, paths);
}

async function stopReadOnly(record: ComputeRecord, paths: ComputePaths): Promise<ComputeRecord> {
  await shutDown(record, paths);
  return write(paths, { ...record, process: null });
}

async function stopReadWrite(
  context: ComputeContext,
  record: ComputeRecord,
  paths: ComputePaths,
): Promise<ComputeRecord> {
  const problem = await followerProblem(context, record);
  if (problem && record.commit === "remote") {
    throw new NeonError(
      problem instanceof NeonError ? problem.code : ErrorCode.Unreachable,
      `compute "${record.name}" cannot be stopped cleanly, because the pageserver cannot store the rest of its WAL: ${messageOf(problem)}`,
      {
        hint: `See \`neon status\`; \`neon start\` starts the pageserver. Or give up what has not been committed: \`neon pg stop ${record.name} --immediate\`.`,
        cause: problem,
      },
    );
  }
  await shutDown(record, paths);
  const state = readDirectoryState(paths.pgdata);
  if (!state?.shutDown) {
    await write(paths, { ...record, process: null });
    throw new NeonError(
      ErrorCode.Postgres,
      `Postgres of compute "${record.name}" ended without a clean shutdown`,
      { hint: `Its log says why: ${paths.log}. What was committed is safe.` },
    );
  }
  saveAutoConf(paths);
  const stopped = await write(paths, {
    ...record,
    process: null,
    stop: { lsn: state.endLsn, ingested: false },
  });
  if (!problem) return handOver(context, stopped, paths);
  context.events.caution?.(
    `The pageserver lacks the last commits of ${record.name} and gets them when both run again: ${messageOf(problem)}.`,
  );
  return stopped;
}

/** Why the pageserver will not get what is left of the WAL, or undefined if it is streaming. */
async function followerProblem(context: ComputeContext, record: ComputeRecord): Promise<unknown> {
  try {
    await waitUntilReady(context);
    await waitUntilFollowed(context, record);
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Waits until the pageserver has all of a cleanly stopped compute's WAL, then closes the writer epoch. */
async function handOver(
  context: ComputeContext,
  stopped: ComputeRecord,
  paths: ComputePaths,
): Promise<ComputeRecord> {
  const { stop, epoch } = stopped;
  if (!stop || epoch === null) return stopped;
  try {
    await context.pageserver.waitForLsn(stopped.timelineId, stop.lsn, INGEST_TIMEOUT_MS);
  } catch (error) {
    const cause = error instanceof NeonError ? error : undefined;
    throw new NeonError(
      cause?.code ?? ErrorCode.Failed,
      `compute "${stopped.name}" has stopped, but the pageserver lacks its WAL up to ${formatLsn(stop.lsn)}: ${messageOf(error)}`,
      { hint: `Nothing is lost: \`neon pg start ${stopped.name}\` sends the rest.`, cause: error },
    );
  }
  const done = await write(paths, { ...stopped, stop: { lsn: stop.lsn, ingested: true } });
  await context.pageserver.closeWriter(done.timelineId, epoch);
  return write(paths, { ...done, epoch: null });
}

async function stopImmediately(
  context: ComputeContext,
  record: ComputeRecord,
  paths: ComputePaths,
): Promise<ComputeRecord> {
  if (!(await stopPostmaster(paths.pgdata, record.process, "SIGQUIT", IMMEDIATE_TIMEOUT_MS))) {
    context.events.caution?.(`Postgres of compute ${record.name} does not end by itself: it is killed.`);
    await killPostmaster(paths.pgdata, record.process);
  }
  return settleCrashed(context, record, paths);
}

/** After an end that was no clean shutdown. */
async function settleCrashed(
  context: ComputeContext,
  record: ComputeRecord,
  paths: ComputePaths,
): Promise<ComputeRecord> {
  await waitForOrphans(paths.pgdata);
  // Under `commit = local` the directory holds commits that the pageserver may lack: its epoch stays open, so that
  // nobody else writes to the branch before they have been sent.
  let { epoch } = record;
  if (record.mode === "read-write" && record.commit === "remote" && epoch !== null) {
    try {
      await context.pageserver.closeWriter(record.timelineId, epoch);
      epoch = null;
    } catch (error) {
      const gone = error instanceof NeonError && error.code === ErrorCode.NotFound;
      if (!gone)
        context.events.caution?.(`The pageserver still waits for ${record.name}: ${messageOf(error)}.`);
    }
  }
  return write(paths, { ...record, process: null, epoch });
}

async function shutDown(record: ComputeRecord, paths: ComputePaths): Promise<void> {
  if (await stopPostmaster(paths.pgdata, record.process, "SIGINT", FAST_TIMEOUT_MS)) return;
  throw new NeonError(
    ErrorCode.Timeout,
    `Postgres of compute "${record.name}" has not shut down within ${FAST_TIMEOUT_MS / 1000} s; it is still trying`,
    {
      hint: `It may wait for the pageserver (\`neon status\`). To end it without a clean shutdown: \`neon pg stop ${record.name} --immediate\`.`,
    },
  );
}

/** Until the pageserver serves requests: it may just be starting. Throws `unreachable`. */
async function waitUntilReady(context: ComputeContext): Promise<void> {
  const deadline = performance.now() + STATUS_TIMEOUT_MS;
  for (;;) {
    const { state } = await context.pageserver.status({ timeoutMs: STATUS_TIMEOUT_MS });
    if (state === "ready") return;
    if (performance.now() > deadline)
      throw new NeonError(ErrorCode.Unreachable, `the pageserver is ${state}`);
    await sleep(POLL_MS);
  }
}

async function write(paths: ComputePaths, record: ComputeRecord): Promise<ComputeRecord> {
  await writeComputeFile(paths.file, record);
  return record;
}
