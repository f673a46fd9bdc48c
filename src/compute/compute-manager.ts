/**
 * The computes of a repository: Postgres servers on branches. Every operation on one compute holds its lock, so that
 * two commands never work on the same one.
 */
import { readdirSync } from "node:fs";
import { chmod, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import type { RecoveryPlan } from "../client/recovery.ts";
import { fileError } from "../repository/atomic-file.ts";
import { withLock } from "../repository/lock.ts";
import { type ReservedPort, isPortInUse, reservePort } from "../repository/ports.ts";
import { checkRefName } from "../repository/ref-name.ts";
import type { Repository } from "../repository/repository.ts";
import { type PgBinaries, findBinaries } from "./binaries.ts";
import {
  type ComputeContext,
  type ComputeEvents,
  type ComputePageserver,
  leaseName,
} from "./compute-context.ts";
import { type ComputeRecord, readComputeFile, writeComputeFile } from "./compute-file.ts";
import { type ComputeInfo, computeInfo } from "./compute-info.ts";
import { ComputePaths } from "./compute-paths.ts";
import { startCompute } from "./compute-start.ts";
import { type StopMode, stopCompute } from "./compute-stop.ts";
import { type ComputeVerification, type VerifyOptions, verifyCompute } from "./compute-verify.ts";
import { removeTree } from "./directory-setup.ts";
import { findPostmaster, waitForOrphans } from "./postmaster.ts";
import type { RecoveryOptions, RecoveryRequest } from "./recovery-verify.ts";
import { chooseRunAs } from "./run-as.ts";
import type { CommitMode } from "./settings.ts";

export type { ComputeInfo, ComputeState } from "./compute-info.ts";

/** Where the search for a compute's port begins. */
const FIRST_PORT = 55432;
/** How many ports are tried when they are taken between choosing and listening. */
const PORT_ATTEMPTS_MAX = 5;

export interface ComputeManagerOptions {
  readonly repository: Repository;
  readonly client: ComputePageserver;
  /** URI of the client's pageserver where that is not the repository's own. */
  readonly pageserver?: string | undefined;
  /** A client of the pageserver at a URI, for computes on branches elsewhere. Throws `usage`. */
  readonly connect?: ((uri: string) => ComputePageserver) | undefined;
  /** Those of all tenants, not only of the client's. Names are unique in the repository all the same. */
  readonly allTenants?: boolean | undefined;
  /** Those to use, or how to find them when a Postgres is to be started; by default what `findBinaries` finds. */
  readonly binaries?: PgBinaries | (() => Promise<PgBinaries>) | undefined;
  /** User that Postgres runs as when we are root; `postgres`, else `nobody`, when not given. */
  readonly runAs?: string | undefined;
  readonly events?: ComputeEvents;
}

export interface CreateComputeOptions {
  readonly name: string;
  readonly branch: string;
  /** Makes a read-only compute that shows the branch at that LSN; without it a writing one at the branch's end. */
  readonly point?: { readonly lsn: Lsn } | undefined;
  readonly port?: number | undefined;
  readonly commit: CommitMode;
  readonly start: boolean;
}

export class ComputeManager {
  private readonly repository: Repository;
  private readonly client: ComputePageserver;
  private readonly pageserver: string | null;
  private readonly connect: ComputeManagerOptions["connect"];
  private readonly binaries: PgBinaries | (() => Promise<PgBinaries>) | undefined;
  private readonly runAs: string | undefined;
  private readonly events: ComputeEvents;
  private readonly allTenants: boolean;

  constructor(options: ComputeManagerOptions) {
    this.repository = options.repository;
    this.client = options.client;
    this.pageserver = options.pageserver ?? null;
    this.connect = options.connect;
    this.binaries = options.binaries;
    this.runAs = options.runAs;
    this.events = options.events ?? {};
    this.allTenants = options.allTenants ?? false;
  }

  /** Makes a compute and starts it if asked to. When the start fails, nothing is left of it. */
  async create(options: CreateComputeOptions): Promise<ComputeInfo> {
    const { name } = options;
    checkRefName(name, "compute");
    return this.locked(name, async () => {
      const existing = this.read(name);
      if (existing) {
        throw new NeonError(
          ErrorCode.Exists,
          `there is a compute "${name}" already, on branch "${existing.branch}"${this.foreignTenant(existing)}`,
          {
            hint: `Start it with \`neon pg start ${name}\`, or give the new one another name.`,
          },
        );
      }
      const branch = await this.client.getBranch(options.branch);
      if (!options.point && options.start) this.refuseSecondWriter(branch.timelineId, branch.name, name);
      const lsn = options.point
        ? (await this.client.resolve(branch.timelineId, { lsn: options.point.lsn })).lsn
        : branch.lastRecordLsn;
      const draft = {
        name,
        branch: branch.name,
        tenantId: this.client.tenantId,
        timelineId: branch.timelineId,
        pageserver: this.pageserver,
        mode: options.point ? "read-only" : "read-write",
        commit: options.commit,
        pgVersion: await this.pgVersion(),
        lsn,
        epoch: null,
        process: null,
        bootId: null,
        stop: null,
      } as const;
      const wanted = options.port ?? this.repository.config.computes[name]?.port;
      for (let attempt = 1; ; attempt++) {
        const record = await this.write(draft, wanted);
        if (!options.start) return computeInfo(record, this.paths(name));
        try {
          return computeInfo(
            await startCompute(this.context(record), record, this.paths(name)),
            this.paths(name),
          );
        } catch (error) {
          await this.releaseMoment(record);
          await this.discard(name);
          // Somebody who knows nothing of our reservations was faster; any other port will do.
          if (wanted !== undefined || attempt >= PORT_ATTEMPTS_MAX || !isPortInUse(error)) throw error;
        }
      }
    });
  }

  /** Makes the directory of a new compute, with its file, on the wanted or any free port. */
  private async write(
    draft: Omit<ComputeRecord, "port">,
    wanted: number | undefined,
  ): Promise<ComputeRecord> {
    const port = await this.reservePort(draft.name, wanted);
    try {
      const record: ComputeRecord = { ...draft, port: port.port };
      const paths = this.paths(draft.name);
      await makeComputeDirectory(paths, chooseRunAs(this.runAs) !== undefined);
      // The paths are looked up again: the directory exists only now.
      await writeComputeFile(this.paths(draft.name).file, record);
      return record;
    } finally {
      port.release();
    }
  }

  /** Starts a compute; one that runs already stays as it is. */
  async start(name: string, options: { readonly port?: number | undefined } = {}): Promise<ComputeInfo> {
    return this.locked(name, async () => {
      const record = this.mustRead(name);
      const paths = this.paths(name);
      const info = computeInfo(record, paths);
      if (info.state === "running") {
        if (options.port === undefined || options.port === record.port) return info;
        throw new NeonError(ErrorCode.Conflict, `compute "${name}" runs on port ${record.port} already`, {
          hint: `\`neon pg stop ${name}\` first.`,
        });
      }
      if (record.mode === "read-write") this.refuseSecondWriter(record.timelineId, record.branch, name);
      const wanted = options.port === undefined ? record : { ...record, port: options.port };
      return computeInfo(await startCompute(this.context(record), wanted, paths), paths);
    });
  }

  /** Stops a compute; one that does not run is no error. */
  async stop(name: string, options: { readonly mode: StopMode } = { mode: "fast" }): Promise<ComputeInfo> {
    return this.locked(name, async () => this.stopLocked(this.mustRead(name), options.mode));
  }

  async restart(name: string): Promise<ComputeInfo> {
    return this.locked(name, async () => {
      const paths = this.paths(name);
      await this.stopLocked(this.mustRead(name), "fast");
      const record = this.mustRead(name);
      return computeInfo(await startCompute(this.context(record), record, paths), paths);
    });
  }

  /**
   * Removes a compute and its data directory; the branch stays. Refused, unless forced, while it runs and while it
   * may hold commits that the pageserver lacks.
   */
  async destroy(name: string, options: { readonly force: boolean } = { force: false }): Promise<void> {
    await this.locked(name, async () => {
      let record = this.mustRead(name);
      const paths = this.paths(name);
      const running = findPostmaster(paths.pgdata, record.process) !== undefined;
      if (running && !options.force) {
        throw new NeonError(ErrorCode.Conflict, `compute "${name}" is running`, {
          hint: `Stop it first with \`neon pg stop ${name}\`, or add --force.`,
        });
      }
      if (!options.force && mayHoldUnsentCommits(record)) {
        throw new NeonError(
          ErrorCode.Conflict,
          `compute "${name}" may hold commits that the pageserver does not have yet`,
          { hint: `Start and stop it to send them, or add --force to lose them.` },
        );
      }
      if (running) record = await stopCompute(this.context(record), record, paths, "immediate");
      await this.closeWriterForGood(record, options.force);
      await this.releaseMoment(record);
      await this.discard(name);
    });
  }

  /** Has a stopped compute's directory compared with its branch. Throws `not_checked` if that cannot be done. */
  async verify(name: string, options: VerifyOptions = {}): Promise<ComputeVerification> {
    return this.locked(name, async () => {
      const record = this.mustRead(name);
      return verifyCompute(this.context(record), record, this.paths(name), options);
    });
  }

  /** Has moments of a branch recovered by stock Postgres and compared. Throws `not_checked` if that cannot be done. */
  async verifyByRecovery(request: RecoveryRequest, options: RecoveryOptions): Promise<RecoveryPlan> {
    return withLock(this.repository.lockPath("verify"), "`neon verify`", async () => {
      const { verifyByRecovery } = await import("./recovery-verify.ts");
      const major = await this.pgVersion();
      const context: ComputeContext = {
        pageserver: this.client,
        binaries: () => this.findBinaries(major),
        user: chooseRunAs(this.runAs),
        events: this.events,
        root: this.repository.root,
      };
      return verifyByRecovery(context, request, this.repository.verifyDirectory, options);
    });
  }

  /** All computes, sorted by name. */
  async list(): Promise<ComputeInfo[]> {
    const records = this.records().filter((record) => this.isOurs(record));
    return Promise.resolve(records.map((record) => computeInfo(record, this.paths(record.name))));
  }

  /** One compute. Throws `not_found`. */
  async get(name: string): Promise<ComputeInfo> {
    return Promise.resolve(computeInfo(this.mustRead(name), this.paths(name)));
  }

  logPath(name: string): string {
    return this.paths(name).log;
  }

  /** Stops every compute that runs. Tries all, then throws the first failure. Returns those that were stopped. */
  async stopAll(options: { readonly mode: StopMode } = { mode: "fast" }): Promise<ComputeInfo[]> {
    const running = (await this.list()).filter((info) => info.state === "running");
    const results = await Promise.allSettled(running.map((info) => this.stop(info.name, options)));
    const failed = results.find((result) => result.status === "rejected");
    if (failed) throw failed.reason;
    return results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  }

  private async stopLocked(record: ComputeRecord, mode: StopMode): Promise<ComputeInfo> {
    const paths = this.paths(record.name);
    if (computeInfo(record, paths).state === "stopped") return computeInfo(record, paths);
    return computeInfo(await stopCompute(this.context(record), record, paths, mode), paths);
  }

  /** Two writers of one branch are refused by the pageserver; this says so earlier, and names the other one. */
  private refuseSecondWriter(timelineId: string, branch: string, name: string): void {
    for (const other of this.records()) {
      if (other.name === name || other.timelineId !== timelineId || other.mode !== "read-write") continue;
      const { state } = computeInfo(other, this.paths(other.name));
      if (state === "stopped") continue;
      const verb = state === "running" ? "runs" : "has crashed and not been stopped";
      throw new NeonError(
        ErrorCode.Conflict,
        `branch "${branch}" has a compute that writes to it already: "${other.name}", which ${verb}`,
        {
          hint: `Use it, stop it with \`neon pg stop ${other.name}\`, or make a branch of your own: \`neon branch NAME ${branch}\`.`,
          data: { compute: other.name },
        },
      );
    }
  }

  /** The major version of the client's tenant. */
  private async pgVersion(): Promise<number> {
    const tenants = await this.client.listTenants();
    const own = tenants.find((tenant) => tenant.tenantId === this.client.tenantId);
    return own?.pgVersion ?? this.repository.config.pgVersion;
  }

  private async reservePort(name: string, wanted: number | undefined): Promise<ReservedPort> {
    const avoid = new Set(this.records().map((record) => record.port));
    const owner = this.paths(name).file;
    return reservePort({ first: FIRST_PORT, wanted, avoid, owner });
  }

  /** If that fails, the lease ends by itself. */
  private async releaseMoment(record: ComputeRecord): Promise<void> {
    if (record.mode !== "read-only") return;
    const name = leaseName(record, this.repository.root);
    await this.pageserverOf(record)
      .lease?.(record.timelineId, name)
      .catch(() => undefined);
  }

  private async closeWriterForGood(record: ComputeRecord, force: boolean): Promise<void> {
    if (record.epoch === null) return;
    try {
      await this.pageserverOf(record).closeWriter(record.timelineId, record.epoch);
    } catch (error) {
      if (error instanceof NeonError && error.code === ErrorCode.NotFound) return;
      if (!force) throw error;
      this.events.caution?.(`The pageserver still waits for compute ${record.name}: ${messageOf(error)}.`);
    }
  }

  private async discard(name: string): Promise<void> {
    const paths = this.paths(name);
    await waitForOrphans(paths.pgdata);
    // Without its file it is no compute any more, whatever else an interruption leaves.
    await rm(paths.file, { force: true });
    await removeTree(paths.directory);
  }

  private context(record: ComputeRecord): ComputeContext {
    return {
      pageserver: this.pageserverOf(record),
      binaries: () => this.findBinaries(record.pgVersion),
      user: chooseRunAs(this.runAs),
      events: this.events,
      root: this.repository.root,
    };
  }

  /** A client of the pageserver that has the compute's branch. */
  private pageserverOf(record: ComputeRecord): ComputePageserver {
    if (record.pageserver === null || record.pageserver === this.pageserver || !this.connect) {
      return this.client.withTenant(record.tenantId);
    }
    return this.connect(record.pageserver).withTenant(record.tenantId);
  }

  private async findBinaries(major: number): Promise<PgBinaries> {
    if (typeof this.binaries === "function") return this.binaries();
    const { pgBin, pgVersion } = this.repository.config;
    // The setting is for the default tenant; those of other versions use what is found.
    return this.binaries ?? findBinaries({ configured: major === pgVersion ? pgBin : undefined, major });
  }

  private paths(name: string): ComputePaths {
    return new ComputePaths(this.repository.computeDirectory(name));
  }

  private read(name: string): ComputeRecord | undefined {
    const record = readComputeFile(this.paths(name).file);
    return record?.name === name ? record : undefined;
  }

  private mustRead(name: string): ComputeRecord {
    checkRefName(name, "compute");
    const record = this.read(name);
    if (record && this.isOurs(record)) return record;
    if (record) {
      throw new NeonError(ErrorCode.NotFound, `compute "${name}" is${this.foreignTenant(record)}`, {
        hint: `Add --tenant-id ${record.tenantId}, or make that tenant the default: \`neon tenant use ${record.tenantId}\`.`,
        data: { compute: name },
      });
    }
    throw new NeonError(ErrorCode.NotFound, `there is no compute "${name}"`, {
      hint: `\`neon pg list\` shows the computes; \`neon pg create ${name}\` makes one.`,
      data: { compute: name },
    });
  }

  private isOurs(record: ComputeRecord): boolean {
    return this.allTenants || record.pageserver !== null || record.tenantId === this.client.tenantId;
  }

  /** ` of tenant …` where that is another than ours. */
  private foreignTenant(record: ComputeRecord): string {
    return record.tenantId === this.client.tenantId ? "" : ` of tenant ${record.tenantId}`;
  }

  /** The records of all computes; one that is damaged is pointed out and left out. */
  private records(): ComputeRecord[] {
    let names: string[];
    try {
      names = readdirSync(this.repository.computesDirectory).sort();
    } catch (error) {
      if (systemCode(error) === "ENOENT") return [];
      throw fileError(`cannot read ${this.repository.computesDirectory}`, error);
    }
    const records: ComputeRecord[] = [];
    for (const name of names) {
      try {
        const record = readComputeFile(join(this.repository.computesDirectory, name, "compute.json"));
        if (record) records.push(record);
      } catch (error) {
        this.events.caution?.(`${messageOf(error)}.`);
      }
    }
    return records;
  }

  private locked<T>(name: string, fn: () => Promise<T>): Promise<T> {
    return withLock(this.repository.lockPath(`compute-${name}`), `compute "${name}"`, fn);
  }
}

/** Its own files are ours; Postgres' user only passes through to the data directory. */
async function makeComputeDirectory(paths: ComputePaths, otherUser: boolean): Promise<void> {
  try {
    // Left by a `destroy` or `create` that was interrupted, if it is there.
    await waitForOrphans(paths.pgdata);
    await removeTree(paths.directory);
    await mkdir(paths.directory, { recursive: true });
    await chmod(paths.directory, otherUser ? 0o711 : 0o700);
  } catch (error) {
    throw fileError(`cannot create ${paths.directory}`, error);
  }
}

function mayHoldUnsentCommits(record: ComputeRecord): boolean {
  return (
    record.mode === "read-write" &&
    record.commit === "local" &&
    record.bootId !== null &&
    !(record.process === null && record.stop?.ingested === true)
  );
}
