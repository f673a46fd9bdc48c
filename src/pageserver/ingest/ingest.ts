/**
 * WAL records into keyed values. Each record is put once into the store's open layer and indexed under every key that
 * it changes: the blocks it names, the visibility-map and SLRU pages it implies, sizes, directories, counters.
 *
 * `ingest` is called for every record in order; most calls are synchronous. What depends on the record's resource
 * manager beyond its block references is in `ingest-rmgr.ts`.
 */
import { ErrorCode, NeonError, assert, corrupt } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd } from "../../base/lsn.ts";
import { Fork } from "../../postgres/constants.ts";
import { formatRelation } from "../../postgres/relation.ts";
import { abandonedLsn } from "../../postgres/redo/xlog.ts";
import { Slru } from "../../postgres/slru.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import type { BlockRef, WalRecord } from "../../postgres/wal/record.ts";
import { type Key, ValueFlag } from "../../storage/key.ts";
import { type BlobRef, type KeyHandle, NO_BLOB, type TimelineStore } from "../../storage/store.ts";
import type { Reconstructor } from "../read/reconstruct.ts";
import type { CheckpointState } from "./checkpoint-state.ts";
import { redoCheckpointState } from "./checkpoint-redo.ts";
import { checkSupported, ingestRmgr } from "./ingest-rmgr.ts";
import { ensureDirectory } from "./ingest-tablespace.ts";
import { Kind, recordWindowKey, slruPageKey, windowOfLsn } from "./keyspace.ts";
import { type OpenRecordWindow, abandonedEntry } from "./record-index.ts";
import { NO_FORK, type RelationEntry, type RelationTable } from "./relation-table.ts";

/** Changes of the checkpoint state after which its whole value is put instead of the record. */
const CHECKPOINT_IMAGE_INTERVAL = 4096;

/**
 * Records that pile up on one page in the open layer before the page itself is put: so that reading a page that every
 * transaction changes does not mean applying all of its history.
 */
const HOT_CHAIN_LENGTH = 2048;

/**
 * Blocks that a record may leave out behind the end of a fork: 32 GiB. The largest gaps are those of hash indexes, which
 * grow by an eighth and more at once; beyond this, the block number is taken for damage.
 */
export const GAP_BLOCKS_MAX = 2 ** 22;

/** Everything that ingest knows about the end of the timeline. */
export interface IngestState {
  readonly relations: RelationTable;
  /** Databases that exist, as `spcOid/dbOid`. */
  readonly databases: Map<string, { spcOid: number; dbOid: number }>;
  /** Relation map files that exist, as `spcOid/dbOid`. */
  readonly relationMaps: Map<string, { spcOid: number; dbOid: number }>;
  /** Pages that exist, per SLRU. */
  readonly slruPages: readonly [Set<number>, Set<number>, Set<number>, Set<number>];
  /** Progress of replication origins. */
  readonly origins: Map<number, bigint>;
  readonly checkpoint: CheckpointState;
  readonly window: OpenRecordWindow;
  lastRecordLsn: Lsn;
  previousLsn: Lsn;
}

export class Ingest {
  readonly store: TimelineStore;
  readonly version: PgVersion;
  readonly state: IngestState;
  /** Reads values back, for the few records that copy what is there. */
  readonly reconstructor: Reconstructor;
  private readonly writeOut: () => Promise<void>;
  private readonly checkpointHandle: KeyHandle;
  private readonly slruHandles: readonly [KeyHandle, KeyHandle, KeyHandle, KeyHandle];
  private readonly commitTimeHandle: KeyHandle;
  private readonly otherHandle: KeyHandle;
  /** Records ingested so far. */
  recordCount = 0;
  private checkpointChanges = CHECKPOINT_IMAGE_INTERVAL;
  /** The current record's bytes in the open layer, `NO_BLOB` until a key needs them. */
  private blob: BlobRef = NO_BLOB;
  private record: WalRecord | undefined;
  /** Pages of the current record whose history has become long. */
  private readonly hot: { handle: KeyHandle; key: Key }[] = [];

  constructor(options: {
    store: TimelineStore;
    version: PgVersion;
    state: IngestState;
    reconstructor: Reconstructor;
    /** Freezes the open layer and makes it durable. */
    writeOut: () => Promise<void>;
  }) {
    this.store = options.store;
    this.version = options.version;
    this.state = options.state;
    this.reconstructor = options.reconstructor;
    this.writeOut = options.writeOut;
    this.checkpointHandle = this.store.intern(Kind.CheckpointState, 0, 0, 0, 0);
    this.commitTimeHandle = this.store.intern(Kind.CommitTime, 0, 0, 0, 0);
    this.otherHandle = this.store.intern(Kind.OtherRecord, 0, 0, 0, 0);
    this.slruHandles = [
      this.store.intern(Kind.SlruPage, Slru.Xact, 0, 0, 0),
      this.store.intern(Kind.SlruPage, Slru.MultixactOffsets, 0, 0, 0),
      this.store.intern(Kind.SlruPage, Slru.MultixactMembers, 0, 0, 0),
      this.store.intern(Kind.SlruPage, Slru.CommitTs, 0, 0, 0),
    ];
  }

  /**
   * Takes the next record. Returns a promise only for the rare record that has to read the store. Throws
   * `unsupported` for a record that is not understood, before anything of it has been put.
   */
  ingest(record: WalRecord): Promise<void> | undefined {
    assert(record.endLsn > this.state.lastRecordLsn, "records are ingested in order");
    this.record = record;
    this.blob = NO_BLOB;
    checkSupported(record, this.version);
    this.checkAbandoned(record);
    if (record.blockCount > 0) this.putGaps(record);
    const pending = ingestRmgr(this, record);
    if (pending === undefined) {
      this.finish(record);
      return this.hot.length === 0 ? undefined : this.putHotPages();
    }
    return pending.then(() => {
      this.finish(record);
      return this.putHotPages();
    });
  }

  /** Puts pages with long histories as they are after the record, in the place of the record's own values. */
  private async putHotPages(): Promise<void> {
    const lsn = this.state.lastRecordLsn;
    for (const { handle, key } of this.hot.splice(0)) {
      const { values } = await this.store.get(key, lsn);
      const page = this.reconstructor.value(key, values);
      if (page !== undefined) this.putImage(handle, key.block, lsn, page);
    }
  }

  private finish(record: WalRecord): void {
    if (redoCheckpointState(this.state.checkpoint, record, this.version)) this.putCheckpoint(record);
    this.keepRecord(record);
    this.noteRecord(record);
    this.recordCount++;
    this.state.previousLsn = record.lsn;
    this.state.lastRecordLsn = record.endLsn;
    this.record = undefined;
  }

  /** Before the open layer is frozen: what has been kept back is put. */
  beforeFreeze(): void {
    this.saveWindow(this.state.lastRecordLsn);
    this.checkpointChanges = CHECKPOINT_IMAGE_INTERVAL;
  }

  /**
   * Makes room for the blocks that the record names beyond the end of their forks. What lies between the old end and
   * them is zero pages: tombstones hide what an earlier life of the relation left under their keys. They are put one
   * byte before the record's end, newer than anything before the record, so they must be put first.
   */
  private putGaps(record: WalRecord): void {
    const lsn = lsnAdd(record.endLsn, -1);
    let last: RelationEntry | undefined;
    let lastFork = 0;
    let end = 0;
    for (let i = 0; i < record.blockCount; i++) {
      const block = record.blocks[i] as BlockRef;
      if (block.fork === Fork.FreeSpaceMap) continue;
      const relation = this.state.relations.entry(block.spcOid, block.dbOid, block.relNumber);
      if (relation !== last || block.fork !== lastFork) end = Math.max(0, relation.size(block.fork));
      last = relation;
      lastFork = block.fork;
      const gapEnd = isBaseBlock(block) ? block.blockNumber : block.blockNumber + 1;
      if (gapEnd - end > GAP_BLOCKS_MAX) throw gapTooLarge(record, block, end);
      for (; end < gapEnd; end++) {
        this.store.put(relation.blockHandle(this.store, block.fork), end, lsn, ValueFlag.Tombstone, NO_BLOB);
      }
      end = Math.max(end, block.blockNumber + 1);
    }
  }

  /** Indexes every block that the record names. */
  putBlocks(record: WalRecord): void {
    for (let i = 0; i < record.blockCount; i++) {
      const block = record.blocks[i] as BlockRef;
      if (block.fork === Fork.FreeSpaceMap) continue;
      const relation = this.state.relations.entry(block.spcOid, block.dbOid, block.relNumber);
      if (block.blockNumber >= relation.size(block.fork)) {
        this.setSize(relation, block.fork, block.blockNumber + 1, record.endLsn);
      }
      const flags = isBaseBlock(block) ? ValueFlag.Record | ValueFlag.WillInit : ValueFlag.Record;
      const handle = relation.blockHandle(this.store, block.fork);
      const length = this.store.put(handle, block.blockNumber, record.endLsn, flags, this.recordBlob());
      if (length >= HOT_CHAIN_LENGTH)
        this.hot.push({ handle, key: blockKey(relation, block.fork, block.blockNumber) });
    }
  }

  /** Records a fork's new size; `NO_FORK` removes the fork. */
  setSize(relation: RelationEntry, fork: number, blocks: number, lsn: Lsn): void {
    if (blocks !== NO_FORK) ensureDirectory(this, relation.spcOid, relation.dbOid, lsn);
    relation.sizes[fork as 0 | 1 | 2 | 3] = blocks;
    const handle = relation.sizeHandle(this.store, fork);
    if (blocks === NO_FORK) this.store.put(handle, 0, lsn, ValueFlag.Tombstone, NO_BLOB);
    else this.store.put(handle, 0, lsn, ValueFlag.Image, this.appendU32(blocks));
  }

  /** Removes a relation with all its forks. */
  dropRelation(relation: RelationEntry, lsn: Lsn): void {
    for (let fork = 0; fork < relation.sizes.length; fork++) {
      if (relation.size(fork) !== NO_FORK) this.setSize(relation, fork, NO_FORK, lsn);
    }
  }

  /** Indexes the record under a page of a relation that it changes without naming it, if the page exists. */
  putImpliedBlock(relation: RelationEntry, fork: number, blockNumber: number, lsn: Lsn): void {
    if (blockNumber >= relation.size(fork)) return;
    const handle = relation.blockHandle(this.store, fork);
    const length = this.store.put(handle, blockNumber, lsn, ValueFlag.Record, this.recordBlob());
    if (length >= HOT_CHAIN_LENGTH) this.hot.push({ handle, key: blockKey(relation, fork, blockNumber) });
  }

  /** Indexes the record under an SLRU page; the first value of a page that does not exist yet is its base. */
  putSlruPage(slru: Slru, pageNumber: number, lsn: Lsn, init: boolean): void {
    const pages = this.state.slruPages[slru];
    const flags = init || !pages.has(pageNumber) ? ValueFlag.Record | ValueFlag.WillInit : ValueFlag.Record;
    pages.add(pageNumber);
    const handle = this.slruHandles[slru];
    const length = this.store.put(handle, pageNumber, lsn, flags, this.recordBlob());
    if (length >= HOT_CHAIN_LENGTH) this.hot.push({ handle, key: slruPageKey(slru, pageNumber) });
  }

  /** Puts a whole page of an SLRU. */
  putSlruImage(slru: Slru, pageNumber: number, lsn: Lsn, page: Uint8Array): void {
    this.state.slruPages[slru].add(pageNumber);
    this.putImage(this.slruHandles[slru], pageNumber, lsn, page);
  }

  removeSlruPage(slru: Slru, pageNumber: number, lsn: Lsn): void {
    this.state.slruPages[slru].delete(pageNumber);
    this.store.put(this.slruHandles[slru], pageNumber, lsn, ValueFlag.Tombstone, NO_BLOB);
  }

  /** Files a commit record under the second of its time. */
  putCommitTime(second: number, lsn: Lsn): void {
    this.store.put(this.commitTimeHandle, second, lsn, ValueFlag.Record, this.recordBlob());
  }

  /** Puts a complete value under any key. */
  putImage(handle: KeyHandle, block: number, lsn: Lsn, bytes: Uint8Array): void {
    this.store.put(handle, block, lsn, ValueFlag.Image, this.store.append(bytes, 0, bytes.length));
  }

  putTombstone(handle: KeyHandle, block: number, lsn: Lsn): void {
    this.store.put(handle, block, lsn, ValueFlag.Tombstone, NO_BLOB);
  }

  private putCheckpoint(record: WalRecord): void {
    if (++this.checkpointChanges >= CHECKPOINT_IMAGE_INTERVAL) {
      this.putImage(this.checkpointHandle, 0, record.endLsn, this.state.checkpoint.encode());
      this.checkpointChanges = 0;
      return;
    }
    this.store.put(this.checkpointHandle, 0, record.endLsn, ValueFlag.Record, this.recordBlob());
  }

  /**
   * A record that changes nothing is kept nevertheless, so that the WAL of any span can be put together again; and so is
   * one whose place a page is about to take.
   */
  private keepRecord(record: WalRecord): void {
    if (this.blob !== NO_BLOB && this.hot.length === 0) return;
    this.store.put(this.otherHandle, 0, record.endLsn, ValueFlag.Image, this.recordBlob());
  }

  /** A record that was cut off lies between the record before and the one that declares it missing. */
  private checkAbandoned(record: WalRecord): void {
    const abandoned = abandonedLsn(record);
    if (abandoned === undefined) return;
    if (abandoned % 8 === 0 && abandoned >= this.state.lastRecordLsn && abandoned < record.lsn) return;
    throw corrupt(`the record at ${formatLsn(record.lsn)} declares one missing that is at the wrong place`, {
      lsn: formatLsn(record.lsn),
      missing: formatLsn(abandoned),
    });
  }

  private noteRecord(record: WalRecord): void {
    const abandoned = abandonedLsn(record);
    if (abandoned !== undefined) this.noteStart(abandonedEntry(abandoned), record.endLsn);
    if (record.cutOff !== undefined) {
      const handle = this.store.intern(Kind.CutOffRecord, 0, 0, 0, 0);
      this.putImage(handle, 0, record.endLsn, record.cutOff);
    }
    this.noteStart(record.lsn, record.endLsn);
  }

  private noteStart(entry: Lsn, endLsn: Lsn): void {
    const { window } = this.state;
    if (window.unsaved && windowOfLsn(entry) !== window.window) this.saveWindow(endLsn);
    window.add(entry);
  }

  private saveWindow(lsn: Lsn): void {
    const { window } = this.state;
    if (!window.unsaved) return;
    const indexKey = recordWindowKey(window.window);
    const handle = this.store.intern(Kind.RecordIndex, 0, 0, indexKey.relNumber, 0);
    this.putImage(handle, indexKey.block, lsn, window.save());
  }

  private recordBlob(): BlobRef {
    if (this.blob === NO_BLOB) {
      const record = this.record;
      assert(record !== undefined, "a record is being ingested");
      this.blob = this.store.append(record.bytes, record.offset, record.offset + record.length);
    }
    return this.blob;
  }

  /** Writes out everything that was ingested before the current record; to be called before anything of it is put. */
  persist(): Promise<void> {
    return this.writeOut();
  }

  private appendU32(value: number): BlobRef {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    return this.store.append(bytes, 0, 4);
  }
}

function gapTooLarge(record: WalRecord, block: BlockRef, end: number): NeonError {
  const lsn = formatLsn(record.lsn);
  return new NeonError(
    ErrorCode.Unsupported,
    `WAL record at ${lsn} names block ${block.blockNumber} of ${formatRelation(block)}, which has ${end} blocks`,
    {
      hint: `A relation may grow by ${GAP_BLOCKS_MAX} blocks at once. The branch stays readable up to this record.`,
      data: { lsn, block: block.blockNumber, blocks: end },
    },
  );
}

/** True if nothing older than the record is needed to know the block. */
function isBaseBlock(block: BlockRef): boolean {
  return block.willInit || block.applyImage;
}

function blockKey(relation: RelationEntry, fork: number, block: number): Key {
  const { spcOid, dbOid, relNumber } = relation;
  return { kind: Kind.RelationBlock, spcOid, dbOid, relNumber, fork, block };
}
