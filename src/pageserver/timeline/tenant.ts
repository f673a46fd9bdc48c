/**
 * A tenant: one Postgres cluster's family of timelines, and the branches that name them. On disk:
 *
 *     tenants/<tenant>/tenant.json               see docs/formats/tenant.md
 *     tenants/<tenant>/refs/<branch>             see docs/formats/refs.md
 *     tenants/<tenant>/timelines/<timeline>/     metadata.json and what the timeline keeps there
 *
 * A timeline lives as long as a ref names it or a living timeline branches from it; `timelines.ts` deletes the rest. So
 * a branch is created timeline first and ref last, and deleted ref first: no crash leaves half of one.
 */
import { join } from "node:path";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type TenantId, type TimelineId, newTimelineId } from "../../base/ids.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Clock, Files, Random } from "../../base/seams.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { type TenantCheckOptions, type TenantReport, checkTenant } from "../check/check-tenant.ts";
import { type RepairReport, repairTenant } from "../check/repair.ts";
import { surveyTenant } from "../check/survey.ts";
import { removeInterruptedWrite } from "./json-file.ts";
import { Spool } from "../basebackup/spool.ts";
import { type DiskUsage, diskUsage } from "../compaction/disk-usage.ts";
import { newScratchPath, removeScratch } from "../transfer/staging-directory.ts";
import { type Ref, Refs, branchNotFound, checkRefName } from "./refs.ts";
import { SerialQueue } from "./serial-queue.ts";
import type { ClusterIdentity, ServedTimeline, TimelineFactory } from "./served-timeline.ts";
import {
  TENANT_FILE,
  type TenantMetadata,
  readTenantMetadata,
  writeTenantMetadata,
} from "./tenant-metadata.ts";
import {
  DEFAULT_TENANT_SETTINGS,
  type TenantOverrides,
  type TenantSettings,
  effectiveSettings,
} from "./tenant-settings.ts";
import { type TenantLog, type TimelineEntry, Timelines } from "./timelines.ts";

export interface TenantDependencies<T extends ServedTimeline> {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: TenantLog;
  readonly timelines: TimelineFactory<T>;
  /** Of the server; a tenant may have others. */
  readonly settings?: TenantSettings;
}

/** What may be done within `Tenant.publishTimelines`. */
export interface Publication<T extends ServedTimeline> {
  /** Throws `exists`. */
  checkIdFree(id: TimelineId): void;
  /** A timeline whose files `fill` puts into the directory, opened. */
  place(options: {
    id: TimelineId;
    cluster: ClusterIdentity;
    ancestor: { timeline: T; lsn: Lsn } | undefined;
    fill: (directory: string) => Promise<void>;
  }): Promise<T>;
  /** Gives a timeline a branch's name, unless it has it already. Throws `exists` if another one has it. */
  name(name: string, id: TimelineId): Promise<void>;
}

/** A branch together with what it names. */
export interface Branch {
  readonly ref: Ref;
  readonly entry: TimelineEntry<ServedTimeline>;
}

export class Tenant<T extends ServedTimeline> implements AsyncDisposable {
  readonly id: TenantId;
  private metadata: TenantMetadata;
  private readonly directory: string;
  private readonly refs: Refs;
  private readonly timelines: Timelines<T>;
  private readonly dependencies: TenantDependencies<T>;
  private readonly changes = new SerialQueue();
  /** Branch names that an import, which takes long, will give out. */
  private readonly reserved = new Set<string>();

  private constructor(
    directory: string,
    metadata: TenantMetadata,
    refs: Refs,
    dependencies: TenantDependencies<T>,
  ) {
    this.id = metadata.id;
    this.directory = directory;
    this.metadata = metadata;
    this.refs = refs;
    this.dependencies = dependencies;
    const timelines = dependencies.timelines.forTenant?.(() => this.overrides) ?? dependencies.timelines;
    this.timelines = new Timelines(join(directory, "timelines"), { ...dependencies, timelines });
  }

  /** A new tenant without timelines; durable when it returns, except for the entry in its parent directory. */
  static async create<T extends ServedTimeline>(
    options: { directory: string; id: TenantId; pgVersion: PgVersion },
    dependencies: TenantDependencies<T>,
  ): Promise<Tenant<T>> {
    const { files, clock } = dependencies;
    await files.makeDirectory(join(options.directory, "refs"));
    await files.makeDirectory(join(options.directory, "timelines"));
    const metadata: TenantMetadata = {
      id: options.id,
      pgVersion: options.pgVersion,
      createdAt: clock.now(),
      cluster: undefined,
      overrides: {},
    };
    // Written last: a directory without it is one whose creation was interrupted.
    await writeTenantMetadata(files, options.directory, metadata);
    const refs = await Refs.open(files, join(options.directory, "refs"));
    return new Tenant(options.directory, metadata, refs, dependencies);
  }

  /** Opens its timelines too. One that cannot be opened is kept as broken; undefined if the tenant was never complete. */
  static async open<T extends ServedTimeline>(
    options: { directory: string; id: TenantId },
    dependencies: TenantDependencies<T>,
  ): Promise<Tenant<T> | undefined> {
    const { files } = dependencies;
    const metadata = await readTenantMetadata(files, options.directory, options.id);
    if (!metadata) return undefined;
    await removeInterruptedWrite(files, join(options.directory, TENANT_FILE));
    await files.makeDirectory(join(options.directory, "refs"));
    await files.makeDirectory(join(options.directory, "timelines"));
    await removeScratch(options.directory, files);
    const refs = await Refs.open(files, join(options.directory, "refs"));
    // A timeline is deleted because no ref names it: that must be as durable as the deletion.
    await files.syncDirectory(join(options.directory, "refs"));
    const tenant = new Tenant(options.directory, metadata, refs, dependencies);
    await tenant.timelines.open(metadata.cluster, refs);
    return tenant;
  }

  get pgVersion(): PgVersion {
    return this.metadata.pgVersion;
  }

  get systemId(): bigint | undefined {
    return this.cluster?.systemId;
  }

  /** Undefined as long as there is no timeline. */
  get cluster(): ClusterIdentity | undefined {
    return this.timelines.size > 0 ? this.metadata.cluster : undefined;
  }

  /** Milliseconds since 1970. */
  get createdAt(): number {
    return this.metadata.createdAt;
  }

  /** Settings of its own. */
  get overrides(): TenantOverrides {
    return this.metadata.overrides;
  }

  /** Its own, and the server's where it has none. */
  get settings(): TenantSettings {
    return effectiveSettings(this.dependencies.settings ?? DEFAULT_TENANT_SETTINGS, this.overrides);
  }

  /** 1 where nobody has said another one. */
  get generation(): number {
    return this.metadata.generation ?? 1;
  }

  /** Throws `usage` for one that is older than what was said before. */
  async setGeneration(generation: number): Promise<void> {
    await this.changes.run(async () => {
      const { generation: known } = this.metadata;
      if (generation === known) return;
      if (known !== undefined && generation < known) {
        throw new NeonError(
          ErrorCode.Usage,
          `generation ${generation} of tenant ${this.id} is over: there was ${known} already`,
        );
      }
      await this.saveMetadata({ generation });
    });
  }

  /** Changes its own settings: durable when it returns, and in effect from then on. */
  async configure(change: (own: TenantOverrides) => TenantOverrides): Promise<void> {
    await this.changes.run(() => this.saveMetadata({ overrides: change(this.overrides) }));
  }

  private async saveMetadata(changes: Partial<TenantMetadata>): Promise<void> {
    const metadata: TenantMetadata = { ...this.metadata, ...changes };
    await writeTenantMetadata(this.dependencies.files, this.directory, metadata);
    this.metadata = metadata;
  }

  /** Whether an import is under way. */
  get importing(): boolean {
    return this.reserved.size > 0;
  }

  /** All branches, sorted by name; with damaged ones. */
  branches(): Branch[] {
    return this.refs.list().map((ref) => this.branchOf(ref));
  }

  /** Refs whose files cannot be read. */
  get damagedRefs(): ReadonlyMap<string, NeonError> {
    return this.refs.damaged;
  }

  /** Throws `not_found`, or `corrupt` where the branch's file is damaged. */
  branch(name: string): Branch {
    const ref = this.refs.get(name);
    if (ref) return this.branchOf(ref);
    throw this.refs.damaged.get(name) ?? branchNotFound(name);
  }

  /** The first of the names of a timeline, or undefined if it has none. */
  nameOf(timelineId: TimelineId): string | undefined {
    return this.refs.namesOf(timelineId)[0];
  }

  /** All names of a timeline, sorted. */
  namesOf(timelineId: TimelineId): string[] {
    return this.refs.namesOf(timelineId);
  }

  /** All timelines, with those that have no name. */
  timelineEntries(): ReadonlyMap<TimelineId, TimelineEntry<T>> {
    return this.timelines.settled();
  }

  /** Throws `not_found`, or what keeps the timeline from being opened. */
  timeline(id: TimelineId): T {
    return this.timelines.get(id);
  }

  /** The timeline that holds this LSN: the one asked for, or the ancestor that it still had at that time. */
  timelineAt(id: TimelineId, lsn: Lsn): T {
    let timeline = this.timelines.get(id);
    while (lsn < timeline.startLsn && timeline.ancestor) {
      timeline = this.timelines.get(timeline.ancestor.timelineId);
    }
    return timeline;
  }

  /** A new branch at `lsn`, which must be the end of a durable record of that timeline. Its timeline gets `id`, if given. */
  async createBranch(
    name: string,
    from: TimelineId,
    lsn: Lsn,
    id: TimelineId = newTimelineId(this.dependencies.random),
  ): Promise<Branch> {
    return this.changes.run(async () => {
      this.checkNameFree(name);
      const parent = this.timelineAt(from, lsn);
      await this.timelines.create({
        id,
        cluster: parent.cluster,
        ancestor: { timeline: parent, lsn },
        createdAt: this.dependencies.clock.now(),
      });
      return this.publish(name, id);
    });
  }

  /**
   * A root timeline from the tar of a data directory, and a branch that names it. `endLsn` is where it is to end: throws
   * `usage` if it does not.
   */
  async import(options: {
    branch: string;
    timelineId: TimelineId | undefined;
    tar: AsyncIterable<Uint8Array>;
    endLsn?: Lsn | undefined;
  }): Promise<{ branch: Branch; timeline: T }> {
    const id = options.timelineId ?? newTimelineId(this.dependencies.random);
    await this.changes.run(async () => {
      this.checkNameFree(options.branch);
      this.timelines.checkFree(id);
      this.reserved.add(options.branch);
    });
    try {
      const timeline = await this.timelines.import({
        id,
        expected: { pgVersion: this.pgVersion, systemId: this.systemId },
        tar: options.tar,
        endLsn: options.endLsn,
        createdAt: this.dependencies.clock.now(),
      });
      const { endLsn } = options;
      if (endLsn !== undefined && timeline.lastRecordLsn !== endLsn) {
        const found = formatLsn(timeline.lastRecordLsn);
        await this.changes.run(() => this.timelines.discard(id));
        throw new NeonError(
          ErrorCode.Usage,
          `the data directory ends at ${found}, not at ${formatLsn(endLsn)}`,
        );
      }
      const branch = await this.changes.run(async () => {
        this.reserved.delete(options.branch);
        await this.adoptCluster(timeline);
        return this.publish(options.branch, id);
      });
      return { branch, timeline };
    } finally {
      this.reserved.delete(options.branch);
    }
  }

  /** Throws `conflict` while the timeline has children or an open writer and no other name. */
  async deleteBranch(name: string): Promise<void> {
    await this.changes.run(async () => {
      const { ref } = this.branch(name);
      if (this.refs.namesOf(ref.timelineId).length === 1) this.checkUnused(ref);
      await this.refs.delete(name);
      await this.timelines.removeUnreachable(this.refs);
    });
  }

  async renameBranch(name: string, newName: string): Promise<Branch> {
    return this.changes.run(async () => {
      this.branch(name);
      this.checkNameFree(newName);
      await this.refs.rename(name, newName);
      return this.branch(newName);
    });
  }

  /** For what is taken in before it is looked at. */
  newSpool(): Spool {
    const { files, random } = this.dependencies;
    return new Spool(newScratchPath(this.directory, random), files);
  }

  /** Where its bytes are. */
  diskUsage(): Promise<DiskUsage> {
    return diskUsage(this, this.directory, this.dependencies.files);
  }

  /** Reads and verifies everything that the tenant has on disk, while it is worked on. */
  async check(options: Omit<TenantCheckOptions, "isAlive">): Promise<TenantReport> {
    const { files } = this.dependencies;
    const survey = await this.changes.run(() =>
      surveyTenant(
        {
          directory: this.directory,
          tenantFile: TENANT_FILE,
          cluster: this.metadata.cluster,
          refs: this.refs,
          timelines: this.timelines,
          readTenantFile: () => readTenantMetadata(files, this.directory, this.id),
        },
        files,
      ),
    );
    const isAlive = (id: TimelineId): boolean => this.timelines.settled().has(id);
    return checkTenant(survey, files, { ...options, isAlive });
  }

  /** Does something about what a check finds, or only says what could be done. What becomes readable is opened. */
  async repair(options: Omit<TenantCheckOptions, "isAlive"> & { apply: boolean }): Promise<RepairReport> {
    const report = await this.check(options);
    return this.changes.run(async () => {
      const { directory, refs, timelines, metadata } = this;
      const { files } = this.dependencies;
      const writeTenantFile = (): Promise<void> => writeTenantMetadata(files, directory, metadata);
      const subject = { directory, tenantFile: TENANT_FILE, refs, timelines, writeTenantFile };
      const repaired = await repairTenant(subject, report, files, {
        signal: options.signal,
        apply: options.apply,
      });
      if (options.apply && repaired.steps.length > 0) await timelines.openAgain(metadata.cluster, refs);
      return repaired;
    });
  }

  /**
   * Runs a change in which timelines are placed and at last named. If it fails, what was placed is removed again; a
   * crash leaves timelines that nothing names.
   */
  async publishTimelines<R>(job: (publication: Publication<T>) => Promise<R>): Promise<R> {
    return this.changes.run(async () => {
      const placed: TimelineId[] = [];
      const publication: Publication<T> = {
        checkIdFree: (id) => {
          this.timelines.checkFree(id);
        },
        place: async (options) => {
          const timeline = await this.timelines.place(options);
          placed.push(options.id);
          await this.adoptCluster(timeline);
          return timeline;
        },
        name: async (name, id) => {
          if (this.refs.get(name)?.timelineId === id) return;
          this.checkNameFree(name);
          await this.refs.update(name, undefined, id);
        },
      };
      try {
        const result = await job(publication);
        for (const id of placed) this.timelines.settle(id);
        return result;
      } catch (error) {
        for (const id of placed.reverse()) await this.timelines.discard(id);
        throw error;
      }
    });
  }

  /** Runs a change of a timeline's right to write; changes of one tenant never overlap. */
  async change<R>(job: () => Promise<R>): Promise<R> {
    return this.changes.run(job);
  }

  /** Waits for changes under way, then closes all timelines. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.changes.run(() => this.timelines.close());
  }

  private branchOf(ref: Ref): Branch {
    return { ref, entry: this.timelines.entry(ref.timelineId) };
  }

  /** Throws `usage` for what is no name and `exists` for one that is taken. */
  checkNameFree(name: string): void {
    checkRefName(name);
    this.refs.checkFree(name);
    if (this.reserved.has(name)) {
      throw new NeonError(ErrorCode.Exists, `branch "${name}" is being created by another request`);
    }
  }

  private checkUnused(ref: Ref): void {
    const children = this.timelines.childrenOf(ref.timelineId).map((child) => this.nameOf(child) ?? child);
    if (children.length > 0) {
      const names = children.sort().slice(0, 5).join(", ");
      throw new NeonError(
        ErrorCode.Conflict,
        `branch "${ref.name}" has ${children.length === 1 ? "a child" : `${children.length} children`}: ${names}`,
        { hint: "Delete the children first.", data: { children: children.length } },
      );
    }
    const entry = this.timelines.entry(ref.timelineId);
    const writer = entry.kind === "open" ? entry.timeline.writer : undefined;
    if (!writer) return;
    throw new NeonError(ErrorCode.Conflict, `branch "${ref.name}" is in use by compute "${writer.name}"`, {
      hint: `Stop it first: neon pg stop ${writer.name}`,
      data: { writer: writer.name },
    });
  }

  /** The last step of a creation. A timeline that gets no name is removed again. */
  private async publish(name: string, id: TimelineId): Promise<Branch> {
    try {
      await this.refs.update(name, undefined, id);
    } catch (error) {
      await this.timelines.discard(id);
      throw error;
    }
    this.timelines.settle(id);
    return this.branch(name);
  }

  /** The first import says which cluster this is; later ones must be of the same. */
  private async adoptCluster(timeline: T): Promise<void> {
    const { cluster } = timeline;
    try {
      if (cluster.pgVersion.major !== this.pgVersion.major) {
        throw new NeonError(
          ErrorCode.Usage,
          `the data directory is of Postgres ${cluster.pgVersion.major}, tenant ${this.id} of ${this.pgVersion.major}`,
          { hint: "Create another tenant for it." },
        );
      }
      // Timelines made by interrupted imports do not bind the tenant: they are gone after a restart.
      const known = this.systemId;
      if (known === cluster.systemId) return;
      if (known !== undefined) {
        throw new NeonError(
          ErrorCode.Conflict,
          `the data directory has system identifier ${cluster.systemId}, tenant ${this.id} has ${known}`,
          { hint: "A tenant holds one Postgres cluster: create another tenant for this one." },
        );
      }
      await this.saveMetadata({ cluster });
    } catch (error) {
      await this.timelines.discard(timeline.id);
      throw error;
    }
  }
}
