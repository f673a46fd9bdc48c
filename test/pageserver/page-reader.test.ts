/** Single pages: sizes, pages that were never written, what lies beyond the end, and a cache that is never wrong. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { Kind } from "../../src/pageserver/ingest/keyspace.ts";
import { PageCache } from "../../src/pageserver/read/page-cache.ts";
import { PageReader } from "../../src/pageserver/read/page-reader.ts";
import { TimelinePages } from "../../src/pageserver/read/timeline-pages.ts";
import { Reconstructor } from "../../src/pageserver/read/reconstruct.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { ValueFlag } from "../../src/storage/key.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { NO_BLOB, TimelineStore } from "../../src/storage/store.ts";
import { SeededRandom } from "../support/random.ts";

const START = toLsn(1000);
const RELATION = { spcOid: 1663, dbOid: 5, relNumber: 16384, fork: 0 };

class Bench {
  readonly store: TimelineStore;
  readonly pages: PageCache;
  readonly reader: PageReader;
  private readonly together: TimelinePages;
  lsn: Lsn = START;

  constructor(store: TimelineStore, capacityBytes: number) {
    this.store = store;
    this.pages = new PageCache({ capacityBytes });
    const reconstructor = new Reconstructor({ version: versionByMajor(17), hintBitsLogged: false });
    this.reader = new PageReader({ store, reconstructor, pages: this.pages });
    this.together = new TimelinePages(store, reconstructor, this.pages);
  }

  static async create(t: TestContext, random: SeededRandom, capacityBytes = 1 << 20): Promise<Bench> {
    const files = new FaultyFiles({ random: () => random.u32() });
    const cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
    const store = await TimelineStore.create({ directory: "/line", startLsn: START }, { files, cache });
    t.after(() => store[Symbol.asyncDispose]());
    return new Bench(store, capacityBytes);
  }

  private put(kind: number, block: number, bytes: Uint8Array | undefined): void {
    const { spcOid, dbOid, relNumber, fork } = RELATION;
    const handle = this.store.intern(kind, spcOid, dbOid, relNumber, fork);
    if (bytes === undefined) this.store.put(handle, block, this.lsn, ValueFlag.Tombstone, NO_BLOB);
    else this.store.put(handle, block, this.lsn, ValueFlag.Image, this.store.append(bytes, 0, bytes.length));
  }

  size(blocks: number | undefined): void {
    this.lsn = toLsn(this.lsn + 8);
    this.put(Kind.RelationSize, 0, blocks === undefined ? undefined : new Uint8Array([blocks, 0, 0, 0]));
  }

  page(block: number, fill: number | undefined): void {
    this.lsn = toLsn(this.lsn + 8);
    this.put(Kind.RelationBlock, block, fill === undefined ? undefined : new Uint8Array(8192).fill(fill));
  }

  /** The bytes that fill the pages, read together. */
  async readTogether(blocks: readonly number[], lsn: Lsn = this.lsn): Promise<number[]> {
    const read = await this.together.pages(RELATION, blocks, lsn);
    assert.ok(read.every((page) => page.length === 8192 && page.every((byte) => byte === page[0])));
    return read.map((page) => page[0] ?? -1);
  }

  /** The byte that fills the page, or the code of the error. */
  async read(block: number, lsn: Lsn = this.lsn): Promise<number | string> {
    try {
      const page = await this.reader.getPage({ ...RELATION, block }, lsn);
      assert.equal(page.length, 8192);
      assert.ok(page.every((byte) => byte === page[0]));
      return page[0] ?? -1;
    } catch (error) {
      if (!(error instanceof NeonError)) throw error;
      return error.code;
    }
  }
}

test("sizes, zero pages within, errors beyond", async (t) => {
  const bench = await Bench.create(t, SeededRandom.forTest(t));
  const { reader } = bench;
  assert.equal(await reader.relationSize(RELATION, bench.lsn), undefined);
  assert.equal(await bench.read(0), ErrorCode.NotFound);
  const before = bench.lsn;
  bench.size(3);
  bench.page(1, 7);
  assert.equal(await reader.relationSize(RELATION, bench.lsn), 3);
  assert.deepEqual(await Promise.all([0, 1, 2, 3].map((block) => bench.read(block))), [0, 7, 0, "not_found"]);
  const written = bench.lsn;
  bench.page(1, undefined);
  bench.size(1);
  assert.deepEqual(await Promise.all([0, 1].map((block) => bench.read(block))), [0, "not_found"]);
  // Extended again, the page is not what it was in its earlier life.
  bench.size(2);
  assert.equal(await bench.read(1), 0);
  bench.size(undefined);
  assert.equal(await bench.read(0), ErrorCode.NotFound);
  assert.equal(await bench.read(1, written), 7);
  assert.equal(await reader.relationSize(RELATION, written), 3);
  assert.equal(await bench.read(1, before), ErrorCode.NotFound);
  await assert.rejects(reader.getPage({ ...RELATION, block: 9 }, written), (error) => {
    assert.match(String(error), /relation 1663\/5\/16384 main has 3 pages, so no page 9 at 0\//);
    return true;
  });
  // Clients of the page service see zeros beyond the end, but no relation where there is none.
  assert.deepEqual(await bench.readTogether([1, 0, 9, 1], written), [7, 0, 0, 7]);
  await assert.rejects(bench.readTogether([0], before), { code: ErrorCode.NotFound });
});

test("whatever is cached, a page is that of its LSN", async (t) => {
  const random = SeededRandom.forTest(t);
  // Room for a few pages only, so that they come and go.
  const bench = await Bench.create(t, random, 30_000);
  bench.size(8);
  const history: { lsn: Lsn; pages: (number | undefined)[] }[] = [{ lsn: bench.lsn, pages: [] }];
  for (let i = 0; i < 2000; i++) {
    if (random.chance(0.3)) {
      const block = random.below(8);
      const fill = random.chance(0.2) ? undefined : random.below(256);
      bench.page(block, fill);
      const pages = [...(history.at(-1)?.pages ?? [])];
      pages[block] = fill;
      history.push({ lsn: bench.lsn, pages });
      if (random.chance(0.02)) {
        bench.store.freeze(bench.lsn);
        await bench.store.flush();
      }
    } else {
      const version = random.chance(0.6) ? history.at(-1) : random.pick(history);
      const block = random.below(8);
      assert.ok(version);
      if (random.chance(0.2)) {
        // Some of them more than once, and some beyond the end.
        const blocks = Array.from({ length: random.below(12) }, () => random.below(10));
        const expected = blocks.map((each) => version.pages[each] ?? 0);
        assert.deepEqual(await bench.readTogether(blocks, version.lsn), expected, `read ${i}`);
      }
      assert.equal(await bench.read(block, version.lsn), version.pages[block] ?? 0, `read ${i}`);
    }
  }
});

test("readers do not see each other's pages, and the newest version stays", () => {
  const pages = new PageCache({ capacityBytes: 100_000 });
  const [one, two] = [pages.newReader(), pages.newReader()];
  const key = { kind: 0, ...RELATION, block: 1 };
  const newer = { bytes: new Uint8Array(8192).fill(2), lsn: toLsn(20) };
  pages.add(one, key, newer);
  pages.add(one, key, { bytes: new Uint8Array(8192).fill(1), lsn: toLsn(10) });
  assert.equal(pages.get(one, key), newer);
  assert.equal(pages.get(two, key), undefined);
  assert.equal(pages.get(one, { ...key, block: 2 }), undefined);
});
