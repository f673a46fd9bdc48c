/**
 * The last steps of a transfer, one after another in the tenant's queue of changes: timelines are made longer or made,
 * ancestors first, and the branch gets its name. Until then nothing that others see has changed. That everything is still
 * as it was when the plan was made is checked again here, so that of two transfers to one branch exactly one wins.
 */
import { join } from "node:path";
import { AssertionError, ErrorCode, NeonError, corrupt } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Clock, Files } from "../../base/seams.ts";
import { parseControlFile } from "../../postgres/control-file.ts";
import { versionByMajor } from "../../postgres/versions/versions.ts";
import { StoreCache } from "../../storage/store-cache.ts";
import { type AdoptedLayer, type Retention, TimelineStore } from "../../storage/store.ts";
import { CONTROL_FILE_KEY } from "../ingest/keyspace.ts";
import { loadIngestState } from "../ingest/load-state.ts";
import { makeReconstructor } from "../read/make-reconstructor.ts";
import { writeTimelineMetadata } from "../timeline/metadata.ts";
import { checkRefName } from "../timeline/refs.ts";
import type { ClusterIdentity, ServedTimeline } from "../timeline/served-timeline.ts";
import { lastStoredStart } from "../timeline/stored-windows.ts";
import type { Publication, Tenant } from "../timeline/tenant.ts";
import type { Tenants } from "../timeline/tenants.ts";
import { type TenantView, isReadable, namedTimeline } from "./description.ts";
import type { Operation, PeerCluster } from "./identity.ts";
import type { PlannedStep, TransferPlan } from "./plan.ts";
import { exchangeOf, viewTenant } from "./tenant-view.ts";

const CACHE_BYTES = 4 * 1024 * 1024;

export interface PublishOptions {
  readonly operation: Operation;
  readonly tenantId: TenantId;
  readonly branch: string;
  readonly cluster: PeerCluster;
  /** Files of the layers, in the order of the plan; they are moved. */
  readonly paths: readonly string[];
  /** For what is put together to see whether it holds. */
  readonly trialDirectory: string;
}

export interface PublishDependencies {
  readonly tenants: Tenants<ServedTimeline>;
  readonly files: Files;
  readonly clock: Clock;
}

export function tenantIfAny(
  tenants: Tenants<ServedTimeline>,
  id: TenantId,
): Tenant<ServedTimeline> | undefined {
  for (const entry of tenants.list()) {
    if (entry.kind === "broken" && entry.id === id) throw entry.error;
    if (entry.kind === "open" && entry.tenant.id === id) return entry.tenant;
  }
  return undefined;
}

/** Throws `conflict` if the plan does not fit what is here, be it from the start or since it was made. */
export function checkPlan(
  plan: TransferPlan,
  view: TenantView,
  { branch, operation }: { branch: string; operation: Operation },
): void {
  checkRefName(branch);
  const changed = (what: string): NeonError =>
    new NeonError(ErrorCode.Conflict, `branch "${branch}" cannot be taken in: ${what}`, {
      hint: `It was changed meanwhile. Look at it again and repeat the ${operation}.`,
    });
  const named = namedTimeline(view, branch);
  const [first] = plan.steps;
  if (first?.kind === "extend") checkExtension(first, plan, { view, branch, changed });
  else if (named) throw changed("there is a branch of that name");
  for (const [index, step] of plan.steps.entries()) {
    if (step.kind === "extend") continue;
    if (view.has(step.timelineId)) throw changed(`timeline ${step.timelineId} is here already`);
    if (index === 0 && step.ancestor) checkAncestor(step.ancestor, view, changed);
  }
}

function checkExtension(
  step: PlannedStep,
  plan: TransferPlan,
  { view, branch, changed }: { view: TenantView; branch: string; changed: (what: string) => NeonError },
): void {
  const timeline = view.get(step.timelineId);
  if (!timeline) throw changed(`timeline ${step.timelineId} is gone`);
  if (timeline.hasWriter) {
    throw new NeonError(ErrorCode.Conflict, `a compute writes to branch "${branch}"`, {
      hint: "Stop it first: neon pg stop",
      data: { relation: "in_use" },
    });
  }
  if (timeline.endLsn !== step.fromLsn) throw changed(`it ends at ${formatLsn(timeline.endLsn)} by now`);
  const isOurs = timeline.names.includes(branch);
  if (!isOurs && timeline.names.length > 0) throw changed(`its timeline is that of another branch`);
  if (!isOurs && namedTimeline(view, branch)) throw changed("there is a branch of that name");
  if (isOurs && plan.steps.length > 1) throw corrupt("a branch can only go on in its own timeline");
}

function checkAncestor(
  { timelineId, lsn }: NonNullable<PlannedStep["ancestor"]>,
  view: TenantView,
  changed: (what: string) => NeonError,
): void {
  const ancestor = view.get(timelineId);
  if (!ancestor) throw changed(`timeline ${timelineId} is gone`);
  if (lsn < ancestor.startLsn || lsn > ancestor.endLsn) {
    throw corrupt(`timeline ${timelineId} has no ${formatLsn(lsn)}`, { lsn: formatLsn(lsn) });
  }
  if (!isReadable(ancestor, lsn)) throw changed(`what it stands on was garbage collected`);
}

/** All of it, or nothing that a branch shows. */
export async function publish(
  plan: TransferPlan,
  options: PublishOptions,
  dependencies: PublishDependencies,
): Promise<void> {
  const { tenants, files } = dependencies;
  const cluster = clusterOf(options.cluster);
  const existing = tenantIfAny(tenants, options.tenantId);
  const tenant =
    existing ??
    (await tenants.create({ id: options.tenantId, pgVersion: cluster.pgVersion }).catch((error: unknown) => {
      if (!(error instanceof NeonError && error.code === ErrorCode.Exists)) throw error;
      return tenants.get(options.tenantId);
    }));
  await using cache = new StoreCache({ capacityBytes: CACHE_BYTES }, { files });
  await tenant.publishTimelines(async (publication) => {
    checkPlan(plan, viewTenant(tenant), options);
    const publisher = new Publisher(tenant, publication, { options, cluster, cache, files });
    let before: ServedTimeline | undefined;
    for (const step of plan.steps) before = await publisher.apply(step, before);
    if (before) await publication.name(options.branch, before.id);
  });
}

/** What the sender says of its cluster, as far as we know such clusters. Throws `unsupported`. */
function clusterOf(peer: PeerCluster): ClusterIdentity {
  const pgVersion = versionByMajor(peer.pgMajor);
  if (pgVersion.catalogVersion !== peer.catalogVersion) {
    throw new NeonError(
      ErrorCode.Unsupported,
      `catalog version ${pgVersion.catalogVersion} here, ${peer.catalogVersion} there: they do not go together`,
    );
  }
  const { segmentSize, systemId } = peer;
  if (segmentSize < 2 ** 20 || segmentSize > 2 ** 30 || !Number.isInteger(Math.log2(segmentSize))) {
    throw corrupt(`WAL segments of ${segmentSize} bytes`, { segment_size: segmentSize });
  }
  return { pgVersion, systemId, segmentSize };
}

class Publisher {
  private readonly tenant: Tenant<ServedTimeline>;
  private readonly publication: Publication<ServedTimeline>;
  private readonly options: PublishOptions;
  private readonly cluster: ClusterIdentity;
  private readonly cache: StoreCache;
  private readonly files: Files;
  private nextPath = 0;

  constructor(
    tenant: Tenant<ServedTimeline>,
    publication: Publication<ServedTimeline>,
    parts: { options: PublishOptions; cluster: ClusterIdentity; cache: StoreCache; files: Files },
  ) {
    this.tenant = tenant;
    this.publication = publication;
    this.options = parts.options;
    this.cluster = parts.cluster;
    this.cache = parts.cache;
    this.files = parts.files;
  }

  /** `before` is the timeline of the step before. */
  async apply(step: PlannedStep, before: ServedTimeline | undefined): Promise<ServedTimeline> {
    const layers = step.layers.map(({ descriptor }) => ({
      temporaryPath: this.options.paths[this.nextPath++] as string,
      descriptor,
    }));
    try {
      return step.kind === "extend"
        ? await this.extend(step, layers)
        : await this.create(step, layers, before);
    } catch (error) {
      // A rule of ours that data from elsewhere does not keep is no bug.
      if (error instanceof AssertionError) {
        throw corrupt(`what was received does not hold: ${error.message}`, {}, error);
      }
      throw error;
    }
  }

  private async extend(step: PlannedStep, layers: readonly AdoptedLayer[]): Promise<ServedTimeline> {
    const timeline = this.tenant.timeline(step.timelineId);
    const exchange = exchangeOf(timeline);
    if (step.toLsn === step.fromLsn) return timeline;
    await exchange.checkpoint();
    if (exchange.store.durableLsn !== step.fromLsn) {
      throw new NeonError(
        ErrorCode.Failed,
        `timeline ${timeline.id} cannot be put into layer files up to ${formatLsn(step.fromLsn)}`,
      );
    }
    const tried = await this.tryOut(step, layers, { store: exchange.store, lsn: step.fromLsn });
    const retention = step.retention && (await retentionAbove(timeline, step.retention));
    await exchange.extend({
      history: step.history,
      layers: tried,
      endLsn: step.toLsn,
      ...(retention ? { retention } : {}),
    });
    return timeline;
  }

  /**
   * Puts the layers on top of the timeline in a place of their own and loads what ingest would: a timeline that others
   * use must not be broken by what does not hold together. Returns where the files are now.
   */
  private async tryOut(
    step: PlannedStep,
    layers: readonly AdoptedLayer[],
    ancestor: { store: TimelineStore; lsn: Lsn },
  ): Promise<AdoptedLayer[]> {
    const { files, cache } = this;
    const directory = join(this.options.trialDirectory, "trial");
    await files.removeTree(directory);
    const trial = await TimelineStore.create(
      { directory, startLsn: step.fromLsn, ancestor },
      { files, cache },
    );
    try {
      await trial.adopt(layers, step.toLsn, step.retention);
      await this.checkEnd(trial, step);
      return trial.layers().map((descriptor) => ({ temporaryPath: trial.pathOf(descriptor), descriptor }));
    } finally {
      await trial[Symbol.asyncDispose]();
    }
  }

  private async checkEnd(store: TimelineStore, step: PlannedStep): Promise<void> {
    const lsn = step.toLsn;
    const previousLsn =
      store.retainedPoint(lsn)?.previousLsn ??
      (await lastStoredStart(store, { belowLsn: lsn, fromLsn: step.fromLsn }));
    if (previousLsn === undefined)
      throw corrupt(`no record ends at ${formatLsn(lsn)}`, { lsn: formatLsn(lsn) });
    const reconstructor = await makeReconstructor(store, this.cluster.pgVersion, lsn);
    await loadIngestState({ store, reconstructor, lsn, previousLsn, startLsn: step.fromLsn });
  }

  private async create(
    step: PlannedStep,
    layers: readonly AdoptedLayer[],
    before: ServedTimeline | undefined,
  ): Promise<ServedTimeline> {
    const { files, cache } = this;
    this.publication.checkIdFree(step.timelineId);
    const ancestor = step.ancestor && {
      timeline: before ?? this.tenant.timeline(step.ancestor.timelineId),
      lsn: step.ancestor.lsn,
    };
    if (ancestor) {
      const boundary = await ancestor.timeline.recordBoundary(ancestor.lsn);
      if (boundary.endLsn !== ancestor.lsn) throw corrupt(`no record ends at ${formatLsn(ancestor.lsn)}`);
    }
    const storeAncestor = ancestor && { store: exchangeOf(ancestor.timeline).store, lsn: ancestor.lsn };
    const timeline = await this.publication.place({
      id: step.timelineId,
      cluster: this.cluster,
      ancestor,
      fill: async (directory) => {
        const store = await TimelineStore.create(
          { directory: join(directory, "layers"), startLsn: step.fromLsn, ancestor: storeAncestor },
          { files, cache },
        );
        try {
          if (step.toLsn > step.fromLsn || layers.length > 0)
            await store.adopt(layers, step.toLsn, step.retention);
        } finally {
          await store[Symbol.asyncDispose]();
        }
        await writeTimelineMetadata(files, directory, {
          id: step.timelineId,
          ancestor: step.ancestor,
          ...(step.importId === step.timelineId ? {} : { importId: step.importId }),
          history: step.history,
          writer: undefined,
          createdAt: step.createdAt,
        });
      },
    });
    if (!ancestor) await this.checkCluster(timeline);
    if (step.toLsn > step.fromLsn) await this.checkEnd(exchangeOf(timeline).store, step);
    return timeline;
  }

  /** The control file that came along must be of the cluster that the sender named. */
  private async checkCluster(timeline: ServedTimeline): Promise<void> {
    const { store } = exchangeOf(timeline);
    const value = (await store.get(CONTROL_FILE_KEY, store.durableLsn)).values[0];
    const control = value && parseControlFile(value.bytes);
    if (
      control?.systemId === this.cluster.systemId &&
      control.walSegmentSize === this.cluster.segmentSize &&
      control.version.major === this.cluster.pgVersion.major
    ) {
      return;
    }
    throw corrupt("the control file that was received is that of another cluster");
  }
}

/** What of a timeline is readable when it has become longer with a gap above its end: also all that is so now. */
async function retentionAbove(
  { startLsn, maintenance, exchange }: ServedTimeline,
  { cutoff }: Retention,
): Promise<Retention> {
  const store = exchange?.store;
  if (store === undefined || maintenance === undefined) {
    throw new NeonError(ErrorCode.Unsupported, "this timeline cannot have a gap in its history");
  }
  const { retention } = store;
  const [lowest, end = lowest] = await maintenance.describe([
    retention?.cutoff.lsn ?? startLsn,
    store.durableLsn,
  ]);
  if (lowest === undefined || end === undefined) throw new AssertionError("points are described");
  const stretches = [...(retention?.stretches ?? []), { from: lowest, to: end }];
  return { cutoff, points: retention?.points ?? [], stretches };
}
