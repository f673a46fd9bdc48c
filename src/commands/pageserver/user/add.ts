import { string as stringArg } from "@oclif/core/args";
import { string as stringFlag } from "@oclif/core/flags";
import type { JsonFields } from "../../shared/base-command.ts";
import { PageserverCommand } from "../../shared/pageserver-command.ts";

export default class PageserverUserAdd extends PageserverCommand {
  static override summary = "Let somebody in: a user of the pageserver with a password.";
  static override description =
    "Others push to this pageserver and pull from it as that user: neon origin add NAME postgresql://USER@HOST:PORT. The " +
    "user may work with all tenants, or only with those named by --tenant.\n\n" +
    "The password is asked for. Where there is no terminal it is the first line of the standard input, or the value of " +
    "NEON_USER_PASSWORD. It is not stored, only keys to check it by.";
  static override examples = [
    "<%= config.bin %> pageserver user add alice",
    "<%= config.bin %> pageserver user add ci --tenant 6f1b1c2d3e4f5a6b7c8d9e0f1a2b3c4d < password.txt",
  ];
  static override args = { name: stringArg({ description: "Name of the user.", required: true }) };
  static override flags = {
    tenant: stringFlag({
      summary:
        "Tenant that the user may work with, and create; may be given several times. All unless given.",
      helpValue: "ID",
      multiple: true,
    }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(PageserverUserAdd);
    const { parseTenantId } = await import("../../../base/ids.ts");
    const tenants = flags.tenant?.map((id) => parseTenantId(id));
    const { client, repository } = await this.connectToServer(flags);
    const { userClientOf } = await import("../../shared/pageserver-users.ts");
    const { readNewPassword } = await import("../../shared/password-prompt.ts");
    const { randomBytes } = await import("node:crypto");
    const password = await readNewPassword(`Password of ${args.name}`, this.interruption.signal);
    const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };
    const user = await userClientOf(client).add({ name: args.name, password, tenants }, random);
    const rights = user.tenants === null ? "all tenants" : user.tenants.join(", ");
    this.print(`User ${user.name} may work with ${rights}`);
    const listenLibpq = repository?.config.pageserver.listenLibpq;
    if (listenLibpq !== undefined) this.say(`URI: postgresql://${user.name}@${listenLibpq}`);
    return { name: user.name, tenants: user.tenants };
  }
}
