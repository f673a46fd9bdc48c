import type { JsonFields } from "../../shared/base-command.ts";
import { PageserverCommand } from "../../shared/pageserver-command.ts";

export default class PageserverUserList extends PageserverCommand {
  static override summary = "List the users of the pageserver.";
  static override description =
    "Beside them there is the user `neon`, who may do everything; its password is the auth_token of the repository " +
    "(`neon config get pageserver.auth_token`).";
  static override examples = ["<%= config.bin %> pageserver user list"];

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(PageserverUserList);
    const { client } = await this.connectToServer(flags);
    const { userClientOf } = await import("../../shared/pageserver-users.ts");
    const { formatTable } = await import("../../shared/output.ts");
    const users = await userClientOf(client).list();
    const rows = users.map(({ name, tenants, createdAt }) => [
      name,
      tenants === null ? "all" : tenants.join(", "),
      createdAt ?? "",
    ]);
    if (rows.length === 0) this.say("There is no user but `neon`. Add one: neon pageserver user add NAME");
    else this.print(formatTable(["USER", "TENANTS", "CREATED"], rows));
    return {
      users: users.map(({ name, tenants, createdAt }) => ({ name, tenants, created_at: createdAt })),
    };
  }
}
