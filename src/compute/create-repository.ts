/**
 * Making a repository: `.neon` with its config and a running pageserver, which the caller fills. Nothing is left behind when
 * that fails or is interrupted; if even the cleaning up is cut off, a marker in `.neon` says so and the next `neon init` or
 * `neon clone` starts over.
 */
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ErrorCode, NeonError } from "../base/errors.ts";
import type { TenantId } from "../base/ids.ts";
import { fileError } from "../repository/atomic-file.ts";
import { acquireLock } from "../repository/lock.ts";
import { isPortInUse, reservePort } from "../repository/ports.ts";
import { LOCKS, Repository, newConfig, repositoryState, stateError } from "../repository/repository.ts";
import { clearFreshCluster, diskFull } from "./fresh-cluster.ts";
import { PageserverProcess } from "./pageserver-process.ts";
import { killWorkers } from "./process-identity.ts";

/** Where the search for the pageserver's port begins. */
const PAGESERVER_PORT = 9898;
/** How many ports are tried when they are taken between choosing and listening. */
const PORT_ATTEMPTS_MAX = 5;
/** Where initdb works, below `.neon`. */
export const TEMPORARY = "init";

export interface CreateRepositoryOptions {
  /** Directory that gets a `.neon`; created if missing. Absolute. */
  readonly root: string;
  readonly pgVersion: number;
  readonly pgBin?: string | undefined;
  readonly tenantId: TenantId;
  readonly signal: AbortSignal;
  readonly onStep: (step: string) => void;
}

export interface CreatedRepository<T> {
  readonly repository: Repository;
  readonly filled: T;
  /** Stops its pageserver and removes it again, with the directory if that was made for it. */
  readonly remove: () => Promise<void>;
}

/** Throws `exists` for a complete repository, `conflict` where `.neon` is something else or another init is at work. */
export async function checkRoot(root: string): Promise<void> {
  const state = await repositoryState(root);
  // Another init that is at work just now passes through states that say nothing; its lock does.
  const inTheMaking = state === "foreign" && existsSync(join(root, ".neon", LOCKS));
  if (state !== "none" && state !== "unfinished" && !inTheMaking) throw stateError(state, root);
}

/**
 * Makes a repository that `fill` puts data into: it is given the repository and a way to start its pageserver. Throws as
 * `checkRoot` does.
 */
export async function createRepository<T>(
  options: CreateRepositoryOptions,
  fill: (repository: Repository, startPageserver: () => Promise<void>) => Promise<T>,
): Promise<CreatedRepository<T>> {
  const { root, onStep } = options;
  await checkRoot(root);
  const directory = join(root, ".neon");

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
  const config = newConfig({ ...options, pageserverPort: port.port });
  const repository = await Repository.create(root, config);
  const filled = await explained(repository, options.signal, () =>
    fill(repository, () => startServer(repository, options.signal, undo)),
  );
  await repository.finishCreation();
  undo.move();
  port.release();
  lock.release();
  const remove = async (): Promise<void> => {
    await stopServer(new PageserverProcess(repository), repository);
    await takeBack(root);
    if (created !== undefined) rmSync(created, { recursive: true, force: true });
  };
  return { repository, filled, remove };
}

/** Errors say what is needed to understand them once the half-made repository is gone. */
async function explained<T>(repository: Repository, signal: AbortSignal, job: () => Promise<T>): Promise<T> {
  const { logPath } = new PageserverProcess(repository);
  try {
    return await job();
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
    // Whichever of its ports it was: all are chosen anew.
    await repository.changeSettings([
      ["pageserver.listen", `127.0.0.1:${port.port}`],
      ["pageserver.listen_libpq", undefined],
      ["pageserver.listen_grpc", undefined],
    ]);
  }
}

/** A server that an interrupted init has left running is stopped before its files go. */
async function clearUnfinished(root: string, onStep: (step: string) => void): Promise<void> {
  onStep("clearing what an interrupted `neon init` or `neon clone` left");
  const leftover = await Repository.openUnfinished(root);
  if (leftover) await stopServer(new PageserverProcess(leftover), leftover);
  clearFreshCluster(join(root, ".neon", TEMPORARY));
  await Repository.removeUnfinished(root);
}

/** After a failure: removes everything, the marker last, so that being killed here leaves what can be recognised. */
async function takeBack(root: string): Promise<void> {
  clearFreshCluster(join(root, ".neon", TEMPORARY));
  if ((await repositoryState(root)) === "unfinished") await Repository.removeUnfinished(root);
  rmSync(join(root, ".neon"), { recursive: true, force: true, maxRetries: 5 });
}

/** Ends the pageserver, also one that was started so recently that it has not written down its pid. */
async function stopServer(server: PageserverProcess, repository: Repository): Promise<void> {
  await server.stop({ force: true }).catch(() => false);
  killWorkers(repository.pageserverDirectory);
}

/** Creates a directory; returns the topmost one that had to be made. */
function makeDirectory(path: string): string | undefined {
  try {
    return mkdirSync(path, { recursive: true });
  } catch (error) {
    throw fileError(`cannot create ${path}`, error);
  }
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
