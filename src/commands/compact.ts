import type { JsonFields } from "./shared/base-command.ts";
import { formatBytes, formatTable } from "./shared/output.ts";
import { PageserverCommand } from "./shared/pageserver-command.ts";

export default class Compact extends PageserverCommand {
  static override summary = "Merge layer files now, so that reads are quick.";
  static override description =
    "The pageserver does this by itself, by and by, when enough layers have been written; the command does it now and as " +
    "far as it is worth it. Nothing that can be read changes. Space that merged layers took is free afterwards, or after " +
    "those who still read them.";
  static override examples = ["<%= config.bin %> compact", "<%= config.bin %> compact --json"];

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(Compact);
    const { compactTenant } = await import("../client/storage-reports.ts");
    const { Progress } = await import("./shared/progress.ts");
    const { client } = await this.connect(flags);
    using progress = new Progress({ silent: this.jsonEnabled() });
    progress.begin("merging layers");
    const timelines = await compactTenant(client, {
      signal: this.interruption.signal,
      onTimeline: (count) => progress.begin(`merging layers, ${count} timelines done`),
    });
    progress.end();
    const changed = timelines.filter(({ outputLayers }) => outputLayers > 0);
    if (changed.length === 0) this.say("Nothing is worth merging.");
    else {
      const rows = changed.map((timeline) => [
        timeline.branches.join(", ") || timeline.timelineId,
        `${timeline.inputLayers} (${formatBytes(timeline.inputBytes)})`,
        `${timeline.outputLayers} (${formatBytes(timeline.outputBytes)})`,
      ]);
      this.print(formatTable(["BRANCH", "LAYERS MERGED", "LAYERS WRITTEN"], rows));
    }
    return {
      timelines: timelines.map((timeline) => ({
        timeline_id: timeline.timelineId,
        branches: timeline.branches,
        input_layers: timeline.inputLayers,
        input_bytes: timeline.inputBytes,
        output_layers: timeline.outputLayers,
        output_bytes: timeline.outputBytes,
      })),
    };
  }
}
