/** From a point as a user writes it to a branch and an LSN on it. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { BranchInfo, BranchPoint, PageserverClient } from "../../client/pageserver-client.ts";
import type { Point } from "../../repository/point.ts";
import { nearest } from "./suggest.ts";

/** A point in the words of the pageserver's API. */
export function branchPointOf(point: Point): BranchPoint {
  const { source, at } = point;
  return {
    ...(source.kind === "branch" ? { branch: source.name } : { timelineId: source.timelineId }),
    ...(at.kind === "lsn" ? { lsn: at.lsn } : {}),
    ...(at.kind === "timestamp" ? { timestampMs: at.unixMs } : {}),
  };
}

/** The branch that a point is on. Throws `not_found` with the nearest name. */
export async function branchOfPoint(client: PageserverClient, point: Point): Promise<BranchInfo> {
  const { source } = point;
  const branches = await client.listBranches();
  const found =
    source.kind === "branch"
      ? branches.find((branch) => branch.name === source.name)
      : branches.find((branch) => branch.timelineId === source.timelineId);
  if (found) return found;
  if (source.kind === "timeline") {
    throw new NeonError(ErrorCode.NotFound, `no branch has the timeline ${source.timelineId}`, {
      hint: "`neon branch --json` lists the timelines of all branches.",
    });
  }
  throw branchNotFound(source.name, branches);
}

export function branchNotFound(name: string, branches: readonly BranchInfo[]): NeonError {
  const names = branches.map((branch) => branch.name);
  const near = nearest(name, names);
  const known = names.length <= 10 ? ` There is ${names.join(", ")}.` : "";
  return new NeonError(ErrorCode.NotFound, `there is no branch "${name}"`, {
    hint: near
      ? `Did you mean "${near}"? \`neon branch\` lists all.`
      : `Create it with \`neon branch ${name}\`.${known}`,
  });
}

/** The LSN that a point means on its branch, rounded down to the end of a record; undefined for the end. */
export async function lsnOfPoint(
  client: PageserverClient,
  branch: BranchInfo,
  point: Point,
): Promise<Lsn | undefined> {
  const { at } = point;
  if (at.kind === "end") return undefined;
  const wanted = at.kind === "lsn" ? { lsn: at.lsn } : { timestampMs: at.unixMs };
  return (await client.resolve(branch.timelineId, wanted)).lsn;
}
