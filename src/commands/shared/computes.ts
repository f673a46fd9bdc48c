/** From a repository to its computes, and how a compute is shown. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import type { BranchInfo, PageserverClient } from "../../client/pageserver-client.ts";
import { type ComputeInfo, ComputeManager } from "../../compute/compute-manager.ts";
import type { Repository } from "../../repository/repository.ts";
import type { JsonFields } from "./base-command.ts";
import { formatTable, paint } from "./output.ts";
import type { Progress } from "./progress.ts";
import { notedPageserver } from "./remote-pageserver.ts";

/**
 * The computes of the client's tenant, or of all, and those on branches of other pageservers. `pageserver`: the URI of the
 * client's, where it is not the repository's own. `progress` shows the steps of starting and stopping.
 */
export function computesOf(
  repository: Repository,
  client: PageserverClient,
  progress?: Progress,
  options: { readonly allTenants?: boolean; readonly pageserver?: string | undefined } = {},
): ComputeManager {
  const caution = (text: string): void => {
    progress?.pause();
    process.stderr.write(`${paint("yellow", "warning:", process.stderr)} ${text}\n`);
  };
  return new ComputeManager({
    repository,
    client,
    pageserver: options.pageserver,
    connect: (uri) => notedPageserver(uri, repository, caution),
    allTenants: options.allTenants,
    runAs: repository.config.runAs,
    events: {
      caution,
      step: (text) => progress?.begin(text),
      progress: (addedBytes) => progress?.advance(addedBytes),
    },
  });
}

export function computeJson(compute: ComputeInfo): JsonFields {
  return {
    name: compute.name,
    branch: compute.branch,
    tenant_id: compute.tenantId,
    timeline_id: compute.timelineId,
    pageserver: compute.pageserver,
    uri: compute.uri,
    host: compute.host,
    port: compute.port,
    mode: compute.mode,
    commit: compute.commit,
    lsn: formatLsn(compute.lsn),
    pgdata: compute.pgdata,
    state: compute.state,
    pid: compute.pid,
  };
}

export function computeTable(computes: readonly ComputeInfo[]): string {
  return formatTable(
    ["NAME", "BRANCH", "STATE", "MODE", "COMMIT", "LSN", "URI"],
    computes.map((compute) => [
      compute.name,
      compute.branch,
      compute.state,
      compute.mode,
      compute.mode === "read-only" ? "-" : compute.commit,
      formatLsn(compute.lsn),
      compute.uri,
    ]),
  );
}

/** All computes, each with the name that its branch has now; with the last known name where nobody answers. */
export async function listComputes(
  computes: ComputeManager,
  client: PageserverClient,
): Promise<ComputeInfo[]> {
  const list = await computes.list();
  if (list.length === 0) return list;
  try {
    return withBranchNames(list, await client.listBranches());
  } catch {
    return list;
  }
}

/** Computes with the names that their branches have now; the last known name where a branch is not in the list. */
export function withBranchNames(
  computes: readonly ComputeInfo[],
  branches: readonly BranchInfo[],
): ComputeInfo[] {
  const names = new Map(branches.map((branch) => [branch.timelineId, branch.name]));
  return computes.map((compute) => ({ ...compute, branch: names.get(compute.timelineId) ?? compute.branch }));
}

/** Starts a compute; where only a branch of that name exists, creates the compute first. */
export async function startOrCreate(
  context: { repository: Repository; client: PageserverClient; computes: ComputeManager },
  name: string,
  port: number | undefined,
): Promise<ComputeInfo> {
  const { repository, client, computes } = context;
  const setting = repository.config.computes[name];
  const known = (await computes.list()).some((compute) => compute.name === name);
  if (known) return computes.start(name, port === undefined ? {} : { port });
  const branches = await client.listBranches();
  if (!branches.some((branch) => branch.name === name)) {
    throw new NeonError(ErrorCode.NotFound, `there is no compute and no branch "${name}"`, {
      hint: "`neon pg list` shows the computes, `neon branch` the branches.",
    });
  }
  return computes.create({
    name,
    branch: name,
    port: port ?? setting?.port,
    commit: setting?.commit ?? "remote",
    start: true,
  });
}

/** One line for people about a compute that was just started or made. */
export function describeCompute(compute: ComputeInfo): string {
  const where = compute.mode === "read-only" ? `at ${formatLsn(compute.lsn)}, read-only` : compute.mode;
  const state = compute.state === "running" ? `running on port ${compute.port}` : compute.state;
  return `Compute ${paint("bold", compute.name, process.stderr)} on branch ${compute.branch} (${where}) is ${state}.`;
}
