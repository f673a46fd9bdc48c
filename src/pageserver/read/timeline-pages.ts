/** Reads of pages, sizes and SLRU segments of a timeline, for clients that fetch what they need one by one. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { DEFAULT_TABLESPACE_OID, Fork, PAGE_SIZE, SLRU_SEGMENT_PAGES } from "../../postgres/constants.ts";
import { type RelationFork, formatRelation } from "../../postgres/relation.ts";
import type { Slru } from "../../postgres/slru.ts";
import type { TimelineStore } from "../../storage/store.ts";
import type { Key } from "../../storage/key.ts";
import { Kind, databaseRange, key, slruPageKey } from "../ingest/keyspace.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import { makeReconstructor } from "./make-reconstructor.ts";
import { PageCache } from "./page-cache.ts";
import { PageReader } from "./page-reader.ts";
import type { Reconstructor } from "./reconstruct.ts";

const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

export class TimelinePages {
  private readonly store: TimelineStore;
  private readonly reconstructor: Reconstructor;
  private readonly reader: PageReader;

  constructor(store: TimelineStore, reconstructor: Reconstructor, pages: PageCache) {
    this.store = store;
    this.reconstructor = reconstructor;
    this.reader = new PageReader({ store, reconstructor, pages });
  }

  /** All zeros beyond the end of the relation. View: not to be changed. Throws `not_found` for no relation. */
  async page(fork: RelationFork, block: number, lsn: Lsn): Promise<Uint8Array> {
    const [page] = await this.pages(fork, [block], lsn);
    return page ?? ZERO_PAGE;
  }

  /**
   * Several pages of a fork at one LSN, in the order of `blocks`: what is not in the cache is read together. Each as
   * `page` gives it; one that cannot be read fails all of them. Whoever calls bounds their number.
   */
  async pages(fork: RelationFork, blocks: readonly number[], lsn: Lsn): Promise<Uint8Array[]> {
    this.store.checkReadable(lsn);
    const size = this.cachedSize(fork, lsn) ?? (await this.blocks(fork, lsn));
    const { spcOid, dbOid, relNumber } = fork;
    const prefix = { kind: Kind.RelationBlock, spcOid, dbOid, relNumber, fork: fork.fork };
    const cachedPage = this.reader.cachedPages(prefix, lsn);
    const pages: Uint8Array[] = [];
    const reads: Promise<void>[] = [];
    for (const [index, block] of blocks.entries()) {
      // Zeros also where the file was extended, but never written to.
      pages.push(ZERO_PAGE);
      if (block >= size) continue;
      const cached = cachedPage(block);
      if (cached !== undefined) pages[index] = cached.bytes ?? ZERO_PAGE;
      else reads.push(this.readInto(pages, index, { ...prefix, block }, lsn));
    }
    if (reads.length > 0) await Promise.all(reads);
    return pages;
  }

  private async readInto(pages: Uint8Array[], index: number, page: Key, lsn: Lsn): Promise<void> {
    pages[index] = (await this.reader.value(page, lsn)) ?? ZERO_PAGE;
  }

  /** Size of a fork, if the cache has it as of this LSN. */
  private cachedSize(fork: RelationFork, lsn: Lsn): number | undefined {
    const bytes = this.reader.cached(key(Kind.RelationSize, fork), lsn)?.bytes;
    return bytes?.length === 4
      ? new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true)
      : undefined;
  }

  async exists(fork: RelationFork, lsn: Lsn): Promise<boolean> {
    this.store.checkReadable(lsn);
    return (await this.reader.relationSize(fork, lsn)) !== undefined;
  }

  /** Size in pages; a missing free space or visibility map has none. Throws `not_found` for no relation. */
  async blocks(fork: RelationFork, lsn: Lsn): Promise<number> {
    this.store.checkReadable(lsn);
    const size = await this.reader.relationSize(fork, lsn);
    if (size !== undefined) return size;
    if (fork.fork === Fork.FreeSpaceMap || fork.fork === Fork.VisibilityMap) return 0;
    throw new NeonError(ErrorCode.NotFound, `relation ${formatRelation(fork)} does not exist`);
  }

  /** Bytes of all forks of all relations of a database in the default tablespace. */
  async databaseSize(dbOid: number, lsn: Lsn): Promise<number> {
    this.store.checkReadable(lsn);
    let blocks = 0;
    const range = databaseRange(Kind.RelationSize, DEFAULT_TABLESPACE_OID, dbOid);
    for await (const batch of this.store.scan(range, lsn)) {
      for (const { key: sizeKey, values } of batch) {
        const value = this.reconstructor.value(sizeKey, values);
        if (value?.length === 4) blocks += new DataView(value.buffer, value.byteOffset, 4).getUint32(0, true);
      }
    }
    return blocks * PAGE_SIZE;
  }

  /** The pages of a segment up to the last that there is. Throws `not_found` if it has none. */
  async slruSegment(slru: Slru, segment: number, lsn: Lsn): Promise<Uint8Array[]> {
    this.store.checkReadable(lsn);
    const first = segment * SLRU_SEGMENT_PAGES;
    const pages: Uint8Array[] = [];
    for (let index = 0; index < SLRU_SEGMENT_PAGES; index++) {
      const page = await this.reader.value(slruPageKey(slru, first + index), lsn);
      if (page === undefined) continue;
      while (pages.length < index) pages.push(ZERO_PAGE);
      pages.push(page);
    }
    if (pages.length > 0) return pages;
    throw new NeonError(ErrorCode.NotFound, `SLRU ${slru} has no segment ${segment}`);
  }
}

/** One for each timeline that is read, as long as the timeline is open. */
export class PageReaders {
  private readonly cache: PageCache;
  private readonly byTimeline = new WeakMap<ServedTimeline, Promise<TimelinePages>>();

  constructor(cache: PageCache) {
    this.cache = cache;
  }

  of(timeline: ServedTimeline): Promise<TimelinePages> {
    const known = this.byTimeline.get(timeline);
    if (known) return known;
    const made = this.make(timeline);
    this.byTimeline.set(timeline, made);
    // What failed is tried again by the next.
    made.catch(() => this.byTimeline.delete(timeline));
    return made;
  }

  private async make(timeline: ServedTimeline): Promise<TimelinePages> {
    const store = timeline.exchange?.store;
    if (!store) throw new NeonError(ErrorCode.Unsupported, "pages of this timeline cannot be read");
    const reconstructor = await makeReconstructor(store, timeline.cluster.pgVersion, timeline.lastRecordLsn);
    return new TimelinePages(store, reconstructor, this.cache);
  }
}
