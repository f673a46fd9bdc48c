import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { AssertionError, ErrorCode } from "../../src/base/errors.ts";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { type ImageSource, NO_BLOB, TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const key = (relNumber: number, block: number): Key => ({
  kind: 0,
  spcOid: 1663,
  dbOid: 5,
  relNumber,
  fork: 0,
  block,
});

function put(store: TimelineStore, k: Key, lsn: number, flags: number, value: string): void {
  const bytes = new TextEncoder().encode(value);
  const handle = store.intern(k.kind, k.spcOid, k.dbOid, k.relNumber, k.fork);
  const blob = flags === ValueFlag.Tombstone ? NO_BLOB : store.append(bytes, 0, bytes.length);
  store.put(handle, k.block, toLsn(lsn), flags, blob);
}

async function read(store: TimelineStore, k: Key, lsn: number, floor?: number): Promise<[string, string[]]> {
  const chain = await store.get(k, toLsn(lsn), floor === undefined ? undefined : toLsn(floor));
  return [chain.base, chain.values.map((v) => `${v.lsn}:${text(v.bytes)}`)];
}

test("values are found in memory, in files, after reopening and through an ancestor", async () => {
  const directory = await mkdtemp(join(tmpdir(), "store-"));
  const files = new RealFiles();
  await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
  try {
    const options = { directory: join(directory, "parent"), startLsn: toLsn(100) };
    const parent = await TimelineStore.create(options, { files, cache });
    put(parent, key(1, 0), 110, ValueFlag.Image, "a");
    put(parent, key(1, 0), 120, ValueFlag.Record, "b");
    put(parent, key(2, 7), 130, ValueFlag.Record | ValueFlag.WillInit, "c");
    put(parent, key(2, 7), 130, ValueFlag.Record | ValueFlag.WillInit, "d");
    assert.deepEqual(await read(parent, key(1, 0), 125), ["found", ["120:b", "110:a"]]);
    assert.deepEqual(await read(parent, key(1, 0), 119), ["found", ["110:a"]]);
    assert.deepEqual(await read(parent, key(1, 0), 125, 110), ["floor", ["120:b"]]);
    assert.deepEqual(await read(parent, key(1, 0), 105), ["missing", []]);
    parent.freeze(toLsn(140));
    put(parent, key(1, 0), 150, ValueFlag.Record, "e");
    assert.deepEqual(await read(parent, key(1, 0), 999), ["found", ["150:e", "120:b", "110:a"]]);
    await parent.flush();
    assert.equal(parent.durableLsn, 140);
    assert.deepEqual(await read(parent, key(1, 0), 999), ["found", ["150:e", "120:b", "110:a"]]);
    await parent[Symbol.asyncDispose]();

    await using reopened = await TimelineStore.open(options, { files, cache });
    assert.equal(reopened.durableLsn, 140);
    assert.deepEqual(await read(reopened, key(1, 0), 999), ["found", ["120:b", "110:a"]]);
    assert.deepEqual(await read(reopened, key(2, 7), 999), ["found", ["130:d"]]);
    await using child = await TimelineStore.create(
      {
        directory: join(directory, "child"),
        startLsn: toLsn(115),
        ancestor: { store: reopened, lsn: toLsn(115) },
      },
      { files, cache },
    );
    put(child, key(1, 0), 200, ValueFlag.Tombstone, "");
    assert.deepEqual(await read(child, key(1, 0), 199), ["found", ["110:a"]]);
    assert.deepEqual(await read(child, key(1, 0), 200), ["found", ["200:"]]);
    assert.deepEqual(await read(child, key(2, 7), 200), ["missing", []]);
    const seen: string[] = [];
    for await (const batch of child.scan(ALL_KEYS, 199 as Lsn)) {
      for (const entry of batch) seen.push(`${entry.key.relNumber}/${entry.key.block}`, entry.base);
    }
    assert.deepEqual(seen, ["1/0", "found"]);
  } finally {
    await rm(directory, { recursive: true });
  }
});

async function* images(...pages: [Key, string][]): ImageSource {
  for (const [k, value] of pages) yield [{ key: k, bytes: new TextEncoder().encode(value) }];
}

async function withStore(
  work: (store: TimelineStore, cache: StoreCache, files: FaultyFiles) => Promise<void>,
) {
  const files = new FaultyFiles({ random: () => 0 });
  await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
  await using store = await TimelineStore.create({ directory: "/a", startLsn: toLsn(100) }, { files, cache });
  await work(store, cache, files);
}

test("an image layer hides everything older in its range, and what it leaves out does not exist", () =>
  withStore(async (store) => {
    for (const block of [1, 2, 3]) put(store, key(1, block), 110, ValueFlag.Image, `old ${block}`);
    put(store, key(1, 2), 150, ValueFlag.Record, "new 2");
    store.freeze(toLsn(200));
    await store.flush();
    await store.addImageLayer({ from: key(1, 2), to: key(1, 4) }, toLsn(120), images([key(1, 2), "image 2"]));
    assert.deepEqual(await read(store, key(1, 1), 200), ["found", ["110:old 1"]]);
    assert.deepEqual(await read(store, key(1, 2), 200), ["found", ["150:new 2", "120:image 2"]]);
    assert.deepEqual(await read(store, key(1, 2), 119), ["found", ["110:old 2"]]);
    assert.deepEqual(await read(store, key(1, 2), 200, 119), ["found", ["150:new 2", "120:image 2"]]);
    assert.deepEqual(await read(store, key(1, 2), 200, 120), ["floor", ["150:new 2"]]);
    assert.deepEqual(await read(store, key(1, 3), 200), ["missing", []]);
    assert.deepEqual(await read(store, key(1, 3), 119), ["found", ["110:old 3"]]);
    assert.deepEqual(await scanned(store, 200), ["1/1 110", "1/2 150 120"]);
    assert.deepEqual(await scanned(store, 119), ["1/1 110", "1/2 110", "1/3 110"]);
    put(store, key(1, 3), 210, ValueFlag.Record, "without a base");
    assert.deepEqual(await read(store, key(1, 3), 300), ["missing", ["210:without a base"]]);
  }));

async function scanned(store: TimelineStore, lsn: number): Promise<string[]> {
  const seen: string[] = [];
  for await (const batch of store.scan(ALL_KEYS, toLsn(lsn))) {
    for (const { key: k, values } of batch) {
      seen.push([`${k.relNumber}/${k.block}`, ...values.map((value) => value.lsn)].join(" "));
    }
  }
  return seen;
}

test("image layers are checked before they are published", () =>
  withStore(async (store, _cache, files) => {
    put(store, key(1, 1), 110, ValueFlag.Image, "a");
    store.freeze(toLsn(150));
    await assert.rejects(store.addImageLayer(ALL_KEYS, toLsn(150), images()), AssertionError);
    await store.flush();
    const paths = files.paths();
    const range = { from: key(1, 0), to: key(1, 5) };
    const add = (...pages: [Key, string][]) => store.addImageLayer(range, toLsn(150), images(...pages));
    await assert.rejects(add([key(1, 1), "a"], [key(1, 1), "b"]), AssertionError);
    await assert.rejects(add([key(1, 1), "a"], [key(1, 0), "b"]), AssertionError);
    await assert.rejects(add([key(1, 5), "a"]), AssertionError);
    await assert.rejects(add([key(0, 9), "a"]), AssertionError);
    assert.deepEqual(files.paths(), paths, "nothing is left behind");
    await add([key(1, 1), "a"]);
    await assert.rejects(add([key(1, 1), "a"]), { code: ErrorCode.Conflict });
    assert.equal(store.stats.imageCount, 1);
  }));

test("a value at the branch point hides the ancestor's value at the same LSN", () =>
  withStore(async (parent, cache, files) => {
    put(parent, key(1, 1), 110, ValueFlag.Image, "parent");
    put(parent, key(1, 2), 110, ValueFlag.Image, "parent");
    const at = toLsn(110);
    const options = { directory: "/b", startLsn: at, ancestor: { store: parent, lsn: at } };
    await using child = await TimelineStore.create(options, { files, cache });
    put(child, key(1, 1), 110, ValueFlag.Record, "child");
    assert.deepEqual(await read(child, key(1, 1), 110), ["missing", ["110:child"]]);
    put(child, key(1, 1), 110, ValueFlag.Image, "child");
    assert.deepEqual(await read(child, key(1, 1), 110), ["found", ["110:child"]]);
    assert.deepEqual(await read(child, key(1, 2), 110), ["found", ["110:parent"]]);
    child.freeze(at);
    await child.flush();
    assert.deepEqual(await read(child, key(1, 1), 999), ["found", ["110:child"]]);
  }));

test("creating, opening and closing", () =>
  withStore(async (store, cache, files) => {
    const dependencies = { files, cache };
    const options = { directory: "/a", startLsn: toLsn(100) };
    await assert.rejects(TimelineStore.create(options, dependencies), { code: ErrorCode.Exists });
    await assert.rejects(TimelineStore.open({ ...options, directory: "/none" }, dependencies), {
      code: ErrorCode.NotFound,
    });
    await assert.rejects(TimelineStore.open({ ...options, startLsn: toLsn(101) }, dependencies), {
      code: ErrorCode.Corrupt,
    });
    store.freeze(toLsn(100));
    store.freeze(toLsn(180));
    await store.flush();
    assert.equal(store.durableLsn, 180);
    assert.equal(store.physicalBytes, 0);
    // Nothing to write: the next flush writes all the same.
    await store.flush();
    put(store, key(1, 1), 190, ValueFlag.Image, "a");
    store.freeze(toLsn(190));
    await Promise.all([store.flush(), store.flush()]);
    assert.equal(store.durableLsn, 190);
    const [layer] = store.layers();
    assert.equal(store.physicalBytes, layer?.sizeBytes);
    assert.equal(store.physicalBytes, files.contentOf(`/a/${layer?.name}`).length);
    await read(store, key(1, 1), 200);
    await store[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
    await cache[Symbol.asyncDispose]();
    assert.equal(files.openHandles, 0);
  }));
