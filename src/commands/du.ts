import type { JsonFields } from "./shared/base-command.ts";
import { formatBytes, formatTable } from "./shared/output.ts";
import { PageserverCommand } from "./shared/pageserver-command.ts";

export default class Du extends PageserverCommand {
  static override summary = "Show what the branches take on disk.";
  static override description =
    "UNIQUE: what goes when the branch is deleted. SHARED: what it reads together with others. HISTORY: of its own " +
    "layers, what only moments before its end need; `neon gc` removes what is too old. WAL: received, not in layers yet. " +
    "The total is the size of the tenant's files at the pageserver; data directories of computes come on top.";
  static override examples = ["<%= config.bin %> du", "<%= config.bin %> du --json"];

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(Du);
    const { diskUsage } = await import("../client/storage-reports.ts");
    const { client } = await this.connect(flags);
    const usage = await diskUsage(client, this.interruption.signal);
    const rows = usage.timelines.map((timeline) => [
      timeline.branches.join(", ") || `(${timeline.timelineId})`,
      ...[
        timeline.uniqueBytes,
        timeline.sharedBytes,
        timeline.historyBytes,
        timeline.walBytes,
        timeline.totalBytes,
      ].map(formatBytes),
    ]);
    const rest = ["", "", "", ""];
    this.print(
      formatTable(
        ["BRANCH", "UNIQUE", "SHARED", "HISTORY", "WAL", "TOTAL"],
        [
          ...rows,
          ["(other)", ...rest, formatBytes(usage.otherBytes)],
          ["total", ...rest, formatBytes(usage.totalBytes)],
        ],
      ),
    );
    return {
      branches: usage.timelines.flatMap((timeline) =>
        (timeline.branches.length > 0 ? timeline.branches : [null]).map((name) => ({
          name,
          timeline_id: timeline.timelineId,
          unique_bytes: timeline.uniqueBytes,
          shared_bytes: timeline.sharedBytes,
          history_bytes: timeline.historyBytes,
          wal_bytes: timeline.walBytes,
          total_bytes: timeline.totalBytes,
        })),
      ),
      other_bytes: usage.otherBytes,
      total_bytes: usage.totalBytes,
    };
  }
}
