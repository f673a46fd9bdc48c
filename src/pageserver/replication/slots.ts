/**
 * Replication slots: names that keep the WAL of a timeline from an LSN on. A slot is a lease, so it survives a restart,
 * and one that nobody uses ends by itself; a temporary one is a hold that ends with its connection.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { SqlState } from "../../pgwire/errors.ts";
import { WireError } from "../../pgwire/wire-errors.ts";
import { SLOT_PREFIX } from "../timeline/leases.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";

/** How long a slot that nobody uses keeps WAL. */
const SLOT_MS = 7 * 24 * 3600 * 1000;
const SLOT_NAME = /^[a-z0-9_]{1,63}$/;

export interface Slot {
  readonly name: string;
  readonly restartLsn: Lsn;
}

/** Throws `usage` for what cannot be the name of a slot. */
export function checkSlotName(name: string): void {
  if (SLOT_NAME.test(name)) return;
  throw new WireError(
    "42602",
    ErrorCode.Usage,
    `replication slot name "${name.slice(0, 80)}" is not valid: up to 63 lower case letters, digits and underscores`,
  );
}

/** The slots of one timeline, as one connection sees them. */
export class Slots implements Disposable {
  private readonly tenant: Tenant<ServedTimeline>;
  private readonly timeline: ServedTimeline;
  /** Those in use, of all timelines and connections. */
  private readonly active: Set<string>;
  private readonly temporary = new Map<string, Slot & { readonly hold: Disposable }>();

  constructor(tenant: Tenant<ServedTimeline>, timeline: ServedTimeline, active: Set<string>) {
    this.tenant = tenant;
    this.timeline = timeline;
    this.active = active;
  }

  async find(name: string): Promise<Slot | undefined> {
    const temporary = this.temporary.get(name);
    if (temporary) return temporary;
    const lease = (await this.leases.list()).find((each) => each.name === SLOT_PREFIX + name);
    return lease && { name, restartLsn: lease.lsn };
  }

  /** Makes a slot at the end of the timeline. Throws `exists`. */
  async create(name: string, temporary: boolean): Promise<Slot> {
    checkSlotName(name);
    return this.tenant.change(async () => {
      if (await this.find(name)) {
        throw new NeonError(ErrorCode.Exists, `replication slot "${name}" already exists`);
      }
      const slot = { name, restartLsn: this.timeline.durableWalLsn };
      if (temporary) {
        const hold = this.leases.hold(slot.restartLsn, `slot "${name}"`, { wal: true });
        this.temporary.set(name, { ...slot, hold });
      } else await this.leases.renew(SLOT_PREFIX + name, slot.restartLsn, SLOT_MS);
      return slot;
    });
  }

  /** Throws `not_found`, or `conflict` while somebody uses it. */
  async drop(name: string): Promise<void> {
    if (this.active.has(this.id(name))) throw inUse(name);
    const temporary = this.temporary.get(name);
    temporary?.hold[Symbol.dispose]();
    if (this.temporary.delete(name)) return;
    if (!(await this.leases.release(SLOT_PREFIX + name))) throw noSuchSlot(name);
  }

  /** Uses a slot until disposed of. Throws `not_found`, or `conflict` where somebody uses it already. */
  async use(name: string): Promise<Slot & Disposable> {
    const slot = await this.find(name);
    if (!slot) throw noSuchSlot(name);
    const id = this.id(name);
    if (this.active.has(id)) throw inUse(name);
    this.active.add(id);
    return { ...slot, [Symbol.dispose]: () => void this.active.delete(id) };
  }

  /** The client needs nothing before an LSN any more, which may lie anywhere in a record. */
  async advance(name: string, lsn: Lsn): Promise<void> {
    if (this.temporary.has(name)) return;
    const { endLsn } = await this.timeline.recordBoundary(lsn);
    await this.leases.renew(SLOT_PREFIX + name, endLsn, SLOT_MS);
  }

  /** Gives up temporary slots. */
  [Symbol.dispose](): void {
    for (const { hold } of this.temporary.values()) hold[Symbol.dispose]();
    this.temporary.clear();
  }

  private get leases() {
    const { leases } = this.timeline;
    if (leases) return leases;
    throw new NeonError(ErrorCode.Unsupported, "this timeline has no replication slots");
  }

  private id(name: string): string {
    return `${this.tenant.id} ${this.timeline.id} ${name}`;
  }
}

function noSuchSlot(name: string): NeonError {
  return new NeonError(ErrorCode.NotFound, `replication slot "${name.slice(0, 80)}" does not exist`, {
    hint: "Slots are of a branch. Make one: pg_receivewal --create-slot --slot NAME, or CREATE_REPLICATION_SLOT.",
  });
}

function inUse(name: string): WireError {
  return new WireError(
    SqlState.ObjectInUse,
    ErrorCode.Conflict,
    `replication slot "${name}" is used by another connection`,
  );
}
