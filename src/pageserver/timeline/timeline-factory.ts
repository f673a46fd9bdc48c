/** Making, opening and importing timelines: what is on disk before there is a `Timeline`. */
import { join } from "node:path";
import { ErrorCode, NeonError, assert } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import { type ControlFile, parseControlFile } from "../../postgres/control-file.ts";
import { TimelineStore } from "../../storage/store.ts";
import { type ImportedCluster, readDataDirectory } from "../basebackup/import.ts";
import { Spool } from "../basebackup/spool.ts";
import { CONTROL_FILE_KEY, FULL_RANGE } from "../ingest/keyspace.ts";
import type { KeptWal } from "../receive/kept-wal.ts";
import { Reconstructor } from "../read/reconstruct.ts";
import { removeInterruptedWrite } from "./json-file.ts";
import {
  METADATA_FILE,
  type TimelineMetadata,
  readTimelineMetadata,
  writeTimelineMetadata,
} from "./metadata.ts";
import type { RecordBoundary } from "./record-boundary.ts";
import type { ClusterIdentity, TimelineFactory } from "./served-timeline.ts";
import { type TimelineDependencies, type TimelineParts, Timeline } from "./timeline.ts";

/** What makes, opens and imports timelines with these dependencies. */
export function timelineFactory(dependencies: TimelineDependencies): TimelineFactory<Timeline> {
  return {
    create: (options) => createTimeline(options, dependencies),
    open: async (options) => {
      const timeline = new Timeline(await openParts(options, dependencies), dependencies);
      await timeline.resume();
      return timeline;
    },
    import: (options) => importTimeline(options, dependencies),
    forTenant: (own) => timelineFactory({ ...dependencies, own }),
  };
}

async function createTimeline(
  options: Parameters<TimelineFactory<Timeline>["create"]>[0],
  dependencies: TimelineDependencies,
): Promise<Timeline> {
  const { directory, id, cluster, ancestor, createdAt } = options;
  const start = await ancestor.timeline.recordBoundary(ancestor.lsn);
  assert(start.endLsn === ancestor.lsn, "a branch begins at the end of a record");
  const metadata: TimelineMetadata = {
    id,
    ancestor: { timelineId: ancestor.timeline.id, lsn: ancestor.lsn },
    history: [],
    writer: undefined,
    createdAt,
  };
  const store = await createStore(directory, start.endLsn, dependencies, storeOf(ancestor));
  await writeTimelineMetadata(dependencies.files, directory, metadata);
  const findStart = (): Promise<RecordBoundary> => Promise.resolve(start);
  return new Timeline({ directory, metadata, cluster, store, ancestor, findStart }, dependencies);
}

async function openParts(
  options: Parameters<TimelineFactory<Timeline>["open"]>[0],
  dependencies: TimelineDependencies,
): Promise<TimelineParts> {
  const { directory, id, cluster, ancestor } = options;
  const { files, cache } = dependencies;
  const metadata = await readTimelineMetadata(files, directory, id);
  if (metadata === undefined) throw new NeonError(ErrorCode.Corrupt, `timeline ${id} has no metadata`);
  await removeInterruptedWrite(files, join(directory, METADATA_FILE));
  const store = await TimelineStore.open(
    { directory: join(directory, "layers"), ...(ancestor ? { ancestor: storeOf(ancestor) } : {}) },
    { files, cache },
  );
  const findStart = (): Promise<RecordBoundary> =>
    ancestor ? ancestor.timeline.recordBoundary(ancestor.lsn) : rootStart(store, cluster);
  return { directory, metadata, cluster, store, ancestor, findStart };
}

/** A root begins behind the checkpoint that its imported control file names. */
async function rootStart(store: TimelineStore, cluster: ClusterIdentity): Promise<RecordBoundary> {
  const reconstructor = new Reconstructor({ version: cluster.pgVersion, hintBitsLogged: false });
  // It never changes; at the beginning it may have been given up.
  const { values } = await store.get(CONTROL_FILE_KEY, store.durableLsn);
  const control = reconstructor.value(CONTROL_FILE_KEY, values);
  if (control === undefined) throw new NeonError(ErrorCode.Corrupt, "the timeline has no control file");
  return { previousLsn: parseControlFile(control).checkpointLsn, endLsn: store.startLsn };
}

async function importTimeline(
  options: Parameters<TimelineFactory<Timeline>["import"]>[0],
  dependencies: TimelineDependencies,
): Promise<Timeline> {
  const { directory, id, expected, createdAt, endLsn } = options;
  await using spool = new Spool(join(directory, "import.spool"), dependencies.files);
  const imported = await readDataDirectory(options.tar, spool);
  const { control, lsn, values, online } = imported;
  checkExpected(control, expected);
  const cluster: ClusterIdentity = {
    pgVersion: control.version,
    systemId: control.systemId,
    segmentSize: control.walSegmentSize,
  };
  const start = { previousLsn: (await online?.wal.previousOf(lsn)) ?? control.checkpointLsn, endLsn: lsn };
  const span = online && (await spanOf(online, start, endLsn));
  const store = await createStore(directory, lsn, dependencies);
  await store.addImageLayer(FULL_RANGE, lsn, values);
  const metadata: TimelineMetadata = { id, ancestor: undefined, history: [], writer: undefined, createdAt };
  await writeTimelineMetadata(dependencies.files, directory, metadata);
  const findStart = (): Promise<RecordBoundary> => Promise.resolve(start);
  const timeline = new Timeline(
    { directory, metadata, cluster, store, ancestor: undefined, findStart },
    dependencies,
  );
  if (!online || !span) return timeline;
  try {
    await makeWhole(timeline, online.wal, span);
  } catch (error) {
    await timeline.close();
    throw error;
  }
  return timeline;
}

type Online = NonNullable<ImportedCluster["online"]>;
type WalSpan = Parameters<KeptWal["check"]>[0];

/** The WAL that makes an online backup whole. Throws `usage` where it does not, before anything is written. */
async function spanOf(online: Online, start: RecordBoundary, endLsn: Lsn | undefined): Promise<WalSpan> {
  const from = { startLsn: start.endLsn, previousLsn: start.previousLsn };
  const consistentLsn = await online.wal.endOfBackup(from, online.redoLsn);
  if (endLsn !== undefined && endLsn < consistentLsn) {
    throw new NeonError(
      ErrorCode.Usage,
      `the backup is consistent from ${formatLsn(consistentLsn)} on, which is behind ${formatLsn(endLsn)}`,
    );
  }
  const span = { ...from, endLsn: endLsn ?? consistentLsn };
  await online.wal.check(span);
  return span;
}

/** Replays the WAL of the backup. Below its end pages are as they happened to be copied: that history is given up. */
async function makeWhole(timeline: Timeline, wal: KeptWal, span: WalSpan): Promise<void> {
  await timeline.takeWal((intake) => wal.feed(intake, span));
  const { previousLsn, endLsn } = await timeline.recordBoundary(timeline.lastRecordLsn);
  assert(timeline.store.durableLsn === endLsn, "everything is in layers");
  const commitMs = await timeline.commitTimeAt(endLsn);
  const cutoff = { lsn: endLsn, previousLsn, commitMs: commitMs === null ? null : Math.ceil(commitMs) };
  await timeline.store.retain({ cutoff, points: [] });
}

function checkExpected(
  control: ControlFile,
  expected: Parameters<TimelineFactory<Timeline>["import"]>[0]["expected"],
): void {
  if (control.version.major !== expected.pgVersion.major) {
    throw new NeonError(
      ErrorCode.Conflict,
      `the data directory is of Postgres ${control.version.major}, the tenant of ${expected.pgVersion.major}`,
    );
  }
  if (expected.systemId !== undefined && control.systemId !== expected.systemId) {
    throw new NeonError(
      ErrorCode.Conflict,
      `the data directory belongs to another cluster (system ${control.systemId}, the tenant has ${expected.systemId})`,
    );
  }
}

function storeOf(ancestor: { timeline: Timeline; lsn: Lsn }): { store: TimelineStore; lsn: Lsn } {
  return { store: ancestor.timeline.store, lsn: ancestor.lsn };
}

async function createStore(
  directory: string,
  startLsn: Lsn,
  { files, cache }: TimelineDependencies,
  ancestor?: { store: TimelineStore; lsn: Lsn },
): Promise<TimelineStore> {
  return TimelineStore.create(
    { directory: join(directory, "layers"), startLsn, ...(ancestor ? { ancestor } : {}) },
    { files, cache },
  );
}
