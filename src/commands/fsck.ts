import { ErrorCode, NeonError } from "../base/errors.ts";
import type { FsckFinding, FsckPart, FsckReport } from "../client/fsck-report.ts";
import { BaseCommand, type JsonFields } from "./shared/base-command.ts";
import { type Style, formatTable, paint } from "./shared/output.ts";

const STYLES: Readonly<Record<string, Style>> = {
  clean: "green",
  garbage: "yellow",
  not_checked: "yellow",
  corrupt: "red",
};

export default class Fsck extends BaseCommand {
  static override summary = "Verify everything that the pageserver has on disk.";
  static override description =
    "Reads every file of every timeline and holds it against checksums and against the others: layer files and their " +
    "indexes, whether they cover the history without a hole, the WAL behind them, metadata and refs. The pageserver " +
    "goes on working meanwhile. Changes nothing.\n\n" +
    "Each timeline is `clean`; `garbage`: it has leftovers that the next start removes; `corrupt`: with file and " +
    "offset of what is damaged; or `not checked`, with the reason. The exit code is 0 for the first two, 7 if " +
    "anything is corrupt, else 8 if something could not be checked.";
  static override examples = ["<%= config.bin %> fsck", "<%= config.bin %> fsck --json"];

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(Fsck);
    const repository = await this.findRepository(flags);
    const client = await this.pageserverOf(repository, flags);
    const { Progress } = await import("./shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    let begun = false;
    let doneBytes = 0;
    progress.begin("verifying");
    const report = await client.fsck({
      signal: this.interruption.signal,
      progress: (done, total) => {
        if (!begun) progress.begin("verifying", total);
        begun = true;
        progress.advance(done - doneBytes);
        doneBytes = done;
      },
    });
    progress.end();
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
