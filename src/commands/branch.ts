import { string as stringArg } from "@oclif/core/args";
import { boolean } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../base/errors.ts";
import type { BranchInfo, PageserverClient } from "../client/pageserver-client.ts";
import type { Repository } from "../repository/repository.ts";
import type { JsonFields } from "./shared/base-command.ts";
import { ancestorJson, branchJson, originText } from "./shared/branch-json.ts";
import { PageserverCommand } from "./shared/pageserver-command.ts";

export default class Branch extends PageserverCommand {
  static override summary = "List branches as a tree, create, delete or rename one.";
  static override description =
    "Without arguments: the tree of branches, each with the LSN at which it left its parent, and with its upstream, if it " +
    "has been pushed or pulled: equal, ahead, behind or diverged as of the last contact (`neon fetch` asks again).\n\n" +
    "With NAME: creates a branch at POINT, in constant time at any size. POINT defaults to the end of main, " +
    "every commit that has returned included. It is BRANCH, BRANCH@LSN, BRANCH@TIME (ISO 8601, local unless it " +
    "has an offset) or BRANCH@AGE (10m, 2h, 3d); a timeline id may stand in the place of BRANCH.\n\n" +
    "A branch with children, or with a compute on it, is not deleted.";
  static override examples = [
    { description: "The tree of branches", command: "<%= config.bin %> branch" },
    { description: "Fork main as it is now", command: "<%= config.bin %> branch dev" },
    {
      description: "Fork main as it was ten minutes ago",
      command: "<%= config.bin %> branch before main@10m",
    },
    { description: "Fork another branch at an LSN", command: "<%= config.bin %> branch fix dev@0/1A2B3C8" },
    { description: "Fork at a time", command: "<%= config.bin %> branch noon main@2026-11-21T12:00:00Z" },
    { description: "Delete, rename", command: "<%= config.bin %> branch -d dev" },
    "<%= config.bin %> branch -m dev feature/login",
    {
      description: "On a pageserver elsewhere",
      command: "<%= config.bin %> branch --pageserver https://bob@db.example.com",
    },
  ];
  static override args = {
    name: stringArg({ description: "Branch to create; with -d to delete, with -m to rename." }),
    point: stringArg({ description: "Where it starts (default: the end of main); with -m the new name." }),
  };
  static override flags = {
    delete: boolean({ default: false, char: "d", summary: "Delete branch NAME.", exclusive: ["move"] }),
    move: boolean({ default: false, char: "m", summary: "Rename branch NAME to the second argument." }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(Branch);
    const { name, point } = args;
    const wanted = flags.delete ? "-d" : flags.move ? "-m" : undefined;
    if (wanted && name === undefined) throw missingArgument(`neon branch ${wanted}: which branch?`);
    if (flags.delete && point !== undefined) throw missingArgument("neon branch -d takes one name at a time");
    if (flags.move && point === undefined) throw missingArgument("neon branch -m: what is the new name?");
    const { client, repository } = await this.connect(flags);
    if (name === undefined) return this.list(repository, client);
    if (flags.delete) return this.delete(repository, client, name);
    if (flags.move) return this.rename(client, name, point ?? "");
    return this.create(client, name, point);
  }

  private async list(repository: Repository | undefined, client: PageserverClient): Promise<JsonFields> {
    const { formatBranchTree } = await import("./shared/branch-tree.ts");
    const { paint } = await import("./shared/output.ts");
    const { STANDING_STYLES, standingText, upstreamReports } = await import("./shared/upstream.ts");
    const branches = await client.listBranches();
    const upstreams = upstreamReports(repository, client.tenantId, branches);
    if (branches.length === 0) this.say("There is no branch.");
    else {
      const problems = new Map(
        branches.flatMap((b) => (b.error === null ? [] : [[b.name, `${b.state}: ${b.error}`] as const])),
      );
      const note = (name: string): string => {
        const problem = problems.get(name);
        const upstream = upstreams.get(name);
        const there = upstream && `[${upstream.origin}:${upstream.branch}: ${standingText(upstream)}]`;
        return (
          (upstream ? `  ${paint(STANDING_STYLES[upstream.state], there ?? "")}` : "") +
          (problem === undefined ? "" : `  ${paint("red", problem)}`)
        );
      };
      this.print(formatBranchTree(branches, note));
    }
    return { branches: branches.map((branch) => branchJson(branch, upstreams.get(branch.name))) };
  }

  private async create(
    client: PageserverClient,
    name: string,
    pointText: string | undefined,
  ): Promise<JsonFields> {
    const { checkRefName } = await import("../repository/ref-name.ts");
    const { parsePoint } = await import("../repository/point.ts");
    const { branchPointOf, branchOfPoint } = await import("./shared/moment.ts");
    checkRefName(name);
    const point = parsePoint(pointText ?? "main", Date.now());
    let created;
    try {
      created = await client.createBranch(name, branchPointOf(point), this.interruption.signal);
    } catch (error) {
      // The server names what is missing; only here is known what comes near it.
      if (error instanceof NeonError && error.code === ErrorCode.NotFound) await branchOfPoint(client, point);
      throw error;
    }
    this.print(`Created branch ${name} at ${originText(created.ancestor)}`);
    this.say(`A Postgres on it: neon pg create ${name}`);
    return { name: created.name, timeline_id: created.timelineId, ancestor: ancestorJson(created.ancestor) };
  }

  private async delete(
    repository: Repository | undefined,
    client: PageserverClient,
    name: string,
  ): Promise<JsonFields> {
    const branch = await client.getBranch(name);
    // Of computes elsewhere the pageserver knows what writes, and refuses by itself.
    if (repository) await this.refuseWhileUsed(repository, client, branch);
    await client.deleteBranch(name);
    if (repository) {
      const { forgetUpstream } = await import("../repository/origins.ts");
      await forgetUpstream(repository, branch.timelineId);
    }
    const origin = branch.ancestor ? `, forked from ${originText(branch.ancestor)}` : "";
    this.print(`Deleted branch ${name} (timeline ${branch.timelineId}${origin})`);
    return { name, timeline_id: branch.timelineId, ancestor: ancestorJson(branch.ancestor) };
  }

  private async refuseWhileUsed(
    repository: Repository,
    client: PageserverClient,
    branch: BranchInfo,
  ): Promise<void> {
    const { computesOf } = await import("./shared/computes.ts");
    const computes = await computesOf(repository, client).list();
    const user = computes.find((compute) => compute.timelineId === branch.timelineId);
    if (!user) return;
    throw new NeonError(ErrorCode.Conflict, `branch "${branch.name}" is in use by compute "${user.name}"`, {
      hint: `Remove the compute first: \`neon pg destroy ${user.name}\`.`,
    });
  }

  private async rename(client: PageserverClient, name: string, newName: string): Promise<JsonFields> {
    const { checkRefName } = await import("../repository/ref-name.ts");
    checkRefName(newName);
    await client.renameBranch(name, newName);
    this.print(`Renamed branch ${name} to ${newName}`);
    const branch = await client.getBranch(newName);
    return {
      name: newName,
      old_name: name,
      timeline_id: branch.timelineId,
      ancestor: ancestorJson(branch.ancestor),
    };
  }
}

function missingArgument(message: string): NeonError {
  return new NeonError(ErrorCode.Usage, message, { hint: "See `neon branch --help`." });
}
