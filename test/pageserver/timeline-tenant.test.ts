/** Tenants on disk: restarts, crashes between any two steps, damaged files, and what is deleted. */
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type TimelineId, parseTenantId } from "../../src/base/ids.ts";
import type { FileHandle, Files } from "../../src/base/seams.ts";
import { systemClock, systemRandom } from "../../src/pageserver/server.ts";
import { writeTimelineMetadata } from "../../src/pageserver/timeline/metadata.ts";
import { Tenants } from "../../src/pageserver/timeline/tenants.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { FAKE_START, FakeTimeline, FakeTimelines } from "./fake-timelines.ts";
import { TENANT, TempDirectory } from "./harness.ts";

const ID = parseTenantId(TENANT);

interface Opened extends AsyncDisposable {
  readonly tenants: Tenants<FakeTimeline>;
  readonly timelines: FakeTimelines;
  readonly log: string[];
}

async function open(directory: string, files: Files = new RealFiles()): Promise<Opened> {
  const log: string[] = [];
  const write = (_: object, message: string): void => void log.push(message);
  const timelines = new FakeTimelines(files);
  const tenants = new Tenants<FakeTimeline>(directory, {
    files,
    clock: systemClock,
    random: systemRandom,
    log: { info: write, warn: write, error: write },
    timelines,
  });
  await tenants.open();
  return { tenants, timelines, log, [Symbol.asyncDispose]: () => tenants[Symbol.asyncDispose]() };
}

// eslint-disable-next-line require-yield -- a tar without content.
async function* emptyTar(): AsyncIterable<Uint8Array> {}

async function createMain(tenants: Tenants<FakeTimeline>): Promise<TimelineId> {
  const tenant = await tenants.create({ id: ID, pgVersion: POSTGRES_17 });
  return (await tenant.import({ branch: "main", timelineId: undefined, tar: emptyTar() })).timeline.id;
}

/** Branch names with the names of what they hang on. */
function shape(tenants: Tenants<FakeTimeline>): Record<string, string | null> {
  const tenant = tenants.get(ID);
  return Object.fromEntries(
    tenant.branches().map(({ ref, entry }) => {
      assert.equal(entry.kind, "open", `${ref.name} is open`);
      const ancestor = entry.kind === "open" ? entry.timeline.ancestor : undefined;
      return [ref.name, ancestor ? (tenant.nameOf(ancestor.timelineId) ?? "(unnamed)") : null];
    }),
  );
}

function timelineDirectories(directory: string): string[] {
  return readdirSync(join(directory, TENANT, "timelines")).sort();
}

/** Copies a directory before every change that goes through it, as a crash at that moment would leave it. */
class SnapshottingFiles implements Files {
  readonly snapshots: string[] = [];
  private readonly real = new RealFiles();
  private readonly source: string;
  private readonly target: string;
  armed = false;

  constructor(source: string, target: string) {
    this.source = source;
    this.target = target;
  }

  private snapshot(): void {
    if (!this.armed) return;
    const path = join(this.target, String(this.snapshots.length));
    cpSync(this.source, path, { recursive: true });
    this.snapshots.push(path);
  }

  async open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle> {
    if (mode !== "r") this.snapshot();
    const handle = await this.real.open(path, mode);
    return {
      read: (...args) => handle.read(...args),
      write: async (bytes, position) => {
        this.snapshot();
        // Half of it, then the rest: a crash may tear the write.
        const half = Math.floor(bytes.length / 2);
        await handle.write(bytes.subarray(0, half), position);
        this.snapshot();
        await handle.write(bytes.subarray(half), position + half);
      },
      sync: () => handle.sync(),
      size: () => handle.size(),
      truncate: (sizeBytes) => handle.truncate(sizeBytes),
      close: () => handle.close(),
    };
  }
  rename(from: string, to: string): Promise<void> {
    this.snapshot();
    return this.real.rename(from, to);
  }
  remove(path: string): Promise<void> {
    this.snapshot();
    return this.real.remove(path);
  }
  removeTree(directory: string): Promise<void> {
    this.snapshot();
    return this.real.removeTree(directory);
  }
  list(directory: string): Promise<string[]> {
    return this.real.list(directory);
  }
  makeDirectory(directory: string): Promise<void> {
    this.snapshot();
    return this.real.makeDirectory(directory);
  }
  syncDirectory(directory: string): Promise<void> {
    this.snapshot();
    return this.real.syncDirectory(directory);
  }
  readWhole(path: string): Promise<Uint8Array | undefined> {
    return this.real.readWhole(path);
  }
}

/** Runs `change` and opens what a crash at each of its steps would leave; `check` sees each. */
async function crashAnywhere(
  prepare: (opened: Opened) => Promise<void>,
  change: (opened: Opened) => Promise<unknown>,
  check: (opened: Opened, directory: string) => void,
): Promise<void> {
  using temporary = new TempDirectory();
  const directory = join(temporary.path, "tenants");
  const target = join(temporary.path, "snapshots");
  const files = new SnapshottingFiles(directory, target);
  {
    await using opened = await open(directory, files);
    await prepare(opened);
    files.armed = true;
    await change(opened);
    files.armed = false;
  }
  assert.ok(files.snapshots.length > 0, "the change goes through the files");
  for (const snapshot of [...files.snapshots, directory]) {
    await using opened = await open(snapshot);
    check(opened, snapshot);
    const leftovers = readdirSync(snapshot, { recursive: true }).filter((name) =>
      String(name).endsWith(".lock"),
    );
    assert.deepEqual(
      leftovers.filter((name) => String(name).includes("refs")),
      [],
    );
  }
}

void test("branches, ancestors and writers survive a restart", async () => {
  using temporary = new TempDirectory();
  let epoch = "";
  {
    await using opened = await open(temporary.path);
    const main = await createMain(opened.tenants);
    const tenant = opened.tenants.get(ID);
    await tenant.createBranch("b/c", main, FAKE_START);
    const dev = tenant.branch("b/c").ref.timelineId;
    await tenant.createBranch("a", dev, FAKE_START);
    const source = { host: "h", port: 1, user: "u" };
    ({ epoch } = await tenant.timeline(dev).openWriter({ name: "c", source }));
  }
  await using opened = await open(temporary.path);
  assert.deepEqual(shape(opened.tenants), { a: "b/c", "b/c": "main", main: null });
  const tenant = opened.tenants.get(ID);
  const dev = tenant.timeline(tenant.branch("b/c").ref.timelineId);
  assert.equal(dev.writer?.epoch, epoch);
  assert.equal(dev.history.length, 1);
  assert.deepEqual(opened.log, []);
});

void test("a crash at any step of creating a tenant leaves none or all of it", async () => {
  await crashAnywhere(
    async () => {},
    ({ tenants }) => tenants.create({ id: ID, pgVersion: POSTGRES_17 }),
    ({ tenants }, directory) => {
      const names = tenants.list().map((entry) => entry.kind);
      if (names.length === 0) assert.equal(existsSync(join(directory, TENANT)), false);
      else assert.deepEqual(names, ["open"]);
    },
  );
});

void test("a crash at any step of deleting a tenant leaves none or all of it", async () => {
  await crashAnywhere(
    async ({ tenants }) => void (await createMain(tenants)),
    ({ tenants }) => tenants.delete(ID),
    ({ tenants }, directory) => {
      if (tenants.list().length > 0) assert.deepEqual(shape(tenants), { main: null });
      else assert.deepEqual(readdirSync(directory), []);
    },
  );
});

void test("a crash at any step of an import leaves none or all of it, and it can be run again", async () => {
  await crashAnywhere(
    async ({ tenants }) => void (await tenants.create({ id: ID, pgVersion: POSTGRES_17 })),
    ({ tenants }) => tenants.get(ID).import({ branch: "main", timelineId: undefined, tar: emptyTar() }),
    ({ tenants }, directory) => {
      const branches = shape(tenants);
      if (Object.keys(branches).length > 0) {
        assert.deepEqual(branches, { main: null });
        return;
      }
      assert.deepEqual(timelineDirectories(directory), []);
      // Another cluster may come now: nothing of the first is left.
      assert.equal(tenants.get(ID).systemId, undefined);
    },
  );
});

void test("a crash at any step of creating a branch leaves none or all of it", async () => {
  let main: TimelineId;
  await crashAnywhere(
    async ({ tenants }) => {
      main = await createMain(tenants);
    },
    ({ tenants }) => tenants.get(ID).createBranch("dev", main, FAKE_START),
    ({ tenants }, directory) => {
      const branches = shape(tenants);
      assert.deepEqual(branches, "dev" in branches ? { dev: "main", main: null } : { main: null });
      assert.equal(timelineDirectories(directory).length, Object.keys(branches).length);
    },
  );
});

void test("a crash at any step of a rename leaves one of the two names", async () => {
  await crashAnywhere(
    async ({ tenants }) => void (await createMain(tenants)),
    ({ tenants }) => tenants.get(ID).renameBranch("main", "trunk"),
    ({ tenants }) => {
      const names = Object.keys(shape(tenants));
      assert.equal(names.length, 1);
      assert.ok(["main", "trunk"].includes(names[0] ?? ""));
    },
  );
});

void test("a crash at any step of a deletion leaves the branch or nothing of it", async () => {
  await crashAnywhere(
    async ({ tenants }) => {
      const main = await createMain(tenants);
      await tenants.get(ID).createBranch("dev", main, FAKE_START);
    },
    ({ tenants }) => tenants.get(ID).deleteBranch("dev"),
    ({ tenants }, directory) => {
      const names = Object.keys(shape(tenants));
      assert.ok(names.includes("main"));
      assert.equal(timelineDirectories(directory).length, names.length);
    },
  );
});

void test("a creation that fails leaves nothing, and can be repeated", async () => {
  using temporary = new TempDirectory();
  await using opened = await open(temporary.path);
  const main = await createMain(opened.tenants);
  const tenant = opened.tenants.get(ID);
  opened.timelines.createFailure = new Error("disk full");
  await assert.rejects(tenant.createBranch("dev", main, FAKE_START), /disk full/);
  await assert.rejects(tenant.import({ branch: "dev", timelineId: undefined, tar: emptyTar() }), /disk full/);
  assert.equal(timelineDirectories(temporary.path).length, 1);
  opened.timelines.createFailure = undefined;
  await tenant.createBranch("dev", main, FAKE_START);
});

void test("many branches at once: each name once", async () => {
  using temporary = new TempDirectory();
  await using opened = await open(temporary.path);
  const main = await createMain(opened.tenants);
  const tenant = opened.tenants.get(ID);
  const names = ["a", "b", "a", "c", "b", "a"];
  const results = await Promise.allSettled(names.map((name) => tenant.createBranch(name, main, FAKE_START)));
  assert.deepEqual(
    results.map((result) => result.status === "fulfilled"),
    [true, true, false, true, false, false],
  );
  assert.equal(timelineDirectories(temporary.path).length, 4);
});

void test("an unnamed ancestor lives as long as its children", async () => {
  using temporary = new TempDirectory();
  {
    await using opened = await open(temporary.path);
    const main = await createMain(opened.tenants);
    const tenant = opened.tenants.get(ID);
    await tenant.createBranch("middle", main, FAKE_START);
    await tenant.createBranch("leaf", tenant.branch("middle").ref.timelineId, FAKE_START);
  }
  rmSync(join(temporary.path, TENANT, "refs", "middle"));
  await using opened = await open(temporary.path);
  assert.deepEqual(shape(opened.tenants), { leaf: "(unnamed)", main: null });
  assert.equal(timelineDirectories(temporary.path).length, 3);
  await assert.rejects(opened.tenants.get(ID).deleteBranch("main"), /has a child/);
  await opened.tenants.get(ID).deleteBranch("leaf");
  assert.equal(timelineDirectories(temporary.path).length, 1);
});

void test("a timeline that nothing names is deleted at start, others' things are not", async () => {
  using temporary = new TempDirectory();
  {
    await using opened = await open(temporary.path);
    await createMain(opened.tenants);
  }
  const tenant = join(temporary.path, TENANT);
  mkdirSync(join(tenant, "timelines", "0".repeat(32)));
  mkdirSync(join(tenant, "staging", "x"), { recursive: true });
  mkdirSync(join(temporary.path, "lost+found"));
  writeFileSync(join(tenant, "refs", "dev.lock"), "half");
  await using opened = await open(temporary.path);
  assert.deepEqual(shape(opened.tenants), { main: null });
  assert.equal(timelineDirectories(temporary.path).length, 1);
  assert.equal(existsSync(join(tenant, "staging", "x")), true);
  assert.equal(existsSync(join(temporary.path, "lost+found")), true);
  assert.deepEqual(readdirSync(join(tenant, "refs")), ["main"]);
});

/** Flips one bit in the middle of a file. */
function damage(path: string): void {
  const bytes = readFileSync(path);
  const at = Math.floor(bytes.length / 2);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(path, bytes);
}

async function withDevAndLeftover(directory: string): Promise<{ main: string; dev: string }> {
  await using opened = await open(directory);
  const main = await createMain(opened.tenants);
  const tenant = opened.tenants.get(ID);
  await tenant.createBranch("dev", main, FAKE_START);
  mkdirSync(join(directory, TENANT, "timelines", "0".repeat(32)));
  return { main, dev: tenant.branch("dev").ref.timelineId };
}

void test("a damaged ref is shown as such, and nothing is taken for garbage", async () => {
  using temporary = new TempDirectory();
  await withDevAndLeftover(temporary.path);
  damage(join(temporary.path, TENANT, "refs", "dev"));
  await using opened = await open(temporary.path);
  const tenant = opened.tenants.get(ID);
  assert.deepEqual(shape(opened.tenants), { main: null });
  assert.deepEqual([...tenant.damagedRefs.keys()], ["dev"]);
  assert.throws(() => tenant.branch("dev"), { code: "corrupt" });
  await assert.rejects(tenant.createBranch("dev", tenant.branch("main").ref.timelineId, FAKE_START), {
    code: "exists",
  });
  assert.equal(timelineDirectories(temporary.path).length, 3);
});

void test("damaged metadata breaks its timeline only, and what hangs on it", async () => {
  using temporary = new TempDirectory();
  const { main, dev } = await withDevAndLeftover(temporary.path);
  damage(join(temporary.path, TENANT, "timelines", dev, "metadata.json"));
  {
    await using opened = await open(temporary.path);
    const tenant = opened.tenants.get(ID);
    assert.equal(tenant.branch("main").entry.kind, "open");
    const { entry } = tenant.branch("dev");
    assert.ok(entry.kind === "broken" && entry.error.code === "corrupt");
    assert.match(entry.error.message, /metadata\.json/);
    assert.throws(() => tenant.timeline(entry.id), { code: "corrupt" });
    assert.equal(timelineDirectories(temporary.path).length, 3);
  }
  damage(join(temporary.path, TENANT, "timelines", dev, "metadata.json"));
  damage(join(temporary.path, TENANT, "timelines", main, "metadata.json"));
  await using opened = await open(temporary.path);
  const tenant = opened.tenants.get(ID);
  const { entry } = tenant.branch("dev");
  assert.ok(entry.kind === "broken");
  assert.match(entry.error.message, /its ancestor .* is broken/);
  await assert.rejects(tenant.deleteBranch("main"), { code: "conflict" });
});

void test("a missing timeline directory, and one that holds another's metadata", async () => {
  using temporary = new TempDirectory();
  const { main, dev } = await withDevAndLeftover(temporary.path);
  const path = (id: string): string => join(temporary.path, TENANT, "timelines", id);
  cpSync(path(main), path(dev), { recursive: true, force: true });
  {
    await using opened = await open(temporary.path);
    const { entry } = opened.tenants.get(ID).branch("dev");
    assert.ok(entry.kind === "broken");
    assert.match(entry.error.message, new RegExp(`is that of timeline ${main}`));
  }
  rmSync(path(dev), { recursive: true });
  await using opened = await open(temporary.path);
  const { entry } = opened.tenants.get(ID).branch("dev");
  assert.ok(entry.kind === "broken");
  assert.match(entry.error.message, /has no metadata\.json/);
  await opened.tenants.get(ID).deleteBranch("dev");
  assert.deepEqual(shape(opened.tenants), { main: null });
});

void test("timelines that are each other's ancestors are broken, not an endless loop", async () => {
  using temporary = new TempDirectory();
  {
    await using opened = await open(temporary.path);
    await createMain(opened.tenants);
    const tenant = opened.tenants.get(ID);
    const ids = await Promise.all(
      ["a", "b"].map(async (name) => {
        const main = tenant.branch("main").ref.timelineId;
        return (await tenant.createBranch(name, main, FAKE_START)).ref.timelineId;
      }),
    );
    for (const [index, id] of ids.entries()) {
      const other = ids[1 - index];
      assert.ok(other);
      await writeTimelineMetadata(new RealFiles(), join(temporary.path, TENANT, "timelines", id), {
        id,
        ancestor: { timelineId: other, lsn: FAKE_START },
        history: [],
        writer: undefined,
        createdAt: 0,
      });
    }
  }
  await using opened = await open(temporary.path);
  const tenant = opened.tenants.get(ID);
  assert.equal(tenant.branch("a").entry.kind, "broken");
  assert.equal(tenant.branch("b").entry.kind, "broken");
  assert.equal(tenant.branch("main").entry.kind, "open");
});

void test("a damaged tenant.json breaks that tenant only", async () => {
  using temporary = new TempDirectory();
  const other = parseTenantId("b".repeat(32));
  {
    await using opened = await open(temporary.path);
    await createMain(opened.tenants);
    await opened.tenants.create({ id: other, pgVersion: POSTGRES_17 });
  }
  damage(join(temporary.path, TENANT, "tenant.json"));
  {
    await using opened = await open(temporary.path);
    assert.throws(() => opened.tenants.get(ID), { code: "corrupt" });
    assert.equal(opened.tenants.get(other).id, other);
    await assert.rejects(opened.tenants.create({ id: ID, pgVersion: POSTGRES_17 }), { code: "exists" });
  }
  rmSync(join(temporary.path, TENANT, "tenant.json"));
  await using opened = await open(temporary.path);
  assert.throws(() => opened.tenants.get(ID), { code: "corrupt", message: /no tenant\.json but holds/ });
  assert.equal(timelineDirectories(temporary.path).length, 1);
});
