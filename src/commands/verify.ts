import { string as stringArg } from "@oclif/core/args";
import { string as stringFlag } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../base/errors.ts";
import { formatLsn } from "../base/lsn.ts";
import type { PageDifference } from "../client/verification.ts";
import type { ComputeInfo } from "../compute/compute-manager.ts";
import { BaseCommand, type JsonFields } from "./shared/base-command.ts";
import { paint } from "./shared/output.ts";

const PAGE_SIZE = 8192;

export default class Verify extends BaseCommand {
  static override summary = "Compare a branch with the data directory of its stopped compute.";
  static override description =
    "When a compute has been stopped, its files are what Postgres itself made of the WAL that the pageserver got. This " +
    "command holds every page of them against what the pageserver makes of it, masking what may differ: hint bits and " +
    "what else Postgres does not log. Changes nothing.\n\n" +
    "The exit code is 0 if all pages are equal, 7 if any is not, and 8 if it could not be checked, because the compute " +
    "is running or was not stopped cleanly, or because the branch has gone on without it.";
  static override examples = [
    "<%= config.bin %> verify main",
    "<%= config.bin %> verify main --json",
    "<%= config.bin %> verify main --compute other",
  ];
  static override args = { branch: stringArg({ description: "Branch to verify.", required: true }) };
  static override flags = {
    compute: stringFlag({
      summary: "Compute to compare with, where the branch has several.",
      helpValue: "NAME",
    }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(Verify);
    const repository = await this.findRepository(flags);
    const { computesOf } = await import("./shared/computes.ts");
    const { Progress } = await import("./shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    const client = await this.pageserverOf(repository, flags);
    const computes = computesOf(repository, client, progress);
    const branch = await client.getBranch(args.branch);
    const onBranch = (await computes.list()).filter((info) => info.timelineId === branch.timelineId);
    const compute = choose(onBranch, branch.name, flags.compute);
    progress.begin(`comparing ${compute.name}`);
    let pages = 0;
    const found = await computes.verify(compute.name, {
      signal: this.interruption.signal,
      progress: (count) => {
        progress.advance((count - pages) * PAGE_SIZE);
        pages = count;
      },
    });
    progress.end();
    const { differences, omitted } = found;
    for (const difference of differences) this.print(`${paint("red", "differs:")} ${describe(difference)}`);
    if (omitted > 0) this.print(`... and ${omitted} more`);
    const count = differences.length + omitted;
    const outcome = count === 0 ? "no difference" : `${count} ${count === 1 ? "differs" : "differ"}`;
    const where = `compute ${compute.name}, branch ${branch.name} at ${formatLsn(found.lsn)}`;
    this.print(`Compared ${found.pages} pages of ${where}: ${outcome}`);
    const fields = {
      branch: branch.name,
      timeline_id: branch.timelineId,
      compute: compute.name,
      lsn: formatLsn(found.lsn),
      pages: found.pages,
      differences,
      omitted,
    };
    if (count === 0) return fields;
    return this.withFailure(
      fields,
      new NeonError(ErrorCode.Corrupt, `branch "${branch.name}" is not what its compute has: ${outcome}`, {
        hint: "`neon fsck` tells whether files of the pageserver are damaged. If not, this is a bug in neon: keep both directories.",
      }),
    );
  }
}

/** The compute that writes to the branch; of several the one that was named. */
function choose(computes: readonly ComputeInfo[], branch: string, wanted: string | undefined): ComputeInfo {
  const writing = computes.filter((info) => info.mode === "read-write");
  const [only, ...others] = wanted === undefined ? writing : writing.filter((info) => info.name === wanted);
  if (only !== undefined && others.length === 0) return only;
  if (only !== undefined) {
    const names = writing.map((info) => info.name).join(", ");
    throw new NeonError(ErrorCode.NotChecked, `branch "${branch}" has several computes: ${names}`, {
      hint: "Choose one with --compute NAME: the one that was stopped last.",
    });
  }
  const which =
    wanted === undefined ? "no compute that writes to it" : `no compute "${wanted}" that writes to it`;
  throw new NeonError(
    ErrorCode.NotChecked,
    `branch "${branch}" has ${which}, so there is nothing to compare with`,
    {
      hint: `Make one and stop it: \`neon pg create ${branch}\`, \`neon pg stop ${branch}\`.`,
    },
  );
}

function describe({ file, block, byte, what }: PageDifference): string {
  const place = [
    file,
    ...(block === null ? [] : [`block ${block}`]),
    ...(byte === null ? [] : [`byte ${byte}`]),
  ];
  return `${place.join(", ")}: ${what}`;
}
