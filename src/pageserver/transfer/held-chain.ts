/**
 * The history that is sent, as it is at one moment: layer files stay until it is let go, and garbage collection gives up
 * nothing of it meanwhile.
 */
import { ErrorCode, NeonError, assert } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { LayerDescriptor, Retention, TimelineStore } from "../../storage/store.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import { type ChainSection, type TenantView, chainOf } from "./description.ts";
import { exchangeOf, viewTenant } from "./tenant-view.ts";

/** A timeline of the history. */
export interface HeldTimeline {
  readonly store: TimelineStore;
  readonly layers: readonly LayerDescriptor[];
  /** What of its history the layers have, if not all. */
  readonly retention: Retention | undefined;
}

export class HeldChain implements Disposable {
  /** All timelines of the tenant. */
  readonly view: TenantView;
  /** From the root on. */
  readonly chain: readonly ChainSection[];
  private readonly timelines: ReadonlyMap<TimelineId, HeldTimeline>;
  private readonly holds: readonly Disposable[];

  private constructor(parts: {
    view: TenantView;
    chain: readonly ChainSection[];
    timelines: ReadonlyMap<TimelineId, HeldTimeline>;
    holds: readonly Disposable[];
  }) {
    this.view = parts.view;
    this.chain = parts.chain;
    this.timelines = parts.timelines;
    this.holds = parts.holds;
  }

  /** First puts everything that is to be sent into layer files. */
  static async take(tenant: Tenant<ServedTimeline>, timelineId: TimelineId): Promise<HeldChain> {
    await settle(tenant, timelineId);
    // Garbage collection decides in the same queue: it sees the holds, or is over.
    return tenant.change(async () => HeldChain.hold(tenant, timelineId));
  }

  private static hold(tenant: Tenant<ServedTimeline>, timelineId: TimelineId): HeldChain {
    const view = new Map(viewTenant(tenant));
    const timelines = new Map<TimelineId, HeldTimeline>();
    const holds: Disposable[] = [];
    for (let id: TimelineId | undefined = timelineId; id !== undefined;) {
      const timeline: ServedTimeline = tenant.timeline(id);
      const { store } = exchangeOf(timeline);
      const pin = store.pin();
      holds.push(pin);
      const hold = timeline.leases?.hold(store.gcCutoffLsn, "a transfer", { wal: true });
      if (hold) holds.push(hold);
      timelines.set(id, { store, layers: pin.layers, retention: store.retention });
      const seen = view.get(id);
      if (seen) view.set(id, { ...seen, endLsn: store.durableLsn });
      id = timeline.ancestor?.timelineId;
    }
    return new HeldChain({ view, chain: chainOf(view, timelineId), timelines, holds });
  }

  /** A timeline of the chain. */
  timeline(id: TimelineId): HeldTimeline {
    const held = this.timelines.get(id);
    assert(held !== undefined, "a timeline of the chain");
    return held;
  }

  [Symbol.dispose](): void {
    for (const hold of this.holds) hold[Symbol.dispose]();
  }
}

/** Throws `failed` where a timeline's layers do not reach to where it is left. */
async function settle(tenant: Tenant<ServedTimeline>, timelineId: TimelineId): Promise<void> {
  let wanted: Lsn | undefined;
  for (let id: TimelineId | undefined = timelineId; id !== undefined;) {
    const timeline: ServedTimeline = tenant.timeline(id);
    const exchange = exchangeOf(timeline);
    if (wanted === undefined || exchange.store.durableLsn < wanted) await exchange.checkpoint();
    if (wanted !== undefined && exchange.store.durableLsn < wanted) {
      throw new NeonError(
        ErrorCode.Failed,
        `timeline ${id} has its layers up to ${formatLsn(exchange.store.durableLsn)} only, ${formatLsn(wanted)} is needed`,
        { hint: "`neon status` shows what keeps it from writing them." },
      );
    }
    wanted = timeline.ancestor?.lsn;
    id = timeline.ancestor?.timelineId;
  }
}
