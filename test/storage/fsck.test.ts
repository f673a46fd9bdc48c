/** The check of a store finds every flipped bit, says where, tells leftovers from damage, and disturbs nobody. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { toLsn } from "../../src/base/lsn.ts";
import { sealBlock } from "../../src/storage/block.ts";
import { FaultError, FaultyFiles } from "../../src/storage/faulty-files.ts";
import { Findings } from "../../src/storage/findings.ts";
import { type StoreExpectations, checkStore, openToCheck } from "../../src/storage/fsck.ts";
import { encodeIndex } from "../../src/storage/index-encoder.ts";
import { type TimelineIndex, decodeIndex } from "../../src/storage/index-file.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { decodeDirectory, decodeFooter } from "../../src/storage/layer-codec.ts";
import { BLOCK_HEADER_SIZE, FOOTER_SIZE, HEADER_SIZE } from "../../src/storage/layer-format.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { SeededRandom } from "../support/random.ts";

const DIRECTORY = "/line";
const INDEX = "/line/index.json";
const START = toLsn(1000);
const KEYS = 500;
const LAYERS = 3;
/** Longest block of these files. */
const BLOCK_MAX = 17_000;

const key = (i: number): Key => ({ kind: 0, spcOid: 1, dbOid: 5, relNumber: 1 + (i % 3), fork: 0, block: i });

interface Disk {
  readonly files: FaultyFiles;
  readonly random: SeededRandom;
  readonly cache: StoreCache;
  readonly store: TimelineStore;
}

/** A root: an image layer and deltas on top. */
async function makeDisk(t: TestContext, options: { interleave?: boolean } = {}): Promise<Disk> {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ ...options, random: () => random.u32() });
  const cache = new StoreCache({ capacityBytes: 0 }, { files });
  const store = await TimelineStore.create({ directory: DIRECTORY, startLsn: START }, { files, cache });
  async function* images() {
    for (let relation = 0; relation < 3; relation++) {
      for (let i = relation; i < KEYS; i += 3) yield [{ key: key(i), bytes: new Uint8Array(100).fill(i) }];
    }
  }
  await store.addImageLayer(ALL_KEYS, START, images());
  for (let layer = 0; layer < LAYERS; layer++) await addLayer(store, random);
  t.after(() => store[Symbol.asyncDispose]());
  return { files, random, cache, store };
}

async function addLayer(store: TimelineStore, random: SeededRandom): Promise<void> {
  let lsn = store.durableLsn as number;
  for (let i = 0; i < KEYS; i++) {
    lsn += 8;
    const bytes = random.bytes(random.between(20, 90));
    const handle = store.intern(0, 1, 5, 1 + (i % 3), 0);
    store.put(handle, i, toLsn(lsn), ValueFlag.Record, store.append(bytes, 0, bytes.length));
  }
  store.freeze(toLsn(lsn));
  await store.flush();
}

async function check(disk: Disk, expected: StoreExpectations = {}): Promise<Findings> {
  const findings = new Findings();
  const store = await openToCheck(DIRECTORY, { imagesOf: ALL_KEYS, ...expected }, findings, disk.files);
  await checkStore(store, expected.open, findings, disk.files);
  return findings;
}

/** Replaces a file by a changed copy for the time of a check. */
async function checkChanged(
  disk: Disk,
  path: string,
  change: (bytes: Uint8Array) => Uint8Array | undefined,
): Promise<Findings> {
  const whole = disk.files.contentOf(path);
  const copy = whole.slice();
  disk.files.replaceContent(path, change(copy) ?? copy);
  const findings = await check(disk);
  disk.files.replaceContent(path, whole);
  return findings;
}

function changeIndex(disk: Disk, change: (index: TimelineIndex) => TimelineIndex): void {
  const index = decodeIndex(disk.files.contentOf(INDEX), INDEX);
  disk.files.replaceContent(INDEX, encodeIndex(change(index)));
}

test("a store that is whole is clean, and its bytes are counted", async (t) => {
  const disk = await makeDisk(t);
  const findings = new Findings();
  const store = await openToCheck(DIRECTORY, { imagesOf: ALL_KEYS, startLsn: START }, findings, disk.files);
  assert.equal(store.layers.length, LAYERS + 1);
  let readBytes = 0;
  await checkStore(store, undefined, findings, disk.files, { progress: (bytes) => (readBytes += bytes) });
  assert.deepEqual([findings.state, findings.list], ["clean", []]);
  assert.equal(store.sizeBytes, disk.store.physicalBytes);
  assert.ok(readBytes > store.sizeBytes * 0.9 && readBytes < store.sizeBytes, `${readBytes} bytes were read`);
  assert.equal(disk.files.openHandles, 0);
});

test("a flipped bit anywhere is found, and where", async (t) => {
  const disk = await makeDisk(t);
  const layers = disk.store.layers();
  for (const layer of [layers[0], layers.at(-1)]) {
    assert.ok(layer);
    const path = `${DIRECTORY}/${layer.name}`;
    const whole = disk.files.contentOf(path);
    const footer = decodeFooter(whole.subarray(-FOOTER_SIZE), whole.length, path);
    const payload = whole.subarray(footer.directoryPosition + BLOCK_HEADER_SIZE, whole.length - FOOTER_SIZE);
    const directory = decodeDirectory(payload, footer.directoryPosition, path);
    const places = new Set<number>();
    for (let i = 0; i < HEADER_SIZE; i++) places.add(i);
    for (let i = whole.length - FOOTER_SIZE; i < whole.length; i += 3) places.add(i);
    for (const start of [...directory.dataStart, ...directory.indexStart]) places.add(start + 5);
    for (let i = 0; i < 20; i++) places.add(disk.random.between(footer.directoryPosition, whole.length - 1));
    for (let i = 0; i < 80; i++) places.add(disk.random.below(whole.length));
    for (const place of places) {
      const { state, list } = await checkChanged(disk, path, (bytes) => {
        bytes[place] = (bytes[place] ?? 0) ^ (1 << disk.random.below(8));
        return undefined;
      });
      assert.equal(state, "corrupt", `byte ${place} of ${path}`);
      const [found] = list;
      assert.equal(found?.file, path);
      assert.ok(Math.abs((found.offset ?? -BLOCK_MAX) - place) < BLOCK_MAX, `${place}: ${found.offset}`);
      assert.ok(!found.what.includes(path), "the path is not repeated");
    }
  }
  const index = disk.files.contentOf(INDEX);
  for (let place = 0; place < index.length; place += 7) {
    const { state, list } = await checkChanged(disk, INDEX, (bytes) => {
      bytes[place] = (bytes[place] ?? 0) ^ (1 << disk.random.below(8));
      return undefined;
    });
    assert.deepEqual([state, list[0]?.file], ["corrupt", INDEX], `byte ${place} of the index`);
  }
  assert.equal((await check(disk)).state, "clean");
});

test("all damaged blocks of a file are found, not only the first", async (t) => {
  const disk = await makeDisk(t);
  const name = disk.store.layers().at(-1)?.name;
  assert.ok(name);
  const path = `${DIRECTORY}/${name}`;
  const { list } = await checkChanged(disk, path, (bytes) => {
    const footer = decodeFooter(bytes.subarray(-FOOTER_SIZE), bytes.length, path);
    for (const at of [HEADER_SIZE + 40, footer.directoryPosition - 1]) bytes[at] = (bytes[at] ?? 0) ^ 1;
    return undefined;
  });
  assert.equal(list.length, 2, JSON.stringify(list));
  assert.equal(list[0]?.offset, HEADER_SIZE);
  assert.ok((list[1]?.offset ?? 0) > HEADER_SIZE);
});

test("blocks with right checksums and wrong content are found", async (t) => {
  const disk = await makeDisk(t);
  const name = disk.store.layers().at(-1)?.name ?? "";
  const path = `${DIRECTORY}/${name}`;
  const whole = disk.files.contentOf(path);
  const footer = decodeFooter(whole.subarray(-FOOTER_SIZE), whole.length, path);
  const payload = whole.subarray(footer.directoryPosition + BLOCK_HEADER_SIZE, whole.length - FOOTER_SIZE);
  const { indexStart } = decodeDirectory(payload, footer.directoryPosition, path);
  const start = indexStart[0] ?? 0;
  const payloadSize = (indexStart[1] ?? 0) - start - BLOCK_HEADER_SIZE;
  const seen = new Set<string>();
  for (let i = 0; i < 300; i++) {
    const { state, list } = await checkChanged(disk, path, (bytes) => {
      // Half of the flips hit the first key of the block.
      const at = start + BLOCK_HEADER_SIZE + disk.random.below(i % 2 === 0 ? 40 : payloadSize);
      bytes[at] = (bytes[at] ?? 0) ^ (1 << disk.random.below(8));
      sealBlock(bytes, start, { payloadSize, position: start, seed: footer.seed });
      return undefined;
    });
    // A changed length or LSN that fits the rest cannot be told from a right one.
    if (state === "clean") continue;
    assert.equal(state, "corrupt");
    for (const { what } of list) seen.add(what.replaceAll(/[0-9a-f]{36}|0x[0-9a-f]+|\d+/g, "#"));
  }
  for (const kind of [
    /keys out of order/,
    /outside of the layer/,
    /flags/,
    /beyond the end/,
    /refers to data/,
    /directory/,
  ]) {
    assert.ok(
      [...seen].some((what) => kind.test(what)),
      `${kind} in ${[...seen].join("; ")}`,
    );
  }
});

test("what is cut off, missing or another file is found", async (t) => {
  const disk = await makeDisk(t);
  const [image, delta, other] = disk.store.layers().map((layer) => `${DIRECTORY}/${layer.name}`);
  assert.ok(image && delta && other);
  for (const length of [0, 10, HEADER_SIZE, 5000]) {
    const { state, list } = await checkChanged(disk, delta, (bytes) => bytes.slice(0, length));
    assert.deepEqual([state, list[0]?.file, list[0]?.offset], ["corrupt", delta, length]);
  }
  const longer = await checkChanged(disk, delta, (bytes) => Uint8Array.from([...bytes, 0]));
  assert.match(longer.list[0]?.what ?? "", /bytes, the index says/);
  const swapped = await checkChanged(disk, delta, () => disk.files.contentOf(other));
  assert.equal(swapped.state, "corrupt");

  const whole = disk.files.contentOf(image);
  await disk.files.remove(image);
  const { list } = await check(disk);
  assert.deepEqual(list, [{ kind: "corrupt", what: "it is missing", file: image, offset: undefined }]);
  disk.files.replaceContent(image, whole);

  await disk.files.remove(INDEX);
  assert.equal((await check(disk)).list[0]?.what, "it is missing");
});

test("holes in LSNs and keys are found", async (t) => {
  const disk = await makeDisk(t);
  const whole = disk.files.contentOf(INDEX);
  const expectHole = async (change: (index: TimelineIndex) => TimelineIndex, what: RegExp) => {
    changeIndex(disk, change);
    const { state, list } = await check(disk, { startLsn: START });
    disk.files.replaceContent(INDEX, whole);
    assert.equal(state, "corrupt");
    assert.ok(
      list.some((found) => found.file === INDEX && what.test(found.what)),
      JSON.stringify(list),
    );
  };
  const without = (number: number) => (index: TimelineIndex) => ({
    ...index,
    layers: index.layers.filter((_, i) => i !== number),
  });
  await expectHole(without(0), /no image of the whole timeline/);
  await expectHole(without(1), /has no layer from 0\/3E8 to/);
  await expectHole(without(2), /has no layer from/);
  await expectHole(without(3), /to its end/);
  await expectHole((index) => ({ ...index, startLsn: toLsn(900) }), /begins at/);
  await expectHole((index) => {
    const [image, ...others] = index.layers;
    assert.ok(image);
    const narrow = { ...image, range: { ...image.range, to: key(5) } };
    return { ...index, layers: [narrow, ...others] };
  }, /has no image of keys/);
  assert.equal((await check(disk)).state, "clean");
});

test("leftovers are garbage; a file of unknown origin is pointed out", async (t) => {
  const disk = await makeDisk(t);
  const leftovers = ["00000099-0_1.delta", "00000098-0_1.image.tmp", "index.json.tmp", "notes.txt"];
  for (const name of leftovers) disk.files.replaceContent(`${DIRECTORY}/${name}`, new Uint8Array(5));
  const { state, list } = await check(disk);
  assert.equal(state, "garbage");
  assert.deepEqual(
    list.map((found) => found.file.slice(DIRECTORY.length + 1)),
    leftovers.sort(),
  );
  assert.match(list.find((found) => found.file.endsWith("notes.txt"))?.what ?? "", /nobody removes it/);
});

test("what cannot be read is not called damaged", async (t) => {
  const disk = await makeDisk(t);
  const broken = `${DIRECTORY}/${disk.store.layers()[1]?.name}`;
  const files = new Proxy(disk.files, {
    get(target, name) {
      if (name !== "open") return Reflect.get(target, name).bind?.(target) ?? Reflect.get(target, name);
      return (path: string, mode: "r") => {
        if (path === broken) throw new FaultError("EACCES", path);
        return target.open(path, mode);
      };
    },
  });
  const { state, list } = await check({ ...disk, files });
  assert.equal(state, "not_checked");
  assert.deepEqual([list.length, list[0]?.file], [1, broken]);
  assert.match(list[0]?.what ?? "", /EACCES/);
});

test("a check beside a writer sees nothing wrong and lets the writer work", async (t) => {
  const disk = await makeDisk(t, { interleave: true });
  const written = { layers: 0 };
  const writer = (async () => {
    for (; written.layers < 30; written.layers++) await addLayer(disk.store, disk.random);
  })();
  let checks = 0;
  for (; written.layers < 30; checks++) {
    const { state, list } = await check(disk, { open: disk.store });
    assert.deepEqual([state, list], ["clean", []]);
  }
  await writer;
  assert.ok(checks > 3, `${checks} checks`);
});

test("an older index put in the place of the current one is found while the store is open", async (t) => {
  const disk = await makeDisk(t);
  const before = disk.files.contentOf(INDEX);
  await addLayer(disk.store, disk.random);
  disk.files.replaceContent(INDEX, before);
  const { state, list } = await check(disk, { open: disk.store });
  assert.equal(state, "corrupt");
  assert.match(list[0]?.what ?? "", /but the pageserver had reached/);
});

test("a check can be interrupted", async (t) => {
  const disk = await makeDisk(t);
  const findings = new Findings();
  const store = await openToCheck(DIRECTORY, {}, findings, disk.files);
  const abort = new AbortController();
  const running = checkStore(store, undefined, findings, disk.files, {
    signal: abort.signal,
    progress: () => abort.abort(new Error("enough")),
  });
  await assert.rejects(running, /enough/);
  assert.equal(disk.files.openHandles, 0);
  assert.deepEqual(findings.list, []);
});
