import { string as stringArg } from "@oclif/core/args";
import { boolean } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type TenantId, parseTenantId } from "../../base/ids.ts";
import type { PageserverClient } from "../../client/pageserver-client.ts";
import type { Repository } from "../../repository/repository.ts";
import type { JsonFields } from "../shared/base-command.ts";
import { PageserverCommand } from "../shared/pageserver-command.ts";

export default class TenantDelete extends PageserverCommand {
  static override summary = "Delete a tenant with all its branches.";
  static override description =
    "Nothing brings it back, so it asks first; where nobody can be asked it wants --force. The default tenant is not " +
    "deleted, nor one that has computes.";
  static override examples = ["<%= config.bin %> tenant delete 6f1b1c2d3e4f5a6b7c8d9e0f1a2b3c4d --force"];
  static override args = { id: stringArg({ description: "The tenant.", required: true }) };
  static override flags = {
    force: boolean({ default: false, char: "f", summary: "Do not ask." }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(TenantDelete);
    const tenantId = parseTenantId(args.id);
    const { client: server, repository } = await this.connectToServer(flags);
    const client = server.withTenant(tenantId);
    const { findTenant } = await import("../shared/tenants.ts");
    await findTenant(client, tenantId);
    if (repository) {
      refuseDefault(repository, tenantId);
      await refuseWhileUsed(repository, client);
    }
    const branches = await namesOfBranches(client);
    if (!flags.force) {
      const { confirm } = await import("../shared/confirm.ts");
      const what = branches.length === 0 ? "" : `, with ${branches.length} branches (${shortList(branches)})`;
      await confirm({
        text: `This deletes tenant ${tenantId}${what}, for good.`,
        answer: tenantId.slice(0, 8),
        flag: "--force",
        signal: this.interruption.signal,
      });
    }
    await client.deleteTenant();
    this.print(`Deleted tenant ${tenantId}`);
    return { tenant_id: tenantId, branches };
  }
}

function refuseDefault(repository: Repository, tenantId: TenantId): void {
  if (repository.config.defaultTenantId !== tenantId) return;
  throw new NeonError(ErrorCode.Conflict, `tenant ${tenantId} is the default one of this repository`, {
    hint: "Make another the default first: `neon tenant use ID`.",
  });
}

async function refuseWhileUsed(repository: Repository, client: PageserverClient): Promise<void> {
  const { computesOf } = await import("../shared/computes.ts");
  const names = (await computesOf(repository, client).list()).map((compute) => compute.name);
  if (names.length === 0) return;
  throw new NeonError(ErrorCode.Conflict, `tenant ${client.tenantId} has computes: ${names.join(", ")}`, {
    hint: `Remove them first: \`neon pg destroy ${names[0]} --tenant-id ${client.tenantId}\`.`,
  });
}

/** Of a tenant that cannot be opened nothing is known, and it may be deleted all the same. */
async function namesOfBranches(client: PageserverClient): Promise<string[]> {
  try {
    return (await client.listBranches()).map((branch) => branch.name);
  } catch (error) {
    if (error instanceof NeonError && error.code === ErrorCode.Corrupt) return [];
    throw error;
  }
}

function shortList(names: readonly string[]): string {
  const shown = names.slice(0, 5).join(", ");
  return names.length > 5 ? `${shown}, ...` : shown;
}
