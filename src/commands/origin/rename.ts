import { string as stringArg } from "@oclif/core/args";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class OriginRename extends BaseCommand {
  static override summary = "Call an origin by another name; upstreams of branches follow.";
  static override examples = ["<%= config.bin %> origin rename staging test"];
  static override args = {
    name: stringArg({ description: "Its name.", required: true }),
    "new-name": stringArg({ description: "Its name from now on.", required: true }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(OriginRename);
    const newName = args["new-name"];
    const { checkOriginName, originUri, renameOrigin } = await import("../../repository/origins.ts");
    const { redactUri } = await import("../../client/libpq.ts");
    checkOriginName(newName);
    const repository = await this.findRepository(flags);
    const uri = redactUri(originUri(repository, args.name));
    await renameOrigin(repository, args.name, newName);
    this.print(`Renamed origin ${args.name} to ${newName}`);
    return { name: newName, old_name: args.name, uri };
  }
}
