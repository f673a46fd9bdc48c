/**
 * Compaction and garbage collection as time goes by: one timeline at a time, over and over, for each tenant as often as its
 * settings say. A failure is logged and the next round tries again; work that finds nothing to do costs next to nothing.
 */
import { setImmediate as giveWay } from "node:timers/promises";
import { messageOf } from "../../base/errors.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { Tenants } from "../timeline/tenants.ts";
import type { TenantLog } from "../timeline/timelines.ts";
import { collectGarbage } from "./tenant-gc.ts";

/** How long a change of settings, or a new tenant, may wait until it is noticed, in milliseconds. */
const LOOK_MS = 1000;
/** Pause between two looks at least. */
const LOOK_MS_MIN = 10;
/** Pause between two rounds while there is much to do, in milliseconds. */
const BUSY_PAUSE_MS = 200;

/** Timelines that are looked at without giving way to others. */
const TIMELINES_AT_ONCE = 200;

/** When something was last done for a tenant, on the clock of `performance.now`. */
interface Done {
  compactedAt: number;
  collectedAt: number;
  /** Compaction has not come to an end. */
  isBusy: boolean;
}

export class Background implements AsyncDisposable {
  private readonly tenants: Tenants<ServedTimeline>;
  private readonly log: TenantLog;
  private readonly done = new WeakMap<Tenant<ServedTimeline>, Done>();
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> = Promise.resolve();
  private stopped = false;

  constructor({ tenants, log }: { tenants: Tenants<ServedTimeline>; log: TenantLog }) {
    this.tenants = tenants;
    this.log = log;
  }

  start(): void {
    this.lookAgain(0);
  }

  /** Waits for the piece of work under way; those who own the timelines cut it short. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    await this.running;
  }

  private lookAgain(delayMs: number): void {
    this.timer = setTimeout(() => {
      this.running = this.look().then((nextMs) => {
        if (!this.stopped) this.lookAgain(nextMs);
      });
    }, delayMs);
    this.timer.unref();
  }

  /** Does what is due. Returns after how long to look again. */
  private async look(): Promise<number> {
    let nextMs = LOOK_MS;
    for (const entry of this.tenants.list()) {
      if (this.stopped) return LOOK_MS;
      if (entry.kind === "open") nextMs = Math.min(nextMs, await this.attend(entry.tenant));
    }
    return Math.max(LOOK_MS_MIN, nextMs);
  }

  /** Returns after how long the next thing is due. */
  private async attend(tenant: Tenant<ServedTimeline>): Promise<number> {
    const done = this.doneFor(tenant);
    const waits = (): { readonly compact: number; readonly collect: number } => {
      const { compactionPeriodMs, gcPeriodMs } = tenant.settings;
      const pauseMs = done.isBusy ? Math.min(BUSY_PAUSE_MS, compactionPeriodMs) : compactionPeriodMs;
      const now = performance.now();
      return {
        compact: compactionPeriodMs === 0 ? Infinity : done.compactedAt + pauseMs - now,
        collect: gcPeriodMs === 0 ? Infinity : done.collectedAt + gcPeriodMs - now,
      };
    };
    if (waits().compact <= 0) {
      done.isBusy = await this.compact(tenant);
      done.compactedAt = performance.now();
    }
    if (waits().collect <= 0) {
      await this.collect(tenant);
      done.collectedAt = performance.now();
    }
    const { compact, collect } = waits();
    return Math.min(compact, collect);
  }

  private doneFor(tenant: Tenant<ServedTimeline>): Done {
    const known = this.done.get(tenant);
    if (known) return known;
    const now = performance.now();
    const done = { compactedAt: now, collectedAt: now, isBusy: false };
    this.done.set(tenant, done);
    return done;
  }

  private async compact(tenant: Tenant<ServedTimeline>): Promise<boolean> {
    let wasBusy = false;
    let seen = 0;
    for (const [id, timeline] of tenant.timelineEntries()) {
      if (++seen % TIMELINES_AT_ONCE === 0) await giveWay();
      if (this.stopped) return false;
      if (timeline.kind !== "open" || !timeline.timeline.maintenance?.isUnsettled) continue;
      await this.attempt({ timeline: id }, "compact a timeline", async () => {
        const result = await timeline.timeline.maintenance?.compact({ thorough: false });
        if (result && result.merges + result.imageLayers > 0) {
          wasBusy ||= result.merges > 0;
          this.log.info({ timeline: id, ...result }, "compacted");
        }
      });
    }
    return wasBusy;
  }

  private async collect(tenant: Tenant<ServedTimeline>): Promise<void> {
    if (this.stopped) return;
    await this.attempt({ tenant: tenant.id }, "collect garbage", async () => {
      const { pitrIntervalMs, gcHorizonBytes } = tenant.settings;
      const options = { pitrIntervalMs, gcHorizonBytes, dryRun: false, thorough: false };
      for (const report of await collectGarbage(tenant, options)) {
        const { timelineId, removedBytes, removedLayers, writtenBytes } = report;
        if (removedLayers === 0) continue;
        this.log.info(
          { timeline: timelineId, removedBytes, removedLayers, writtenBytes },
          "collected garbage",
        );
      }
    });
  }

  private async attempt(where: object, doing: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!this.stopped) this.log.warn({ ...where, error: messageOf(error) }, `could not ${doing}`);
    }
  }
}
