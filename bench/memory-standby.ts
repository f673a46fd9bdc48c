/** What a standby with everything in shared buffers does to its pages, for the bench of replay: redo and no more. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  Fork,
  PAGE_SIZE,
  RELATION_SEGMENT_PAGES,
  Rmgr,
  SLRU_SEGMENT_PAGES,
} from "../src/postgres/constants.ts";
import { PageBuffer } from "../src/postgres/page/layout.ts";
import { redoBlock } from "../src/postgres/redo/apply.ts";
import { clogPagesOfXact, redoClogPage } from "../src/postgres/redo/clog.ts";
import { RedoContext } from "../src/postgres/redo/context.ts";
import {
  forEachImplicitVisibilityClear,
  mapBlockOf,
  redoImplicitVisibility,
} from "../src/postgres/redo/visibility.ts";
import { parseXactRecord } from "../src/postgres/redo/xact.ts";
import { relationPath } from "../src/postgres/relation.ts";
import { Slru, slruPath } from "../src/postgres/slru.ts";
import type { PgVersion } from "../src/postgres/versions/version.ts";
import type { BlockRef, WalRecord } from "../src/postgres/wal/record.ts";

interface Relation {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
}

export class MemoryStandby {
  records = 0;
  /** Blocks that records have changed. */
  blocks = 0;
  private readonly directory: string;
  private readonly version: PgVersion;
  private readonly context: RedoContext;
  /** By database, relation and fork, then by block. Good enough for one tablespace. */
  private readonly forks = new Map<number, Map<number, PageBuffer>>();
  private readonly clog = new Map<number, Uint8Array>();

  /** `directory` is the data directory as it was before. */
  constructor(directory: string, version: PgVersion) {
    this.directory = directory;
    this.version = version;
    this.context = new RedoContext({ version, hintBitsLogged: false });
  }

  apply(record: WalRecord): void {
    this.records++;
    if (record.rmgr === Rmgr.Xact) {
      clogPagesOfXact(parseXactRecord(record, this.version), (page) => {
        redoClogPage(this.clogPage(page), page, record, this.version);
      });
      return;
    }
    if (record.blockCount === 0) return;
    forEachImplicitVisibilityClear(record, (relation, heapBlock) => {
      const mapBlock = mapBlockOf(heapBlock);
      redoImplicitVisibility(this.page(relation, Fork.VisibilityMap, mapBlock), mapBlock, record);
    });
    for (let i = 0; i < record.blockCount; i++) {
      const block = record.blocks[i] as BlockRef;
      redoBlock(this.page(block, block.fork, block.blockNumber), record, i, this.context);
      this.blocks++;
    }
  }

  private page(relation: Relation, fork: number, block: number): PageBuffer {
    const { spcOid, dbOid, relNumber } = relation;
    const key = (dbOid * 2 ** 24 + relNumber) * 4 + fork;
    let pages = this.forks.get(key);
    if (pages === undefined) this.forks.set(key, (pages = new Map<number, PageBuffer>()));
    let page = pages.get(block);
    if (page === undefined) {
      page = new PageBuffer();
      const segment = Math.floor(block / RELATION_SEGMENT_PAGES);
      const path = relationPath({ spcOid, dbOid, relNumber, fork, segment }, this.version);
      page.bytes.set(this.read(path, block % RELATION_SEGMENT_PAGES));
      pages.set(block, page);
    }
    return page;
  }

  private clogPage(number: number): Uint8Array {
    let page = this.clog.get(number);
    if (page === undefined) {
      page = new Uint8Array(PAGE_SIZE);
      page.set(
        this.read(slruPath(Slru.Xact, Math.floor(number / SLRU_SEGMENT_PAGES)), number % SLRU_SEGMENT_PAGES),
      );
      this.clog.set(number, page);
    }
    return page;
  }

  private readonly files = new Map<string, Uint8Array>();

  /** A page of a file; nothing where there is none. */
  private read(path: string, index: number): Uint8Array {
    let file = this.files.get(path);
    if (file === undefined) {
      try {
        file = readFileSync(join(this.directory, path));
      } catch {
        file = new Uint8Array(0);
      }
      this.files.set(path, file);
    }
    return file.subarray(index * PAGE_SIZE, (index + 1) * PAGE_SIZE);
  }
}
