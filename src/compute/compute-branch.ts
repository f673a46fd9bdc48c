/** A compute's branch at the pageserver, and whether the pageserver follows the compute. */
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError } from "../base/errors.ts";
import type { BranchInfo } from "../client/pageserver-client.ts";
import type { ComputeContext } from "./compute-context.ts";
import type { ComputeRecord } from "./compute-file.ts";

/** How long the pageserver may take to reach a Postgres, milliseconds. */
const FOLLOW_TIMEOUT_MS = 30_000;
const POLL_MS = 15;

/** The branch whose timeline the compute is on, under whatever name it has by now. Throws `not_found`. */
export async function findBranch(context: ComputeContext, record: ComputeRecord): Promise<BranchInfo> {
  const branches = await context.pageserver.listBranches();
  const branch = branches.find((item) => item.timelineId === record.timelineId);
  if (branch) return branch;
  throw new NeonError(
    ErrorCode.NotFound,
    `the branch of compute "${record.name}" ("${record.branch}") does not exist any more`,
    { hint: `Remove the compute with \`neon pg destroy ${record.name}\`.` },
  );
}

/** Whether the branch takes WAL from this compute, not from one that came later. */
export function isOpenWriter(branch: BranchInfo, record: ComputeRecord): boolean {
  return record.epoch !== null && branch.writer?.epoch === record.epoch;
}

/**
 * Until the pageserver streams from the compute's running Postgres. Throws `timeout` with what the pageserver says is
 * wrong, `conflict` if another compute has taken over.
 */
export async function waitUntilFollowed(context: ComputeContext, record: ComputeRecord): Promise<void> {
  const deadline = performance.now() + FOLLOW_TIMEOUT_MS;
  for (;;) {
    const branch = await findBranch(context, record);
    const { writer } = branch;
    if (!isOpenWriter(branch, record)) {
      throw new NeonError(
        ErrorCode.Conflict,
        `another compute has begun to write to branch "${branch.name}"`,
        {
          hint: "`neon pg list` shows the computes; only one may write to a branch at a time.",
        },
      );
    }
    if (writer?.state === "streaming") return;
    if (performance.now() > deadline || writer?.state === "stopped") {
      const reason = writer?.error ? `: ${writer.error}` : "";
      throw new NeonError(
        ErrorCode.Timeout,
        `the pageserver does not reach the Postgres of compute "${record.name}"${reason}`,
        { hint: "`neon logs` shows what the pageserver says about it." },
      );
    }
    await sleep(POLL_MS);
  }
}
