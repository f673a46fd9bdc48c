/**
 * A cluster without a Postgres: the smallest data directory that can be imported, and WAL for it that is made here. So
 * the whole of the pageserver can be run thousands of times, with a disk in memory or a process that is killed.
 */
import assert from "node:assert/strict";
import { crc32c } from "../../src/base/crc32c.ts";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { TarWriter } from "../../src/pageserver/basebackup/tar-writer.ts";
import { Kind, key } from "../../src/pageserver/ingest/keyspace.ts";
import { encodeCheckPoint } from "../../src/postgres/checkpoint.ts";
import { PAGE_SIZE } from "../../src/postgres/constants.ts";
import { ClusterState } from "../../src/postgres/control-file.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { Key } from "../../src/storage/key.ts";
import { WalBuilder } from "../support/wal-builder.ts";
import type { SeededRandom } from "../support/random.ts";

export const SYSTEM_ID = 0x0123456789abcdefn;
/** The smallest that Postgres knows. */
export const SEGMENT_SIZE = 1 << 20;
/** Where the shutdown checkpoint of the data directory begins, and where it ends: shortly before a segment does. */
export const CHECKPOINT_LSN = toLsn(3 * SEGMENT_SIZE - 4 * PAGE_SIZE + 24);
export const TINY_START = toLsn(CHECKPOINT_LSN + 120);
/** Of a page, only the last bytes are used; the rest is the hole of its image. */
export const TAIL_SIZE = 48;

const SPACE = 1663;
const DATABASE = 5;
const RELATIONS = 3;
const BLOCKS = 12;
const GENERIC_RMGR = 20;
const XLOG_RMGR = 0;
const FULL_PAGE_IMAGE = 0xb0;
const NOOP = 0x20;

/** A page, by relation and block. */
export interface TinyPage {
  readonly relation: number;
  readonly block: number;
}

export const TINY_PAGES: readonly TinyPage[] = Array.from({ length: RELATIONS * BLOCKS }, (_, i) => ({
  relation: 20_000 + (i % RELATIONS),
  block: Math.floor(i / RELATIONS),
}));

export function tinyKey(page: TinyPage): Key {
  return key(Kind.RelationBlock, {
    spcOid: SPACE,
    dbOid: DATABASE,
    relNumber: page.relation,
    block: page.block,
  });
}

function controlFile(): Uint8Array {
  const bytes = new Uint8Array(PAGE_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, SYSTEM_ID, true);
  view.setUint32(8, POSTGRES_17.controlVersion, true);
  view.setUint32(12, POSTGRES_17.catalogVersion, true);
  view.setInt32(16, ClusterState.ShutDown, true);
  view.setBigUint64(32, BigInt(CHECKPOINT_LSN), true);
  const checkpoint = {
    redoLsn: CHECKPOINT_LSN,
    timeline: 1,
    previousTimeline: 1,
    fullPageWrites: true,
    walLevel: 1,
    nextXid: 700n,
    nextOid: 30_000,
    nextMulti: 1,
    nextMultiOffset: 0,
    oldestXid: 3,
    oldestXidDb: 1,
    oldestMulti: 1,
    oldestMultiDb: 1,
    timeSeconds: 1_700_000_000,
    oldestCommitTsXid: 0,
    newestCommitTsXid: 0,
    oldestActiveXid: 0,
  };
  bytes.set(encodeCheckPoint(checkpoint, POSTGRES_17), 40);
  view.setUint32(204, 8, true);
  view.setFloat64(208, 1_234_567, true);
  view.setUint32(216, PAGE_SIZE, true);
  view.setUint32(220, 131_072, true);
  view.setUint32(224, PAGE_SIZE, true);
  view.setUint32(228, SEGMENT_SIZE, true);
  view.setUint32(POSTGRES_17.controlCrcOffset, crc32c(bytes, 0, POSTGRES_17.controlCrcOffset), true);
  return bytes;
}

/** The data directory as a tar. */
export function tinyTarBytes(): Uint8Array {
  const tar = new TarWriter({ mtimeMs: 0 });
  tar.file("PG_VERSION", new TextEncoder().encode("17\n"));
  tar.file("global/pg_control", controlFile());
  tar.file("global/pg_filenode.map", new Uint8Array(POSTGRES_17.relationMapSize));
  tar.file(`base/${DATABASE}/PG_VERSION`, new TextEncoder().encode("17\n"));
  tar.file(`base/${DATABASE}/pg_filenode.map`, new Uint8Array(POSTGRES_17.relationMapSize));
  tar.finish();
  return Buffer.concat(tar.take());
}

export async function* tinyTar(): AsyncIterable<Uint8Array> {
  yield tinyTarBytes();
}

/** A page with this tail, as an image without its LSN. */
function pageHead(): Buffer {
  const head = Buffer.alloc(24);
  head.writeUInt16LE(24, 12);
  head.writeUInt16LE(PAGE_SIZE - TAIL_SIZE, 14);
  head.writeUInt16LE(PAGE_SIZE, 16);
  head.writeUInt16LE(0x2004, 18);
  return head;
}

const PAGE_HEAD = pageHead();
const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

interface Version {
  readonly endLsn: number;
  readonly tail: Uint8Array;
}

/** WAL that begins where the data directory ends, and what each page is at each LSN. */
export class TinyWal {
  private readonly builder: WalBuilder;
  private readonly random: SeededRandom;
  private readonly versions = new Map<TinyPage, Version[]>();
  private cached: Buffer | undefined;

  constructor(random: SeededRandom, sizeBytes = 0) {
    this.random = random;
    this.builder = new WalBuilder({
      start: TINY_START,
      previous: CHECKPOINT_LSN,
      segmentSize: SEGMENT_SIZE,
      systemId: SYSTEM_ID,
    });
    while (this.endLsn < TINY_START + sizeBytes) this.add();
  }

  get startLsn(): Lsn {
    return TINY_START;
  }

  get endLsn(): Lsn {
    return toLsn(this.builder.position);
  }

  /** Ends of all records. */
  get recordEnds(): number[] {
    return this.builder.records.map((record) => record.endLsn);
  }

  /** Raw WAL from `from` to `to`, both within it. View. */
  bytes(from: number, to: number): Uint8Array {
    this.cached ??= this.builder.bytes;
    return this.cached.subarray(from - TINY_START, to - TINY_START);
  }

  /** One more record: an image of a page, a change of one, or one about nothing. */
  add(): void {
    this.cached = undefined;
    const { random } = this;
    const dice = random.below(10);
    if (dice === 0) {
      const main = random.bytes(random.pick([1, 40, 300, 9000]));
      this.builder.add({ rmgr: XLOG_RMGR, info: NOOP, main });
      return;
    }
    const page = random.pick(TINY_PAGES);
    const versions = this.versions.get(page) ?? [];
    this.versions.set(page, versions);
    const last = versions.at(-1);
    const tail = new Uint8Array(TAIL_SIZE);
    if (last === undefined || dice < 4) {
      tail.set(random.bytes(TAIL_SIZE));
      const stored = Buffer.concat([PAGE_HEAD, tail]);
      const image = { stored, info: 0x01 | 0x02, holeOffset: 24 };
      this.note(versions, tail, this.addBlock(XLOG_RMGR, FULL_PAGE_IMAGE, page, { image }));
      return;
    }
    tail.set(last.tail);
    const at = random.below(TAIL_SIZE - 8);
    const piece = random.bytes(8);
    tail.set(piece, at);
    const data = Buffer.alloc(12);
    data.writeUInt16LE(PAGE_SIZE - TAIL_SIZE + at, 0);
    data.writeUInt16LE(8, 2);
    data.set(piece, 4);
    this.note(versions, tail, this.addBlock(GENERIC_RMGR, 0, page, { data }));
  }

  private addBlock(rmgr: number, info: number, page: TinyPage, content: object): number {
    const relation = [SPACE, DATABASE, page.relation] as const;
    const blocks = [{ id: 0, relation, block: page.block, ...content }];
    return this.builder.add({ rmgr, info, blocks }).endLsn;
  }

  private note(versions: Version[], tail: Uint8Array, endLsn: number): void {
    versions.push({ endLsn, tail });
  }

  /** What a page must be at an LSN; undefined if it is not written yet then. */
  expected(page: TinyPage, lsn: number): Version | undefined {
    return this.versions.get(page)?.findLast((version) => version.endLsn <= lsn);
  }

  /** Compares a whole page; one that is not there may be absent or zero. */
  check(page: TinyPage, lsn: number, found: Uint8Array | undefined): void {
    const expected = this.expected(page, lsn);
    const where = `relation ${page.relation}, block ${page.block} at ${lsn}`;
    if (expected === undefined) {
      assert.ok(found === undefined || Buffer.compare(found, ZERO_PAGE) === 0, `${where} is not written yet`);
      return;
    }
    assert.ok(found !== undefined && found.length === PAGE_SIZE, `${where} is there`);
    const view = new DataView(found.buffer, found.byteOffset, found.byteLength);
    const pageLsn = view.getUint32(0, true) * 2 ** 32 + view.getUint32(4, true);
    assert.equal(pageLsn, expected.endLsn, `${where}: its LSN`);
    const wanted = new Uint8Array(PAGE_SIZE);
    wanted.set(PAGE_HEAD.subarray(8), 8);
    wanted.set(found.subarray(0, 8));
    wanted.set(expected.tail, PAGE_SIZE - TAIL_SIZE);
    assert.equal(Buffer.compare(found, wanted), 0, `${where}: its content`);
  }
}
