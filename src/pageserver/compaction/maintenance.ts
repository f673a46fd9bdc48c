/**
 * What is done to a timeline's layers beside reading and writing: compaction, and garbage collection in its steps. One
 * thing at a time; everything may be cut short at any moment.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, lsnMax, lsnMin, toLsn } from "../../base/lsn.ts";
import type { Clock } from "../../base/seams.ts";
import {
  type CompactionPolicy,
  type CompactionResult,
  addImages,
  compactStore,
} from "../../storage/compact.ts";
import type { CompactionRequest, WrittenOutput } from "../../storage/compaction-job.ts";
import type { LayerDescriptor } from "../../storage/layer-file.ts";
import { LayerKind } from "../../storage/layer-format.ts";
import { type GcPlan, planGc } from "../../storage/plan-gc.ts";
import { countFlushed } from "../../storage/plan-merge.ts";
import type { AnnouncedCutoff } from "../../storage/retention.ts";
import type { RetainedPoint, Retention, Stretch, TimelineStore } from "../../storage/store.ts";
import { findCommitAtOrBefore } from "../timeline/commit-times.ts";
import type { RecordBoundary } from "../timeline/record-boundary.ts";
import { SerialQueue } from "../timeline/serial-queue.ts";
import type { ClusterIdentity } from "../timeline/served-timeline.ts";
import type { CompactionRunner } from "./compaction-thread.ts";
import { PAGES_END } from "./prepare-images.ts";
import { GARBAGE_IMAGES, type PolicyLimits, backgroundPolicy, thoroughPolicy } from "./policy.ts";

/** How much slower WAL is taken in for each layer that is too many, in milliseconds per layer. */
const PAUSE_PER_LAYER_MS = 200;
const PAUSE_MS_MAX = 10_000;

export interface MaintainedTimeline {
  readonly store: TimelineStore;
  readonly cluster: ClusterIdentity;
  recordBoundary(lsn: Lsn): Promise<RecordBoundary>;
  commitTimeAt(lsn: Lsn): Promise<number | null>;
  /** Puts what is in memory into layer files. */
  checkpoint(): Promise<void>;
}

/** Read each time they are needed: they may change. */
export interface MaintenanceOptions extends PolicyLimits {
  /** Flushed layers above which `keepPace` takes time; undefined if nothing merges them by itself. */
  readonly flushedLayersMax?: number | undefined;
}

/** How much history is kept; the larger of the two counts. */
export interface RetentionSettings {
  readonly pitrIntervalMs: number;
  readonly gcHorizonBytes: number;
}

export interface CollectedGarbage extends GcPlan {
  /** Of images that were made so that something could be removed. */
  readonly imageBytes: number;
}

export class Maintenance {
  private readonly timeline: MaintainedTimeline;
  private readonly runner: CompactionRunner;
  private readonly clock: Clock;
  private readonly options: MaintenanceOptions;
  private readonly queue = new SerialQueue();
  private readonly stopping = new AbortController();
  /** What the last compaction left, and by which rules it was done. */
  private settled: (PolicyLimits & { readonly layers: readonly LayerDescriptor[] }) | undefined;

  constructor(
    timeline: MaintainedTimeline,
    options: MaintenanceOptions,
    dependencies: { readonly runner: CompactionRunner; readonly clock: Clock },
  ) {
    this.timeline = timeline;
    this.options = options;
    this.runner = dependencies.runner;
    this.clock = dependencies.clock;
  }

  /** Layers that wait to be merged. */
  get flushedLayers(): number {
    return countFlushed(this.timeline.store.layers());
  }

  /** Takes the longer, the further compaction is behind: called before each new layer, it slows down whoever writes. */
  async keepPace(): Promise<void> {
    const { flushedLayersMax } = this.options;
    if (flushedLayersMax === undefined) return;
    const tooMany = this.flushedLayers - flushedLayersMax;
    if (tooMany <= 0 || this.stopping.signal.aborted) return;
    const pauseMs = Math.min(tooMany * PAUSE_PER_LAYER_MS, PAUSE_MS_MAX);
    await sleep(pauseMs, undefined, { signal: this.stopping.signal }).catch(() => undefined);
  }

  /** Merges layers and makes images; `thorough`: whatever makes reads quicker, otherwise what is worth its space. */
  compact({ thorough }: { thorough: boolean }): Promise<CompactionResult> {
    return this.queue.run(async () => {
      this.checkOpen();
      const { store } = this.timeline;
      if (thorough) await this.timeline.checkpoint();
      const policy = thorough ? thoroughPolicy(this.options) : this.policy;
      const result = await compactStore(store, policy, (request) => this.run(request));
      const { flushedLayersMin, layerBytesMax, imageLayersMax } = this.options;
      this.settled = { layers: store.layers(), flushedLayersMin, layerBytesMax, imageLayersMax };
      return result;
    });
  }

  /** Whether compaction in the background may find something to do. */
  get isUnsettled(): boolean {
    const layers = this.timeline.store.layers();
    const { settled, options } = this;
    if (layers.length === 0) return false;
    return (
      settled?.layers.length !== layers.length ||
      settled.layers.at(-1)?.name !== layers.at(-1)?.name ||
      settled.flushedLayersMin !== options.flushedLayersMin ||
      settled.layerBytesMax !== options.layerBytesMax ||
      settled.imageLayersMax !== options.imageLayersMax
    );
  }

  private get policy(): CompactionPolicy {
    return backgroundPolicy(this.options);
  }

  /**
   * Where history that is kept may begin; undefined if all of it is kept. The cutoff is never below the present one; below
   * that, `wantedLsn` says what of the stretches may go.
   */
  async planCutoff(
    settings: RetentionSettings,
  ): Promise<{ readonly wantedLsn: Lsn; readonly cutoff: RecordBoundary } | undefined> {
    const { store, cluster } = this.timeline;
    const endLsn = store.durableLsn;
    const unixMs = this.clock.now() - settings.pitrIntervalMs;
    const atTime =
      settings.pitrIntervalMs === 0
        ? endLsn
        : await findCommitAtOrBefore(store, cluster.pgVersion, { unixMs, endLsn });
    const bySize = toLsn(Math.max(0, endLsn - settings.gcHorizonBytes));
    const wantedLsn = lsnMin(atTime ?? store.startLsn, bySize);
    const cutoffLsn = lsnMax(wantedLsn, store.gcCutoffLsn);
    if (cutoffLsn <= store.startLsn) return undefined;
    return { wantedLsn, cutoff: await this.timeline.recordBoundary(cutoffLsn) };
  }

  /** What is left of the stretches if history is kept from an LSN on. */
  async cutStretches(wantedLsn: Lsn): Promise<Stretch[]> {
    const kept: Stretch[] = [];
    for (const { from, to } of this.timeline.store.retention?.stretches ?? []) {
      if (to.lsn <= wantedLsn) continue;
      if (from.lsn >= wantedLsn) kept.push({ from, to });
      else {
        const { endLsn } = await this.timeline.recordBoundary(wantedLsn);
        const [cut = from] = await this.describe([endLsn]);
        kept.push({ from: cut, to });
      }
    }
    return kept;
  }

  /** What is to be remembered of points that are readable now. */
  async describe(lsns: readonly Lsn[]): Promise<RetainedPoint[]> {
    const points: RetainedPoint[] = [];
    for (const lsn of [...new Set(lsns)].sort((a, b) => a - b)) {
      const known = this.timeline.store.retainedPoint(lsn);
      if (known !== undefined) {
        points.push(known);
        continue;
      }
      const { endLsn, previousLsn } = await this.timeline.recordBoundary(lsn);
      const commitMs = await this.timeline.commitTimeAt(endLsn);
      points.push({ lsn: endLsn, previousLsn, commitMs });
    }
    return points;
  }

  /** Puts what is in memory into layer files: the cutoff lies at most at their end. */
  async checkpoint(): Promise<void> {
    await this.timeline.checkpoint();
  }

  /** Nobody begins to read below the cutoff from now on, except what is kept; until disposed of. */
  announce(announced: AnnouncedCutoff): Disposable {
    return this.timeline.store.announceCutoff(announced);
  }

  /** Writes down what of the history is still readable. */
  async retain(retention: Retention): Promise<void> {
    const { store } = this.timeline;
    if (JSON.stringify(store.retention) !== JSON.stringify(retention)) await store.retain(retention);
  }

  /** Bytes of layers that a read at the end does not need. */
  async historyBytes(): Promise<number> {
    return (await this.beyondNeed([])).reduce((sum, layer) => sum + layer.sizeBytes, 0);
  }

  /** Names of layers that reads at the end and at these points do not need. */
  async notNeededFor(lsns: readonly Lsn[]): Promise<ReadonlySet<string>> {
    return new Set((await this.beyondNeed(lsns)).map(({ name }) => name));
  }

  private async beyondNeed(lsns: readonly Lsn[]): Promise<readonly LayerDescriptor[]> {
    const point = (lsn: Lsn): RetainedPoint => ({ lsn, previousLsn: lsn, commitMs: null });
    const retention = { cutoff: point(this.timeline.store.durableLsn), points: lsns.map(point) };
    return (await this.planGc(retention)).removable;
  }

  /** What could go under a retention, as the layers are now, and with others besides. */
  private planGc(retention: Retention, added: readonly LayerDescriptor[] = []): Promise<GcPlan> {
    return planGc({
      layers: [...this.timeline.store.layers(), ...added],
      cutoffLsn: retention.cutoff.lsn,
      points: retention.points.map((point) => point.lsn),
      stretches: (retention.stretches ?? []).map(({ from, to }) => ({ fromLsn: from.lsn, toLsn: to.lsn })),
      imagesWithin: this.policy.imagesWithin,
    });
  }

  /** Removes what the store's retention does not need, after making images where they free more than they take. */
  collect({ thorough }: { thorough: boolean }): Promise<CollectedGarbage> {
    return this.queue.run(async () => {
      this.checkOpen();
      const { store } = this.timeline;
      const { retention } = store;
      if (retention === undefined) return { removable: [], kept: [], imageBytes: 0 };
      const images = await this.addGarbageImages(retention, { thorough });
      const plan = await this.planGc(retention);
      await store.replaceLayers([], new Set(plan.removable.map((layer) => layer.name)));
      return { ...plan, imageBytes: images.reduce((sum, { descriptor }) => sum + descriptor.sizeBytes, 0) };
    });
  }

  /** What `collect` would do under a retention. Makes the images, to see how large they are, and removes them again. */
  rehearse(retention: Retention, { thorough }: { thorough: boolean }): Promise<CollectedGarbage> {
    return this.queue.run(async () => {
      this.checkOpen();
      const images = await this.addGarbageImages(retention, { thorough, rehearsal: true });
      const descriptors = images.map(({ descriptor }) => descriptor);
      const { removable, kept } = await this.planGc(retention, descriptors);
      const imageBytes = descriptors.reduce((sum, descriptor) => sum + descriptor.sizeBytes, 0);
      return { removable, kept, imageBytes };
    });
  }

  /** Ends what is going on and takes nothing more. */
  async close(): Promise<void> {
    this.stopping.abort(closed());
    await this.queue.run(() => Promise.resolve());
  }

  /**
   * At the last end of a layer below the cutoff, so that the layers up to there can go. Never below an image that is there:
   * what that one hides may have gone already, so older states can no longer be put together.
   */
  private async addGarbageImages(
    retention: Retention,
    { thorough, rehearsal = false }: { readonly thorough: boolean; readonly rehearsal?: boolean },
  ): Promise<WrittenOutput[]> {
    const { store } = this.timeline;
    const { kept } = await this.planGc(retention);
    const candidates = kept.filter(({ by }) => by.kind === "cutoff" && by.only);
    if (!candidates.some(({ layer }) => layer.kind === LayerKind.Delta)) return [];
    const there = store
      .layers()
      .filter(({ kind, endLsn }) => kind === LayerKind.Image && endLsn <= retention.cutoff.lsn);
    const lsn = [...candidates.map(({ layer }) => layer), ...there]
      .map((layer) => layer.endLsn)
      .reduce(lsnMax, store.startLsn);
    const names = candidates.map(({ layer }) => layer.name);
    const images = {
      // Where there are images of this LSN, none are made.
      names: [
        ...new Set([...names, ...there.filter(({ endLsn }) => endLsn === lsn).map(({ name }) => name)]),
      ],
      cuts: [PAGES_END],
      ...GARBAGE_IMAGES[thorough ? "thorough" : "background"],
    };
    return addImages(store, { ...this.policy, images, lsn, rehearsal }, (request) => this.run(request));
  }

  private run(request: CompactionRequest): Promise<WrittenOutput[]> {
    return this.runner.run(request, this.timeline.cluster.pgVersion.major, this.stopping.signal);
  }

  private checkOpen(): void {
    this.stopping.signal.throwIfAborted();
  }
}

function closed(): NeonError {
  return new NeonError(ErrorCode.Unreachable, "the timeline is being closed");
}
