import { formatLsn } from "../base/lsn.ts";
import type { BranchInfo, PageserverClient } from "../client/pageserver-client.ts";
import type { ComputeInfo } from "../compute/compute-manager.ts";
import type { PageserverReport } from "../compute/pageserver-process.ts";
import type { Repository } from "../repository/repository.ts";
import type { JsonFields } from "./shared/base-command.ts";
import { branchJson } from "./shared/branch-json.ts";
import { formatBytes, formatTable, paint } from "./shared/output.ts";
import { PageserverCommand } from "./shared/pageserver-command.ts";
import { type UpstreamReport, standingText, upstreamReports } from "./shared/upstream.ts";

/** Where the address of a pageserver that runs stands in its line. */
const SERVER_INDENT = "pageserver  running  ".length;

export default class Status extends PageserverCommand {
  static override summary = "What is running, how far it is, and what is wrong.";
  static override description =
    "Shows the pageserver, the computes and the branches. LAG is what a compute has written and the pageserver has " +
    "not taken in yet; a FOLLOWER is a standby or another client that receives a branch's WAL; UPSTREAM how a branch stands to where it is pushed to or pulled from, as of the last contact. The exit code is 0 whatever the state; scripts look at --json.\n\n" +
    "With --pageserver: that server and its branches; what runs on them is known where it was started.";
  static override examples = ["<%= config.bin %> status", "<%= config.bin %> status --json"];

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(Status);
    const { client, repository } = await this.connect(flags);
    const { computeJson } = await import("./shared/computes.ts");
    const server = repository ? await localReport(repository) : await remoteReport(client);
    const branches = server.state === "running" ? await client.listBranches() : [];
    const computes = repository ? await computesAround(repository, client, branches) : [];

    const { listenLibpq, listenGrpc } = repository?.config.pageserver ?? {};
    this.print(serverLine(server));
    const doors = [listenLibpq && `libpq ${listenLibpq}`, listenGrpc && `gRPC ${listenGrpc}`];
    const others = doors.filter((door) => door !== undefined).join(", ");
    if (server.state === "running" && others !== "") this.print(" ".repeat(SERVER_INDENT) + others);
    const warning = serverWarning(server, computes);
    if (warning) this.say(`${paint("yellow", "warning:", process.stderr)} ${warning}`);
    if (computes.length > 0) this.print(`\n${computeLines(computes)}`);
    const upstreams = upstreamReports(repository, client.tenantId, branches);
    if (branches.length > 0) this.print(`\n${branchLines(branches, upstreams)}`);
    if (branches.some(({ followers }) => followers.length > 0)) this.print(`\n${followerLines(branches)}`);
    for (const problem of branchProblems(branches)) {
      this.say(`${paint("red", "error:", process.stderr)} ${problem}`);
    }
    return {
      repository: repository?.directory ?? null,
      pageserver: {
        state: server.state,
        pid: server.pid,
        uri: server.uri,
        version: server.version,
        started_at: server.startedAt,
        listen_libpq: listenLibpq ?? null,
        listen_grpc: listenGrpc ?? null,
      },
      computes: computes.map(computeJson),
      branches: branches.map((branch) => branchJson(branch, upstreams.get(branch.name))),
    };
  }
}

async function localReport(repository: Repository): Promise<PageserverReport> {
  const { PageserverProcess } = await import("../compute/pageserver-process.ts");
  return new PageserverProcess(repository).inspect();
}

/** Of a pageserver elsewhere only what it says itself is known, and its process number means nothing here. */
async function remoteReport(client: PageserverClient): Promise<PageserverReport> {
  const { state, version, startedAt } = await client.status();
  const known = state === "ready" ? "running" : state === "stopping" ? "stopping" : "starting";
  return { state: known, pid: null, uri: client.baseUrl, version, startedAt };
}

/** The computes of all tenants. */
async function computesAround(
  repository: Repository,
  client: PageserverClient,
  branches: readonly BranchInfo[],
): Promise<ComputeInfo[]> {
  const { computesOf, withBranchNames } = await import("./shared/computes.ts");
  const computes = computesOf(repository, client, undefined, { allTenants: true });
  return withBranchNames(await computes.list(), branches);
}

function serverLine(server: PageserverReport): string {
  const colour = server.state === "running" ? "green" : "red";
  const state = paint(colour, server.state.replaceAll("_", " "));
  return `pageserver  ${state}  ${server.uri}${server.pid === null ? "" : `  process ${server.pid}`}`;
}

function serverWarning(server: PageserverReport, computes: readonly ComputeInfo[]): string | undefined {
  if (server.state === "running") return undefined;
  const waiting = computes.filter(
    (c) => c.state === "running" && c.mode === "read-write" && c.commit === "remote",
  );
  const names = waiting.map((compute) => compute.name).join(", ");
  const effect = waiting.length > 0 ? `COMMIT waits on ${names} until the pageserver is back. ` : "";
  switch (server.state) {
    case "stopped":
      return `${effect}Start the pageserver with \`neon start\`.`;
    case "not_answering":
      return `${effect}The pageserver does not answer: see \`neon logs\`; \`neon stop --force\` ends it without loss.`;
    case "starting":
    case "stopping":
      return effect === "" ? undefined : effect.trim();
    default:
      return undefined;
  }
}

function computeLines(computes: readonly ComputeInfo[]): string {
  // Where there is one tenant only, which it is goes without saying.
  const several = new Set(computes.map((compute) => compute.tenantId)).size > 1;
  const tenant = (text: string): string[] => (several ? [text] : []);
  return formatTable(
    ["COMPUTE", ...tenant("TENANT"), "BRANCH", "STATE", "MODE", "ADDRESS"],
    computes.map((compute) => [
      compute.name,
      ...tenant(compute.tenantId.slice(0, 8)),
      compute.branch,
      compute.state,
      compute.mode === "read-only"
        ? `read-only at ${formatLsn(compute.lsn)}`
        : `read-write, ${compute.commit}`,
      `${compute.host}:${compute.port}`,
    ]),
  );
}

function branchLines(
  branches: readonly BranchInfo[],
  upstreams: ReadonlyMap<string, UpstreamReport>,
): string {
  // Where nothing was ever shared, the column would only be empty.
  const upstream = (name: string): string[] => {
    if (upstreams.size === 0) return [];
    const report = upstreams.get(name);
    return [report ? `${report.origin}:${report.branch}, ${standingText(report)}` : "-"];
  };
  return formatTable(
    ["BRANCH", "LSN", "LAG", "SIZE", "STATE", ...(upstreams.size > 0 ? ["UPSTREAM"] : [])],
    branches.map((branch) => [
      branch.name,
      formatLsn(branch.lastRecordLsn),
      branch.lagBytes === null ? "-" : formatBytes(branch.lagBytes),
      branch.physicalBytes === null ? "-" : formatBytes(branch.physicalBytes),
      branch.state,
      ...upstream(branch.name),
    ]),
  );
}

/** Standbys and other clients that receive WAL. */
function followerLines(branches: readonly BranchInfo[]): string {
  return formatTable(
    ["FOLLOWER", "BRANCH", "SLOT", "FLUSHED", "LAG", "STATE"],
    branches.flatMap(({ name, followers }) =>
      followers.map((follower) => [
        follower.applicationName === "" ? follower.user : follower.applicationName,
        name,
        follower.slot ?? "-",
        follower.flushLsn === null ? "-" : formatLsn(follower.flushLsn),
        formatBytes(follower.lagBytes),
        follower.state,
      ]),
    ),
  );
}

function branchProblems(branches: readonly BranchInfo[]): string[] {
  const problems: string[] = [];
  for (const branch of branches) {
    if (branch.error !== null) problems.push(`branch ${branch.name}: ${branch.error}`);
    else if (branch.writer?.error) {
      problems.push(`branch ${branch.name}: compute ${branch.writer.name}: ${branch.writer.error}`);
    }
  }
  return problems;
}
