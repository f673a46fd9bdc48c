/** JSON files with a checksum, and metadata.json in particular. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { crc32c } from "../../src/base/crc32c.ts";
import { parseTimelineId, parseWriterEpoch } from "../../src/base/ids.ts";
import { toLsn } from "../../src/base/lsn.ts";
import type { Files } from "../../src/base/seams.ts";
import { readJsonFile, writeJsonFile } from "../../src/pageserver/timeline/json-file.ts";
import {
  METADATA_FILE,
  type TimelineMetadata,
  readTimelineMetadata,
  writeTimelineMetadata,
} from "../../src/pageserver/timeline/metadata.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { TempDirectory } from "./harness.ts";

const ID = parseTimelineId("0123456789abcdef0123456789abcdef");

/** A well-formed file with any version and body. */
function file(head: string, body: string): string {
  const checksum = crc32c(new TextEncoder().encode(`${head} ${body}`));
  return `${head} ${checksum.toString(16).padStart(8, "0")}\n${body}`;
}

void test("the format is what its page says", async () => {
  using directory = new TempDirectory();
  const path = join(directory.path, "x.json");
  await writeJsonFile(new RealFiles(), path, "neon-x", 3, { a: "ä" });
  // Bytes by hand: checksum over `neon-x 3 ` and the body.
  assert.equal(readFileSync(path, "utf8"), file("neon-x 3", '{\n  "a": "ä"\n}\n'));
  const read = await readJsonFile(new RealFiles(), path, "neon-x", 3);
  assert.equal(read?.version, 3);
  assert.equal(read.fields.text("a"), "ä");
  assert.equal(await readJsonFile(new RealFiles(), join(directory.path, "none"), "neon-x", 3), undefined);
});

void test("another magic, a newer version, no JSON, no object", async () => {
  using directory = new TempDirectory();
  const path = join(directory.path, "x");
  const reading = (text: string): Promise<unknown> => {
    writeFileSync(path, text);
    return readJsonFile(new RealFiles(), path, "neon-x", 1);
  };
  await assert.rejects(reading(file("neon-y 1", "{}")), { code: "corrupt" });
  await assert.rejects(reading(file("neon-x 2", "{}")), { code: "unsupported", hint: /newer release/ });
  await assert.rejects(reading(file("neon-x 1", "{")), { code: "corrupt" });
  await assert.rejects(reading(file("neon-x 1", "[]")), { code: "corrupt" });
  await assert.rejects(reading(file("neon-x 1", "null")), { code: "corrupt" });
  await assert.rejects(reading("neon-x 1"), { code: "corrupt" });
  await assert.rejects(reading(""), { code: "corrupt" });
  assert.notEqual(await reading(file("neon-x 1", "{}")), undefined);
});

void test("a write that fails leaves the old file and no other", async () => {
  using directory = new TempDirectory();
  const path = join(directory.path, "x");
  const real = new RealFiles();
  await writeJsonFile(real, path, "neon-x", 1, { a: 1 });
  const full: Files = {
    open: async (name, mode) => {
      const handle = await real.open(name, mode);
      const write = (): Promise<void> => Promise.reject(Object.assign(new Error("full"), { code: "ENOSPC" }));
      return { ...bound(handle), write };
    },
    rename: (from, to) => real.rename(from, to),
    remove: (name) => real.remove(name),
    removeTree: (name) => real.removeTree(name),
    list: (name) => real.list(name),
    makeDirectory: (name) => real.makeDirectory(name),
    syncDirectory: (name) => real.syncDirectory(name),
    readWhole: (name) => real.readWhole(name),
  };
  await assert.rejects(writeJsonFile(full, path, "neon-x", 1, { a: 2 }), { code: "ENOSPC" });
  assert.deepEqual(readdirSync(directory.path), ["x"]);
  const read = await readJsonFile(real, path, "neon-x", 1);
  assert.equal(read?.fields.integer("a", { min: 0, max: 9 }), 1);
});

function bound(handle: Awaited<ReturnType<RealFiles["open"]>>): typeof handle {
  return {
    read: (...args) => handle.read(...args),
    write: (...args) => handle.write(...args),
    sync: () => handle.sync(),
    size: () => handle.size(),
    truncate: (sizeBytes) => handle.truncate(sizeBytes),
    close: () => handle.close(),
  };
}

void test("metadata goes to disk and back", async () => {
  using directory = new TempDirectory();
  const files = new RealFiles();
  const epoch = parseWriterEpoch("e".repeat(32));
  const full: TimelineMetadata = {
    id: ID,
    ancestor: { timelineId: parseTimelineId("f".repeat(32)), lsn: toLsn(0x16b374d848) },
    history: [
      { startLsn: toLsn(0x16b374d848), epoch: parseWriterEpoch("d".repeat(32)) },
      { startLsn: toLsn(0x1600000000), epoch },
    ].reverse(),
    writer: { name: "dev", epoch, source: { socketDirectory: "/run/x", port: 65_535, user: "postgres" } },
    createdAt: Date.UTC(2026, 10, 21, 10, 0, 0, 123),
  };
  const empty: TimelineMetadata = {
    id: ID,
    ancestor: undefined,
    history: [],
    writer: undefined,
    createdAt: 0,
  };
  for (const metadata of [
    full,
    empty,
    { ...empty, writer: { ...full.writer, source: { host: "::1", port: 1, user: "u" } } },
  ]) {
    const written = metadata as TimelineMetadata;
    await writeTimelineMetadata(files, directory.path, written);
    assert.deepEqual(await readTimelineMetadata(files, directory.path, ID), written);
  }
});

void test("metadata that does not fit is damage with the field's name", async () => {
  using directory = new TempDirectory();
  const files = new RealFiles();
  const path = join(directory.path, METADATA_FILE);
  const good = {
    timeline_id: ID,
    created_at: "2026-11-21T10:00:00Z",
    ancestor: null,
    history: [],
    writer: null,
  };
  const entry = (lsn: string): object => ({ start_lsn: lsn, epoch: "e".repeat(32) });
  const cases: [object, RegExp][] = [
    [{ timeline_id: "x" }, /timeline_id/],
    [{ timeline_id: "f".repeat(32) }, /that of timeline ffff/],
    [{ created_at: "yesterday" }, /created_at/],
    [{ ancestor: {} }, /ancestor\.timeline_id/],
    [{ ancestor: { timeline_id: ID, lsn: "1" } }, /ancestor\.lsn/],
    [{ history: null }, /history/],
    [{ history: [1] }, /history\[0\]/],
    [{ history: [entry("0/2"), entry("0/1")] }, /history goes back at entry 1/],
    [{ writer: { name: "a", epoch: "e".repeat(32) } }, /writer\.source/],
  ];
  for (const [change, message] of cases) {
    writeFileSync(path, file("neon-timeline 1", JSON.stringify({ ...good, ...change })));
    await assert.rejects(readTimelineMetadata(files, directory.path, ID), { code: "corrupt", message });
  }
});
