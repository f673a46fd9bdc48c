import { boolean } from "@oclif/core/flags";
import { BaseCommand, type JsonFields } from "./shared/base-command.ts";

export default class Stop extends BaseCommand {
  static override summary = "Stop all computes, then the pageserver.";
  static override description =
    "Computes are stopped first, so that the pageserver gets the last of their WAL. Nothing is lost with --force " +
    "either, but the next start takes longer.";
  static override examples = ["<%= config.bin %> stop", "<%= config.bin %> stop --force"];
  static override flags = {
    force: boolean({ default: false, char: "f", summary: "Do not wait for a clean end: kill what runs." }),
  };

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(Stop);
    const repository = await this.findRepository(flags);
    const { PageserverProcess } = await import("../compute/pageserver-process.ts");
    const { computesOf } = await import("./shared/computes.ts");
    const { Progress } = await import("./shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });

    const client = await this.pageserverOf(repository, flags);
    const computes = computesOf(repository, client, progress, { allTenants: true });
    const running = (await computes.list()).filter((compute) => compute.state === "running");
    for (const compute of running) {
      progress.begin(`stopping compute ${compute.name}`);
      await computes.stop(compute.name, { mode: flags.force ? "immediate" : "fast" });
      progress.end();
      this.print(`Stopped compute ${compute.name}`);
    }
    progress.begin("stopping the pageserver");
    const server = new PageserverProcess(repository);
    const stopped = await server.stop({ signal: this.interruption.signal, force: flags.force });
    progress.end();
    this.print(stopped ? "Stopped the pageserver" : "The pageserver was not running");
    return { stopped, computes: running.map((compute) => compute.name) };
  }
}
