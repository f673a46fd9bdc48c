/** What of a timeline can only be known by reading: sizes of databases, counts of what there is. Kept until it moves on. */
import type { Lsn } from "../../../base/lsn.ts";
import { PAGE_SIZE } from "../../../postgres/constants.ts";
import { Kind, kindRange } from "../../ingest/keyspace.ts";
import { makeReconstructor } from "../../read/make-reconstructor.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";

export interface TimelineMeasures {
  /** Of all forks of all relations, at the end. */
  readonly logicalBytes: number;
  readonly relations: number;
  readonly databases: number;
  readonly preparedTransactions: number;
  /** Start of the last record, if it can be found. */
  readonly previousLsn: Lsn | undefined;
}

export class MeasuredTimelines {
  private readonly known = new WeakMap<ServedTimeline, { lsn: Lsn; measures: Promise<TimelineMeasures> }>();

  of(timeline: ServedTimeline): Promise<TimelineMeasures> {
    const lsn = timeline.lastRecordLsn;
    const known = this.known.get(timeline);
    if (known?.lsn === lsn) return known.measures;
    const measures = measure(timeline, lsn);
    this.known.set(timeline, { lsn, measures });
    measures.catch(() => this.known.delete(timeline));
    return measures;
  }
}

async function measure(timeline: ServedTimeline, lsn: Lsn): Promise<TimelineMeasures> {
  const { previousLsn } = await timeline.recordBoundary(lsn);
  const counts = { logicalBytes: 0, relations: 0, databases: 0, preparedTransactions: 0, previousLsn };
  const store = timeline.exchange?.store;
  if (!store) return counts;
  const reconstructor = await makeReconstructor(store, timeline.cluster.pgVersion, lsn);
  const each = async (kind: number, visit: (value: Uint8Array, fork: number) => void): Promise<void> => {
    for await (const batch of store.scan(kindRange(kind), lsn)) {
      for (const { key, values } of batch) {
        const value = reconstructor.value(key, values);
        if (value !== undefined) visit(value, key.fork);
      }
    }
  };
  await each(Kind.RelationSize, (value, fork) => {
    counts.logicalBytes += new DataView(value.buffer, value.byteOffset, 4).getUint32(0, true) * PAGE_SIZE;
    if (fork === 0) counts.relations++;
  });
  await each(Kind.Database, () => counts.databases++);
  await each(Kind.TwoPhase, () => counts.preparedTransactions++);
  return counts;
}
