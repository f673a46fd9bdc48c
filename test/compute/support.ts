/** What the tests of computes share: a temporary place, a repository in it, a cleanly stopped data directory. */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "pg";
import type { PgBinaries } from "../../src/compute/binaries.ts";
import { findBinaries } from "../../src/compute/binaries.ts";
import type { ComputeInfo } from "../../src/compute/compute-manager.ts";
import { ComputeManager } from "../../src/compute/compute-manager.ts";
import { initializeDataDirectory } from "../../src/compute/initdb.ts";
import { processesWorkingIn } from "../../src/compute/process-identity.ts";
import { Repository, newConfig } from "../../src/repository/repository.ts";
import { FakePageserver } from "./fake-pageserver.ts";

export const MAJOR = 17;

/** A directory that the user who runs Postgres can walk through. */
export class TemporaryDirectory implements Disposable {
  readonly path: string;

  constructor() {
    this.path = mkdtempSync(join(tmpdir(), "neon-compute-"));
    chmodSync(this.path, 0o755);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** initdb once for all tests of a file. */
export class Seed implements Disposable {
  readonly binaries: PgBinaries;
  readonly dataDirectory: string;
  private readonly temporary: TemporaryDirectory;

  private constructor(binaries: PgBinaries, temporary: TemporaryDirectory) {
    this.binaries = binaries;
    this.temporary = temporary;
    this.dataDirectory = join(temporary.path, "seed");
  }

  static async create(): Promise<Seed> {
    const seed = new Seed(await findBinaries({ major: MAJOR, environment: {} }), new TemporaryDirectory());
    await initializeDataDirectory(seed.binaries, seed.dataDirectory);
    return seed;
  }

  [Symbol.dispose](): void {
    this.temporary[Symbol.dispose]();
  }
}

/** A repository with a fake pageserver and its computes; everything that runs is ended with it. */
export class Workshop implements AsyncDisposable {
  readonly repository: Repository;
  readonly pageserver: FakePageserver;
  readonly manager: ComputeManager;
  readonly cautions: string[] = [];
  private readonly temporary: TemporaryDirectory;

  private constructor(
    temporary: TemporaryDirectory,
    repository: Repository,
    pageserver: FakePageserver,
    binaries: PgBinaries,
  ) {
    this.temporary = temporary;
    this.repository = repository;
    this.pageserver = pageserver;
    this.manager = new ComputeManager({
      repository,
      client: pageserver,
      binaries,
      events: { caution: (text) => this.cautions.push(text) },
    });
  }

  static async create(seed: Seed): Promise<Workshop> {
    const temporary = new TemporaryDirectory();
    const pageserver = await FakePageserver.create(seed.dataDirectory);
    const config = newConfig({ tenantId: pageserver.tenantId, pgVersion: MAJOR, pageserverPort: 9 });
    const repository = await Repository.create(temporary.path, config);
    await repository.finishCreation();
    return new Workshop(temporary, repository, pageserver, seed.binaries);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const info of await this.manager.list()) {
      for (const pid of processesWorkingIn(info.pgdata)) kill(pid);
      while (processesWorkingIn(info.pgdata).length > 0) await new Promise(setImmediate);
    }
    await this.pageserver[Symbol.asyncDispose]();
    this.temporary[Symbol.dispose]();
  }
}

/** Rows of one statement on a connection of its own. */
export async function query(compute: ComputeInfo, sql: string): Promise<Record<string, unknown>[]> {
  const client = new Client({ connectionString: compute.uri });
  await client.connect();
  try {
    const result = await client.query<Record<string, unknown>>(sql);
    return result.rows;
  } finally {
    await client.end();
  }
}

/** kill -9 of the postmaster alone, as the kernel does when memory runs out. */
export function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // Gone already.
  }
}
