/** What `neon clone` begins with: a repository whose default tenant is empty, with the origin that it shall be filled from. */
import { PageserverClient } from "../client/pageserver-client.ts";
import { pageserverUrl } from "../repository/config.ts";
import { addOrigin } from "../repository/origins.ts";
import {
  type CreateRepositoryOptions,
  type CreatedRepository,
  createRepository,
} from "./create-repository.ts";

export interface CloneOptions extends CreateRepositoryOptions {
  /** What the other pageserver is to be called here, and its URI. */
  readonly origin: { readonly name: string; readonly uri: string };
}

/** Makes the repository and starts its pageserver. Throws what `createRepository` throws. */
export async function createClone(options: CloneOptions): Promise<CreatedRepository<void>> {
  const { origin, pgVersion, onStep } = options;
  return createRepository(options, async (repository, startPageserver) => {
    await addOrigin(repository, origin.name, origin.uri);
    onStep("starting the pageserver");
    await startPageserver();
    const { defaultTenantId: tenantId, pageserver } = repository.config;
    const client = new PageserverClient({
      baseUrl: pageserverUrl(repository.config),
      token: pageserver.authToken,
      tenantId,
    });
    await client.createTenant({ pgVersion });
  });
}
