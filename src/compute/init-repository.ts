/**
 * What `neon init` does: a fresh database cluster by initdb, imported into a new pageserver as branch `main`. Nothing
 * is left behind when it fails or is interrupted; if even the cleaning up is cut off, a marker in `.neon` says so and
 * the next `neon init` starts over.
 */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";
import type { TenantId } from "../base/ids.ts";
import { type ImportedTimeline, PageserverClient } from "../client/pageserver-client.ts";
import { fileError } from "../repository/atomic-file.ts";
import { pageserverUrl } from "../repository/config.ts";
import { acquireLock } from "../repository/lock.ts";
import { isPortInUse, reservePort } from "../repository/ports.ts";
import { LOCKS, Repository, newConfig, repositoryState, stateError } from "../repository/repository.ts";
import { type PgBinaries, findBinaries } from "./binaries.ts";
import { packDataDirectory } from "./data-directory.ts";
import { initializeDataDirectory } from "./initdb.ts";
import { PageserverProcess } from "./pageserver-process.ts";
import { processesWorkingIn } from "./process-identity.ts";

/** Name of the first branch. */
export const MAIN_BRANCH = "main";
/** Where the search for the pageserver's port begins. */
const PAGESERVER_PORT = 9898;
/** How many ports are tried when they are taken between choosing and listening. */
const PORT_ATTEMPTS_MAX = 5;
/** Where initdb works, below `.neon`. */
const TEMPORARY = "init";
const PGDATA = "pgdata";

export interface InitOptions {
  /** Directory that gets a `.neon`; created if missing. Absolute. */
  readonly root: string;
  readonly pgVersion: number;
  readonly pgBin?: string | undefined;
  /** Size of a WAL segment in MiB; Postgres' default when absent. */
  readonly walSegmentMb?: number | undefined;
  readonly tenantId: TenantId;
  readonly signal: AbortSignal;
  readonly onStep: (step: string) => void;
  /** Bytes that were sent to the pageserver since the last call. */
  readonly onBytes: (sizeBytes: number) => void;
}

export interface InitResult {
  readonly repository: Repository;
  readonly binaries: PgBinaries;
  readonly imported: ImportedTimeline;
}

/** Throws `exists` for a complete repository, `conflict` where `.neon` is something else or another init is at work. */
export async function initRepository(options: InitOptions): Promise<InitResult> {
  const { root, signal, onStep } = options;
  const state = await repositoryState(root);
  const directory = join(root, ".neon");
  // Another init that is at work just now passes through states that say nothing; its lock does.
  const inTheMaking = state === "foreign" && existsSync(join(directory, LOCKS));
  if (state !== "none" && state !== "unfinished" && !inTheMaking) throw stateError(state, root);
  onStep("looking for Postgres");
  const binaries = await findBinaries({ major: options.pgVersion, pgBin: options.pgBin });
  signal.throwIfAborted();

  await using undo = new AsyncDisposableStack();
  const created = makeDirectory(root);
  if (created !== undefined) undo.defer(() => rmSync(created, { recursive: true, force: true }));
  const lock = await acquireLock(join(directory, LOCKS, "init"), `the creation of ${directory}`, {
    waitMs: 0,
  });
  undo.defer(() => lock.release());
  // The other process that made `init` wait may have finished it.
  const now = await repositoryState(root);
  if (now === "unfinished") await clearUnfinished(root, onStep);
  else if (now !== "none") throw stateError(now, root);
  undo.defer(() => takeBack(root));

  const port = await reservePort({ first: PAGESERVER_PORT, owner: join(directory, "config.toml") });
  undo.defer(() => port.release());
  const config = newConfig({
    tenantId: options.tenantId,
    pgVersion: options.pgVersion,
    pgBin: options.pgBin,
    pageserverPort: port.port,
  });
  const repository = await Repository.create(root, config);
  const imported = await fill(repository, binaries, options, undo);
  await repository.finishCreation();
  undo.move();
  port.release();
  lock.release();
  return { repository, binaries, imported };
}

/** initdb, pageserver, import. What must be taken back in case of failure goes onto `undo`. */
async function fill(
  repository: Repository,
  binaries: PgBinaries,
  options: InitOptions,
  undo: AsyncDisposableStack,
): Promise<ImportedTimeline> {
  const { signal, onStep } = options;
  const temporary = join(repository.directory, TEMPORARY);
  mkdirSync(temporary, { recursive: true, mode: 0o755 });
  const pgdata = join(temporary, PGDATA);
  onStep(`creating a database cluster with Postgres ${binaries.version}`);
  try {
    await initializeDataDirectory(binaries, pgdata, { walSegmentMb: options.walSegmentMb });
  } catch (error) {
    throw diskFull(error) ?? error;
  }
  signal.throwIfAborted();

  onStep("starting the pageserver");
  const { logPath } = new PageserverProcess(repository);
  try {
    await startServer(repository, signal, undo);
    onStep(`loading it as branch ${MAIN_BRANCH}`);
    const client = clientOf(repository);
    await client.createTenant({ pgVersion: options.pgVersion });
    const tar = packDataDirectory(pgdata);
    tar.on("data", (chunk: Uint8Array) => options.onBytes(chunk.length));
    const imported = await client.importDataDirectory({ branch: MAIN_BRANCH, tar, signal });
    rmSync(temporary, { recursive: true, force: true });
    return imported;
  } catch (error) {
    throw signal.aborted ? error : (diskFull(error) ?? withSavedLog(error, logPath));
  }
}

/** Starts the pageserver; should somebody who knows nothing of our reservations take its port, on another one. */
async function startServer(
  repository: Repository,
  signal: AbortSignal,
  undo: AsyncDisposableStack,
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const server = new PageserverProcess(repository);
    undo.defer(() => stopServer(server, repository));
    try {
      await server.start({ signal });
      return;
    } catch (error) {
      if (attempt >= PORT_ATTEMPTS_MAX || !isPortInUse(error)) throw error;
    }
    const port = await reservePort({ first: PAGESERVER_PORT, owner: repository.configPath });
    undo.defer(() => port.release());
    await repository.changeSetting("pageserver.listen", `127.0.0.1:${port.port}`);
  }
}

function clientOf(repository: Repository): PageserverClient {
  return new PageserverClient({
    baseUrl: pageserverUrl(repository.config),
    token: repository.config.pageserver.authToken,
    tenantId: repository.config.defaultTenantId,
  });
}

/** A server that an interrupted init has left running is stopped before its files go. */
async function clearUnfinished(root: string, onStep: (step: string) => void): Promise<void> {
  onStep("clearing what an interrupted `neon init` left");
  const leftover = await Repository.openUnfinished(root);
  if (leftover) await stopServer(new PageserverProcess(leftover), leftover);
  killWorkers(join(root, ".neon", TEMPORARY, PGDATA));
  await Repository.removeUnfinished(root);
}

/** After a failure: removes everything, the marker last, so that being killed here leaves what can be recognised. */
async function takeBack(root: string): Promise<void> {
  killWorkers(join(root, ".neon", TEMPORARY, PGDATA));
  if ((await repositoryState(root)) === "unfinished") await Repository.removeUnfinished(root);
  rmSync(join(root, ".neon"), { recursive: true, force: true, maxRetries: 5 });
}

/** Ends the pageserver, also one that was started so recently that it has not written down its pid. */
async function stopServer(server: PageserverProcess, repository: Repository): Promise<void> {
  await server.stop({ force: true }).catch(() => false);
  killWorkers(repository.pageserverDirectory);
}

/** Ends what still works in a directory: a server that has not written its pid yet, the Postgres of an initdb. */
function killWorkers(directory: string): void {
  if (!existsSync(directory)) return;
  for (const pid of processesWorkingIn(realpathSync(directory))) {
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      if (systemCode(error) !== "ESRCH") throw fileError(`cannot end process ${pid}`, error);
    }
  }
}

/** Creates a directory; returns the topmost one that had to be made. */
function makeDirectory(path: string): string | undefined {
  try {
    return mkdirSync(path, { recursive: true });
  } catch (error) {
    throw fileError(`cannot create ${path}`, error);
  }
}

/** A full disk is reported by initdb among everything else that it says, by the pageserver as something to wait for. */
function diskFull(error: unknown): NeonError | undefined {
  if (!/no space left on device|quota exceeded/i.test(messageOf(error))) return undefined;
  return new NeonError(ErrorCode.Resource, "the disk is full: the database cluster could not be created", {
    hint: "Make room (an empty database takes about 100 MiB while it is made), then run `neon init` again.",
    cause: error,
  });
}

/** The log goes away with the half-made repository, so what is needed to understand the failure is kept elsewhere. */
function withSavedLog(error: unknown, logPath: string): unknown {
  let log: string;
  try {
    log = readFileSync(logPath, "utf8");
  } catch {
    return error;
  }
  if (log.trim() === "" || !(error instanceof NeonError)) return error;
  // For these the error says it all, and a log in the temporary directory would only be litter.
  const clear: ErrorCode[] = [ErrorCode.Usage, ErrorCode.Unsupported, ErrorCode.Resource];
  if (clear.includes(error.code)) return error;
  const copy = join(mkdtempSync(join(tmpdir(), "neon-init-")), "pageserver.log");
  appendFileSync(copy, log, { mode: 0o600 });
  return new NeonError(error.code, error.message, {
    hint: `Nothing was left in ${dirname(dirname(logPath))}; the pageserver's log is kept in ${copy}.`,
    data: error.data,
    cause: error,
  });
}
