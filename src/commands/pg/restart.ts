import { string as stringArg } from "@oclif/core/args";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class PgRestart extends BaseCommand {
  static override summary = "Stop a compute and start it again, on the same port.";
  static override examples = ["<%= config.bin %> pg restart main"];
  static override args = { name: stringArg({ description: "Name of the compute.", required: true }) };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(PgRestart);
    const repository = await this.findRepository(flags);
    const { computesOf, computeJson, describeCompute } = await import("../shared/computes.ts");
    const { Progress } = await import("../shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    progress.begin(`restarting compute ${args.name}`);
    const computes = computesOf(repository, await this.pageserverOf(repository, flags), progress);
    const compute = await computes.restart(args.name);
    progress.end();
    this.say(describeCompute(compute));
    this.print(compute.uri);
    return computeJson(compute);
  }
}
