import { boolean } from "@oclif/core/flags";
import type { OriginReport } from "../shared/origins.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";
import { formatTable, paint } from "../shared/output.ts";

export default class OriginList extends BaseCommand {
  static override summary = "List the origins, and whether each answers.";
  static override description =
    "All are asked at once. STATE is `answers`; `refuses` (password, certificate, encryption); or `unreachable`. Passwords " +
    "are not shown. The exit code is 0 whatever the states; scripts look at --json.";
  static override examples = [
    "<%= config.bin %> origin list",
    "<%= config.bin %> origin list --offline",
    "<%= config.bin %> origin list --json",
  ];
  static override flags = {
    offline: boolean({ default: false, summary: "Do not ask them." }),
  };

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(OriginList);
    const repository = await this.findRepository(flags);
    const { reportOrigins } = await import("../shared/origins.ts");
    const { Progress } = await import("../shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    progress.begin("asking the origins");
    const reports = await reportOrigins(repository, {
      ask: !flags.offline,
      signal: this.interruption.signal,
    });
    progress.end();
    if (reports.length === 0) this.say("There is no origin. Add one: neon origin add NAME URI");
    else this.show(reports);
    return {
      origins: reports.map(({ name, uri, state, version, error }) => ({ name, uri, state, version, error })),
    };
  }

  private show(reports: readonly OriginReport[]): void {
    const rows = reports.map(({ name, uri, state }) => [name, uri, state]);
    const [header, ...lines] = formatTable(["NAME", "URI", "STATE"], rows).split("\n");
    this.print(header ?? "");
    for (const [i, { state, error }] of reports.entries()) {
      const style = state === "answers" ? "green" : state === "unchecked" ? "dim" : "red";
      this.print((lines[i] ?? "").replace(/\S+$/, (word) => paint(style, word)));
      if (error !== null) this.say(`  ${error}`);
    }
  }
}
