/**
 * The timelines of a tenant, opened: ancestors before their children, each once, so that children share their
 * ancestor's stores. A timeline that cannot be opened is kept as an entry that says why, and so are its children.
 */
import { join } from "node:path";
import { ErrorCode, NeonError, assert, corrupt, messageOf } from "../../base/errors.ts";
import { type TimelineId, isId, parseTimelineId } from "../../base/ids.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { type TimelineMetadata, readTimelineMetadata } from "./metadata.ts";
import type { Refs } from "./refs.ts";
import type { ClusterIdentity, ServedTimeline, TimelineFactory } from "./served-timeline.ts";

/** What we need of a log; pino's fits. */
export interface TenantLog {
  info(data: object, message: string): void;
  warn(data: object, message: string): void;
  error(data: object, message: string): void;
}

export type TimelineEntry<T> =
  | { readonly kind: "open"; readonly timeline: T }
  | {
      readonly kind: "broken";
      readonly id: TimelineId;
      /** As far as it could be read. */
      readonly metadata: TimelineMetadata | undefined;
      readonly error: NeonError;
    };

interface Dependencies<T extends ServedTimeline> {
  readonly files: Files;
  readonly log: TenantLog;
  readonly timelines: TimelineFactory<T>;
}

export class Timelines<T extends ServedTimeline> {
  private readonly directory: string;
  private readonly dependencies: Dependencies<T>;
  private readonly entries = new Map<TimelineId, TimelineEntry<T>>();
  /** Being created: no ref names them yet, and they are not to be deleted. */
  private readonly unsettled = new Set<TimelineId>();

  constructor(directory: string, dependencies: Dependencies<T>) {
    this.directory = directory;
    this.dependencies = dependencies;
  }

  /** Opens what refs reach and deletes the other directories. */
  async open(cluster: ClusterIdentity | undefined, refs: Refs): Promise<void> {
    const metadata = new Map<TimelineId, TimelineMetadata>();
    /** Reached, but no metadata to be had. */
    const unreadable = new Map<TimelineId, NeonError>();
    const wanted = refs.list().map((ref) => ref.timelineId);
    for (let id = wanted.pop(); id !== undefined; id = wanted.pop()) {
      if (metadata.has(id) || unreadable.has(id)) continue;
      try {
        const read = await readTimelineMetadata(this.dependencies.files, this.path(id), id);
        if (!read) throw corrupt(`timeline ${id} has no metadata.json`, { path: this.path(id) });
        metadata.set(id, read);
        if (read.ancestor) wanted.push(read.ancestor.timelineId);
      } catch (error) {
        unreadable.set(id, asNeonError(error, `read the metadata of timeline ${id}`));
      }
    }
    for (const [id, error] of unreadable) this.setBroken(id, undefined, error);
    for (const id of ancestorsFirst(metadata)) {
      const read = metadata.get(id);
      assert(read !== undefined, "an ordered timeline has metadata");
      await this.openOne(read, cluster);
    }
    // What an unreadable file would have named is unknown, so nothing may be taken for garbage.
    if (unreadable.size > 0 || refs.damaged.size > 0) {
      this.dependencies.log.warn(
        {
          directory: this.directory,
          damagedRefs: [...refs.damaged.keys()],
          damagedTimelines: [...unreadable.keys()],
        },
        "leftovers are kept because some refs or timelines cannot be read",
      );
      return;
    }
    await this.removeLeftovers();
  }

  /** Tries again to open what refs reach and is not open: after a repair. */
  async openAgain(cluster: ClusterIdentity | undefined, refs: Refs): Promise<void> {
    const metadata = new Map<TimelineId, TimelineMetadata>();
    const wanted = refs.list().map((ref) => ref.timelineId);
    for (let id = wanted.pop(); id !== undefined; id = wanted.pop()) {
      if (metadata.has(id) || this.entries.get(id)?.kind === "open") continue;
      const read = await readTimelineMetadata(this.dependencies.files, this.path(id), id).catch(
        () => undefined,
      );
      if (read === undefined) continue;
      metadata.set(id, read);
      if (read.ancestor) wanted.push(read.ancestor.timelineId);
    }
    for (const id of ancestorsFirst(metadata)) {
      const read = metadata.get(id);
      // So that those opened first are closed last.
      this.entries.delete(id);
      if (read) await this.openOne(read, cluster);
    }
  }

  /** Removes the directory of a timeline that is not open and that no ref reaches; does nothing for any other. */
  async removeUnnamed(id: TimelineId, refs: Refs): Promise<void> {
    if (this.entries.has(id) || this.unsettled.has(id) || refs.namesOf(id).length > 0) return;
    if (refs.damaged.size > 0) return;
    await this.dependencies.files.removeTree(this.path(id));
  }

  get size(): number {
    return this.entries.size - this.unsettled.size;
  }

  entry(id: TimelineId): TimelineEntry<T> {
    return (
      this.entries.get(id) ?? {
        kind: "broken",
        id,
        metadata: undefined,
        error: corrupt(`timeline ${id} is missing`, { timeline_id: id }),
      }
    );
  }

  /** All that are open or broken; without those that are being created. */
  settled(): ReadonlyMap<TimelineId, TimelineEntry<T>> {
    return new Map([...this.entries].filter(([id]) => !this.unsettled.has(id)));
  }

  /** Whether it is being created at this moment. */
  isUnsettled(id: TimelineId): boolean {
    return this.unsettled.has(id);
  }

  /** Throws `not_found`, or what keeps the timeline from being opened. */
  get(id: TimelineId): T {
    const entry = this.entries.get(id);
    if (!entry || this.unsettled.has(id)) {
      throw new NeonError(ErrorCode.NotFound, `there is no timeline ${id}`, {
        hint: "`neon branch --json` shows the timelines of the branches.",
      });
    }
    if (entry.kind === "broken") throw entry.error;
    return entry.timeline;
  }

  checkFree(id: TimelineId): void {
    if (!this.entries.has(id) && !this.unsettled.has(id)) return;
    throw new NeonError(ErrorCode.Exists, `timeline ${id} exists already`);
  }

  childrenOf(id: TimelineId): TimelineId[] {
    const children: TimelineId[] = [];
    for (const [child, entry] of this.entries) {
      if (ancestorOf(entry) === id) children.push(child);
    }
    return children;
  }

  /** Creates a branch's timeline; it counts from `settle` on. */
  async create(options: {
    id: TimelineId;
    cluster: ClusterIdentity;
    ancestor: { timeline: T; lsn: Lsn };
    createdAt: number;
  }): Promise<void> {
    await this.build(options.id, (directory) =>
      this.dependencies.timelines.create({ ...options, directory }),
    );
  }

  /** Imports a root timeline; it counts from `settle` on. */
  async import(options: {
    id: TimelineId;
    expected: Parameters<TimelineFactory<T>["import"]>[0]["expected"];
    tar: AsyncIterable<Uint8Array>;
    endLsn?: Lsn | undefined;
    createdAt: number;
  }): Promise<T> {
    return this.build(options.id, (directory) =>
      this.dependencies.timelines.import({ ...options, directory }),
    );
  }

  /** Opens a timeline whose files `fill` puts into its directory; it counts from `settle` on. */
  async place(options: {
    id: TimelineId;
    cluster: ClusterIdentity;
    ancestor: { timeline: T; lsn: Lsn } | undefined;
    fill: (directory: string) => Promise<void>;
  }): Promise<T> {
    const { fill, ...rest } = options;
    return this.build(options.id, async (directory) => {
      await fill(directory);
      return this.dependencies.timelines.open({ ...rest, directory });
    });
  }

  /** A timeline that was just built has got its name. */
  settle(id: TimelineId): void {
    this.unsettled.delete(id);
  }

  /** Undoes `create` or `import`. */
  async discard(id: TimelineId): Promise<void> {
    await this.remove(id);
    this.unsettled.delete(id);
  }

  /** Closes and deletes every timeline that no ref reaches. */
  async removeUnreachable(refs: Refs): Promise<void> {
    const reached = new Set<TimelineId>(this.unsettled);
    const wanted = [...refs.list().map((ref) => ref.timelineId), ...this.unsettled];
    for (let id = wanted.pop(); id !== undefined; id = wanted.pop()) {
      reached.add(id);
      const entry = this.entries.get(id);
      const ancestor = entry && ancestorOf(entry);
      if (ancestor !== undefined && !reached.has(ancestor)) wanted.push(ancestor);
      // As at start-up: a broken timeline does not tell what it stands on.
      if (entry?.kind === "broken" && !entry.metadata) return;
    }
    if (refs.damaged.size > 0) return;
    for (const id of this.entries.keys()) {
      if (!reached.has(id)) await this.remove(id);
    }
  }

  /** Closes all; children before their ancestors. */
  async close(): Promise<void> {
    // Entries were added ancestors first.
    for (const [id, entry] of [...this.entries].reverse()) {
      if (entry.kind === "open") await entry.timeline.close();
      this.entries.delete(id);
    }
  }

  private path(id: TimelineId): string {
    return join(this.directory, id);
  }

  private async build(id: TimelineId, make: (directory: string) => Promise<T>): Promise<T> {
    this.checkFree(id);
    this.unsettled.add(id);
    try {
      await this.dependencies.files.makeDirectory(this.path(id));
      const timeline = await make(this.path(id));
      this.entries.set(id, { kind: "open", timeline });
      await this.dependencies.files.syncDirectory(this.directory);
      return timeline;
    } catch (error) {
      await this.discard(id);
      throw error;
    }
  }

  private async openOne(metadata: TimelineMetadata, cluster: ClusterIdentity | undefined): Promise<void> {
    const { id } = metadata;
    try {
      if (!cluster) throw corrupt(`timeline ${id} is in a tenant whose tenant.json names no cluster`);
      const ancestor = metadata.ancestor && {
        timeline: this.ancestorToOpen(metadata.ancestor.timelineId),
        lsn: metadata.ancestor.lsn,
      };
      const timeline = await this.dependencies.timelines.open({
        directory: this.path(id),
        id,
        cluster,
        ancestor,
      });
      this.entries.set(id, { kind: "open", timeline });
    } catch (error) {
      this.setBroken(id, metadata, asNeonError(error, `open timeline ${id}`));
    }
  }

  private ancestorToOpen(id: TimelineId): T {
    const entry = this.entry(id);
    if (entry.kind === "open") return entry.timeline;
    throw new NeonError(entry.error.code, `its ancestor ${id} is broken: ${entry.error.message}`, {
      cause: entry.error,
    });
  }

  private setBroken(id: TimelineId, metadata: TimelineMetadata | undefined, error: NeonError): void {
    this.entries.set(id, { kind: "broken", id, metadata, error });
    this.dependencies.log.error({ err: error, timeline: id }, "a timeline cannot be opened");
  }

  private async removeLeftovers(): Promise<void> {
    for (const name of await this.dependencies.files.list(this.directory)) {
      if (isId(name) && this.entries.has(parseTimelineId(name))) continue;
      await this.dependencies.files.removeTree(join(this.directory, name));
      this.dependencies.log.info(
        { path: join(this.directory, name) },
        "removed a timeline that nothing names",
      );
    }
  }

  private async remove(id: TimelineId): Promise<void> {
    const entry = this.entries.get(id);
    this.entries.delete(id);
    try {
      if (entry?.kind === "open") await entry.timeline.close();
      await this.dependencies.files.removeTree(this.path(id));
    } catch (error) {
      // The next start removes it: nothing names it.
      this.dependencies.log.warn(
        { err: error, timeline: id },
        "could not remove a timeline that nothing names",
      );
    }
  }
}

function ancestorOf<T extends ServedTimeline>(entry: TimelineEntry<T>): TimelineId | undefined {
  return entry.kind === "open" ? entry.timeline.ancestor?.timelineId : entry.metadata?.ancestor?.timelineId;
}

/** Ids in an order in which each comes after its ancestor. Those in a circle, which only damage can make, come last. */
function ancestorsFirst(metadata: ReadonlyMap<TimelineId, TimelineMetadata>): TimelineId[] {
  const order = new Set<TimelineId>();
  for (const id of metadata.keys()) {
    const chain: TimelineId[] = [];
    const onChain = new Set<TimelineId>();
    let next: TimelineId | undefined = id;
    while (next !== undefined && metadata.has(next) && !order.has(next) && !onChain.has(next)) {
      chain.push(next);
      onChain.add(next);
      next = metadata.get(next)?.ancestor?.timelineId;
    }
    for (const member of chain.reverse()) order.add(member);
  }
  return [...order];
}

function asNeonError(error: unknown, doing: string): NeonError {
  if (error instanceof NeonError) return error;
  return new NeonError(ErrorCode.Failed, `${doing}: ${messageOf(error)}`, { cause: error });
}
