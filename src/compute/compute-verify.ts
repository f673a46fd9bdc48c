/**
 * Verifying the pageserver against a stopped compute: at the LSN at which it was shut down, its data directory must be
 * what a base backup would be. The pageserver compares; here it is found out whether the directory can be relied on.
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import type { Verification } from "../client/verification.ts";
import { findBranch } from "./compute-branch.ts";
import type { ComputeContext } from "./compute-context.ts";
import type { ComputeRecord } from "./compute-file.ts";
import { computeInfo } from "./compute-info.ts";
import type { ComputePaths } from "./compute-paths.ts";
import { readDirectoryState } from "./directory-setup.ts";
import { bootId } from "./process-identity.ts";

export interface ComputeVerification extends Verification {
  /** The moment that was compared. */
  readonly lsn: Lsn;
}

export interface VerifyOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with the number of pages compared so far. */
  readonly progress?: ((pages: number) => void) | undefined;
}

/** Throws `not_checked` if the compute runs, did not stop cleanly, or has a directory of an earlier moment. */
export async function verifyCompute(
  context: ComputeContext,
  record: ComputeRecord,
  paths: ComputePaths,
  options: VerifyOptions,
): Promise<ComputeVerification> {
  const lsn = cleanEnd(record, paths);
  const branch = await findBranch(context, record);
  if (branch.lastRecordLsn !== lsn) {
    const end = formatLsn(branch.lastRecordLsn);
    throw notChecked(
      record,
      `its directory is of ${formatLsn(lsn)}, and branch "${branch.name}" has gone on to ${end}`,
      again(record),
    );
  }
  const found = await context.pageserver.verifyDirectory(record.timelineId, {
    directory: paths.pgdata,
    lsn,
    ...options,
  });
  return { ...found, lsn };
}

/** Where the compute was shut down, with everything at the pageserver. */
function cleanEnd(record: ComputeRecord, paths: ComputePaths): Lsn {
  const { name } = record;
  if (record.mode === "read-only") {
    throw notChecked(record, "it is read-only, and so has nothing that did not come from the pageserver");
  }
  const { state } = computeInfo(record, paths);
  if (state === "running") throw notChecked(record, "it is running", `Stop it first: neon pg stop ${name}`);
  if (state === "crashed") throw notChecked(record, "it ended without being stopped", again(record));
  const directory = readDirectoryState(paths.pgdata);
  if (!directory) throw notChecked(record, "it has no data directory", again(record));
  const { stop } = record;
  if (!stop || !directory.shutDown || directory.endLsn !== stop.lsn) {
    throw notChecked(record, "it was not stopped cleanly", again(record));
  }
  if (record.commit === "remote" && record.bootId !== bootId()) {
    const why = "the machine was started anew since, and its files had not been synced";
    throw notChecked(record, why, again(record));
  }
  if (!stop.ingested) {
    throw notChecked(record, "the pageserver does not have the last of its WAL yet", again(record));
  }
  return stop.lsn;
}

function again({ name }: ComputeRecord): string {
  return `\`neon pg start ${name}\` and \`neon pg stop ${name}\` make a directory that can be compared.`;
}

function notChecked(record: ComputeRecord, why: string, hint?: string): NeonError {
  return new NeonError(ErrorCode.NotChecked, `compute "${record.name}" cannot be compared: ${why}`, {
    hint,
    data: { compute: record.name },
  });
}
