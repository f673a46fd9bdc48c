import type { JsonFields } from "../shared/base-command.ts";
import { PageserverCommand } from "../shared/pageserver-command.ts";

export default class TenantList extends PageserverCommand {
  static override summary = "List the tenants of the pageserver.";
  static override description =
    "A tenant is a Postgres cluster with all its branches. `neon init` makes one, `neon tenant create` more. Commands work " +
    "on the default one (`neon tenant use`) unless --tenant-id names another.";
  static override examples = ["<%= config.bin %> tenant list", "<%= config.bin %> tenant list --json"];

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(TenantList);
    const { client, repository } = await this.connectToServer(flags);
    const tenants = await client.listTenants();
    const { formatTable } = await import("../shared/output.ts");
    const isDefault = (id: string): boolean => id === repository?.config.defaultTenantId;
    const rows = tenants.map(({ tenantId, pgVersion, state }) => [
      tenantId,
      pgVersion === null ? "-" : String(pgVersion),
      state,
      isDefault(tenantId) ? "default" : "",
    ]);
    if (rows.length === 0) this.say("There is no tenant.");
    else this.print(formatTable(["TENANT", "POSTGRES", "STATE", ""], rows));
    for (const { tenantId, error } of tenants) if (error !== null) this.caution(`${tenantId}: ${error}`);
    return {
      tenants: tenants.map(({ tenantId, pgVersion, state, error }) => ({
        tenant_id: tenantId,
        pg_version: pgVersion,
        state,
        error,
        default: isDefault(tenantId),
      })),
    };
  }
}
