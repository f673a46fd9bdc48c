/**
 * The relation files of a data directory, from two scans of the store in key order: sizes and pages. Nothing is looked
 * up by page; memory does not depend on the size of the database.
 */
import { assert } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { Fork, PAGE_SIZE, RELATION_SEGMENT_PAGES } from "../../postgres/constants.ts";
import { pageChecksum } from "../../postgres/page/checksum.ts";
import { PageBuffer, isNewPage } from "../../postgres/page/layout.ts";
import { relationPath } from "../../postgres/relation.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { type Key, compareKeyPrefixes } from "../../storage/key.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { Kind, kindRange } from "../ingest/keyspace.ts";
import type { Reconstructor } from "../read/reconstruct.ts";
import type { BackupTarget } from "./backup-target.ts";

/** One fork and its size, with the kind of its pages so that it compares with their keys. */
interface SizedFork {
  readonly kind: number;
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork: number;
  readonly blocks: number;
}

export interface RelationSource {
  readonly store: TimelineStore;
  readonly reconstructor: Reconstructor;
  readonly version: PgVersion;
  readonly lsn: Lsn;
  readonly dataChecksums: boolean;
}

/** Writes all relation files; yields now and then so that the caller can hand on what is ready. */
export async function* writeRelationFiles(
  source: RelationSource,
  target: BackupTarget,
): AsyncGenerator<void> {
  const forks = await readForks(source);
  const writer = new ForkFiles(forks, source, target);
  for await (const batch of source.store.scan(kindRange(Kind.RelationBlock), source.lsn)) {
    for (const entry of batch) {
      if (!writer.wants(entry.key)) continue;
      const page = source.reconstructor.value(entry.key, entry.values);
      if (page !== undefined) writer.page(entry.key.block, page);
    }
    yield;
  }
  writer.finish();
  yield;
}

/** Forks that exist at the LSN, in key order. Main and map of an unlogged relation are left to its init fork. */
async function readForks(source: RelationSource): Promise<SizedFork[]> {
  const forks: SizedFork[] = [];
  const unlogged = new Set<string>();
  for await (const batch of source.store.scan(kindRange(Kind.RelationSize), source.lsn)) {
    for (const { key, values } of batch) {
      const value = source.reconstructor.value(key, values);
      if (value === undefined) continue;
      const blocks = new DataView(value.buffer, value.byteOffset, 4).getUint32(0, true);
      forks.push({ ...key, kind: Kind.RelationBlock, blocks });
      if (key.fork === Fork.Init) unlogged.add(relationName(key));
    }
  }
  return forks.filter((fork) => fork.fork === Fork.Init || !unlogged.has(relationName(fork)));
}

function relationName(relation: { spcOid: number; dbOid: number; relNumber: number }): string {
  return `${relation.spcOid}/${relation.dbOid}/${relation.relNumber}`;
}

const CHECKSUM_OFFSET = 8;
const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

/** Walks through the forks as pages arrive in key order; blocks without a value are zero pages. */
class ForkFiles {
  private readonly forks: readonly SizedFork[];
  private readonly source: RelationSource;
  private readonly target: BackupTarget;
  private index = -1;
  private nextBlock = 0;
  private initPages: Uint8Array[] = [];
  private readonly scratch = new PageBuffer();

  constructor(forks: readonly SizedFork[], source: RelationSource, target: BackupTarget) {
    this.forks = forks;
    this.source = source;
    this.target = target;
    this.advance();
  }

  private get current(): SizedFork | undefined {
    return this.forks[this.index];
  }

  /** Completes forks before the key. True if its page belongs to the backup. */
  wants(key: Key): boolean {
    for (;;) {
      const fork = this.current;
      if (fork === undefined) return false;
      const order = compareKeyPrefixes(fork, key);
      if (order === 0) return key.block < fork.blocks;
      if (order > 0) return false;
      this.advance();
    }
  }

  /** The page of the current fork that `wants` has just agreed to. */
  page(block: number, bytes: Uint8Array): void {
    while (this.nextBlock < block) this.emit(ZERO_PAGE);
    this.emit(bytes);
  }

  finish(): void {
    while (this.current !== undefined) this.advance();
  }

  private advance(): void {
    if (this.current !== undefined) this.complete(this.current);
    this.index++;
    this.nextBlock = 0;
    const fork = this.current;
    if (fork !== undefined && fork.blocks === 0 && fork.fork !== Fork.Init)
      this.target.file(this.path(fork, 0), ZERO_PAGE.subarray(0, 0));
  }

  private complete(fork: SizedFork): void {
    while (this.nextBlock < fork.blocks) this.emit(ZERO_PAGE);
    if (fork.fork !== Fork.Init) return;
    // An unlogged relation starts as its init fork says: Postgres does not reset it after a clean shutdown.
    const pages = this.initPages;
    this.initPages = [];
    for (const made of [fork, { ...fork, fork: Fork.Main }]) {
      this.target.beginFile(this.path(made, 0), pages.length * PAGE_SIZE);
      for (const page of pages) this.target.write(page);
      this.target.endFile();
    }
  }

  private emit(bytes: Uint8Array): void {
    const fork = this.current;
    assert(fork !== undefined && this.nextBlock < fork.blocks, "pages stay within their fork");
    const page = this.source.dataChecksums ? this.withChecksum(bytes, this.nextBlock) : bytes;
    const block = this.nextBlock++;
    if (fork.fork === Fork.Init) {
      this.initPages.push(page.slice());
      return;
    }
    if (block % RELATION_SEGMENT_PAGES === 0) {
      const pages = Math.min(RELATION_SEGMENT_PAGES, fork.blocks - block);
      this.target.beginFile(this.path(fork, block / RELATION_SEGMENT_PAGES), pages * PAGE_SIZE);
    }
    this.target.write(page);
    if (this.nextBlock % RELATION_SEGMENT_PAGES === 0 || this.nextBlock === fork.blocks)
      this.target.endFile();
  }

  private withChecksum(bytes: Uint8Array, block: number): Uint8Array {
    const { scratch } = this;
    scratch.bytes.set(bytes);
    if (!isNewPage(scratch)) scratch.view.setUint16(CHECKSUM_OFFSET, pageChecksum(scratch.view, block), true);
    return scratch.bytes;
  }

  private path(fork: SizedFork, segment: number): string {
    return relationPath({ ...fork, segment }, this.source.version);
  }
}
