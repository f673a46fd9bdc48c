/** `neon fsck --repair`: what it plans, what it does, and what it keeps its hands off. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { RepairReport, RepairStep } from "../../src/pageserver/check/repair.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import { type Specimen, makeSpecimen } from "./flips.ts";
import { Scene, TENANT, TENANTS } from "./scene.ts";
import { TINY_START } from "./tiny-cluster.ts";

const ROOT = `${TENANTS}/${TENANT}`;
const OPTIONS = { signal: new AbortController().signal, progress: () => undefined };

/** One tenant on a disk in memory, with two branches, that is damaged and repaired. */
class Patient implements AsyncDisposable {
  readonly specimen: Specimen;
  readonly random: SeededRandom;
  files: FaultyFiles;
  scene: Scene;

  private constructor(specimen: Specimen, random: SeededRandom, scene: Scene, files: FaultyFiles) {
    this.specimen = specimen;
    this.random = random;
    this.scene = scene;
    this.files = files;
  }

  /** Damages the files first; opens them then. */
  static async open(t: TestContext, damage: (files: FaultyFiles, paths: string[]) => void): Promise<Patient> {
    const random = SeededRandom.forTest(t);
    const specimen = await makeSpecimen(random);
    const files = specimen.files.copy();
    damage(files, files.paths());
    return new Patient(specimen, random, await Scene.open(files, random), files);
  }

  repair(apply: boolean): Promise<RepairReport> {
    return this.scene.tenant.repair({ ...OPTIONS, apply });
  }

  async state(): Promise<string> {
    return (await this.scene.tenant.check(OPTIONS)).state;
  }

  async restart(): Promise<void> {
    const files = this.files.afterKill();
    await this.scene.stop();
    this.files = files;
    this.scene = await Scene.open(files, this.random);
  }

  /** Every branch has all that was acknowledged. */
  async checkWhole(): Promise<void> {
    assert.equal(await this.state(), "clean");
    for (const [name, lsn] of this.specimen.acknowledged) {
      const timeline = this.scene.timeline(name);
      assert.ok(timeline.lastRecordLsn >= lsn, name);
      await this.scene.check(timeline, this.specimen.wal, lsn);
      await this.scene.check(timeline, this.specimen.wal, this.random.between(TINY_START, lsn));
    }
  }

  contents(): Map<string, string> {
    return new Map(
      this.files
        .paths()
        .filter((path) => !path.endsWith(".tmp"))
        .map((path) => [path, Buffer.from(this.files.contentOf(path)).toString("base64")]),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.files.afterKill();
    await this.scene.stop();
  }
}

function spoil(files: FaultyFiles, path: string | undefined): void {
  assert.ok(path);
  const bytes = files.contentOf(path);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 4;
  files.replaceContent(path, bytes);
}

/** Steps about damage; leftovers of the moment of the kill may be removed beside. */
const mended = (steps: readonly RepairStep[]): RepairStep[] =>
  steps.filter((step) => step.kind === "corrupt");

/** As a version of the program that makes none leaves it. */
function removeCopies(files: FaultyFiles): void {
  for (const path of files.paths()) if (path.endsWith("/copy.index.json")) files.removeNow(path);
}

const indexesOf = (paths: readonly string[]): string[] =>
  paths.filter((path) => path.endsWith("/index.json"));

test("an index is made again from the layers, but not before it is asked for", async (t) => {
  await using patient = await Patient.open(t, (files, paths) => {
    for (const path of indexesOf(paths)) spoil(files, path);
  });
  assert.equal(await patient.state(), "corrupt");
  const before = patient.contents();
  const plan = await patient.repair(false);
  assert.equal(plan.applied, false);
  assert.deepEqual(plan.steps.map((step) => step.file).sort(), indexesOf([...before.keys()]));
  for (const { what, error } of plan.steps) {
    assert.match(what, /^makes it again from (its copy|0 layer files)$/);
    assert.equal(error, undefined);
  }
  assert.deepEqual(patient.contents(), before, "a plan changes nothing");
  const done = await patient.repair(true);
  assert.deepEqual([done.applied, done.steps.map((step) => step.error)], [true, [undefined, undefined]]);
  await patient.checkWhole();
  await patient.restart();
  await patient.checkWhole();
});

test("without its copy, an index is made again from the layers, as long as none was replaced", async (t) => {
  await using patient = await Patient.open(t, (files, paths) => {
    removeCopies(files);
    for (const path of indexesOf(paths)) spoil(files, path);
  });
  const { steps } = await patient.repair(true);
  for (const { what, error } of steps) {
    assert.match(what, /^makes it again from [02] layer files$/);
    assert.equal(error, undefined);
  }
  await patient.checkWhole();
});

test("small files are written again from memory while the pageserver runs", async (t) => {
  await using patient = await Patient.open(t, () => undefined);
  // The note how far WAL is durable is there while WAL comes in.
  const intake = await patient.scene.timeline("main").openIntake();
  await intake.mark.rewrite(intake.durableLsn);
  const small = patient.files.paths().filter((path) => /(json|durable)$|refs\//.test(path));
  assert.ok(small.length >= 8, small.join(" "));
  for (const path of small) {
    spoil(patient.files, path);
    assert.equal(await patient.state(), "corrupt", path);
    const { steps, left } = await patient.repair(true);
    assert.deepEqual([steps.map((step) => [step.file, step.error]), left], [[[path, undefined]], []], path);
    await patient.checkWhole();
  }
  await patient.files.remove(`${ROOT}/refs/dev`);
  assert.equal(await patient.state(), "corrupt");
  assert.match((await patient.repair(true)).steps[0]?.what ?? "", /^names timeline [0-9a-f]{32} again$/);
  await patient.restart();
  await patient.checkWhole();
});

test("a branch whose file is damaged gets the one timeline that has none", async (t) => {
  await using patient = await Patient.open(t, (files) => {
    spoil(files, `${ROOT}/refs/dev`);
  });
  const { steps, left } = await patient.repair(true);
  assert.match(steps[0]?.what ?? "", /^names timeline [0-9a-f]{32}, the only one without a branch$/);
  assert.deepEqual(left, []);
  await patient.checkWhole();
});

test("where it is not clear which timeline is whose, nothing is done", async (t) => {
  await using patient = await Patient.open(t, (files) => {
    spoil(files, `${ROOT}/refs/dev`);
    spoil(files, `${ROOT}/refs/main`);
  });
  const before = patient.contents();
  const { steps, left } = await patient.repair(true);
  assert.deepEqual(mended(steps), []);
  assert.ok(left.some(({ what }) => what.includes("several branches are damaged")));
  assert.deepEqual(patient.contents(), before);
});

test("what is lost is left as it is, with the reason", async (t) => {
  await using patient = await Patient.open(t, (files, paths) => {
    spoil(
      files,
      paths.find((path) => path.endsWith(".delta")),
    );
    const index = indexesOf(paths).find((path) =>
      paths.some((other) => other.startsWith(path.slice(0, -10)) && other.endsWith(".image")),
    );
    spoil(files, index);
  });
  const before = patient.contents();
  const { steps, left } = await patient.repair(true);
  assert.deepEqual(mended(steps), []);
  assert.ok(
    left.some(({ what }) => /cannot be made again: .*\.delta: /.test(what)),
    JSON.stringify(left),
  );
  assert.deepEqual(patient.contents(), before);
});

test("layers that were removed leave a doubt", async (t) => {
  await using patient = await Patient.open(t, (files, paths) => {
    removeCopies(files);
    const delta = paths.find((path) => path.endsWith(".delta"));
    assert.ok(delta);
    files.replaceContent(delta.replace(/\/\d{8}-/, "/00000077-"), files.contentOf(delta));
    files.removeNow(delta);
    spoil(files, `${delta.slice(0, delta.lastIndexOf("/"))}/index.json`);
  });
  const { steps, left } = await patient.repair(true);
  assert.deepEqual(mended(steps), []);
  assert.ok(
    left.some(({ what }) => what.includes("layers were replaced or removed")),
    JSON.stringify(left),
  );
});

test("two layers that hold the same leave a doubt, and nothing is done", async (t) => {
  await using patient = await Patient.open(t, (files, paths) => {
    removeCopies(files);
    const delta = paths.find((path) => path.endsWith(".delta"));
    assert.ok(delta);
    files.replaceContent(delta.replace(/\/\d{8}-/, "/00000003-"), files.contentOf(delta));
    spoil(files, `${delta.slice(0, delta.lastIndexOf("/"))}/index.json`);
  });
  const { steps, left } = await patient.repair(true);
  assert.deepEqual(mended(steps), []);
  assert.ok(
    left.some(({ what }) => what.includes("hold the same part of the history")),
    JSON.stringify(left),
  );
});

test("leftovers go; what may be somebody's stays", async (t) => {
  const unnamed = "b".repeat(32);
  await using patient = await Patient.open(t, () => undefined);
  const { files } = patient;
  const own = indexesOf(files.paths())[0]?.replace("/layers/index.json", "") ?? "";
  files.addDirectory(`${ROOT}/timelines/${unnamed}/layers`);
  const gone = [
    `${ROOT}/tenant.json.lock`,
    `${ROOT}/refs/dev.lock`,
    `${own}/layers/00000099-0_1-0_2.delta`,
    `${own}/layers/00000098-0_1.image.tmp`,
  ];
  const kept = [`${ROOT}/notes.txt`, `${own}/layers/notes.txt`, `${own}/notes.txt`];
  for (const path of [...gone, ...kept]) files.replaceContent(path, new Uint8Array(3));
  const { steps, left } = await patient.repair(true);
  assert.deepEqual(
    steps.map((step) => [step.file, step.error]).sort(),
    [...gone, `${ROOT}/timelines/${unnamed}`].map((path) => [path, undefined]).sort(),
  );
  assert.deepEqual(left.map(({ file }) => file).sort(), [...kept].sort());
  const paths = files.paths();
  for (const path of gone) assert.ok(!paths.includes(path), path);
  for (const path of kept) assert.ok(paths.includes(path), path);
  assert.ok(!(await files.list(`${ROOT}/timelines`)).includes(unnamed));
  await files.remove(kept[0] ?? "");
  await files.remove(kept[1] ?? "");
  await files.remove(kept[2] ?? "");
  await patient.checkWhole();
});

test("after any flipped bit, a repair makes nothing worse", { timeout: 300_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  const specimen = await makeSpecimen(random);
  let whole = 0;
  for (let trial = 0; trial < 150; trial++) {
    const files = specimen.files.copy();
    const path = random.pick(
      files.paths().filter((each) => !each.includes("/wal/") && !each.endsWith("tenant.json")),
    );
    const bytes = files.contentOf(path);
    const at = random.below(bytes.length);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
    files.replaceContent(path, bytes);
    const scene = await Scene.open(files, random);
    try {
      const { steps } = await scene.tenant.repair({ ...OPTIONS, apply: true });
      for (const step of steps) assert.equal(step.error, undefined, `${path}: ${step.what}`);
      for (const other of files.paths()) {
        // What is opened is put into layers, and then stands in the index.
        const isMoving = other.includes("/wal") || other.endsWith("index.json");
        const isTouched = other === path || isMoving || !specimen.files.paths().includes(other);
        if (isTouched) continue;
        assert.deepEqual(
          files.contentOf(other),
          specimen.files.contentOf(other),
          `${other}, byte ${at} of ${path}`,
        );
      }
      const { state } = await scene.tenant.check(OPTIONS);
      if (steps.length > 0) assert.equal(state, "clean", path);
      for (const [name, lsn] of specimen.acknowledged) {
        if (state !== "clean") continue;
        whole++;
        await scene.check(scene.timeline(name), specimen.wal, lsn);
      }
    } finally {
      files.afterKill();
      await scene.stop();
    }
  }
  assert.ok(whole > 50, `${whole} were made whole`);
});
