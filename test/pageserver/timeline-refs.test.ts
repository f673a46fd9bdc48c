/** Names of branches, and the files that hold them. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseTimelineId } from "../../src/base/ids.ts";
import { Refs, refFileName, refNameOfFile, refNameProblem } from "../../src/pageserver/timeline/refs.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { TempDirectory } from "./harness.ts";

const A = parseTimelineId("a".repeat(32));
const B = parseTimelineId("b".repeat(32));

void test("names that git allows and we too", () => {
  for (const name of [
    "main",
    "a",
    "feature/login",
    "v1.0",
    "a.b",
    "A_b-c",
    "ä",
    "日本",
    "#1",
    "a{b}",
    "x".repeat(200),
  ]) {
    assert.equal(refNameProblem(name), undefined, name);
  }
});

void test("names that git refuses, and two kinds of our own", () => {
  const names = [
    ...["", "/a", "a/", "a//b", ".a", "a/.b", "a.lock", "a.lock/b", "a..b", "a.", "-a", "@", "a@{1}", "a@b"],
    ...["a b", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a\0", "a\n", "\x7f", "\ud800"],
    ...["0123456789abcdef0123456789ABCDEF", "x".repeat(300), "ä".repeat(60)],
  ];
  for (const name of names) assert.notEqual(refNameProblem(name), undefined, JSON.stringify(name));
});

void test("file names: readable, reversible, and distinct where case or normal form is ignored", () => {
  assert.equal(refFileName("main"), "main");
  assert.equal(refFileName("feature/Login"), "feature%2f%4cogin");
  const names = ["main", "Main", "a/b", "a%2fb", "\u00e4", "a\u0308", "100%", "日本"];
  const files = names.map((name) => refFileName(name).toLowerCase().normalize("NFC"));
  assert.equal(new Set(files).size, names.length);
  for (const name of names) assert.equal(refNameOfFile(refFileName(name)), name);
  for (const file of ["Main", "a%2Fb", "%zz", "%ff", "a b", ".x", "%2e%2e"]) {
    assert.equal(refNameOfFile(file), undefined, file);
  }
});

void test("compare-and-swap", async () => {
  using directory = new TempDirectory();
  const refs = await Refs.open(new RealFiles(), directory.path);
  await refs.update("main", undefined, A);
  await assert.rejects(refs.update("main", undefined, B), { code: "exists" });
  await assert.rejects(refs.update("main", B, A), { code: "conflict" });
  await assert.rejects(refs.update("other", A, B), { code: "conflict" });
  await refs.update("main", A, B);
  assert.deepEqual(refs.namesOf(A), []);
  assert.deepEqual(refs.namesOf(B), ["main"]);
  const again = await Refs.open(new RealFiles(), directory.path);
  assert.deepEqual(again.list(), [{ name: "main", timelineId: B }]);
  assert.deepEqual(readdirSync(directory.path), ["main"]);
});

void test("several names of one timeline", async () => {
  using directory = new TempDirectory();
  const refs = await Refs.open(new RealFiles(), directory.path);
  for (const name of ["b", "a/b", "a"]) await refs.update(name, undefined, A);
  assert.deepEqual(refs.namesOf(A), ["a", "a/b", "b"]);
  await refs.rename("a", "c");
  await refs.delete("b");
  assert.deepEqual(refs.namesOf(A), ["a/b", "c"]);
  await assert.rejects(refs.delete("b"), { code: "not_found" });
});

void test("every changed bit and every cut of a ref's file is detected", async () => {
  using directory = new TempDirectory();
  const files = new RealFiles();
  await (await Refs.open(files, directory.path)).update("main", undefined, A);
  const path = join(directory.path, "main");
  const good = readFileSync(path);
  const damagedNow = async (): Promise<string | undefined> =>
    (await Refs.open(files, directory.path)).damaged.get("main")?.code;
  for (let bit = 0; bit < good.length * 8; bit++) {
    const bad = Buffer.from(good);
    bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    writeFileSync(path, bad);
    assert.equal(await damagedNow(), "corrupt", `bit ${bit}`);
  }
  for (let length = 0; length < good.length; length++) {
    writeFileSync(path, good.subarray(0, length));
    assert.equal(await damagedNow(), "corrupt", `length ${length}`);
  }
  writeFileSync(path, good);
  assert.equal(await damagedNow(), undefined);
});
