/**
 * The WAL of a timeline from where it is stored: what is in its WAL log as it came, what is in layers only record by
 * record, and below the branch point that of its ancestor. One stream, as stock Postgres would have it on one disk.
 */
import type { Lsn } from "../../base/lsn.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { readTimelineNumber } from "../read/make-reconstructor.ts";
import { Followers } from "./followers.ts";
import type { RecordBoundary } from "./record-boundary.ts";
import type { ClusterIdentity } from "./served-timeline.ts";
import type { WalIntake } from "./wal-intake.ts";

/** What it needs of a timeline. */
interface WalOwner {
  readonly cluster: ClusterIdentity;
  readonly store: TimelineStore;
  readonly startLsn: Lsn;
  readonly durableWalLsn: Lsn;
  readonly parent: { readonly timeline: WalOwner; readonly lsn: Lsn } | undefined;
  readonly wal: TimelineWal;
  recordBoundary(lsn: Lsn): Promise<RecordBoundary>;
  checkpoint(): Promise<void>;
}

/** A stretch of WAL whose records are in the layers of one store. */
export interface LayerSection {
  readonly store: TimelineStore;
  /** The end of a record. */
  readonly toLsn: Lsn;
}

/** Raw WAL that can be read now. */
export interface RawWal {
  readonly fromLsn: Lsn;
  read(from: Lsn, to: Lsn): Promise<Uint8Array>;
}

export class TimelineWal {
  readonly followers = new Followers();
  private readonly owner: WalOwner;
  private readonly intake: () => WalIntake | undefined;

  constructor(owner: WalOwner, intake: () => WalIntake | undefined) {
    this.owner = owner;
    this.intake = intake;
  }

  get cluster(): ClusterIdentity {
    return this.owner.cluster;
  }

  /** The end of the last record that is on disk here. */
  get endLsn(): Lsn {
    return this.owner.durableWalLsn;
  }

  /** From here on every record is there: the beginning of history, or what garbage collection has left of it. */
  get floorLsn(): Lsn {
    const { store, startLsn, parent } = this.owner;
    if (store.retention !== undefined) return store.retention.cutoff.lsn;
    if (parent === undefined) return startLsn;
    const floor = parent.timeline.wal.floorLsn;
    return floor <= parent.lsn ? floor : startLsn;
  }

  /** Whether there was WAL below the floor that garbage collection has removed. */
  get isCollected(): boolean {
    const { store, parent } = this.owner;
    if (store.retention !== undefined) return true;
    return parent !== undefined && parent.timeline.wal.isCollected;
  }

  /** Postgres' own timeline number. */
  async timelineNumber(): Promise<number> {
    const { store, cluster } = this.owner;
    return this.intake()?.timelineNumber ?? readTimelineNumber(store, cluster.pgVersion);
  }

  /** The WAL log as it stands; undefined if there is none. Bytes from `fromLsn` to `endLsn` can be read. */
  get raw(): RawWal | undefined {
    const log = this.intake()?.walLog;
    const fromLsn = log?.readableFrom;
    return log && fromLsn !== undefined ? { fromLsn, read: (from, to) => log.read(from, to) } : undefined;
  }

  /** The last record that ends at or below an LSN, which is not below the floor; of ancestors too. */
  recordBoundary(lsn: Lsn): Promise<RecordBoundary> {
    return this.owner.recordBoundary(lsn);
  }

  /** Calls back when more WAL is on disk, until disposed of; undefined if none can come because nobody writes. */
  onDurable(listener: () => void): Disposable | undefined {
    const off = this.intake()?.onDurable(listener);
    return off && { [Symbol.dispose]: off };
  }

  /** The stores that have the records from an LSN on, the oldest first, up to where the layers end. */
  async sections(fromLsn: Lsn): Promise<LayerSection[]> {
    const sections: LayerSection[] = [];
    let { owner } = this;
    let toLsn = owner.store.durableLsn;
    for (;;) {
      if (toLsn > owner.store.durableLsn) await owner.checkpoint();
      sections.unshift({ store: owner.store, toLsn });
      if (fromLsn >= owner.startLsn || owner.parent === undefined) return sections;
      toLsn = owner.parent.lsn;
      owner = owner.parent.timeline;
    }
  }
}
