/**
 * Decodes the stored WAL behind the last layer of a timeline, as a restart of the pageserver would: every page header,
 * checksum and link to the record before. Reads only. WAL is appended and removed meanwhile, so it is told from where
 * to where it must be whole.
 */
import { NeonError, corrupt, messageOf, systemCode } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnAlignDown, parseLsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { parseSegmentName, segmentName } from "../../postgres/wal/layout.ts";
import { WalStream } from "../../postgres/wal/stream.ts";
import type { CheckOptions } from "../../storage/check-layer.ts";
import type { Findings } from "../../storage/findings.ts";
import { readExactly } from "../../storage/read-file.ts";
import { Yielder } from "../../storage/yielder.ts";
import type { ClusterIdentity } from "../timeline/served-timeline.ts";

/** Bytes read and decoded at a time. */
const CHUNK_BYTES = 128 * 1024;
/** Records between two looks at the clock. */
const RECORDS_PER_LOOK = 128;

export interface WalToCheck {
  /** Of the WAL log. */
  readonly directory: string;
  readonly cluster: ClusterIdentity;
  readonly timelineNumber: number;
  /** The end of the record before, which is in the layers. */
  readonly from: Lsn;
  readonly previousLsn: Lsn | undefined;
  /** Up to here it must be whole. */
  readonly to: Lsn;
}

export async function checkWal(
  wal: WalToCheck,
  findings: Findings,
  files: Files,
  options: CheckOptions = {},
): Promise<void> {
  const { directory, cluster, from, to } = wal;
  const stream = new WalStream({
    version: cluster.pgVersion,
    segmentSize: cluster.segmentSize,
    systemId: cluster.systemId,
    startLsn: from,
    ...(wal.previousLsn === undefined ? {} : { previousLsn: wal.previousLsn }),
  });
  const yielder = new Yielder();
  try {
    for (let at = from; at < to;) {
      options.signal?.throwIfAborted();
      const bytes = await readChunk(wal, at, files);
      stream.feed(at, bytes);
      let untilLook = RECORDS_PER_LOOK;
      while (stream.next() !== undefined) {
        if (--untilLook > 0) continue;
        untilLook = RECORDS_PER_LOOK;
        if (yielder.due()) await yielder.yield();
      }
      at = lsnAdd(at, bytes.length);
      options.progress?.(bytes.length);
    }
    if (stream.position >= to) return;
    const end = formatLsn(stream.position);
    throw corrupt(`the WAL ends at ${end}, but it was on disk up to ${formatLsn(to)}`, { lsn: end });
  } catch (error) {
    options.signal?.throwIfAborted();
    const lsn = lsnOf(error) ?? stream.position;
    const file = segmentPath(wal, lsn);
    if (!(error instanceof NeonError) || error.data["file"] !== undefined) findings.addError(error, file);
    else findings.corrupt(`${messageOf(error)} (directory ${directory})`, file, lsn % cluster.segmentSize);
  }
}

/** Up to `CHUNK_BYTES` from one segment. */
async function readChunk(wal: WalToCheck, at: Lsn, files: Files): Promise<Uint8Array> {
  const path = segmentPath(wal, at);
  const size = wal.cluster.segmentSize;
  const start = lsnAlignDown(at, size);
  const length = Math.min(CHUNK_BYTES, start + size - at, wal.to - at);
  try {
    const handle = await files.open(path, "r");
    try {
      return await readExactly(handle, at - start, length, path);
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (systemCode(error) !== "ENOENT") throw error;
    throw corrupt("it is missing", { file: path, offset: 0, lsn: formatLsn(at) });
  }
}

function segmentPath(wal: WalToCheck, lsn: Lsn): string {
  const { segmentSize } = wal.cluster;
  return `${wal.directory}/${segmentName(wal.timelineNumber, lsn, segmentSize)}`;
}

function lsnOf(error: unknown): Lsn | undefined {
  const text = error instanceof NeonError ? error.data["lsn"] : undefined;
  return typeof text === "string" ? parseLsn(text) : undefined;
}

/** What is in the directory of the WAL log and is not needed. `inUse`: the log is open, and makes segments ahead. */
export async function findWalLeftovers(
  wal: Pick<WalToCheck, "directory" | "cluster" | "from"> & { readonly inUse: boolean },
  findings: Findings,
  files: Files,
): Promise<void> {
  const { segmentSize } = wal.cluster;
  for (const name of await files.list(wal.directory)) {
    const path = `${wal.directory}/${name}`;
    const isTemporary = name.endsWith(".tmp");
    const segment = parseSegmentName(isTemporary ? name.slice(0, -".tmp".length) : name, segmentSize);
    if (segment === undefined) {
      findings.garbage("it is no WAL segment; nobody removes it", path);
    } else if (isTemporary) {
      // The log makes the segment after the last one, and no other.
      if (!wal.inUse || segment.startLsn < wal.from) findings.garbage("it was never finished", path);
    } else if (segment.startLsn + segmentSize < wal.from) {
      findings.garbage(`its WAL is in layers, which reach to ${formatLsn(wal.from)}`, path);
    }
  }
}
