import { boolean, string as stringFlag } from "@oclif/core/flags";
import { formatLsn } from "../base/lsn.ts";
import type { GcReport, GcTimeline } from "../client/storage-reports.ts";
import type { JsonFields } from "./shared/base-command.ts";
import { formatBytes, formatTable } from "./shared/output.ts";
import { PageserverCommand } from "./shared/pageserver-command.ts";

/** What the pageserver's reasons mean. */
const REASONS: Readonly<Record<string, string>> = {
  window: "within the time that is kept",
  cutoff: "what the kept history begins with",
  points: "for branches, computes and others at older moments",
};

export default class Gc extends PageserverCommand {
  static override summary = "Remove history that is older than what is kept, and say what stays and why.";
  static override description =
    "The pageserver does this by itself every hour; the command does it now. How much history is kept says `pitr_interval` " +
    "(7 days) and `gc_horizon_bytes` in .neon/pageserver/pageserver.toml. Moments at which a branch begins, which a " +
    "compute shows or for which there is a lease stay readable however old they are; so does everything from the cutoff on.";
  static override examples = [
    { description: "What would go, and what stays", command: "<%= config.bin %> gc --dry-run" },
    "<%= config.bin %> gc",
    { description: "Keep two days only, this time", command: "<%= config.bin %> gc --keep 2d --horizon 0" },
  ];
  static override flags = {
    "dry-run": boolean({ default: false, char: "n", summary: "Say what would be removed; remove nothing." }),
    keep: stringFlag({ summary: "Keep that much history instead of pitr_interval.", helpValue: "AGE" }),
    horizon: stringFlag({
      summary: "Keep that much WAL's history in any case, instead of gc_horizon_bytes.",
      helpValue: "SIZE",
    }),
  };

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(Gc);
    const { parseAge, parseSize } = await import("./shared/amounts.ts");
    const { collectGarbage } = await import("../client/storage-reports.ts");
    const { Progress } = await import("./shared/progress.ts");
    const pitrIntervalMs = flags.keep === undefined ? undefined : parseAge(flags.keep, "--keep");
    const horizonBytes = flags.horizon === undefined ? undefined : parseSize(flags.horizon, "--horizon");
    const { client } = await this.connect(flags);
    using progress = new Progress({ silent: this.jsonEnabled() });
    progress.begin("collecting garbage");
    const dryRun = flags["dry-run"];
    const report = await collectGarbage(
      client,
      { dryRun, pitrIntervalMs, horizonBytes },
      {
        signal: this.interruption.signal,
        onTimeline: (count) => progress.begin(`collecting garbage, ${count} timelines done`),
      },
    );
    progress.end();
    this.show(report, dryRun);
    return {
      dry_run: dryRun,
      removed_bytes: report.removedBytes,
      written_bytes: report.writtenBytes,
      retained: report.timelines.flatMap((timeline) =>
        timeline.retained.map(({ reason, bytes, layers }) => ({
          timeline_id: timeline.timelineId,
          branches: timeline.branches,
          reason,
          bytes,
          layers,
        })),
      ),
      timelines: report.timelines.map((timeline) => ({
        timeline_id: timeline.timelineId,
        branches: timeline.branches,
        gc_cutoff_lsn: timeline.cutoffLsn === null ? null : formatLsn(timeline.cutoffLsn),
        removed_bytes: timeline.removedBytes,
        points: timeline.points.map(({ lsn, usedBy }) => ({ lsn: formatLsn(lsn), used_by: usedBy })),
      })),
    };
  }

  private show(report: GcReport, dryRun: boolean): void {
    const rows = report.timelines.map((timeline) => [
      timeline.branches.join(", ") || timeline.timelineId,
      formatBytes(timeline.removedBytes),
      formatBytes(timeline.retained.reduce((sum, { bytes }) => sum + bytes, 0)),
      timeline.cutoffLsn === null ? "the beginning" : formatLsn(timeline.cutoffLsn),
    ]);
    if (rows.length > 0) this.print(formatTable(["BRANCH", "REMOVED", "KEPT", "READABLE FROM"], rows));
    for (const timeline of report.timelines) this.explain(timeline);
    const what = dryRun ? "Would remove" : "Removed";
    this.say(`${what} ${formatBytes(report.removedBytes)}.`);
  }

  private explain({ branches, timelineId, retained, points }: GcTimeline): void {
    const kept = retained.filter(({ bytes }) => bytes > 0);
    if (kept.length === 0) return;
    const parts = kept.map(({ reason, bytes }) => `${formatBytes(bytes)} ${REASONS[reason] ?? reason}`);
    this.say(`${branches.join(", ") || timelineId} keeps ${parts.join("; ")}.`);
    for (const { lsn, usedBy } of points.slice(0, 10)) this.say(`  ${formatLsn(lsn)}: ${usedBy.join(", ")}`);
    if (points.length > 10) this.say(`  ... and ${points.length - 10} more`);
  }
}
