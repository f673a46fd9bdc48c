/**
 * Who receives a timeline's WAL now: stock standbys, pg_receivewal, pg_basebackup. As in pg_stat_replication, each with
 * what has been sent to it and what it says that it has.
 */
import type { Lsn } from "../../base/lsn.ts";

export interface Follower {
  /** What the client calls itself (`application_name`). */
  readonly name: string;
  readonly slot: string | undefined;
  /** As who it has logged in. */
  readonly user: string;
  /** Milliseconds since 1970. */
  readonly startedAt: number;
  readonly sentLsn: Lsn;
  /** Of WAL, since it connected. */
  readonly sentBytes: number;
  /** What it has told of itself last; undefined until it has. */
  readonly reported: { readonly writeLsn: Lsn; readonly flushLsn: Lsn; readonly applyLsn: Lsn } | undefined;
}

export class Followers {
  private readonly present = new Set<Follower>();
  private goneBytes = 0;

  /** Until disposed of. */
  add(follower: Follower): Disposable {
    this.present.add(follower);
    return {
      [Symbol.dispose]: () => {
        if (this.present.delete(follower)) this.goneBytes += follower.sentBytes;
      },
    };
  }

  /** In the order in which they came. */
  list(): readonly Follower[] {
    return [...this.present];
  }

  /** To all that ever were, since the timeline was opened. */
  get sentBytes(): number {
    let total = this.goneBytes;
    for (const { sentBytes } of this.present) total += sentBytes;
    return total;
  }
}

/** How much of the WAL up to `endLsn` a follower has not said to have on its disk; before it says anything, what was not sent. */
export function lagOf({ reported, sentLsn }: Follower, endLsn: Lsn): number {
  // Clients that have nothing yet say 0.
  const has = reported !== undefined && reported.flushLsn > 0 ? reported.flushLsn : sentLsn;
  return Math.max(0, endLsn - has);
}
