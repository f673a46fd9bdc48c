/**
 * Checks all files of one timeline: metadata, layers and their index, the WAL behind them, and what else lies in its
 * directory. The timeline may be open and worked on, or be one that could not be opened.
 */
import { join } from "node:path";
import { ErrorCode, systemCode } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { parseSegmentName } from "../../postgres/wal/layout.ts";
import type { CheckOptions } from "../../storage/check-layer.ts";
import { Findings } from "../../storage/findings.ts";
import { type StoreToCheck, checkStore, openToCheck } from "../../storage/fsck.ts";
import { IMAGE_RANGE } from "../ingest/keyspace.ts";
import { DurableMark } from "../timeline/durable-mark.ts";
import { TEMPORARY_SUFFIX } from "../timeline/json-file.ts";
import { LEASES_FILE } from "../timeline/leases.ts";
import { METADATA_FILE } from "../timeline/metadata.ts";
import type { ClusterIdentity, StoredWal, TimelineWork } from "../timeline/served-timeline.ts";
import { checkWal, findWalLeftovers } from "./check-wal.ts";
import type { SurveyedTimeline } from "./survey.ts";

const LAYERS = "layers";
const WAL = "wal";
const MARK = "wal.durable";

/** One check, from the look at what there is to the end. */
export class TimelineCheck {
  readonly timeline: SurveyedTimeline;
  private readonly cluster: ClusterIdentity | undefined;
  private readonly files: Files;
  private readonly store: StoreToCheck | undefined;

  private constructor(
    timeline: SurveyedTimeline,
    parts: { cluster: ClusterIdentity | undefined; files: Files; store: StoreToCheck | undefined },
  ) {
    this.timeline = timeline;
    this.cluster = parts.cluster;
    this.files = parts.files;
    this.store = parts.store;
  }

  /** Looks at the index only. Findings go to those of the timeline. */
  static async prepare(
    timeline: SurveyedTimeline,
    cluster: ClusterIdentity | undefined,
    files: Files,
  ): Promise<TimelineCheck> {
    const { directory, findings, metadata, isLeftover } = timeline;
    if (isLeftover || !(await exists(directory, files))) {
      return new TimelineCheck(timeline, { cluster, files, store: undefined });
    }
    const open = (await timeline.open?.work())?.store;
    const isRoot = metadata !== undefined && metadata.ancestor === undefined;
    const expected = {
      open,
      startLsn: metadata?.ancestor?.lsn,
      imagesOf: isRoot ? IMAGE_RANGE : undefined,
    };
    const store = await openToCheck(join(directory, LAYERS), expected, findings, files);
    return new TimelineCheck(timeline, { cluster, files, store });
  }

  /** Size of the layers, in bytes; WAL comes on top of it. */
  get sizeBytes(): number {
    return this.store?.sizeBytes ?? 0;
  }

  /** End of the layers, as far as it is known. */
  get layersEnd(): Lsn | undefined {
    return this.store?.index?.durableLsn;
  }

  async run(options: CheckOptions): Promise<void> {
    const { timeline, store, files } = this;
    if (store === undefined) return;
    const { findings } = timeline;
    try {
      await checkStore(store, (await timeline.open?.work())?.store, findings, files, options);
    } catch (error) {
      options.signal?.throwIfAborted();
      findings.addError(error, store.directory);
    }
    await this.checkStoredWal(options);
    await this.findLeftovers();
  }

  private async checkStoredWal(options: CheckOptions): Promise<void> {
    const { timeline, files, cluster } = this;
    const { findings } = timeline;
    const directory = join(timeline.directory, WAL);
    const hasWal = await exists(directory, files);
    if (cluster === undefined) {
      if (hasWal) findings.notChecked("tenant.json does not say what cluster the WAL is of", directory);
      return;
    }
    const work = await timeline.open?.work();
    const wal = work === undefined ? await this.walOfClosed(cluster) : work.wal;
    if (wal === undefined) {
      // An empty directory is what a crash leaves of a log that was being made or given up.
      if (hasWal && (await files.list(directory)).length > 0) this.explainUnread(work, directory);
      return;
    }
    if (!hasWal) {
      if (wal.from < wal.to)
        findings.corrupt(`it is missing, with WAL up to ${formatLsn(wal.to)}`, directory);
      return;
    }
    const found = new Findings();
    await checkWal({ directory, cluster, ...wal }, found, files, options);
    if (found.state !== "clean" && (await this.hasMovedOn(wal))) {
      // The WAL was put into a layer and removed while it was read.
      await this.checkStoredWal(options);
      return;
    }
    findings.addAll(found);
    await timeline.open?.work();
    await findWalLeftovers(
      { directory, cluster, from: wal.from, inUse: timeline.open !== undefined },
      findings,
      files,
    );
  }

  /** If nothing that was found explains why the pageserver could not open it, its own words must do. */
  explainBroken(): void {
    const { brokenBecause, findings, directory, isLeftover } = this.timeline;
    if (brokenBecause === undefined || isLeftover || findings.state === "corrupt") return;
    const what = `the pageserver could not open it: ${brokenBecause.message}`;
    if (brokenBecause.code === ErrorCode.Corrupt) findings.corrupt(what, directory);
    else findings.notChecked(what, directory);
  }

  private explainUnread(work: TimelineWork | undefined, directory: string): void {
    const why =
      work === undefined
        ? "where it begins is not known without the index"
        : "the pageserver is about to open it; check again";
    this.timeline.findings.notChecked(why, directory);
  }

  private async hasMovedOn(wal: StoredWal): Promise<boolean> {
    const now = (await this.timeline.open?.work())?.wal;
    return now !== undefined && now.from > wal.from;
  }

  /** Of a timeline that is not open: from the end of its layers up to where it was noted to be durable. */
  private async walOfClosed(cluster: ClusterIdentity): Promise<StoredWal | undefined> {
    const from = this.layersEnd;
    const directory = join(this.timeline.directory, WAL);
    if (from === undefined || !(await exists(directory, this.files))) return undefined;
    const segments = (await this.files.list(directory))
      .map((name) => parseSegmentName(name, cluster.segmentSize))
      .filter((segment) => segment !== undefined);
    const timelineNumber = segments[0]?.timeline ?? 1;
    const to = (await new DurableMark(join(this.timeline.directory, MARK), this.files).read()) ?? from;
    return { from, previousLsn: undefined, to, timelineNumber };
  }

  private async findLeftovers(): Promise<void> {
    const { timeline, files } = this;
    const { directory, findings, open } = timeline;
    await this.checkMark();
    for (const name of await files.list(directory)) {
      if ([METADATA_FILE, LEASES_FILE, LAYERS, WAL, MARK].includes(name)) continue;
      const isTemporary =
        name === METADATA_FILE + TEMPORARY_SUFFIX ||
        name === LEASES_FILE + TEMPORARY_SUFFIX ||
        name === `${MARK}.tmp`;
      // Someone may be writing it right now.
      if (isTemporary && open !== undefined) continue;
      const what = isTemporary ? "an interrupted write left it" : "it is nothing of ours; nobody removes it";
      findings.garbage(what, join(directory, name));
    }
  }

  /** A note that is damaged is not relied on, but it was not the pageserver that made it so. */
  private async checkMark(): Promise<void> {
    const { directory, findings } = this.timeline;
    const path = join(directory, MARK);
    if ((await this.files.readWhole(path)) === undefined) return;
    if ((await new DurableMark(path, this.files).read()) !== undefined) return;
    findings.corrupt("it does not match its checksum", path, 0);
  }
}

/** An ancestor must reach to where its descendant begins. */
export function checkBranchPoint(check: TimelineCheck, ancestor: TimelineCheck | undefined): void {
  const { timeline } = check;
  const point = timeline.metadata?.ancestor;
  if (point === undefined || ancestor === undefined) return;
  const end = ancestor.timeline.open?.lastRecordLsn;
  if (end === undefined || point.lsn <= end) return;
  timeline.findings.corrupt(
    `it begins at ${formatLsn(point.lsn)}, behind the end of its ancestor, ${formatLsn(end)}`,
    join(timeline.directory, METADATA_FILE),
  );
}

async function exists(directory: string, files: Files): Promise<boolean> {
  try {
    await files.list(directory);
    return true;
  } catch (error) {
    if (systemCode(error) === "ENOENT") return false;
    throw error;
  }
}
