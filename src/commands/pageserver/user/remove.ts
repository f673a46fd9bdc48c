import { string as stringArg } from "@oclif/core/args";
import type { JsonFields } from "../../shared/base-command.ts";
import { PageserverCommand } from "../../shared/pageserver-command.ts";

export default class PageserverUserRemove extends PageserverCommand {
  static override summary = "Take a user's right to connect to the pageserver away.";
  static override description = "Connections that the user has at the moment go on until they end.";
  static override examples = ["<%= config.bin %> pageserver user remove alice"];
  static override args = { name: stringArg({ description: "Name of the user.", required: true }) };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(PageserverUserRemove);
    const { client } = await this.connectToServer(flags);
    const { userClientOf } = await import("../../shared/pageserver-users.ts");
    await userClientOf(client).remove(args.name);
    this.print(`Removed user ${args.name}`);
    return { name: args.name };
  }
}
