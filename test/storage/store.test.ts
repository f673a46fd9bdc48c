import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { NO_BLOB, TimelineStore } from "../../src/storage/store.ts";
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
