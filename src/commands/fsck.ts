import { ErrorCode, NeonError } from "../base/errors.ts";
import { Flags } from "@oclif/core";
import type { FsckFinding, FsckPart, FsckReport, RepairReport } from "../client/fsck-report.ts";
import type { PageserverClient } from "../client/pageserver-client.ts";
import type { JsonFields } from "./shared/base-command.ts";
import { type Style, formatTable, paint } from "./shared/output.ts";
import { PageserverCommand } from "./shared/pageserver-command.ts";

const STYLES: Readonly<Record<string, Style>> = {
  clean: "green",
  garbage: "yellow",
  not_checked: "yellow",
  corrupt: "red",
};

interface WatchOptions {
  readonly signal: AbortSignal;
  readonly progress: (doneBytes: number, totalBytes: number) => void;
}

export default class Fsck extends PageserverCommand {
  static override summary = "Verify everything that the pageserver has on disk, and repair what can be.";
  static override description =
    "Reads every file of every timeline and holds it against checksums and against the others: layer files and their " +
    "indexes, whether they cover the history without a hole, the WAL behind them, metadata and refs. The pageserver " +
    "goes on working meanwhile. Changes nothing, unless it is told to with --repair --yes.\n\n" +
    "Each timeline is `clean`; `garbage`: it has leftovers that the next start removes; `corrupt`: with file and " +
    "offset of what is damaged; or `not checked`, with the reason. The exit code is 0 for the first two, 7 if " +
    "anything is corrupt, else 8 if something could not be checked.\n\n" +
    "--repair shows what could be done about it: remove leftovers, write small files again from what the pageserver " +
    "knows, make an index again from the layers, and name a branch's timeline where there is no doubt which it is. " +
    "With --yes it is done. What is whole is never touched, and what is in doubt is left with the reason; then the exit " +
    "code is 7, as it is while damage waits to be repaired.";
  static override examples = [
    "<%= config.bin %> fsck",
    "<%= config.bin %> fsck --repair",
    "<%= config.bin %> fsck --repair --yes",
  ];
  static override flags = {
    repair: Flags.boolean({ summary: "Show what could be done about what is found." }),
    yes: Flags.boolean({ summary: "With --repair: do it.", default: false }),
  };

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(Fsck);
    if (flags.yes && !flags.repair) {
      throw new NeonError(ErrorCode.Usage, "--yes says that a repair is to be done, but --repair is missing");
    }
    const { client } = await this.connect(flags);
    if (flags.repair) return this.repair(client, flags.yes);
    const report = await this.watch((options) => client.fsck(options));
    this.show(report);
    const fields = {
      state: report.state,
      timelines: report.timelines.map((timeline) => ({
        timeline_id: timeline.timelineId,
        branches: timeline.branches,
        state: timeline.state,
        details: timeline.details,
        omitted: timeline.omitted,
      })),
      tenant: report.tenant,
    };
    const failure = failureIn(report);
    return failure === undefined ? fields : this.withFailure(fields, failure);
  }

  /** Shows how far the work has come. */
  private async watch<T>(work: (options: WatchOptions) => Promise<T>): Promise<T> {
    const { Progress } = await import("./shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    let begun = false;
    let doneBytes = 0;
    progress.begin("verifying");
    const result = await work({
      signal: this.interruption.signal,
      progress: (done, total) => {
        if (!begun) progress.begin("verifying", total);
        begun = true;
        progress.advance(done - doneBytes);
        doneBytes = done;
      },
    });
    progress.end();
    return result;
  }

  private async repair(client: PageserverClient, apply: boolean): Promise<JsonFields> {
    const report = await this.watch((options) => client.repair({ ...options, apply }));
    for (const { what, file, error } of report.steps) {
      const verb = error !== null ? paint("red", "failed") : paint("green", apply ? "done" : "would do");
      this.print(`${verb}: ${file}: ${what}${error === null ? "" : `: ${error}`}`);
    }
    for (const finding of report.left) this.print(`left: ${describe(finding)}`);
    if (report.steps.length + report.left.length === 0) this.print("nothing to repair");
    else if (!apply && report.steps.length > 0)
      this.say("Nothing was changed. `neon fsck --repair --yes` does it.");
    const fields = { applied: report.applied, steps: report.steps, left: report.left };
    const failure = failureOfRepair(report);
    return failure === undefined ? fields : this.withFailure(fields, failure);
  }

  private show(report: FsckReport): void {
    const parts: readonly (readonly [string, string, FsckPart])[] = [
      ...report.timelines.map((t) => [t.timelineId, t.branches.join(", ") || "-", t] as const),
      ["refs, tenant.json", "-", report.tenant],
    ];
    const rows = parts.map(([name, branches, { state }]) => [name, branches, shown(state)]);
    const [header, ...lines] = formatTable(["TIMELINE", "BRANCHES", "STATE"], rows).split("\n");
    this.print(header ?? "");
    for (const [i, [, , part]] of parts.entries()) {
      const style = STYLES[part.state] ?? "yellow";
      this.print((lines[i] ?? "").replace(/\S+( checked)?$/, (state) => paint(style, state)));
      for (const finding of part.details) this.print(`  ${describe(finding)}`);
      if (part.omitted > 0) this.print(`  ... and ${part.omitted} more`);
    }
  }
}

function shown(state: string): string {
  return state.replaceAll("_", " ");
}

function describe({ kind, what, file, offset }: FsckFinding): string {
  const place = offset === null ? file : `${file}, offset ${offset}`;
  return `${paint(STYLES[kind] ?? "yellow", shown(kind))}: ${place}: ${what}`;
}

function failureOfRepair({ applied, steps, left }: RepairReport): NeonError | undefined {
  const failed = steps.filter((step) => step.error !== null).length;
  const damaged = left.filter((finding) => finding.kind === "corrupt").length;
  if (failed + damaged > 0) {
    const message = `${failed + damaged} of the places with damage could not be repaired`;
    const hint =
      "Branches at points before the damage may still be whole. A compute on the branch has its own copy of the data.";
    return new NeonError(ErrorCode.Corrupt, message, { hint });
  }
  const waiting = applied ? 0 : steps.filter((step) => step.kind === "corrupt").length;
  if (waiting === 0) return undefined;
  return new NeonError(ErrorCode.Corrupt, `${waiting} damaged files wait to be repaired`, {
    hint: "Run `neon fsck --repair --yes`.",
  });
}

function failureIn(report: FsckReport): NeonError | undefined {
  const parts: readonly FsckPart[] = [...report.timelines, report.tenant];
  const count = (state: string): number => parts.filter((part) => part.state === state).length;
  if (report.state === "corrupt") {
    return new NeonError(ErrorCode.Corrupt, `damage was found in ${places(count("corrupt"), parts.length)}`, {
      hint: "Branches at points before the damage may still be whole. A compute on the branch has its own copy of the data.",
    });
  }
  if (report.state === "not_checked") {
    const where = places(count("not_checked"), parts.length);
    return new NeonError(ErrorCode.NotChecked, `not everything could be checked in ${where}`, {
      hint: "Remove the causes that are shown, and check again.",
    });
  }
  return undefined;
}

function places(count: number, all: number): string {
  return `${count} of ${all} places`;
}
