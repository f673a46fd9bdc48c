/** What a timeline is made of, and what it works with. */
import type { Clock, Files, Random } from "../../base/seams.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { StoreCache } from "../../storage/store-cache.ts";
import type { TimelineStore } from "../../storage/store.ts";
import type { BackupTurns } from "../basebackup/backup-turns.ts";
import type { CompactionRunner } from "../compaction/compaction-thread.ts";
import type { PageCache } from "../read/page-cache.ts";
import type { ReceiverLog } from "../receive/receiver.ts";
import type { LayerMemory } from "./layer-memory.ts";
import type { TimelineMetadata } from "./metadata.ts";
import type { RecordBoundary } from "./record-boundary.ts";
import type { ClusterIdentity } from "./served-timeline.ts";
import type { TenantOverrides } from "./tenant-settings.ts";
import type { Timeline } from "./timeline.ts";

export interface TimelineDependencies {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly cache: StoreCache;
  readonly pages: PageCache;
  /** Compare redo with the images that computes put into their WAL under `wal_consistency_checking`. */
  readonly verifyRedo: boolean;
  readonly log: ReceiverLog;
  /** A sync failed: the process must end. */
  readonly onFatal: (error: Error) => void;
  readonly checkpointDistanceBytes: number;
  readonly checkpointTimeoutMs: number;
  /** Of the layers of all timelines together; without a limit if nothing is said. */
  readonly layerMemory?: LayerMemory | undefined;
  /** Of base backups of all timelines; as many as one likes at a time if nothing is said. */
  readonly backups?: BackupTurns | undefined;
  /** Where compaction runs; in this thread if nothing is said. */
  readonly compaction?: CompactionRunner;
  /** Flushed layers from which on compaction merges them. */
  readonly flushedLayersMin?: number;
  /** Flushed layers above which WAL is taken in more slowly; without it, never. */
  readonly flushedLayersMax?: number | undefined;
  /** Settings that the tenant has of its own now. */
  readonly own?: () => TenantOverrides;
}

/** What a timeline consists of, made or opened by `timeline-factory.ts`. */
export interface TimelineParts {
  readonly directory: string;
  readonly metadata: TimelineMetadata;
  readonly cluster: ClusterIdentity;
  readonly store: TimelineStore;
  readonly ancestor: { timeline: Timeline; lsn: Lsn } | undefined;
  /** Looks up where its own records begin, and the record before. */
  readonly findStart: () => Promise<RecordBoundary>;
}
