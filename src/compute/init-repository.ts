/** What `neon init` does: a repository whose default tenant has a fresh database cluster as branch `main`. */
import { join } from "node:path";
import { type ImportedTimeline, PageserverClient } from "../client/pageserver-client.ts";
import { pageserverUrl } from "../repository/config.ts";
import type { Repository } from "../repository/repository.ts";
import { type PgBinaries, findBinaries } from "./binaries.ts";
import { type CreateRepositoryOptions, TEMPORARY, checkRoot, createRepository } from "./create-repository.ts";
import { type FreshClusterOptions, makeFreshCluster } from "./fresh-cluster.ts";

export interface InitOptions extends CreateRepositoryOptions, FreshClusterOptions {}

export interface InitResult {
  readonly repository: Repository;
  readonly binaries: PgBinaries;
  readonly imported: ImportedTimeline;
}

/** Throws what `createRepository` throws, and `postgres` where there is no Postgres of that version. */
export async function initRepository(options: InitOptions): Promise<InitResult> {
  const { pgVersion, pgBin, signal, onStep } = options;
  await checkRoot(options.root);
  onStep("looking for Postgres");
  const binaries = await findBinaries({ major: pgVersion, pgBin });
  signal.throwIfAborted();
  const { repository, filled } = await createRepository(options, async (made, startPageserver) => {
    const cluster = await makeFreshCluster(join(made.directory, TEMPORARY), binaries, options);
    onStep("starting the pageserver");
    await startPageserver();
    const client = clientOf(made);
    await client.createTenant({ pgVersion });
    return cluster.load(client);
  });
  return { repository, binaries, imported: filled };
}

function clientOf(repository: Repository): PageserverClient {
  return new PageserverClient({
    baseUrl: pageserverUrl(repository.config),
    token: repository.config.pageserver.authToken,
    tenantId: repository.config.defaultTenantId,
  });
}
