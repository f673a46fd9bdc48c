/**
 * Reads single pages of a timeline at any LSN: GetPage@LSN. Goes through the page cache; a version older than the one
 * that is cached is made from what the store has.
 *
 * Callers see to it that the LSN is not beyond the last ingested record, nor below the beginning of history.
 */
import { ErrorCode, NeonError, corrupt } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../../postgres/constants.ts";
import { type RelationFork, formatRelation } from "../../postgres/relation.ts";
import type { Key } from "../../storage/key.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { Kind } from "../ingest/keyspace.ts";
import type { CachedValue, PageCache } from "./page-cache.ts";
import type { Reconstructor } from "./reconstruct.ts";

export interface PageAddress extends RelationFork {
  readonly block: number;
}

export interface PageReaderDependencies {
  readonly store: TimelineStore;
  readonly reconstructor: Reconstructor;
  readonly pages: PageCache;
}

export class PageReader {
  private readonly store: TimelineStore;
  private readonly reconstructor: Reconstructor;
  private readonly pages: PageCache;
  private readonly reader: number;

  constructor({ store, reconstructor, pages }: PageReaderDependencies) {
    this.store = store;
    this.reconstructor = reconstructor;
    this.pages = pages;
    this.reader = pages.newReader();
  }

  /**
   * A page as it was right after the record that ends at `lsn`, without a checksum. All zeros where the file was
   * extended but never written to. Throws `not_found` beyond the end of the relation. View: not to be changed.
   */
  async getPage(address: PageAddress, lsn: Lsn): Promise<Uint8Array> {
    const size = await this.relationSize(address, lsn);
    if (size === undefined || address.block >= size) throw noSuchPage(address, lsn, size);
    return (await this.value(pageKey(address), lsn)) ?? new Uint8Array(PAGE_SIZE);
  }

  /** Size of a fork in pages; undefined if it does not exist. */
  async relationSize(fork: RelationFork, lsn: Lsn): Promise<number | undefined> {
    const bytes = await this.value({ ...pageKey({ ...fork, block: 0 }), kind: Kind.RelationSize }, lsn);
    if (bytes === undefined) return undefined;
    if (bytes.length !== 4) throw corrupt(`the size of ${formatRelation(fork)} has ${bytes.length} bytes`);
    return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  }

  /** A value that is in the cache as of exactly this LSN; undefined if it must be read. Views: not to be changed. */
  cached(key: Key, lsn: Lsn): CachedValue | undefined {
    const cached = this.pages.get(this.reader, key);
    return cached?.lsn === lsn ? cached : undefined;
  }

  /** The same for several pages of a fork. */
  cachedPages(fork: Omit<Key, "block">, lsn: Lsn): (block: number) => CachedValue | undefined {
    const look = this.pages.fork(this.reader, fork);
    return (block) => {
      const cached = look(block);
      return cached?.lsn === lsn ? cached : undefined;
    };
  }

  /** Any value, undefined if the key does not exist at the LSN. View: not to be changed. */
  async value(key: Key, lsn: Lsn): Promise<Uint8Array | undefined> {
    const { reader, pages } = this;
    const cached = pages.get(reader, key);
    if (cached !== undefined && cached.lsn === lsn) return cached.bytes;
    const floor = cached !== undefined && cached.lsn < lsn ? cached : undefined;
    const { values, base } = await this.store.get(key, lsn, floor?.lsn);
    let bytes: Uint8Array | undefined;
    if (floor !== undefined && base === "floor") {
      const advanced = this.reconstructor.advance(key, floor.bytes, values);
      bytes = advanced === floor.bytes ? advanced : advanced?.slice();
    } else {
      bytes = this.reconstructor.value(key, values)?.slice();
    }
    pages.add(reader, key, { bytes, lsn });
    return bytes;
  }
}

function pageKey(address: PageAddress): Key {
  const { spcOid, dbOid, relNumber, fork, block } = address;
  return { kind: Kind.RelationBlock, spcOid, dbOid, relNumber, fork, block };
}

function noSuchPage(address: PageAddress, lsn: Lsn, size: number | undefined): NeonError {
  const relation = formatRelation(address);
  const what =
    size === undefined
      ? `relation ${relation} does not exist`
      : `relation ${relation} has ${size} pages, so no page ${address.block}`;
  return new NeonError(ErrorCode.NotFound, `${what} at ${formatLsn(lsn)}`, {
    data: { relation, block: address.block, lsn: formatLsn(lsn), size: size ?? null },
  });
}
