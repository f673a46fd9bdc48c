/**
 * Compaction and garbage collection as time goes by: one timeline at a time, over and over. A failure is logged and the
 * next round tries again; work that finds nothing to do costs next to nothing.
 */
import { messageOf } from "../../base/errors.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenants } from "../timeline/tenants.ts";
import type { TenantLog } from "../timeline/timelines.ts";
import type { RetentionSettings } from "./maintenance.ts";
import { collectGarbage } from "./tenant-gc.ts";

export interface BackgroundSettings extends RetentionSettings {
  /** Pause between two rounds of compaction, in milliseconds; 0 switches it off. */
  readonly compactionPeriodMs: number;
  /** The same for garbage collection. */
  readonly gcPeriodMs: number;
}

/** Pause between two rounds while there is much to do, in milliseconds. */
const BUSY_PAUSE_MS = 200;

export class Background implements AsyncDisposable {
  private readonly tenants: Tenants<ServedTimeline>;
  private readonly settings: BackgroundSettings;
  private readonly log: TenantLog;
  private readonly timers = new Set<NodeJS.Timeout>();
  private running: Promise<void> = Promise.resolve();
  private stopped = false;

  constructor(
    settings: BackgroundSettings,
    { tenants, log }: { tenants: Tenants<ServedTimeline>; log: TenantLog },
  ) {
    this.settings = settings;
    this.tenants = tenants;
    this.log = log;
  }

  start(): void {
    const { compactionPeriodMs, gcPeriodMs } = this.settings;
    if (compactionPeriodMs > 0) this.repeat(compactionPeriodMs, compactionPeriodMs, () => this.compact());
    if (gcPeriodMs > 0) this.repeat(gcPeriodMs, gcPeriodMs, () => this.collect());
  }

  /** Waits for the piece of work under way; those who own the timelines cut it short. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stopped = true;
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
    await this.running;
  }

  /** Calls `work` one period after the last call has ended, or soon if that had something to do. */
  private repeat(delayMs: number, periodMs: number, work: () => Promise<boolean>): void {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      this.running = this.running.then(async () => {
        if (this.stopped) return;
        const wasBusy = await work();
        if (!this.stopped)
          this.repeat(wasBusy ? Math.min(BUSY_PAUSE_MS, periodMs) : periodMs, periodMs, work);
      });
    }, delayMs);
    timer.unref();
    this.timers.add(timer);
  }

  private async compact(): Promise<boolean> {
    let wasBusy = false;
    for (const entry of this.tenants.list()) {
      if (entry.kind !== "open") continue;
      for (const [id, timeline] of entry.tenant.timelineEntries()) {
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
    }
    return wasBusy;
  }

  private async collect(): Promise<boolean> {
    for (const entry of this.tenants.list()) {
      if (this.stopped) return false;
      if (entry.kind !== "open") continue;
      const { tenant } = entry;
      await this.attempt({ tenant: tenant.id }, "collect garbage", async () => {
        const options = { ...tenant.retention(this.settings), dryRun: false, thorough: false };
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
    return false;
  }

  private async attempt(where: object, doing: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!this.stopped) this.log.warn({ ...where, error: messageOf(error) }, `could not ${doing}`);
    }
  }
}
