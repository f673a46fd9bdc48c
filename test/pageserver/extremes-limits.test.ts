/** The largest numbers that Postgres can have in a key: relations of 32 TB, the last OID, the last segment's name. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../src/base/lsn.ts";
import { Kind, databaseRange, key } from "../../src/pageserver/ingest/keyspace.ts";
import { PageCache } from "../../src/pageserver/read/page-cache.ts";
import { PageReader } from "../../src/pageserver/read/page-reader.ts";
import { Reconstructor } from "../../src/pageserver/read/reconstruct.ts";
import { RELATION_SEGMENT_PAGES } from "../../src/postgres/constants.ts";
import { parseRelationPath, relationPath } from "../../src/postgres/relation.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { type Key, ValueFlag, compareKeys } from "../../src/storage/key.ts";
import { formatKey, parseKey, rangeContains } from "../../src/storage/key-range.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { SeededRandom } from "../support/random.ts";

const OID_MAX = 0xffffffff;
/** InvalidBlockNumber is one more: a relation ends here at the latest. */
const BLOCK_MAX = 0xfffffffe;
const RELATION = { spcOid: OID_MAX, dbOid: OID_MAX, relNumber: OID_MAX, fork: 3 };

test("keys of the largest numbers keep their order and their bytes", () => {
  const keys: Key[] = [
    key(Kind.RelationBlock, { spcOid: 1663, dbOid: OID_MAX, relNumber: 1, block: BLOCK_MAX }),
    key(Kind.RelationBlock, { spcOid: 1664, relNumber: 1 }),
    key(Kind.RelationBlock, { ...RELATION, block: 0x7fffffff }),
    key(Kind.RelationBlock, { ...RELATION, block: 0x80000000 }),
    key(Kind.RelationBlock, { ...RELATION, block: BLOCK_MAX }),
    key(Kind.RelationSize, RELATION),
  ];
  for (const [i, one] of keys.entries()) {
    assert.deepEqual(parseKey(formatKey(one)), one);
    const next = keys[i + 1];
    if (next === undefined) continue;
    assert.ok(compareKeys(one, next) < 0);
    assert.ok(formatKey(one) < formatKey(next));
  }
});

test("the range of the last database ends where the next tablespace begins", () => {
  for (const [spcOid, dbOid] of [
    [1663, 5],
    [1663, OID_MAX],
    [OID_MAX, OID_MAX],
  ] as const) {
    const range = databaseRange(Kind.RelationBlock, spcOid, dbOid);
    const stored = { from: parseKey(formatKey(range.from)), to: parseKey(formatKey(range.to)) };
    assert.deepEqual(stored, range, "as it stands in layer files");
    const place = { spcOid, dbOid };
    assert.ok(rangeContains(stored, key(Kind.RelationBlock, place)));
    const last = { ...RELATION, ...place, fork: 0xff, block: OID_MAX };
    assert.ok(rangeContains(stored, key(Kind.RelationBlock, last)));
    assert.ok(!rangeContains(stored, key(Kind.RelationBlock, { ...last, dbOid: dbOid - 1 })));
    assert.ok(!rangeContains(stored, key(Kind.RelationSize, { spcOid: 0 })));
    const next = key(Kind.RelationBlock, { spcOid: spcOid + 1 });
    assert.ok(spcOid === OID_MAX || !rangeContains(stored, next));
  }
});

test("the last block of a relation of 32 TB", async (t) => {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32() });
  await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
  const start = toLsn(1000);
  await using store = await TimelineStore.create({ directory: "/line", startLsn: start }, { files, cache });
  const reconstructor = new Reconstructor({ version: versionByMajor(17), hintBitsLogged: false });
  const reader = new PageReader({ store, reconstructor, pages: new PageCache({ capacityBytes: 1 << 20 }) });
  const put = (kind: number, block: number, bytes: Uint8Array, lsn: number): void => {
    const handle = store.intern(kind, RELATION.spcOid, RELATION.dbOid, RELATION.relNumber, RELATION.fork);
    store.put(handle, block, toLsn(lsn), ValueFlag.Image, store.append(bytes, 0, bytes.length));
  };
  const blocks = [0, 1, 0x7fffffff, 0x80000000, BLOCK_MAX - 1, BLOCK_MAX];
  put(Kind.RelationSize, 0, Uint8Array.of(0xff, 0xff, 0xff, 0xff), 1008);
  for (const [i, block] of blocks.entries()) put(Kind.RelationBlock, block, page(i + 1), 1008);
  const check = async (): Promise<void> => {
    const lsn = toLsn(1008);
    assert.equal(await reader.relationSize(RELATION, lsn), BLOCK_MAX + 1);
    for (const [i, block] of blocks.entries())
      assert.equal((await reader.getPage({ ...RELATION, block }, lsn))[0], i + 1, `block ${block}`);
    assert.equal((await reader.getPage({ ...RELATION, block: BLOCK_MAX - 2 }, lsn))[0], 0);
    await assert.rejects(reader.getPage({ ...RELATION, block: BLOCK_MAX + 1 }, lsn), { code: "not_found" });
    const found: number[] = [];
    const range = databaseRange(Kind.RelationBlock, RELATION.spcOid, RELATION.dbOid);
    for await (const batch of store.scan(range, lsn)) found.push(...batch.map((entry) => entry.key.block));
    assert.deepEqual(found, blocks, "a scan gives what there is, in order");
  };
  await check();
  store.freeze(toLsn(1008));
  await store.flush();
  assert.equal(store.durableLsn, 1008);
  await check();
});

function page(fill: number): Uint8Array {
  return new Uint8Array(8192).fill(fill);
}

test("the last segment of a relation has a name, one more has none", () => {
  const version = versionByMajor(17);
  const segment = Math.floor(BLOCK_MAX / RELATION_SEGMENT_PAGES);
  const file = { spcOid: 1663, dbOid: OID_MAX, relNumber: OID_MAX, fork: 0, segment };
  const path = relationPath(file, version);
  assert.equal(path, "base/4294967295/4294967295.32767");
  assert.deepEqual(parseRelationPath(path, version), file);
  assert.equal(parseRelationPath("base/4294967295/4294967295.32768", version), undefined);
  assert.equal(parseRelationPath("base/4294967296/1", version), undefined);
});
