/**
 * Points of a timeline that somebody uses and that garbage collection must keep: leases, which end by themselves unless
 * they are renewed (read-only computes), and holds, which end with what needs them (a base backup, a transfer).
 */
import type { Clock } from "../../base/seams.ts";
import type { Lsn } from "../../base/lsn.ts";

export interface Lease {
  readonly name: string;
  readonly lsn: Lsn;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

export interface Hold {
  readonly lsn: Lsn;
  readonly reason: string;
}

export class Leases {
  private readonly clock: Clock;
  private readonly leases = new Map<string, Lease>();
  private readonly held = new Set<Hold>();

  constructor(clock: Clock) {
    this.clock = clock;
  }

  /** Makes a lease or renews it; a name has one at a time. */
  renew(name: string, lsn: Lsn, durationMs: number): Lease {
    const lease = { name, lsn, expiresAt: this.clock.now() + durationMs };
    this.leases.set(name, lease);
    return lease;
  }

  /** Whether there was one. */
  release(name: string): boolean {
    return this.leases.delete(name);
  }

  hold(lsn: Lsn, reason: string): Disposable {
    const hold: Hold = { lsn, reason };
    this.held.add(hold);
    return { [Symbol.dispose]: () => void this.held.delete(hold) };
  }

  /** Those that have not ended. */
  list(): Lease[] {
    const now = this.clock.now();
    for (const [name, lease] of this.leases) if (lease.expiresAt <= now) this.leases.delete(name);
    return [...this.leases.values()].sort((a, b) => a.lsn - b.lsn);
  }

  holds(): readonly Hold[] {
    return [...this.held];
  }
}
