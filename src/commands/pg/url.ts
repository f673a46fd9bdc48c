import { string as stringArg } from "@oclif/core/args";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class PgUrl extends BaseCommand {
  static override summary = "Print the connection string of a compute.";
  static override examples = [
    "<%= config.bin %> pg url main",
    {
      description: "For an application",
      command: 'DATABASE_URL="$(<%= config.bin %> pg url dev)" npm start',
    },
  ];
  static override args = { name: stringArg({ description: "Name of the compute.", required: true }) };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(PgUrl);
    const repository = await this.findRepository(flags);
    const { computesOf, computeJson } = await import("../shared/computes.ts");
    const compute = await computesOf(repository, await this.pageserverOf(repository, flags)).get(args.name);
    this.print(compute.uri);
    if (compute.state !== "running") {
      this.say(`It is ${compute.state}: start it with \`neon pg start ${args.name}\`.`);
    }
    return computeJson(compute);
  }
}
