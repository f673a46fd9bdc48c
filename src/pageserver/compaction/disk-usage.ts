/**
 * Where a tenant's bytes are: sizes of files (`st_size`, directories not counted) as the file system shows them, each
 * file counted once and put down to one timeline. A layer that another branch reads too is shared, the rest is unique;
 * of both, what a read at the end of the timeline does not need is history.
 */
import type { TimelineId } from "../../base/ids.ts";
import { type Lsn, lsnMax } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { systemCode } from "../../base/errors.ts";
import type { LayerDescriptor } from "../../storage/layer-file.ts";
import { LayerKind } from "../../storage/layer-format.ts";
import { Yielder } from "../../storage/yielder.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { TimelineEntry } from "../timeline/timelines.ts";

/** Sizes in bytes. */
export interface TimelineUsage {
  readonly timelineId: TimelineId;
  readonly branches: readonly string[];
  /** Everything in its directory. */
  readonly totalBytes: number;
  /** Of that, what goes when it is deleted and nobody else misses. */
  readonly uniqueBytes: number;
  /** Layers of its own that branches made from it read, too. */
  readonly ownSharedBytes: number;
  /** All layers that it reads and that others read: its own and its ancestors'. */
  readonly sharedBytes: number;
  /** Of its own layers, those that only reads of the past need. */
  readonly historyBytes: number;
  /** WAL that is not in layers yet. */
  readonly walBytes: number;
}

export interface DiskUsage {
  readonly timelines: readonly TimelineUsage[];
  /** Files of the tenant that belong to no timeline. */
  readonly otherBytes: number;
  /** The sum of `totalBytes` of all timelines, and `otherBytes`. */
  readonly totalBytes: number;
}

export async function diskUsage(
  tenant: Tenant<ServedTimeline>,
  directory: string,
  files: Files,
): Promise<DiskUsage> {
  const all = await sizesBelow(directory, "", files);
  const entries = tenant.timelineEntries();
  const timelines: TimelineUsage[] = [];
  const yielder = new Yielder();
  const sums = await sumByTimeline(all, yielder);
  const lastChildren = await lastChildLsns(entries, yielder);
  let ofTimelines = 0;
  for (const [id, entry] of entries) {
    if (yielder.due()) await yielder.yield();
    const { totalBytes, walBytes } = sums.get(id) ?? { totalBytes: 0, walBytes: 0 };
    ofTimelines += totalBytes;
    const timeline = entry.kind === "open" ? entry.timeline : undefined;
    const layers = timeline?.exchange?.store.layers() ?? [];
    const lastChild = timeline && lastChildren.get(id);
    const ownSharedBytes =
      lastChild === undefined ? 0 : sumBytes(layers, (layer) => isSeen(layer, lastChild));
    timelines.push({
      timelineId: id,
      branches: tenant.namesOf(id),
      totalBytes,
      uniqueBytes: totalBytes - ownSharedBytes,
      ownSharedBytes,
      sharedBytes: ownSharedBytes + (timeline ? ancestorBytes(entries, timeline) : 0),
      historyBytes: (await timeline?.maintenance?.historyBytes()) ?? 0,
      walBytes,
    });
  }
  const totalBytes = [...all.values()].reduce((sum, sizeBytes) => sum + sizeBytes, 0);
  return { timelines, otherBytes: totalBytes - ofTimelines, totalBytes };
}

interface Sums {
  totalBytes: number;
  walBytes: number;
}

/** What lies below `timelines/<id>/`, and below its `wal/`. */
async function sumByTimeline(
  sizes: ReadonlyMap<string, number>,
  yielder: Yielder,
): Promise<Map<string, Sums>> {
  const byId = new Map<string, Sums>();
  for (const [path, sizeBytes] of sizes) {
    if (yielder.due()) await yielder.yield();
    const [directory, id, name] = path.split("/", 3);
    if (directory !== "timelines" || id === undefined || name === undefined) continue;
    const sums = byId.get(id) ?? { totalBytes: 0, walBytes: 0 };
    byId.set(id, sums);
    sums.totalBytes += sizeBytes;
    if (name.startsWith("wal")) sums.walBytes += sizeBytes;
  }
  return byId;
}

/** For each timeline from which branches were made, the highest point at which one was. */
async function lastChildLsns(
  entries: ReadonlyMap<TimelineId, TimelineEntry<ServedTimeline>>,
  yielder: Yielder,
): Promise<Map<TimelineId, Lsn>> {
  const last = new Map<TimelineId, Lsn>();
  for (const entry of entries.values()) {
    if (yielder.due()) await yielder.yield();
    const ancestor = entry.kind === "open" ? entry.timeline.ancestor : entry.metadata?.ancestor;
    if (ancestor === undefined) continue;
    const { timelineId, lsn } = ancestor;
    const parent = entries.get(timelineId);
    // What lies before its beginning is its ancestor's.
    if (parent?.kind !== "open" || lsn < parent.timeline.startLsn) continue;
    last.set(timelineId, lsnMax(last.get(timelineId) ?? lsn, lsn));
  }
  return last;
}

/** Layers of ancestors that a timeline can see. */
function ancestorBytes(
  entries: ReadonlyMap<TimelineId, TimelineEntry<ServedTimeline>>,
  timeline: ServedTimeline,
): number {
  let sizeBytes = 0;
  let point = timeline.ancestor;
  while (point !== undefined) {
    const { timelineId, lsn } = point;
    const entry = entries.get(timelineId);
    if (entry?.kind !== "open") break;
    sizeBytes += sumBytes(entry.timeline.exchange?.store.layers() ?? [], (layer) => isSeen(layer, lsn));
    point = entry.timeline.ancestor;
  }
  return sizeBytes;
}

function isSeen(layer: LayerDescriptor, lsn: Lsn): boolean {
  return layer.kind === LayerKind.Image ? layer.endLsn <= lsn : layer.startLsn < lsn;
}

function sumBytes(layers: readonly LayerDescriptor[], wanted: (layer: LayerDescriptor) => boolean): number {
  return layers.reduce((sum, layer) => sum + (wanted(layer) ? layer.sizeBytes : 0), 0);
}

/** Sizes of all files in a tree, by path below `root`. Files that go meanwhile do not count. */
async function sizesBelow(root: string, below: string, files: Files): Promise<Map<string, number>> {
  const sizes = new Map<string, number>();
  const pending = [below];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const names = await files.list(path === "" ? root : `${root}/${path}`).catch((error: unknown) => {
      // A file, or gone meanwhile.
      if (systemCode(error) === "ENOTDIR" || systemCode(error) === "ENOENT") return undefined;
      throw error;
    });
    if (names === undefined) {
      const sizeBytes = await sizeOf(`${root}/${path}`, files);
      if (sizeBytes !== undefined) sizes.set(path, sizeBytes);
    } else {
      for (const name of names) pending.push(path === "" ? name : `${path}/${name}`);
    }
  }
  return sizes;
}

async function sizeOf(path: string, files: Files): Promise<number | undefined> {
  try {
    const handle = await files.open(path, "r");
    try {
      return await handle.size();
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (systemCode(error) === "ENOENT") return undefined;
    throw error;
  }
}
