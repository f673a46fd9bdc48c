import { string as stringArg } from "@oclif/core/args";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class OriginRemove extends BaseCommand {
  static override summary = "Forget an origin; nothing changes there, nor in the branches here.";
  static override description = "Branches that have it as their upstream have none afterwards.";
  static override examples = ["<%= config.bin %> origin remove staging"];
  static override args = { name: stringArg({ description: "Name of the origin.", required: true }) };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(OriginRemove);
    const { originUri, removeOrigin } = await import("../../repository/origins.ts");
    const { redactUri } = await import("../../client/libpq.ts");
    const repository = await this.findRepository(flags);
    const uri = redactUri(originUri(repository, args.name));
    await removeOrigin(repository, args.name);
    this.print(`Removed origin ${args.name}`);
    this.say(`It was ${uri}`);
    return { name: args.name, uri };
  }
}
