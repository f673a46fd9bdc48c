/** A pageserver that is named by its URI or as an origin, and which of its tenants is meant. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type TenantId, parseTenantId } from "../../base/ids.ts";
import { httpAddressOf } from "../../client/http-address.ts";
import { resolveUri } from "../../client/libpq.ts";
import { PageserverClient } from "../../client/pageserver-client.ts";
import { type PageserverUri, parsePageserverUri, remoteTarget } from "../../client/pageserver-uri.ts";
import type { Repository } from "../../repository/repository.ts";
import { targetOf } from "./origins.ts";

/** Stands where a tenant has not been chosen yet, or does not matter. */
const NO_TENANT = parseTenantId("0".repeat(32));
const TENANTS_SHOWN = 5;

export interface RemotePageserver {
  /** No tenant chosen yet. */
  readonly client: PageserverClient;
  readonly uri: PageserverUri;
}

/**
 * What --pageserver names: a URI, or an origin of the repository, which is asked over libpq where its HTTP API is. Throws
 * `usage`, `not_found`, or what keeps us from the origin.
 */
export async function remotePageserver(
  text: string,
  repository: () => Promise<Repository>,
  caution: (text: string) => void,
): Promise<RemotePageserver> {
  if (text.includes("://")) {
    const uri = parsePageserverUri(text);
    return { uri, client: clientOf(uri, caution) };
  }
  const origins = (await originsOf(text, repository)).config.origins;
  const known = Object.keys(origins).sort();
  if (!known.includes(text)) {
    const named = known.length === 0 ? "there is no origin yet" : `the origins are ${known.join(", ")}`;
    throw new NeonError(
      ErrorCode.NotFound,
      `"${text.slice(0, 100)}" is neither the URI of a pageserver nor an origin; ${named}`,
      {
        hint: "A URI looks like https://user@host:9898. `neon origin add NAME URI` gives a pageserver a name.",
      },
    );
  }
  const uri = await httpAddressOf(text, targetOf(await repository(), text, caution));
  return { uri, client: clientOf(uri, caution) };
}

async function originsOf(name: string, repository: () => Promise<Repository>): Promise<Repository> {
  try {
    return await repository();
  } catch (error) {
    if (!(error instanceof NeonError && error.code === ErrorCode.NotFound)) throw error;
    throw new NeonError(
      ErrorCode.NotFound,
      `"${name.slice(0, 100)}" is no URI of a pageserver, and there is no repository here whose origin it could be`,
      { hint: "A URI looks like https://user@host:9898.", cause: error },
    );
  }
}

/** The pageserver that a compute has noted, by its URI without a password. That of an origin there serves as well. */
export function notedPageserver(
  text: string,
  repository: Repository,
  caution: (text: string) => void,
): PageserverClient {
  const uri = parsePageserverUri(text);
  try {
    return clientOf(uri, caution);
  } catch (error) {
    const password = passwordOfOrigin(repository, uri);
    if (password === undefined) throw error;
    return clientOf({ ...uri, password }, caution);
  }
}

/** Of an origin with the same host and user. */
function passwordOfOrigin(repository: Repository, { host, user }: PageserverUri): string | undefined {
  for (const text of Object.values(repository.config.origins)) {
    const { target } = resolveUri(text);
    if (target.host === host && target.user === user && target.password !== undefined) return target.password;
  }
  return undefined;
}

function clientOf(uri: PageserverUri, caution: (text: string) => void): PageserverClient {
  const { target, warning } = remoteTarget(uri);
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
        hint: "`neon push` makes one there, or `neon tenant create --pageserver …`.",
      },
    );
  }
  if (ids.length === 1) return server.withTenant(first);
  const shown = ids.slice(0, TENANTS_SHOWN).join(", ") + (ids.length > TENANTS_SHOWN ? ", ..." : "");
  throw new NeonError(ErrorCode.Usage, `the pageserver at ${server.baseUrl} has ${ids.length} tenants`, {
    hint: `Say which with --tenant-id: ${shown}`,
  });
}
