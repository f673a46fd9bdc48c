/**
 * Ends of records in a timeline's own part of history: where it begins, what is on disk, and any LSN rounded down. Below
 * the GC cutoff only the retained points and stretches are known.
 */
import { assert } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import { stretchAt } from "../../storage/retention.ts";
import type { RetainedPoint, TimelineStore } from "../../storage/store.ts";
import { windowOfLsn } from "../ingest/keyspace.ts";
import { type RecordBoundary, findRecordBoundary } from "./record-boundary.ts";
import { lastStoredStart, storedWindow } from "./stored-windows.ts";

/** What is known about the end of the timeline while WAL is taken in. */
export interface LiveEnd {
  readonly last: RecordBoundary;
  /** Record starts in the window that is still being filled. */
  readonly openWindow: { readonly window: number; readonly starts: readonly Lsn[] };
}

export class Boundaries {
  private readonly store: TimelineStore;
  private readonly segmentSize: number;
  private readonly findStart: () => Promise<RecordBoundary>;
  private starting: Promise<RecordBoundary> | undefined;

  /** `findStart` looks up where the timeline's own records begin, and the record before. */
  constructor(options: {
    store: TimelineStore;
    segmentSize: number;
    findStart: () => Promise<RecordBoundary>;
  }) {
    this.store = options.store;
    this.segmentSize = options.segmentSize;
    this.findStart = options.findStart;
  }

  /** Where the timeline's own records begin. */
  start(): Promise<RecordBoundary> {
    this.starting ??= this.findStart().catch((error: unknown) => {
      this.starting = undefined;
      throw error;
    });
    return this.starting;
  }

  /** The last record that is in layer files. */
  async durable(): Promise<RecordBoundary> {
    const lsn = this.store.durableLsn;
    const lowest = await this.lowest();
    if (lsn <= lowest.endLsn) return lowest;
    // The record before the end of the layers is the last of its window, so the index need not know what follows.
    const previousLsn = await lastStoredStart(this.store, { belowLsn: lsn, fromLsn: lowest.endLsn });
    assert(previousLsn !== undefined, `the record index knows the record that ends at ${formatLsn(lsn)}`);
    return { previousLsn, endLsn: lsn };
  }

  /** The last record that ends at or below `lsn`, which is readable and not below the start. */
  async find(lsn: Lsn, live: LiveEnd | undefined): Promise<RecordBoundary> {
    const point = this.store.retainedPoint(lsn);
    if (point !== undefined) return boundaryOf(point);
    const { retention } = this.store;
    const stretch = retention && lsn < retention.cutoff.lsn ? stretchAt(retention, lsn) : undefined;
    if (stretch) return this.findBetween(boundaryOf(stretch.from), boundaryOf(stretch.to), { lsn });
    return this.findBetween(await this.lowest(), live?.last ?? (await this.durable()), { lsn, live });
  }

  private findBetween(
    start: RecordBoundary,
    last: RecordBoundary,
    { lsn, live }: { lsn: Lsn; live?: LiveEnd | undefined },
  ): Promise<RecordBoundary> {
    const windowStarts = async (window: number): Promise<readonly Lsn[]> =>
      live?.openWindow.window === window
        ? live.openWindow.starts
        : storedWindow(this.store, window, last.endLsn);
    const { segmentSize } = this;
    return findRecordBoundary({ start, last, segmentSize, windowOf: windowOfLsn, windowStarts }, lsn);
  }

  /** Below it, nothing is known: the GC cutoff, or the start. */
  private async lowest(): Promise<RecordBoundary> {
    const cutoff = this.store.retention?.cutoff;
    return cutoff === undefined ? this.start() : boundaryOf(cutoff);
  }
}

function boundaryOf({ lsn, previousLsn }: RetainedPoint): RecordBoundary {
  return { previousLsn, endLsn: lsn };
}
