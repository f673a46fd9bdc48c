/** The pageserver with everything it really works with: the disk, the clock, timelines that follow Postgres. */
import type { Logger } from "pino";
import { messageOf } from "../base/errors.ts";
import { RealFiles } from "../storage/real-files.ts";
import { StoreCache } from "../storage/store-cache.ts";
import { BackupTurns } from "./basebackup/backup-turns.ts";
import { CompactionThread } from "./compaction/compaction-thread.ts";
import { runPageserver } from "./main.ts";
import { type PageserverOptions, layerMemoryBytes } from "./options.ts";
import { PageCache } from "./read/page-cache.ts";
import { type PageserverDependencies, systemClock, systemRandom } from "./server.ts";
import { LayerMemory } from "./timeline/layer-memory.ts";
import { flushDelayFor } from "./timeline/tenant-settings.ts";
import { timelineFactory } from "./timeline/timeline-factory.ts";
import type { Timeline } from "./timeline/timeline.ts";

/** Runs with these command line arguments, then ends the process. */
export async function main(args: readonly string[]): Promise<never> {
  process.exit(await runPageserver(args, assemble));
}

function assemble(options: PageserverOptions, log: Logger): PageserverDependencies<Timeline> {
  const onFatal = (error: unknown): never => {
    // After a failed sync nobody knows what is on the disk; what was acknowledged before is replayed at the next start.
    log.fatal({ err: error }, `cannot make data durable: ${messageOf(error)}`);
    process.exit(1);
  };
  const files = new RealFiles({ onFatal });
  // One half for what is on disk, the other for what was made of it.
  const capacityBytes = options.cacheBytes / 2;
  const cache = new StoreCache({ capacityBytes }, { files, clock: systemClock });
  const pages = new PageCache({ capacityBytes });
  const compaction = new CompactionThread(files);
  const shared = { files, clock: systemClock, random: systemRandom, log };
  const timelines = timelineFactory({
    ...shared,
    cache,
    pages,
    verifyRedo: options.verifyRedo,
    onFatal,
    checkpointDistanceBytes: options.checkpointDistanceBytes,
    checkpointTimeoutMs: options.checkpointTimeoutMs,
    layerMemory: new LayerMemory({ limitBytes: layerMemoryBytes(options) }),
    backups: new BackupTurns(),
    compaction,
    flushedLayersMin: options.maintenance.flushedLayersMin,
    flushedLayersMax: flushDelayFor(options.maintenance) || undefined,
  });
  return {
    ...shared,
    timelines,
    pages,
    compaction,
    caches: { blocks: cache.data, index: cache.index },
  };
}
