import { string as stringArg } from "@oclif/core/args";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class OriginSetUrl extends BaseCommand {
  static override summary = "Change the URI of an origin.";
  static override description =
    "URI as for `neon origin add`. Upstreams of branches stay; what was known of the origin's branches is forgotten until " +
    "the next contact.";
  static override examples = ["<%= config.bin %> origin set-url staging postgresql://ada@db2.example.com"];
  static override args = {
    name: stringArg({ description: "Name of the origin.", required: true }),
    uri: stringArg({ description: "Where it listens now.", required: true }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(OriginSetUrl);
    const { setOriginUri } = await import("../../repository/origins.ts");
    const { checkUri } = await import("../shared/origins.ts");
    const { stored, uri, notes } = checkUri(args.uri);
    await setOriginUri(await this.findRepository(flags), args.name, stored);
    this.print(`Origin ${args.name} is at ${uri}`);
    for (const note of notes) this.caution(note);
    return { name: args.name, uri };
  }
}
