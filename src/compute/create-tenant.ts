/**
 * What `neon tenant create` does: another tenant on the repository's pageserver, with a fresh database cluster as branch
 * `main`. When it fails or is interrupted the tenant is taken back; one that lost its creator (a SIGKILL) has no branch,
 * and creating it again goes on with it.
 */
import { join } from "node:path";
import { ErrorCode, NeonError } from "../base/errors.ts";
import type { ImportedTimeline, PageserverClient } from "../client/pageserver-client.ts";
import { withLock } from "../repository/lock.ts";
import type { Repository } from "../repository/repository.ts";
import { type PgBinaries, findBinaries } from "./binaries.ts";
import { type FreshClusterOptions, clearFreshCluster, makeFreshCluster } from "./fresh-cluster.ts";

/** Where initdb works, below `.neon`. */
const TEMPORARY = "new-tenant";

export interface CreateTenantOptions extends FreshClusterOptions {
  readonly pgVersion: number;
  readonly pgBin?: string | undefined;
}

export interface CreatedTenant {
  readonly binaries: PgBinaries;
  readonly imported: ImportedTimeline;
}

/** Creates the client's tenant. Throws `exists` if it is there and has branches or another version. */
export async function createTenant(
  repository: Repository,
  client: PageserverClient,
  options: CreateTenantOptions,
): Promise<CreatedTenant> {
  const { pgVersion, signal } = options;
  options.onStep("looking for Postgres");
  const configured = pgVersion === repository.config.pgVersion ? repository.config.pgBin : undefined;
  const binaries = await findBinaries({ major: pgVersion, pgBin: options.pgBin, configured });
  signal.throwIfAborted();
  const temporary = join(repository.directory, TEMPORARY);
  return withLock(repository.lockPath("tenant-create"), "the creation of a tenant", async () => {
    // Left by one that was killed.
    clearFreshCluster(temporary);
    const isNew = await makeTenant(client, pgVersion);
    try {
      const runAs = options.runAs ?? repository.config.runAs;
      const cluster = await makeFreshCluster(temporary, binaries, { ...options, runAs });
      return { binaries, imported: await cluster.load(client) };
    } catch (error) {
      clearFreshCluster(temporary);
      // The failure that matters is the first one; a tenant without branches harms nobody.
      if (isNew) await client.deleteTenant().catch(() => undefined);
      throw error;
    }
  });
}

/** Makes the tenant; false if there is one already that has no branch yet. */
async function makeTenant(client: PageserverClient, pgVersion: number): Promise<boolean> {
  try {
    await client.createTenant({ pgVersion });
    return true;
  } catch (error) {
    if (!(error instanceof NeonError && error.code === ErrorCode.Exists)) throw error;
    const known = (await client.listTenants()).find(({ tenantId }) => tenantId === client.tenantId);
    const isEmpty = known?.pgVersion === pgVersion && (await client.listBranches()).length === 0;
    if (!isEmpty) {
      throw new NeonError(ErrorCode.Exists, `there is a tenant ${client.tenantId} already`, {
        hint: "`neon tenant list` shows all; `neon tenant create` without an id makes one with a new id.",
        cause: error,
      });
    }
    return false;
  }
}
