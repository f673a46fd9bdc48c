/**
 * Sizes of all relations at the end of a timeline, and the store's handles for their keys: what ingest needs for
 * every block reference, so it is kept in memory.
 */
import type { KeyHandle, TimelineStore } from "../../storage/store.ts";
import { Kind } from "./keyspace.ts";

/** A fork that does not exist. */
export const NO_FORK = -1;

export class RelationEntry {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  /** Blocks per fork, `NO_FORK` where the fork does not exist. */
  readonly sizes: [number, number, number, number] = [NO_FORK, NO_FORK, NO_FORK, NO_FORK];
  private readonly blockHandles: (KeyHandle | undefined)[] = [undefined, undefined, undefined, undefined];

  constructor(spcOid: number, dbOid: number, relNumber: number) {
    this.spcOid = spcOid;
    this.dbOid = dbOid;
    this.relNumber = relNumber;
  }

  get exists(): boolean {
    return this.sizes.some((size) => size !== NO_FORK);
  }

  size(fork: number): number {
    return this.sizes[fork] ?? NO_FORK;
  }

  blockHandle(store: TimelineStore, fork: number): KeyHandle {
    const known = this.blockHandles[fork];
    if (known !== undefined) return known;
    const handle = store.intern(Kind.RelationBlock, this.spcOid, this.dbOid, this.relNumber, fork);
    this.blockHandles[fork] = handle;
    return handle;
  }

  sizeHandle(store: TimelineStore, fork: number): KeyHandle {
    return store.intern(Kind.RelationSize, this.spcOid, this.dbOid, this.relNumber, fork);
  }
}

export class RelationTable {
  private readonly byNumber = new Map<number, RelationEntry[]>();
  private last = new RelationEntry(0, 0, 0);

  /** The relation's entry, made (with no forks) when it is new. */
  entry(spcOid: number, dbOid: number, relNumber: number): RelationEntry {
    const last = this.last;
    if (last.relNumber === relNumber && last.dbOid === dbOid && last.spcOid === spcOid) return last;
    const entry = this.find(spcOid, dbOid, relNumber) ?? this.add(spcOid, dbOid, relNumber);
    this.last = entry;
    return entry;
  }

  find(spcOid: number, dbOid: number, relNumber: number): RelationEntry | undefined {
    const entries = this.byNumber.get(relNumber);
    return entries?.find((entry) => entry.dbOid === dbOid && entry.spcOid === spcOid);
  }

  /** All existing relations of a database in one tablespace. */
  ofDatabase(spcOid: number, dbOid: number): RelationEntry[] {
    const found: RelationEntry[] = [];
    for (const entries of this.byNumber.values()) {
      for (const entry of entries) {
        if (entry.spcOid === spcOid && entry.dbOid === dbOid && entry.exists) found.push(entry);
      }
    }
    return found;
  }

  private add(spcOid: number, dbOid: number, relNumber: number): RelationEntry {
    const entry = new RelationEntry(spcOid, dbOid, relNumber);
    const entries = this.byNumber.get(relNumber);
    if (entries) entries.push(entry);
    else this.byNumber.set(relNumber, [entry]);
    return entry;
  }
}
