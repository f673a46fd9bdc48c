import { string as stringArg } from "@oclif/core/args";
import { parseTenantId } from "../../base/ids.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class TenantUse extends BaseCommand {
  static override summary = "Make a tenant the default of this repository.";
  static override description =
    "Commands without --tenant-id work on the default tenant from then on. Changes `default_tenant_id` and `pg_version` " +
    "in .neon/config.toml; computes go on as they are.";
  static override examples = ["<%= config.bin %> tenant use 6f1b1c2d3e4f5a6b7c8d9e0f1a2b3c4d"];
  static override args = { id: stringArg({ description: "The tenant.", required: true }) };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(TenantUse);
    const tenantId = parseTenantId(args.id);
    const repository = await this.findRepository(flags);
    const { findTenant } = await import("../shared/tenants.ts");
    const tenant = await findTenant(await this.pageserverOf(repository, {}), tenantId);
    const before = repository.config;
    const pgVersion = tenant.pgVersion ?? before.pgVersion;
    await repository.changeSettings([
      ["default_tenant_id", tenantId],
      ["pg_version", pgVersion],
    ]);
    this.print(`Commands work on tenant ${tenantId} (Postgres ${pgVersion})`);
    if (before.pgBin !== undefined && pgVersion !== before.pgVersion) {
      this.caution(
        `pg_bin in config.toml is for Postgres ${before.pgVersion}: change it with \`neon config set pg_bin DIR\`, or ` +
          "remove it with `neon config set pg_bin --unset`.",
      );
    }
    return { tenant_id: tenantId, pg_version: pgVersion, previous_tenant_id: before.defaultTenantId };
  }
}
