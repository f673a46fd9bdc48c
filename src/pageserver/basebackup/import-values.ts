/**
 * Files of a data directory into keyed values, in the order of their keys. Pages are read from where the files are when it is
 * their turn, so that a directory of any size takes little memory; what is one value each is small.
 */
import { crc32c } from "../../base/crc32c.ts";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import {
  DEFAULT_TABLESPACE_OID,
  Fork,
  GLOBAL_TABLESPACE_OID,
  PAGE_SIZE,
  RELATION_SEGMENT_PAGES,
  SLRU_SEGMENT_PAGES,
} from "../../postgres/constants.ts";
import type { ControlFile } from "../../postgres/control-file.ts";
import { type RelationFile, databaseDirectory, parseRelationPath } from "../../postgres/relation.ts";
import { REPLICATION_ORIGINS_PATH, decodeOrigins } from "../../postgres/replication-origins.ts";
import { parseSlruPath, parseTwoPhasePath } from "../../postgres/slru.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { type Key, compareKeys } from "../../storage/key.ts";
import { makeKey } from "../../storage/key-range.ts";
import { CheckpointState } from "../ingest/checkpoint-state.ts";
import {
  CHECKPOINT_STATE_KEY,
  CONTROL_FILE_KEY,
  Kind,
  encodeOriginProgress,
  key,
  originKey,
  slruPageKey,
  twoPhaseKey,
} from "../ingest/keyspace.ts";
import type { SpooledFile } from "./spool.ts";

/** What stands behind the content of a prepared transaction's file. */
const CHECKSUM_SIZE = 4;
/** Pages, or other values, handed on at a time. */
const BATCH_VALUES = 128;
/** Bytes of what is one value each, in all: maps, versions, prepared transactions. */
const SMALL_BYTES_MAX = 256 * 1024 * 1024;

interface Value {
  readonly key: Key;
  readonly bytes: Uint8Array;
}

/** A file of pages whose keys differ in the block only, and follow each other. */
interface PagedFile {
  readonly path: string;
  /** Of its first page. */
  readonly key: Key;
  readonly pages: number;
  readonly file: SpooledFile;
}

type Files = ReadonlyMap<string, SpooledFile>;

/** Throws `usage`, `corrupt` or `unsupported` for what is no data directory that could be imported, before a page is read. */
export async function importedValues(
  files: Files,
  control: ControlFile,
  template: Uint8Array,
): Promise<AsyncIterable<readonly Value[]>> {
  const collector = new Collector(files, control.version);
  await collector.collect(control, template);
  const sources = [...collector.small, ...collector.paged].sort((a, b) => compareKeys(a.key, b.key));
  for (const [index, source] of sources.entries()) {
    const next = sources[index + 1];
    if (next === undefined || compareKeys(lastKey(source), next.key) < 0) continue;
    const path = "path" in next ? next.path : "a file";
    throw new NeonError(
      ErrorCode.Corrupt,
      `${path.slice(0, 200)} has what another file in the archive has too`,
    );
  }
  return inBatches(sources);
}

function lastKey(source: Value | PagedFile): Key {
  return "pages" in source ? blockOf(source, Math.max(source.pages - 1, 0)) : source.key;
}

function blockOf({ key: first }: PagedFile, page: number): Key {
  return makeKey(first, first.block + page);
}

async function* inBatches(sources: readonly (Value | PagedFile)[]): AsyncGenerator<readonly Value[]> {
  let batch: Value[] = [];
  for (const source of sources) {
    if (!("pages" in source)) {
      batch.push(source);
      if (batch.length >= BATCH_VALUES) {
        yield batch;
        batch = [];
      }
      continue;
    }
    if (batch.length > 0) yield batch;
    batch = [];
    for (let page = 0; page < source.pages; page += BATCH_VALUES) yield readPages(source, page);
  }
  if (batch.length > 0) yield batch;
}

async function readPages(source: PagedFile, from: number): Promise<Value[]> {
  const to = Math.min(from + BATCH_VALUES, source.pages);
  const bytes = await source.file.read(from * PAGE_SIZE, to * PAGE_SIZE);
  return Array.from({ length: to - from }, (_, index) => ({
    key: blockOf(source, from + index),
    bytes: bytes.subarray(index * PAGE_SIZE, (index + 1) * PAGE_SIZE),
  }));
}

class Collector {
  readonly small: Value[] = [];
  readonly paged: PagedFile[] = [];
  private readonly files: Files;
  private readonly version: PgVersion;
  private readonly sizes = new Map<string, { key: Key; blocks: number }>();
  private smallBytes = 0;

  constructor(files: Files, version: PgVersion) {
    this.files = files;
    this.version = version;
  }

  async collect(control: ControlFile, template: Uint8Array): Promise<void> {
    for (const [path, file] of this.files) {
      if (path.startsWith("pg_tblspc/")) throw tablespaceError(path);
      const relation = parseRelationPath(path, this.version);
      if (relation !== undefined) this.addRelationFile(relation, file, path);
      else await this.addOtherFile(path, file);
    }
    for (const { key: sizeKey, blocks } of this.sizes.values()) {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, blocks, true);
      this.small.push({ key: sizeKey, bytes });
    }
    await this.addDatabases();
    const state = stateOf(control);
    await this.addPreparedTransactions(state);
    this.small.push(
      { key: CHECKPOINT_STATE_KEY, bytes: state.encode() },
      { key: CONTROL_FILE_KEY, bytes: template },
    );
  }

  /** A file that is one value. */
  private async whole(path: string, file: SpooledFile): Promise<Uint8Array> {
    this.smallBytes += file.sizeBytes;
    if (this.smallBytes > SMALL_BYTES_MAX) {
      throw new NeonError(ErrorCode.Corrupt, `${path} has ${file.sizeBytes} bytes: such files are small`, {
        data: { path, size: file.sizeBytes },
      });
    }
    return file.read();
  }

  private addRelationFile(relation: RelationFile, file: SpooledFile, path: string): void {
    if (relation.fork === Fork.FreeSpaceMap) return;
    const { spcOid, dbOid, relNumber, fork } = relation;
    const place = { spcOid, dbOid, relNumber, fork };
    const pages = pagesOf(file, path);
    const first = relation.segment * RELATION_SEGMENT_PAGES;
    this.paged.push({ path, key: key(Kind.RelationBlock, { ...place, block: first }), pages, file });
    const name = `${spcOid}/${dbOid}/${relNumber}/${fork}`;
    const blocks = Math.max(this.sizes.get(name)?.blocks ?? 0, first + pages);
    this.sizes.set(name, { key: key(Kind.RelationSize, place), blocks });
  }

  private async addOtherFile(path: string, file: SpooledFile): Promise<void> {
    if (path === REPLICATION_ORIGINS_PATH) {
      for (const { origin, remoteLsn } of decodeOrigins(await this.whole(path, file))) {
        this.small.push({ key: originKey(origin), bytes: encodeOriginProgress(remoteLsn) });
      }
      return;
    }
    const segment = parseSlruPath(path);
    if (segment === undefined) return;
    const pages = Math.min(Math.floor(file.sizeBytes / PAGE_SIZE), SLRU_SEGMENT_PAGES);
    const firstKey = slruPageKey(segment.slru, segment.segment * SLRU_SEGMENT_PAGES);
    this.paged.push({ path, key: firstKey, pages, file });
  }

  /** Directories of databases, with their version file and relation map. */
  private async addDatabases(): Promise<void> {
    const { files, version } = this;
    const globalMap = files.get(GLOBAL_MAP);
    if (globalMap === undefined) throw new NeonError(ErrorCode.Usage, `the archive has no ${GLOBAL_MAP}`);
    this.small.push({
      key: key(Kind.RelationMap, { spcOid: GLOBAL_TABLESPACE_OID }),
      bytes: await this.whole(GLOBAL_MAP, globalMap),
    });
    for (const [path, file] of files) {
      const dbOid = Number(DATABASE_VERSION.exec(path)?.[1] ?? 0);
      if (dbOid === 0) continue;
      const place = { spcOid: DEFAULT_TABLESPACE_OID, dbOid };
      this.small.push({ key: key(Kind.Database, place), bytes: await this.whole(path, file) });
      const mapPath = `${databaseDirectory(DEFAULT_TABLESPACE_OID, dbOid, version)}/pg_filenode.map`;
      const map = files.get(mapPath);
      if (map !== undefined)
        this.small.push({ key: key(Kind.RelationMap, place), bytes: await this.whole(mapPath, map) });
    }
  }

  /**
   * Transactions that were prepared when the server stopped. A file is what the record of PREPARE held, and its CRC-32C.
   * Before 17 its name has no epoch: that of the counters says which it was.
   */
  private async addPreparedTransactions(state: CheckpointState): Promise<void> {
    for (const [path, file] of this.files) {
      if (!path.startsWith("pg_twophase/")) continue;
      const bytes = await this.whole(path, file);
      const named = parseTwoPhasePath(path, this.version);
      const end = bytes.length - CHECKSUM_SIZE;
      const stored = end > 0 ? new DataView(bytes.buffer, bytes.byteOffset + end, CHECKSUM_SIZE) : undefined;
      if (named === undefined || stored?.getUint32(0, true) !== crc32c(bytes, 0, end)) {
        throw new NeonError(ErrorCode.Corrupt, `${path} is no whole prepared transaction`, {
          hint: "Start Postgres on the directory: it says what is wrong with the file.",
          data: { path, size: bytes.length },
        });
      }
      const xid = Number(BigInt.asUintN(32, named));
      const xidKey = twoPhaseKey((BigInt(state.epochOf(xid)) << 32n) | BigInt(xid));
      this.small.push({ key: xidKey, bytes: bytes.subarray(0, end) });
    }
  }
}

const GLOBAL_MAP = "global/pg_filenode.map";
const DATABASE_VERSION = /^base\/(\d+)\/PG_VERSION$/;

/** Whole pages, and no more than a segment of a relation has. */
function pagesOf({ sizeBytes }: SpooledFile, path: string): number {
  const sizeMax = RELATION_SEGMENT_PAGES * PAGE_SIZE;
  if (sizeBytes % PAGE_SIZE === 0 && sizeBytes <= sizeMax) return sizeBytes / PAGE_SIZE;
  const what = sizeBytes > sizeMax ? `at most ${sizeMax}` : "whole pages";
  throw new NeonError(ErrorCode.Corrupt, `${path} has ${sizeBytes} bytes, not ${what}`, { data: { path } });
}

function stateOf({ checkpoint, parameters }: ControlFile): CheckpointState {
  const state = new CheckpointState();
  state.assign(checkpoint);
  return Object.assign(state, {
    walLevel: parameters.walLevel,
    walLogHints: parameters.walLogHints,
    maxConnections: parameters.maxConnections,
    maxWorkerProcesses: parameters.maxWorkerProcesses,
    maxWalSenders: parameters.maxWalSenders,
    maxPreparedTransactions: parameters.maxPreparedTransactions,
    maxLocksPerTransaction: parameters.maxLocksPerTransaction,
    trackCommitTimestamp: parameters.trackCommitTimestamp,
  });
}

export function tablespaceError(path: string): NeonError {
  return new NeonError(
    ErrorCode.Unsupported,
    `the data directory has ${path}: tablespaces cannot be imported yet`,
    {
      hint: "Move what is in them to the default tablespace (ALTER TABLE … SET TABLESPACE pg_default), drop them, stop Postgres, then import.",
      data: { path },
    },
  );
}
