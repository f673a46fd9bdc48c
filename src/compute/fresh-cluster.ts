/**
 * How a tenant begins: a database cluster fresh from initdb, in a temporary directory, loaded into the pageserver as its
 * first branch.
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ErrorCode, NeonError, messageOf } from "../base/errors.ts";
import type { ImportedTimeline, PageserverClient } from "../client/pageserver-client.ts";
import type { PgBinaries } from "./binaries.ts";
import { packDataDirectory } from "./data-directory.ts";
import { initializeDataDirectory } from "./initdb.ts";
import { killWorkers } from "./process-identity.ts";

/** Name of the first branch. */
export const MAIN_BRANCH = "main";
const PGDATA = "pgdata";

export interface FreshClusterOptions {
  readonly signal: AbortSignal;
  readonly onStep: (step: string) => void;
  /** Bytes that were sent to the pageserver since the last call. */
  readonly onBytes: (sizeBytes: number) => void;
  /** Size of a WAL segment in MiB; Postgres' default when absent. */
  readonly walSegmentMb?: number | undefined;
  /** User that Postgres runs as when we are root. */
  readonly runAs?: string | undefined;
}

/** A cluster that waits to be loaded. */
export interface FreshCluster {
  /** Loads it as branch `main` of the client's tenant and removes it. */
  load(client: PageserverClient): Promise<ImportedTimeline>;
}

/** Runs initdb below `temporary`, which is the caller's to remove if anything fails. */
export async function makeFreshCluster(
  temporary: string,
  binaries: PgBinaries,
  options: FreshClusterOptions,
): Promise<FreshCluster> {
  const { signal, onStep } = options;
  // Open to the user that Postgres runs as; the data directory itself is not.
  mkdirSync(temporary, { recursive: true, mode: 0o755 });
  const pgdata = join(temporary, PGDATA);
  onStep(`creating a database cluster with Postgres ${binaries.version}`);
  try {
    await initializeDataDirectory(binaries, pgdata, options);
  } catch (error) {
    throw diskFull(error) ?? error;
  }
  signal.throwIfAborted();
  return {
    load: async (client) => {
      onStep(`loading it as branch ${MAIN_BRANCH}`);
      const tar = packDataDirectory(pgdata);
      tar.on("data", (chunk: Uint8Array) => options.onBytes(chunk.length));
      const imported = await client.importDataDirectory({ branch: MAIN_BRANCH, tar, signal });
      rmSync(temporary, { recursive: true, force: true });
      return imported;
    },
  };
}

/** Removes what an interrupted creation left in `temporary`, an initdb that still works there included. */
export function clearFreshCluster(temporary: string): void {
  killWorkers(join(temporary, PGDATA));
  rmSync(temporary, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}

/** A full disk is reported by initdb among everything else that it says, by the pageserver as something to wait for. */
export function diskFull(error: unknown): NeonError | undefined {
  if (!/no space left on device|quota exceeded/i.test(messageOf(error))) return undefined;
  return new NeonError(ErrorCode.Resource, "the disk is full: the database cluster could not be created", {
    hint: "Make room (an empty database takes about 100 MiB while it is made), then try again.",
    cause: error,
  });
}
