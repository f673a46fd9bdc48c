/**
 * Holds the data directory of a stopped server against what a base backup would be: that of a compute at its end, or
 * one that stock recovery has brought to an LSN.
 */
import { join } from "node:path";
import { ErrorCode, NeonError, messageOf, systemCode } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { type ControlFile, ClusterState, parseControlFile } from "../../postgres/control-file.ts";
import { checkpointEndLsn } from "../../postgres/wal/start-point.ts";
import { type BaseBackupSource, writeBackup } from "../basebackup/basebackup.ts";
import { type Difference, DirectoryComparison } from "./compare-directory.ts";
import type { MadeBy } from "./compare-pages.ts";

export interface Verification {
  readonly pages: number;
  readonly differences: readonly Difference[];
  /** Differences beyond those in the list. */
  readonly omitted: number;
}

/** The directory that is compared. */
export interface VerifiedDirectory {
  readonly directory: string;
  readonly systemId: bigint;
  /**
   * Where recovery has stopped is not in its control file: its caller vouches for it. A primary was shut down at the
   * LSN of the backup.
   */
  readonly madeBy: MadeBy;
}

export interface VerifyOptions {
  readonly signal: AbortSignal;
  /** Called with the number of pages compared so far. */
  readonly progress: (pages: number) => void;
}

/**
 * Compares `directory` with the backup. Throws `not_checked` if the directory is not that of a server that was shut
 * down, a compute at exactly the LSN of the backup.
 */
export async function verifyDirectory(
  source: BaseBackupSource,
  where: VerifiedDirectory,
  files: Files,
  options: VerifyOptions,
): Promise<Verification> {
  await checkShutDownAt(source.lsn, where, files);
  const comparison = await openComparison(where, source, files);
  try {
    for await (const _ of writeBackup(source, comparison)) {
      options.signal.throwIfAborted();
      await comparison.drain();
      options.progress(comparison.pages);
    }
    await comparison.finish();
    const { pages, differences, omitted } = comparison;
    return { pages, differences, omitted };
  } catch (error) {
    const code = systemCode(error);
    if (code === undefined || error instanceof NeonError) throw error;
    throw notChecked(`${where.directory} cannot be read: ${messageOf(error)}`);
  } finally {
    await comparison.close();
  }
}

async function openComparison(
  { directory, madeBy }: VerifiedDirectory,
  source: BaseBackupSource,
  files: Files,
): Promise<DirectoryComparison> {
  try {
    return await DirectoryComparison.open({ directory, madeBy, version: source.version }, files);
  } catch (error) {
    throw notChecked(`${directory} cannot be read: ${messageOf(error)}`);
  }
}

async function checkShutDownAt(lsn: Lsn, where: VerifiedDirectory, files: Files): Promise<void> {
  const { directory } = where;
  if ((await read(join(directory, "postmaster.pid"), files)) !== undefined) {
    throw notChecked(`a Postgres runs on ${directory}, or has not ended in order`);
  }
  const bytes = await read(join(directory, "global", "pg_control"), files);
  if (bytes === undefined) throw notChecked(`${directory} is no data directory: it has no global/pg_control`);
  let control: ControlFile;
  try {
    control = parseControlFile(bytes);
  } catch (error) {
    throw notChecked(`pg_control of ${directory} cannot be read: ${messageOf(error)}`);
  }
  if (control.systemId !== where.systemId) throw notChecked(`${directory} belongs to another cluster`);
  const { state } = control;
  if (where.madeBy !== "primary") {
    if (state === ClusterState.ShutDown || state === ClusterState.ShutDownInRecovery) return;
    throw notChecked(`the recovery in ${directory} was not shut down`);
  }
  if (state !== ClusterState.ShutDown) throw notChecked(`${directory} was not shut down`);
  const end = checkpointEndLsn(control);
  if (end !== lsn) {
    throw notChecked(`${directory} was shut down at ${formatLsn(end)}, not at ${formatLsn(lsn)}`);
  }
}

async function read(path: string, files: Files): Promise<Uint8Array | undefined> {
  try {
    return await files.readWhole(path);
  } catch (error) {
    throw notChecked(`${path} cannot be read: ${messageOf(error)}`);
  }
}

function notChecked(message: string): NeonError {
  return new NeonError(ErrorCode.NotChecked, message);
}
