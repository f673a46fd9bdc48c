/** A pageserver that is named by its URI, and which of its tenants is meant. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type TenantId, parseTenantId } from "../../base/ids.ts";
import { PageserverClient } from "../../client/pageserver-client.ts";
import { parsePageserverUri, remoteTarget } from "../../client/pageserver-uri.ts";

/** Stands where a tenant has not been chosen yet, or does not matter. */
const NO_TENANT = parseTenantId("0".repeat(32));
const TENANTS_SHOWN = 5;

/** A client of the pageserver at a URI, no tenant chosen yet. Throws `usage`. */
export function remotePageserver(text: string, caution: (text: string) => void): PageserverClient {
  const { target, warning } = remoteTarget(parsePageserverUri(text));
  if (warning !== undefined) caution(warning);
  return new PageserverClient({ ...target, tenantId: NO_TENANT });
}

/** The preferred tenant if the server has it, else its only one. Throws `not_found` or `usage`, with what there is. */
export async function chooseTenant(
  server: PageserverClient,
  preferred: TenantId | undefined,
): Promise<PageserverClient> {
  const ids = (await server.listTenants()).map((tenant) => tenant.tenantId);
  const [first] = ids;
  if (preferred !== undefined && ids.includes(preferred)) return server.withTenant(preferred);
  if (first === undefined) {
    throw new NeonError(
      ErrorCode.NotFound,
      `the pageserver at ${server.baseUrl} has no tenant that we may see`,
      {
        hint: "`neon push` makes one there, or `neon tenant create --pageserver URI`.",
      },
    );
  }
  if (ids.length === 1) return server.withTenant(first);
  const shown = ids.slice(0, TENANTS_SHOWN).join(", ") + (ids.length > TENANTS_SHOWN ? ", ..." : "");
  throw new NeonError(ErrorCode.Usage, `the pageserver at ${server.baseUrl} has ${ids.length} tenants`, {
    hint: `Say which with --tenant-id: ${shown}`,
  });
}
