/** Tenants of a pageserver, as commands look them up. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import type { PageserverClient, TenantInfo } from "../../client/pageserver-client.ts";

/** Throws `not_found` with those that there are. */
export async function findTenant(client: PageserverClient, tenantId: TenantId): Promise<TenantInfo> {
  const tenants = await client.listTenants();
  const found = tenants.find((tenant) => tenant.tenantId === tenantId);
  if (found) return found;
  const known = tenants.slice(0, 5).map((tenant) => tenant.tenantId);
  throw new NeonError(ErrorCode.NotFound, `there is no tenant ${tenantId} on this pageserver`, {
    hint: `There is ${known.join(", ")}${tenants.length > 5 ? ", ..." : ""}. \`neon tenant list\` shows all.`,
  });
}
