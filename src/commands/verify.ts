import { string as stringArg } from "@oclif/core/args";
import { integer, string as stringFlag } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import type { BranchInfo, PageserverClient } from "../client/pageserver-client.ts";
import type { PageDifference } from "../client/verification.ts";
import type { ComputeInfo } from "../compute/compute-manager.ts";
import type { RecoveredMoment } from "../compute/recovery-verify.ts";
import { BaseCommand, type CommonFlags, type JsonFields } from "./shared/base-command.ts";
import { paint } from "./shared/output.ts";

const PAGE_SIZE = 8192;
const SAMPLES_MAX = 10_000;

export default class Verify extends BaseCommand {
  static override summary =
    "Compare a branch with what stock Postgres has: a stopped compute, or recovery of its past.";
  static override description =
    "When a compute has been stopped, its files are what Postgres itself made of the WAL that the pageserver got. This " +
    "command holds every page of them against what the pageserver makes of it, masking what may differ: hint bits and " +
    "what else Postgres does not log.\n\n" +
    "With --at or --samples it looks at the past instead. For each moment a stock Postgres gets a data directory as of a " +
    "checkpoint before it and the WAL of the branch from there, put together again from what the pageserver keeps of it, " +
    "and recovers; then its files are compared. That covers the branch's own history, or its part from --from on; what " +
    "lies before its branch point is its ancestor's. Needs room for one data directory, and the time that recovery " +
    "takes; computes may run meanwhile. Changes nothing.\n\n" +
    "The exit code is 0 if all pages are equal, 7 if any is not, and 8 if it could not be checked: the compute is " +
    "running, was not stopped cleanly, or the branch has gone on without it; WAL of an older version of neon is not whole; " +
    "there is no checkpoint to begin with; a tablespace is created, which recovery would do in the same place again.";
  static override examples = [
    "<%= config.bin %> verify main",
    "<%= config.bin %> verify main --json",
    "<%= config.bin %> verify main --compute other",
    "<%= config.bin %> verify main --samples 5",
    "<%= config.bin %> verify main --at 0/1A2B3C0,0/2000000 --from 1h",
  ];
  static override args = { branch: stringArg({ description: "Branch to verify.", required: true }) };
  static override flags = {
    compute: stringFlag({
      summary: "Compute to compare with, where the branch has several.",
      helpValue: "NAME",
    }),
    at: stringFlag({
      summary:
        "Moments to recover and compare: LSNs, times, or ages such as 10m. May be given several times.",
      helpValue: "POINT,...",
      multiple: true,
      delimiter: ",",
      exclusive: ["samples", "compute"],
    }),
    samples: integer({
      summary: "Recover and compare so many moments, evenly spread over the branch's history up to its end.",
      helpValue: "N",
      min: 1,
      max: SAMPLES_MAX,
      exclusive: ["compute"],
    }),
    from: stringFlag({
      summary: "Begin at the first checkpoint from here on, and not at the beginning of the branch.",
      helpValue: "POINT",
      exclusive: ["compute"],
    }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(Verify);
    if (flags.at !== undefined || flags.samples !== undefined) return this.verifyPast(args.branch, flags);
    if (flags.from !== undefined) {
      throw new NeonError(ErrorCode.Usage, "--from needs --at or --samples", {
        hint: "Without them a stopped compute is compared, at its end.",
      });
    }
    return this.verifyCompute(args.branch, flags);
  }

  /** Moments of the past, against stock recovery. */
  private async verifyPast(name: string, flags: CommonFlags & PastFlags): Promise<JsonFields> {
    const repository = await this.findRepository(flags);
    const { computesOf } = await import("./shared/computes.ts");
    const { Progress } = await import("./shared/progress.ts");
    const client = await this.pageserverOf(repository, flags);
    const branch = await client.getBranch(name);
    const resolve = (text: string): Promise<Lsn> => resolveOn(client, branch, text);
    const at = flags.samples ?? (await Promise.all((flags.at ?? []).map(resolve)));
    const fromLsn = flags.from === undefined ? undefined : await resolve(flags.from);
    using progress = new Progress({ silent: this.jsonEnabled() });
    const moments: RecoveredMoment[] = [];
    let pages = 0;
    const plan = await computesOf(repository, client, progress).verifyByRecovery(
      { timelineId: branch.timelineId, fromLsn, at },
      {
        signal: this.interruption.signal,
        pages: (count) => {
          progress.advance((count - pages) * PAGE_SIZE);
          pages = count;
        },
        found: (moment) => {
          progress.end();
          pages = 0;
          moments.push(moment);
          this.showMoment(moment);
        },
      },
    );
    progress.end();
    return this.summary(branch, { moments, records: plan.records });
  }

  private showMoment(moment: RecoveredMoment): void {
    for (const difference of moment.differences)
      this.print(`${paint("red", "differs:")} ${describe(difference)}`);
    if (moment.omitted > 0) this.print(`... and ${moment.omitted} more`);
    const { lsn, redoLsn, pages } = moment;
    this.print(
      `${formatLsn(lsn)}, recovered from ${formatLsn(redoLsn)}: ${pages} pages, ${outcomeOf(moment)}`,
    );
  }

  private summary(
    branch: BranchInfo,
    found: { moments: readonly RecoveredMoment[]; records: number },
  ): JsonFields {
    const { moments, records } = found;
    const count = moments.reduce((sum, each) => sum + each.differences.length + each.omitted, 0);
    const outcome = outcomeOf(...moments);
    this.print(
      `Compared ${moments.length} ${moments.length === 1 ? "moment" : "moments"} of branch ${branch.name} with ` +
        `stock recovery of ${records} records: ${outcome}`,
    );
    const fields = {
      branch: branch.name,
      timeline_id: branch.timelineId,
      records,
      pages: moments.reduce((sum, { pages }) => sum + pages, 0),
      moments: moments.map(({ lsn, checkpointLsn, redoLsn, pages, differences, omitted }) => ({
        lsn: formatLsn(lsn),
        checkpoint_lsn: formatLsn(checkpointLsn),
        redo_lsn: formatLsn(redoLsn),
        pages,
        differences,
        omitted,
      })),
    };
    if (count === 0) return fields;
    return this.withFailure(
      fields,
      new NeonError(
        ErrorCode.Corrupt,
        `branch "${branch.name}" is not what stock Postgres makes of its WAL: ${outcome}`,
        { hint: HINT },
      ),
    );
  }

  /** The end, against a stopped compute. */
  private async verifyCompute(name: string, flags: CommonFlags & ComputeFlag): Promise<JsonFields> {
    const repository = await this.findRepository(flags);
    const { computesOf } = await import("./shared/computes.ts");
    const { Progress } = await import("./shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    const client = await this.pageserverOf(repository, flags);
    const computes = computesOf(repository, client, progress);
    const branch = await client.getBranch(name);
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
    const outcome = outcomeOf(found);
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
    if (differences.length + omitted === 0) return fields;
    return this.withFailure(
      fields,
      new NeonError(ErrorCode.Corrupt, `branch "${branch.name}" is not what its compute has: ${outcome}`, {
        hint: HINT,
      }),
    );
  }
}

interface ComputeFlag {
  readonly compute: string | undefined;
}

interface PastFlags {
  readonly at: string[] | undefined;
  readonly samples: number | undefined;
  readonly from: string | undefined;
}

const HINT =
  "`neon fsck` tells whether files of the pageserver are damaged. If not, this is a bug in neon: keep both directories.";

/** A moment as a user writes it, on this branch. */
async function resolveOn(client: PageserverClient, branch: BranchInfo, text: string): Promise<Lsn> {
  const { parsePointOn } = await import("../repository/point.ts");
  const { lsnOfPoint } = await import("./shared/moment.ts");
  const point = parsePointOn(text, { kind: "branch", name: branch.name }, Date.now());
  if (point.source.kind !== "branch" || point.source.name !== branch.name) {
    throw new NeonError(ErrorCode.Usage, `"${text}" is not a moment of branch "${branch.name}"`, {
      hint: "Give an LSN such as 0/16E2408, a time, or an age such as 10m.",
    });
  }
  return (await lsnOfPoint(client, branch, point)) ?? branch.lastRecordLsn;
}

function outcomeOf(...found: readonly { differences: readonly unknown[]; omitted: number }[]): string {
  const count = found.reduce((sum, each) => sum + each.differences.length + each.omitted, 0);
  return count === 0 ? "no difference" : `${count} ${count === 1 ? "differs" : "differ"}`;
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
