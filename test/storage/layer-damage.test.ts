import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { sealBlock } from "../../src/storage/block.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { decodeDirectory, decodeFooter, encodeHeader } from "../../src/storage/layer-codec.ts";
import { BLOCK_HEADER_SIZE, FOOTER_SIZE, HEADER_SIZE, LayerKind } from "../../src/storage/layer-format.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { SeededRandom } from "../support/random.ts";
import { ModelTimeline, checkScan, imagesOf, putBoth } from "./model.ts";

const START = toLsn(1000);
const KEYS = 600;
const ROUNDS = 4;
const END = toLsn(START + KEYS * ROUNDS * 8);
/** Longest block of these files. */
const BLOCK_MAX = 17_000;

const key = (i: number): Key => ({ kind: 0, spcOid: 1, dbOid: 5, relNumber: 1 + (i % 3), fork: 0, block: i });

interface Disk {
  readonly files: FaultyFiles;
  readonly random: SeededRandom;
  readonly delta: string;
  readonly image: string;
}

/** Two timelines: one of a delta layer, all of which is needed to read its end; one of an image layer. */
async function makeDisk(t: TestContext): Promise<Disk> {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32() });
  await using cache = new StoreCache({ capacityBytes: 0 }, { files });
  const model = new ModelTimeline();
  await using line = await TimelineStore.create({ directory: "/delta", startLsn: START }, { files, cache });
  let lsn: number = START;
  for (let i = 0; i < KEYS * ROUNDS; i++) {
    lsn += 8;
    putBoth(line, model, [key(i % KEYS)], { lsn, flags: ValueFlag.Record, id: i, sizeBytes: 70 });
  }
  line.freeze(END);
  await line.flush();
  await checkScan(line, model, ALL_KEYS, END);
  await using copy = await TimelineStore.create({ directory: "/image", startLsn: END }, { files, cache });
  await copy.addImageLayer(ALL_KEYS, END, imagesOf(line, ALL_KEYS, END));
  await checkScan(copy, model, ALL_KEYS, END);
  const [delta, image] = [line.layers()[0]?.name, copy.layers()[0]?.name];
  assert.ok(delta && image);
  return { files, random, delta: `/delta/${delta}`, image: `/image/${image}` };
}

async function readAll(files: FaultyFiles, directory: string): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
  const options = { directory, startLsn: directory === "/delta" ? START : END };
  await using store = await TimelineStore.open(options, { files, cache });
  for (let i = 0; i < KEYS; i += 37) await store.get(key(i), END);
  for await (const batch of store.scan(ALL_KEYS, END)) assert.ok(batch.length > 0);
}

/** Reading must fail, name the file, and point at or before the damage, within the block that it is in. */
async function expectCorrupt(disk: Disk, path: string, damagedAt: number): Promise<void> {
  await assert.rejects(readAll(disk.files, path.slice(0, path.lastIndexOf("/"))), (error: unknown) => {
    const what = `damage at ${damagedAt}: ${String(error)}`;
    assert.ok(error instanceof NeonError && error.code === ErrorCode.Corrupt, what);
    assert.equal(error.data["file"], path, what);
    assert.ok(error.message.includes(path), what);
    const offset = error.data["offset"];
    assert.ok(typeof offset === "number", what);
    assert.ok(Math.abs(damagedAt - offset) < BLOCK_MAX, what);
    return true;
  });
}

function regionsOf(bytes: Uint8Array, path: string): { headers: number[]; directory: number } {
  const footer = decodeFooter(bytes.subarray(-FOOTER_SIZE), bytes.length, path);
  const start = footer.directoryPosition;
  const payload = bytes.subarray(start + BLOCK_HEADER_SIZE, bytes.length - FOOTER_SIZE);
  const directory = decodeDirectory(payload, start, path);
  return { headers: [...directory.dataStart, ...directory.indexStart], directory: start };
}

async function flipEverywhere(t: TestContext, pick: (disk: Disk) => string): Promise<void> {
  const disk = await makeDisk(t);
  const path = pick(disk);
  const whole = disk.files.contentOf(path);
  const { headers, directory } = regionsOf(whole, path);
  const places = new Set<number>();
  for (let i = 0; i < HEADER_SIZE; i++) places.add(i);
  for (let i = whole.length - FOOTER_SIZE; i < whole.length; i++) places.add(i);
  for (const start of headers) for (let i = 0; i < BLOCK_HEADER_SIZE; i += 3) places.add(start + i);
  for (let i = 0; i < 60; i++) places.add(disk.random.between(directory, whole.length - 1));
  for (let i = 0; i < 150; i++) places.add(disk.random.below(whole.length));
  for (const place of places) {
    const damaged = whole.slice();
    damaged[place] = (damaged[place] ?? 0) ^ (1 << disk.random.below(8));
    disk.files.replaceContent(path, damaged);
    await expectCorrupt(disk, path, place);
  }
  disk.files.replaceContent(path, whole);
  await readAll(disk.files, path.slice(0, path.lastIndexOf("/")));
}

test("a flipped bit anywhere in a delta layer is found", (t) => flipEverywhere(t, (disk) => disk.delta));

test("a flipped bit anywhere in an image layer is found", (t) => flipEverywhere(t, (disk) => disk.image));

test("a layer file that is cut off is found", async (t) => {
  const disk = await makeDisk(t);
  for (const path of [disk.delta, disk.image]) {
    const whole = disk.files.contentOf(path);
    const lengths = [0, 1, HEADER_SIZE - 1, HEADER_SIZE, whole.length - FOOTER_SIZE, whole.length - 1];
    for (let i = 0; i < 20; i++) lengths.push(disk.random.below(whole.length));
    for (const length of lengths) {
      disk.files.replaceContent(path, whole.slice(0, length));
      await assert.rejects(readAll(disk.files, path.slice(0, path.lastIndexOf("/"))), (error: unknown) => {
        assert.ok(error instanceof NeonError && error.code === ErrorCode.Corrupt, String(error));
        assert.equal(error.data["file"], path);
        assert.ok(typeof error.data["offset"] === "number");
        return true;
      });
    }
    disk.files.replaceContent(path, Uint8Array.from([...whole, 0]));
    await assert.rejects(readAll(disk.files, path.slice(0, path.lastIndexOf("/"))), /bytes, the index says/);
    disk.files.replaceContent(path, whole);
  }
});

test("a block that lies in the wrong place or comes from another file is found", async (t) => {
  const disk = await makeDisk(t);
  const whole = disk.files.contentOf(disk.delta);
  const { headers } = regionsOf(whole, disk.delta);
  const [first, second, third] = headers;
  assert.ok(first !== undefined && second !== undefined && third !== undefined);
  assert.equal(second - first, third - second, "the first two blocks have one size");
  const swapped = whole.slice();
  swapped.set(whole.subarray(first, second), second);
  disk.files.replaceContent(disk.delta, swapped);
  await assert.rejects(readAll(disk.files, "/delta"), /belongs at offset 32/);

  const foreign = whole.slice();
  sealBlock(foreign, first, {
    payloadSize: second - first - BLOCK_HEADER_SIZE,
    position: first,
    seed: 12345,
  });
  disk.files.replaceContent(disk.delta, foreign);
  await assert.rejects(readAll(disk.files, "/delta"), /offset 32 belongs to another file/);

  const relabelled = whole.slice();
  relabelled.set(encodeHeader({ kind: LayerKind.Delta, startLsn: START, endLsn: toLsn(END - 1) }).bytes);
  disk.files.replaceContent(disk.delta, relabelled);
  await assert.rejects(readAll(disk.files, "/delta"), /is not the layer that the index describes/);
});

test("a layer file that is missing is found when the store is opened", async (t) => {
  const disk = await makeDisk(t);
  await disk.files.remove(disk.image);
  await assert.rejects(readAll(disk.files, "/image"), (error: unknown) => {
    assert.ok(error instanceof NeonError && error.code === ErrorCode.Corrupt);
    assert.equal(error.data["file"], disk.image);
    return true;
  });
});

test("an index file that was changed or cut off anywhere is found", async (t) => {
  const disk = await makeDisk(t);
  const path = "/delta/index.json";
  const whole = disk.files.contentOf(path);
  for (let place = 0; place < whole.length; place++) {
    const damaged = whole.slice();
    damaged[place] = (damaged[place] ?? 0) ^ (1 << disk.random.below(8));
    disk.files.replaceContent(path, damaged);
    await expectCorrupt(disk, path, place);
    disk.files.replaceContent(path, whole.slice(0, place));
    await expectCorrupt(disk, path, place);
  }
  disk.files.replaceContent(path, Uint8Array.from([...whole, 0x0a]));
  await expectCorrupt(disk, path, whole.length);
});
