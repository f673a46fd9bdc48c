import { boolean } from "@oclif/core/flags";
import { BaseCommand, type JsonFields } from "./shared/base-command.ts";

export default class Start extends BaseCommand {
  static override summary = "Start the pageserver, with --all the computes too.";
  static override description =
    "Returns when the pageserver is ready: after an unclean end it first reads the WAL that it has received since " +
    "its last checkpoint. Starting what runs already is fine.\n\n" +
    "Side effects: a process that goes on in the background; its log is .neon/pageserver/pageserver.log.";
  static override examples = ["<%= config.bin %> start", "<%= config.bin %> start --all"];
  static override flags = {
    all: boolean({ default: false, summary: "Start every compute as well." }),
  };

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(Start);
    const repository = await this.findRepository(flags);
    const { PageserverProcess } = await import("../compute/pageserver-process.ts");
    const { Progress } = await import("./shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    progress.begin("starting the pageserver");
    const server = new PageserverProcess(repository);
    const { started } = await server.start({ signal: this.interruption.signal });
    progress.end();
    const report = await server.inspect();
    const how = started ? "is running" : "was running already";
    this.print(`The pageserver ${how} at ${report.uri} (process ${report.pid})`);

    const { computesOf, computeJson, describeCompute } = await import("./shared/computes.ts");
    const client = await this.pageserverOf(repository, flags);
    const computes = computesOf(repository, client, progress, { allTenants: true });
    const all = await computes.list();
    const idle = all.filter((compute) => compute.state !== "running");
    if (!flags.all && idle.length > 0) {
      const names = idle.map((compute) => compute.name).join(", ");
      this.say(
        `Not running: ${names}. Start one with \`neon pg start NAME\`, all with \`neon start --all\`.`,
      );
    }
    const startedComputes = [];
    for (const compute of flags.all ? idle : []) {
      progress.begin(`starting compute ${compute.name}`);
      const info = await computes.start(compute.name, {});
      progress.end();
      this.say(describeCompute(info));
      startedComputes.push(computeJson(info));
    }
    return {
      started,
      pageserver: { state: report.state, pid: report.pid, uri: report.uri },
      computes: startedComputes,
    };
  }
}
