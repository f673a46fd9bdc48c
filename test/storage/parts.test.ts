import assert from "node:assert/strict";
import { test } from "node:test";
import { AssertionError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { Arena, NO_BLOB } from "../../src/storage/arena.ts";
import { BlockCache } from "../../src/storage/block-cache.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { HashIndex, firstPair } from "../../src/storage/hash-index.ts";
import { HandlePool } from "../../src/storage/handle-pool.ts";
import { ValueFlag, compareKeys } from "../../src/storage/key.ts";
import { decodeKey, encodeKey, formatKey, makeKey, parseKey } from "../../src/storage/key-range.ts";
import { MemoryLayer } from "../../src/storage/memory-layer.ts";
import { PrefixTable } from "../../src/storage/prefix-table.ts";
import { radixSort } from "../../src/storage/radix-sort.ts";
import { ChainBuilder } from "../../src/storage/value.ts";
import { Yielder } from "../../src/storage/yielder.ts";
import { SeededRandom } from "../support/random.ts";

test("keys come back from bytes and text, whose order is key order", (t) => {
  const random = SeededRandom.forTest(t);
  const keys = Array.from({ length: 500 }, () => decodeKey(random.bytes(18), 0));
  for (const key of keys) assert.deepEqual(parseKey(formatKey(key)), key);
  const byKey = [...keys].sort(compareKeys).map(formatKey);
  assert.deepEqual(byKey, keys.map(formatKey).sort());
  assert.deepEqual(
    keys.map((key) => Buffer.from(encodeKey(key)).toString("hex")),
    keys.map(formatKey),
  );
  assert.throws(() => parseKey("zz"), { code: "corrupt" });
});

test("a prefix has one handle, whatever else is interned", (t) => {
  const random = SeededRandom.forTest(t);
  const table = new PrefixTable();
  const handles = new Map<string, number>();
  for (let i = 0; i < 20_000; i++) {
    const prefix = {
      kind: random.below(3),
      spcOid: random.pick([1663, 1664, 0xffffffff]),
      dbOid: random.pick([0, 5, 0x80000000]),
      relNumber: random.pick([random.below(500), 0xffffffff - random.below(500)]),
      fork: random.below(4),
    };
    const name = JSON.stringify(prefix);
    const known = handles.get(name);
    assert.equal(table.find(prefix), known);
    const handle = table.intern(prefix.kind, prefix.spcOid, prefix.dbOid, prefix.relNumber, prefix.fork);
    if (known !== undefined) assert.equal(handle, known);
    handles.set(name, handle);
    assert.deepEqual(table.prefix(handle), prefix);
  }
  assert.equal(table.size, handles.size);
  assert.throws(() => table.intern(256, 0, 0, 0, 0), AssertionError);
  assert.throws(() => table.intern(1, 2 ** 32, 0, 0, 0), AssertionError);
});

test("radix sort orders by the last column first and keeps the order of equals", async (t) => {
  const random = SeededRandom.forTest(t);
  const count = 70_000;
  const low = Uint32Array.from({ length: count }, () => random.pick([random.u32(), random.below(5)]));
  const high = Uint32Array.from({ length: count }, () => random.pick([7, 7, 7, random.u32()]));
  const ids = Uint32Array.from({ length: count }, (_, i) => i);
  const sorted = await radixSort(ids.slice(), [low, high], new Yielder());
  const at = (column: Uint32Array, i: number) => column[i] ?? 0;
  const expected = [...ids].sort((a, b) => at(high, a) - at(high, b) || at(low, a) - at(low, b) || a - b);
  assert.deepEqual([...sorted], expected);
});

test("the arena keeps blobs of all sizes where they are", (t) => {
  const random = SeededRandom.forTest(t);
  const arena = new Arena();
  const blobs = Array.from({ length: 3000 }, (_, i) => {
    const length = i % 500 === 0 ? random.between(130_000, 2_000_000) : random.pick([0, 1, 70, 8192]);
    const bytes = new Uint8Array(length + 2).fill(i);
    return { ref: arena.append(bytes, 1, length + 1), length, fill: i & 0xff };
  });
  for (const [i, { ref, length, fill }] of blobs.entries()) {
    assert.notEqual(ref, NO_BLOB);
    assert.equal(arena.lengthOf(ref), length);
    assert.ok(arena.read(ref).every((byte) => byte === fill));
    assert.equal(arena.isShared(ref), false);
    arena.refer(ref);
    assert.equal(arena.isShared(ref), false);
    if (i % 3 === 0) arena.refer(ref);
    assert.equal(arena.isShared(ref), i % 3 === 0);
    assert.equal(arena.lengthOf(ref), length);
  }
  assert.equal(arena.read(NO_BLOB).length, 0);
  assert.throws(() => arena.append(new Uint8Array(3), 2, 5), AssertionError);
});

test("a memory layer takes values in LSN order only, and none once it is frozen", () => {
  const prefixes = new PrefixTable();
  const handle = prefixes.intern(0, 1, 2, 3, 0);
  const layer = new MemoryLayer(toLsn(100), prefixes);
  const put = (lsn: number, flags: number = ValueFlag.Image) => layer.put(handle, 1, lsn, flags, NO_BLOB);
  assert.throws(() => put(100), AssertionError);
  put(101);
  put(110);
  assert.throws(() => put(109), AssertionError);
  assert.throws(() => put(111, 0), AssertionError);
  assert.throws(() => put(111, 0x10), AssertionError);
  assert.throws(() => layer.put(99, 1, 111, ValueFlag.Image, NO_BLOB), AssertionError);
  assert.throws(() => layer.put(handle, -1, 111, ValueFlag.Image, NO_BLOB), AssertionError);
  assert.throws(() => layer.freeze(toLsn(109)), AssertionError);
  layer.freeze(toLsn(110));
  assert.throws(() => put(120), AssertionError);
  assert.equal(layer.entryCount, 2);
});

test("a memory layer finds each of very many keys with all its versions", (t) => {
  const random = SeededRandom.forTest(t);
  const prefixes = new PrefixTable();
  const handles = [prefixes.intern(0, 1, 2, 3, 0), prefixes.intern(0, 1, 2, 4, 0)];
  const layer = new MemoryLayer(toLsn(2 ** 40), prefixes);
  const model = new Map<string, number[]>();
  for (let i = 0; i < 200_000; i++) {
    const which = random.below(2);
    const block = random.pick([i, random.below(50), random.below(100_000), 0xffffffff - random.below(1000)]);
    const lsn = 2 ** 40 + 3 * i + 1;
    layer.put(handles[which] ?? 0, block, lsn, ValueFlag.Record, NO_BLOB);
    const name = `${which}/${block}`;
    const versions = model.get(name);
    if (versions === undefined) model.set(name, [lsn]);
    else versions.push(lsn);
  }
  assert.equal(layer.keyCount, model.size);
  const collect = (which: number, block: number): number[] => {
    const chain = new ChainBuilder(2 ** 41, -1);
    layer.collect(makeKey(prefixes.prefix(handles[which] ?? 0), block), chain);
    return chain.values.map((value) => value.lsn);
  };
  for (const [name, versions] of model) {
    const [which, block] = name.split("/").map(Number);
    assert.deepEqual(collect(which ?? 0, block ?? 0).reverse(), versions, name);
  }
  assert.deepEqual(collect(0, 200_001), []);
});

test("a hash index finds every id, however hashes are spread", (t) => {
  const random = SeededRandom.forTest(t);
  for (const hashOf of [
    (id: number) => Math.imul(id, 0x9e3779b1),
    (id: number) => id << 20,
    (id: number) => id & 3,
    () => random.u32() | 0,
  ]) {
    const index = new HashIndex();
    const hashes = Array.from({ length: 20_000 }, (_, id) => hashOf(id));
    for (const [id, hash] of hashes.entries()) index.add(hash, id);
    // Where many have one hash, looking for one of them takes long.
    for (let id = 0; id < hashes.length; id += random.between(1, 60)) {
      const hash = hashes[id] ?? 0;
      const pairs = index.segment(hash);
      let at = firstPair(hash, pairs);
      while (pairs[at + 1] !== 0 && pairs[at + 1] !== id + 1) at = (at + 2) & (pairs.length - 1);
      assert.equal(pairs[at + 1], id + 1);
      assert.equal(pairs[at], hash);
    }
  }
});

test("slots come in key order, with extreme numbers too", async (t) => {
  const random = SeededRandom.forTest(t);
  const prefixes = new PrefixTable();
  const layer = new MemoryLayer(toLsn(0), prefixes);
  const names = new Set<string>();
  for (let i = 0; i < 3000; i++) {
    const key = decodeKey(random.bytes(18), 0);
    const block = random.pick([key.block, random.below(10), 0xffffffff]);
    const dbOid = random.pick([1, 2, key.dbOid]);
    const handle = prefixes.intern(key.kind, 1663, dbOid, key.relNumber >>> random.below(32), key.fork);
    layer.put(handle, block, i + 1, ValueFlag.Image, NO_BLOB);
    names.add(formatKey(makeKey(prefixes.prefix(handle), block)));
  }
  const slots = await layer.sortedSlots(undefined, new Yielder());
  const found = [...slots].map((slot) => {
    return formatKey(makeKey(prefixes.prefix(layer.slotHandle(slot)), layer.slotBlock(slot)));
  });
  assert.deepEqual(found, [...names].sort());
});

test("the cache stays within its size and keeps what is used", () => {
  const cache = new BlockCache<string>(10_000);
  for (let i = 0; i < 1000; i++) {
    cache.add(i, `value ${i}`, 900);
    assert.ok(cache.sizeBytes <= 10_000);
    assert.equal(cache.get(0), "value 0");
  }
  assert.equal(cache.get(1), undefined);
  assert.equal(cache.get(999), "value 999");
  cache.add(5000, "too large", 20_000);
  assert.equal(cache.get(5000), undefined);
  cache.add(0, "again", 100);
  assert.equal(cache.get(0), "again");
  for (let i = 0; i < 1000; i++) cache.remove(i);
  assert.equal(cache.sizeBytes, 0);
});

test("the pool never closes a file that is being read, and leaves none open", async (t) => {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32(), interleave: true });
  for (let i = 0; i < 10; i++) files.replaceContent(`/f${i}`, new Uint8Array(4).fill(i));
  const pool = new HandlePool(files, 3);
  const reads = Array.from({ length: 500 }, (_, i) =>
    pool.use(`/f${i % 10}`, async (handle) => {
      const target = new Uint8Array(4);
      await handle.read(target, 0, 4, 0);
      assert.equal(target[3], i % 10);
      if (i % 50 === 0) pool.forget(`/f${i % 10}`);
    }),
  );
  await Promise.all(reads);
  assert.ok(files.openHandles <= 3 + 2, `${files.openHandles} files are open`);
  await assert.rejects(
    pool.use("/missing", async () => undefined),
    { code: "ENOENT" },
  );
  await pool[Symbol.asyncDispose]();
  await pool[Symbol.asyncDispose]();
  assert.equal(files.openHandles, 0);
});
