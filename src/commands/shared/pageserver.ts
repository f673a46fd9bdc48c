/** From a repository to a client of its pageserver. */
import type { TenantId } from "../../base/ids.ts";
import { PageserverClient } from "../../client/pageserver-client.ts";
import { pageserverUrl } from "../../repository/config.ts";
import type { Repository } from "../../repository/repository.ts";

export function pageserverClientOf(
  repository: Repository,
  options: { tenantId: TenantId; timeoutMs?: number },
): PageserverClient {
  return new PageserverClient({
    baseUrl: pageserverUrl(repository.config),
    token: repository.config.pageserver.authToken,
    ...options,
  });
}
