/**
 * When the open layer of a timeline is written to disk: when it is large, when it is old, when all timelines together
 * have too much in memory, and when somebody asks. Always between two records.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { TimelineStore } from "../../storage/store.ts";
import type { LayerHolder, LayerMemory } from "./layer-memory.ts";

/** Pause before a layer that could not be written is tried again, in milliseconds. */
const RETRY_MS = 1000;

/** How often the age of the open layer is looked at, in milliseconds. */
const AGE_CHECK_MS = 1000;

/** Read each time they are needed: they may change. */
export interface FlushLimits {
  /** Size of the open layer at which it is written out. */
  readonly checkpointDistanceBytes: number;
  /** An open layer is written out after this time even if it is small. */
  readonly checkpointTimeoutMs: number;
}

export interface FlusherOptions {
  readonly store: TimelineStore;
  readonly limits: FlushLimits;
}

/** The intake whose layers these are. */
export interface FlushedIntake {
  /** The end of the last record that has been ingested. */
  readonly resumeLsn: Lsn;
  readonly failure: Error | undefined;
  /** The rest of a record that could not be ingested at once. */
  readonly pendingRecord: Promise<void> | undefined;
  /** Puts what has been kept back. */
  beforeFreeze(): void;
  /** Makes the raw WAL durable. */
  syncWal(): Promise<void>;
  /** Forgets raw WAL that is in layers. */
  removeWalBelow(lsn: Lsn): Promise<void>;
}

export interface FlusherDependencies {
  /** Of all timelines; without it only the size of the one layer counts. */
  readonly memory?: LayerMemory | undefined;
  /** Waited for before another layer is begun, so that layers do not pile up. */
  readonly beforeLayer?: (() => Promise<void>) | undefined;
  readonly log: { error(data: object, message: string): void };
}

export class LayerFlusher implements LayerHolder, Disposable {
  private readonly options: FlusherOptions;
  private readonly intake: FlushedIntake;
  private readonly dependencies: FlusherDependencies;
  private readonly timer: NodeJS.Timeout;
  private readonly membership: Disposable | undefined;
  private flushing: Promise<void> | undefined;
  private layerSince = 0;
  /** Whether a layer was begun without waiting as `beforeLayer` asks. */
  private isHasty = false;

  constructor(options: FlusherOptions, intake: FlushedIntake, dependencies: FlusherDependencies) {
    this.options = options;
    this.intake = intake;
    this.dependencies = dependencies;
    this.timer = setInterval(() => {
      this.checkpointIfOld();
    }, AGE_CHECK_MS);
    this.timer.unref();
    this.membership = dependencies.memory?.join(this);
  }

  /** Of a timeline that has stopped, nothing can be written any more. */
  get memoryBytes(): number {
    return this.intake.failure ? 0 : this.options.store.memoryBytes;
  }

  get restingBytes(): number {
    if (this.intake.failure) return 0;
    return this.flushing ? this.options.store.openBytes : this.options.store.memoryBytes;
  }

  /** Between records: what must happen before more is put, if anything must. */
  due(): Promise<void> | undefined {
    const { store, limits } = this.options;
    if (store.openBytes >= limits.checkpointDistanceBytes) return this.rotate();
    const room = this.dependencies.memory?.makeRoom(() => this.intake.failure !== undefined);
    return this.isHasty ? this.keepPace(room) : room;
  }

  /** Puts everything ingested so far into layer files. */
  async checkpoint(): Promise<void> {
    const { intake } = this;
    for (;;) {
      await this.settled();
      if (intake.failure) return;
      if (intake.pendingRecord === undefined) break;
      await intake.pendingRecord;
    }
    this.freeze();
    await this.startFlush();
  }

  async writeEarly(): Promise<boolean> {
    this.isHasty = true;
    try {
      await this.checkpoint();
      return true;
    } catch (error) {
      this.logFailure(error);
      return false;
    }
  }

  /** Freezes the open layer and waits until it is on disk: on behalf of a record that has put nothing yet. */
  async writeOut(): Promise<void> {
    await this.settled();
    this.freeze();
    await this.startFlush();
  }

  /** When no layer is being written and no WAL removed; what went wrong with it is told to others. */
  async settled(): Promise<void> {
    await this.flushing?.catch(() => undefined);
  }

  [Symbol.dispose](): void {
    clearInterval(this.timer);
    this.membership?.[Symbol.dispose]();
  }

  /** Freezes the full layer. At most one frozen layer waits for the disk: with a full disk, all wait for it. */
  private async rotate(): Promise<void> {
    await this.settled();
    while (this.options.store.stats.frozenCount > 0 && !this.intake.failure) {
      await sleep(RETRY_MS);
      await this.flushInBackground();
    }
    await this.keepPace(undefined);
    this.freeze();
    void this.flushInBackground();
  }

  private async keepPace(room: Promise<void> | undefined): Promise<void> {
    this.isHasty = false;
    await room;
    await this.dependencies.beforeLayer?.();
  }

  private flushInBackground(): Promise<void> {
    return this.startFlush().catch((error: unknown) => {
      this.logFailure(error);
    });
  }

  private logFailure(error: unknown): void {
    this.dependencies.log.error({ error: messageOf(error) }, "write a layer; it will be tried again");
  }

  private freeze(): void {
    this.intake.beforeFreeze();
    this.options.store.freeze(this.intake.resumeLsn);
    this.layerSince = 0;
  }

  private startFlush(): Promise<void> {
    this.flushing = this.flush().finally(() => {
      this.flushing = undefined;
    });
    // Whoever waits for a turn must not fail because of it: the frozen layer stays and is tried again.
    this.flushing.catch(() => undefined);
    return this.flushing;
  }

  private async flush(): Promise<void> {
    // Layers are never ahead of the WAL on disk, so that after a loss of power the log goes on where they end.
    await this.intake.syncWal();
    await this.options.store.flush();
    await this.intake.removeWalBelow(this.options.store.durableLsn);
  }

  private checkpointIfOld(): void {
    const { intake } = this;
    if (intake.failure || this.flushing || intake.resumeLsn <= this.options.store.durableLsn) {
      this.layerSince = 0;
      return;
    }
    const now = performance.now();
    if (this.layerSince === 0) this.layerSince = now;
    else if (now - this.layerSince >= this.options.limits.checkpointTimeoutMs) {
      this.checkpoint().catch((error: unknown) => {
        this.dependencies.log.error(
          { error: messageOf(error) },
          "write an old layer; it will be tried again",
        );
      });
    }
  }
}
