/**
 * WAL that somebody has kept in segment files: checked as a whole before a timeline takes anything of it, so that it is
 * taken whole or not at all.
 */
import { setImmediate as yieldToLoop } from "node:timers/promises";
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnFromWords, lsnMin } from "../../base/lsn.ts";
import { Rmgr } from "../../postgres/constants.ts";
import { mainData } from "../../postgres/redo/payload.ts";
import { nextRecordLsn, parseSegmentName, segmentName, segmentStart } from "../../postgres/wal/layout.ts";
import type { WalRecord } from "../../postgres/wal/record.ts";
import { WalStream } from "../../postgres/wal/stream.ts";
import type { Spool, SpooledFile } from "../basebackup/spool.ts";
import { readTarFiles } from "../basebackup/tar-reader.ts";
import { checkSupported } from "../ingest/ingest-rmgr.ts";
import type { ClusterIdentity } from "../timeline/served-timeline.ts";

/** Handled at a time. */
const PIECE_BYTES = 1 << 20;
/** In the first page of a segment: which cluster it is of. */
const SYSTEM_ID_OFFSET = 24;
/** `xl_info` of the record at the end of a base backup, whose main data is where the backup began. */
const XLOG_BACKUP_END = 0x50;
const WAL_FILE = /^(?:pg_wal\/)?([0-9A-F]{24})(\.partial)?$/;
/** What else may be in a directory of WAL. */
const OTHER_FILE = /(?:\.history|\.backup|\.done|\.ready)$|(?:^|\/)(?:archive_status|summaries)\//;

/** Where WAL is taken in. */
interface Sink {
  readonly failure: Error | undefined;
  accept(lsn: Lsn, bytes: Uint8Array): Promise<void> | void;
  waitForDurable(lsn: Lsn, timeoutMs: number): Promise<void>;
}

export class KeptWal {
  private readonly cluster: ClusterIdentity;
  private readonly segments = new Map<Lsn, SpooledFile>();

  private constructor(cluster: ClusterIdentity) {
    this.cluster = cluster;
  }

  /** Throws `usage` for a file that is no segment of the cluster, `conflict` for that of another. */
  static async of(files: ReadonlyMap<string, SpooledFile>, cluster: ClusterIdentity): Promise<KeptWal> {
    const kept = new KeptWal(cluster);
    for (const [path, file] of files) await kept.add(path, file);
    return kept;
  }

  /** Throws `usage` for what is no archive of WAL. The spool must stay as long as this is used. */
  static async read(
    tar: AsyncIterable<Uint8Array>,
    cluster: ClusterIdentity,
    spool: Spool,
  ): Promise<KeptWal> {
    let unknown: string | undefined;
    const wishes = {
      what: "WAL",
      wants: (path: string): boolean => {
        if (isWalFile(path)) return true;
        if (!OTHER_FILE.test(path)) unknown ??= path;
        return false;
      },
    };
    const files = await readTarFiles(tar, wishes, spool);
    if (unknown !== undefined)
      throw wrong(`the archive has ${unknown.slice(0, 80)}, which is no WAL segment`);
    if (files.size === 0) throw wrong("the archive has no WAL segments");
    return KeptWal.of(files, cluster);
  }

  private async add(path: string, file: SpooledFile): Promise<void> {
    const { segmentSize, systemId } = this.cluster;
    const name = WAL_FILE.exec(path)?.[1] ?? "";
    const segment = parseSegmentName(name, segmentSize);
    if (segment === undefined || file.sizeBytes > segmentSize || file.sizeBytes < SYSTEM_ID_OFFSET + 8) {
      throw wrong(`${path} is no WAL segment of ${segmentSize} bytes`);
    }
    if (segment.timeline !== 1) {
      throw new NeonError(
        ErrorCode.Unsupported,
        `${path} is of timeline ${segment.timeline} of Postgres; only the first can be imported`,
      );
    }
    const head = await file.read(SYSTEM_ID_OFFSET, SYSTEM_ID_OFFSET + 8);
    const found = new DataView(head.buffer, head.byteOffset, head.length).getBigUint64(0, true);
    // The rest of a segment may be void, but not its first page.
    if (found !== systemId) {
      throw new NeonError(
        ErrorCode.Conflict,
        `${path} is of another cluster (system ${found}, the timeline has ${systemId})`,
      );
    }
    const other = this.segments.get(segment.startLsn);
    if (other === undefined || other.sizeBytes < file.sizeBytes) this.segments.set(segment.startLsn, file);
  }

  /** Bytes from an LSN on, up to the end of the piece, of the segment, or of what is wanted. Throws `usage` where there are none. */
  private async at(lsn: Lsn, toLsn: Lsn): Promise<Uint8Array> {
    const { segmentSize } = this.cluster;
    const start = segmentStart(lsn, segmentSize);
    const file = this.segments.get(start);
    const from = lsn - start;
    if (file === undefined || from >= file.sizeBytes) {
      throw wrong(
        `the archive has no WAL at ${formatLsn(lsn)}: ${segmentName(1, lsn, segmentSize)} is missing or too short`,
      );
    }
    return file.read(from, Math.min(file.sizeBytes, from + PIECE_BYTES, from + (toLsn - lsn)));
  }

  /** Where the record begins that the first one behind an LSN, or at it, is linked to. */
  async previousOf(startLsn: Lsn): Promise<Lsn> {
    const lsn = nextRecordLsn(startLsn, this.cluster.segmentSize);
    const bytes = await this.at(lsn, lsnAdd(lsn, 16));
    if (bytes.length < 16) throw wrong(`the WAL at ${formatLsn(lsn)} is cut off`);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    return lsnFromWords(view.getUint32(12, true), view.getUint32(8, true));
  }

  /**
   * Decodes everything between two ends of records. Throws `usage` where it is not whole, does not continue the record
   * before, or does not end there; `unsupported` for records that no timeline can take.
   */
  async check(
    span: { readonly startLsn: Lsn; readonly previousLsn: Lsn; readonly endLsn: Lsn },
    visit: (record: WalRecord) => void = () => undefined,
  ): Promise<void> {
    const { pgVersion, segmentSize, systemId } = this.cluster;
    const stream = new WalStream({ version: pgVersion, segmentSize, systemId, ...span });
    while (stream.fedLsn < span.endLsn) {
      const lsn = stream.fedLsn;
      const bytes = await this.at(lsn, span.endLsn);
      try {
        stream.feed(lsn, bytes);
        for (let record = stream.next(); record !== undefined; record = stream.next()) {
          checkSupported(record, pgVersion);
          visit(record);
        }
      } catch (error) {
        if (error instanceof NeonError && error.code !== ErrorCode.Corrupt) throw error;
        throw wrong(`the WAL does not continue behind ${formatLsn(stream.position)}: ${messageOf(error)}`);
      }
      await yieldToLoop();
    }
    if (stream.position !== span.endLsn) {
      throw wrong(
        `${formatLsn(span.endLsn)} is not the end of a record; the last one before ends at ${formatLsn(stream.position)}`,
      );
    }
  }

  /** The end of the record that ends the base backup that began at `redoLsn`. Throws `usage` if there is none. */
  async endOfBackup(
    start: { readonly startLsn: Lsn; readonly previousLsn: Lsn },
    redoLsn: Lsn,
  ): Promise<Lsn> {
    const { pgVersion, segmentSize, systemId } = this.cluster;
    const stream = new WalStream({ version: pgVersion, segmentSize, systemId, ...start });
    for (;;) {
      const lsn = stream.fedLsn;
      if (!this.segments.has(segmentStart(lsn, segmentSize))) throw endless(stream.position);
      try {
        stream.feed(lsn, await this.at(lsn, lsnAdd(lsn, PIECE_BYTES)));
        for (let record = stream.next(); record !== undefined; record = stream.next()) {
          if (backupStartOf(record) === redoLsn) return record.endLsn;
        }
      } catch (error) {
        if (error instanceof NeonError && error.code !== ErrorCode.Corrupt) throw error;
        throw endless(stream.position);
      }
      await yieldToLoop();
    }
  }

  /** Gives a timeline everything between two ends of records, and waits until it is durable there. */
  async feed(sink: Sink, span: { readonly startLsn: Lsn; readonly endLsn: Lsn }): Promise<void> {
    for (let at = span.startLsn; at < span.endLsn;) {
      const bytes = await this.at(at, span.endLsn);
      await sink.accept(at, bytes);
      at = lsnMin(lsnAdd(at, bytes.length), span.endLsn);
    }
    if (sink.failure) throw sink.failure;
    await sink.waitForDurable(span.endLsn, DURABLE_TIMEOUT_MS);
  }
}

const DURABLE_TIMEOUT_MS = 120_000;

export function isWalFile(path: string): boolean {
  return WAL_FILE.test(path);
}

/** Where the base backup began that ends with a record; undefined if none does. */
function backupStartOf(record: WalRecord): Lsn | undefined {
  if (record.rmgr !== Rmgr.Xlog || (record.info & 0xf0) !== XLOG_BACKUP_END) return undefined;
  const at = mainData(record, 8);
  return lsnFromWords(record.view.getUint32(at + 4, true), record.view.getUint32(at, true));
}

function endless(lsn: Lsn): NeonError {
  return wrong(`the WAL in the archive ends at ${formatLsn(lsn)}, before the end of the base backup`);
}

function wrong(message: string): NeonError {
  return new NeonError(ErrorCode.Usage, message);
}
