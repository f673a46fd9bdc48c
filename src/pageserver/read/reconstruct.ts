/**
 * From what the store holds for a key to the value at an LSN: the newest complete value, with every newer record
 * applied in order. The one place where kinds of keys meet redo.
 */
import { assert, corrupt } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import { Fork, Rmgr } from "../../postgres/constants.ts";
import { PageBuffer } from "../../postgres/page/layout.ts";
import { redoBlock } from "../../postgres/redo/apply.ts";
import { redoClogPage } from "../../postgres/redo/clog.ts";
import { redoCommitTsPage } from "../../postgres/redo/commit-ts.ts";
import { RedoContext } from "../../postgres/redo/context.ts";
import { mainData } from "../../postgres/redo/payload.ts";
import { redoMultixactMembersPage, redoMultixactOffsetsPage } from "../../postgres/redo/multixact.ts";
import { redoImplicitVisibility, truncateVisibilityPage } from "../../postgres/redo/visibility.ts";
import { Slru } from "../../postgres/slru.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { decodeRecord } from "../../postgres/wal/decode-record.ts";
import { type BlockRef, WalRecord } from "../../postgres/wal/record.ts";
import { type Key, ValueFlag, isBase } from "../../storage/key.ts";
import type { StoredValue } from "../../storage/value.ts";
import { redoCheckpointState } from "../ingest/checkpoint-redo.ts";
import { CheckpointState } from "../ingest/checkpoint-state.ts";
import { Kind } from "../ingest/keyspace.ts";

export class Reconstructor {
  private readonly version: PgVersion;
  private readonly context: RedoContext;
  private readonly record = new WalRecord();
  private readonly scratch = new PageBuffer();
  /** The whole buffer in which the last record was. */
  private buffer: Uint8Array = new Uint8Array(0);
  private view: DataView = new DataView(this.buffer.buffer);

  constructor(options: { version: PgVersion; hintBitsLogged: boolean }) {
    this.version = options.version;
    this.context = new RedoContext(options);
  }

  /**
   * The value, or undefined if the key does not exist there. `values` are newest first and end with a base, or with
   * nothing where none was found. The result is a view, valid until the next call: copy what outlives it.
   */
  value(key: Key, values: readonly StoredValue[]): Uint8Array | undefined {
    const newest = values[0];
    if (newest === undefined || newest.flags & ValueFlag.Tombstone) return undefined;
    if (newest.flags & ValueFlag.Image) return newest.bytes;
    switch (key.kind) {
      case Kind.RelationBlock:
        return this.page(key, values, (page, record) => {
          this.redoRelationPage(key, page, record);
        });
      case Kind.SlruPage:
        return this.page(key, values, (page, record) => {
          this.redoSlruPage(key, page, record);
        });
      case Kind.CheckpointState:
        return this.checkpointState(values).encode();
      default:
        throw corrupt(`a key of kind ${key.kind} holds a WAL record`, { kind: key.kind });
    }
  }

  /** Like `value` for a page, but applied to a copy of `base`, a version of the page older than all of `values`. */
  advance(key: Key, base: Uint8Array | undefined, values: readonly StoredValue[]): Uint8Array | undefined {
    const newest = values[0];
    if (newest === undefined) return base;
    if (newest.flags & (ValueFlag.Tombstone | ValueFlag.Image)) return this.value(key, values);
    return this.page(
      key,
      values,
      (page, record) => {
        if (key.kind === Kind.SlruPage) this.redoSlruPage(key, page, record);
        else this.redoRelationPage(key, page, record);
      },
      base,
    );
  }

  private page(
    key: Key,
    values: readonly StoredValue[],
    redo: (page: PageBuffer, record: WalRecord) => void,
    older?: Uint8Array,
  ): Uint8Array {
    const page = this.scratch;
    let next = values.length - 1;
    const base = values[next];
    assert(base !== undefined, "there are values");
    if (base.flags & ValueFlag.Image) {
      page.bytes.set(base.bytes);
      next--;
    } else if (older !== undefined && !isBase(base.flags)) {
      page.bytes.set(older);
    } else {
      // A page begins as zeros: a file that was extended but not written, or a record that makes the page anew.
      page.bytes.fill(0);
      if (base.flags & ValueFlag.Tombstone) next--;
    }
    for (; next >= 0; next--) {
      const value = values[next] as StoredValue;
      redo(page, this.decode(key, value));
    }
    return page.bytes;
  }

  private checkpointState(values: readonly StoredValue[]): CheckpointState {
    const base = values.at(-1);
    if (base === undefined || !(base.flags & ValueFlag.Image)) {
      throw corrupt("the checkpoint state has no base", { values: values.length });
    }
    const state = CheckpointState.decode(base.bytes);
    for (let i = values.length - 2; i >= 0; i--) {
      const value = values[i] as StoredValue;
      redoCheckpointState(state, this.decodeBytes(value), this.version);
    }
    return state;
  }

  private decode(key: Key, value: StoredValue): WalRecord {
    if (!(value.flags & ValueFlag.Record)) {
      throw corrupt(`value of kind ${key.kind} at ${formatLsn(value.lsn)} is no WAL record`, {
        flags: value.flags,
      });
    }
    return this.decodeBytes(value);
  }

  private decodeBytes(value: StoredValue): WalRecord {
    const { record } = this;
    const { buffer, byteOffset, length } = value.bytes;
    // Values that are read together lie in one buffer: a view for each of them would cost more than the record.
    if (this.buffer.buffer !== buffer) {
      this.buffer = new Uint8Array(buffer);
      this.view = new DataView(buffer);
    }
    decodeRecord(record, this.buffer, this.view, byteOffset, length, this.version);
    record.endLsn = value.lsn;
    // Where it started is not stored with it; the end says enough in messages.
    record.lsn = value.lsn;
    return record;
  }

  private redoRelationPage(key: Key, page: PageBuffer, record: WalRecord): void {
    for (let i = 0; i < record.blockCount; i++) {
      const block = record.blocks[i] as BlockRef;
      if (
        block.blockNumber === key.block &&
        block.relNumber === key.relNumber &&
        block.fork === key.fork &&
        block.dbOid === key.dbOid &&
        block.spcOid === key.spcOid
      ) {
        redoBlock(page, record, i, this.context);
        return;
      }
    }
    assert(key.fork === Fork.VisibilityMap, "only visibility-map pages are changed without being named");
    if (record.rmgr === Rmgr.Smgr) {
      truncateVisibilityPage(page, record.view.getUint32(mainData(record, 20), true));
    } else {
      redoImplicitVisibility(page, key.block, record);
    }
  }

  private redoSlruPage(key: Key, page: PageBuffer, record: WalRecord): void {
    switch (key.spcOid) {
      case Slru.Xact:
        redoClogPage(page.bytes, key.block, record, this.version);
        return;
      case Slru.MultixactOffsets:
        redoMultixactOffsetsPage(page.bytes, key.block, record, this.version);
        return;
      case Slru.MultixactMembers:
        redoMultixactMembersPage(page.bytes, key.block, record, this.version);
        return;
      case Slru.CommitTs:
        redoCommitTsPage(page.bytes, key.block, record, this.version);
        return;
      default:
        throw corrupt(`SLRU ${key.spcOid} holds a WAL record`, { slru: key.spcOid });
    }
  }
}
