/**
 * Transfers that are cut off, damaged, killed, run into a full disk or into each other: nothing of them counts, and the
 * next one goes on where they stopped.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import type { Lsn } from "../../src/base/lsn.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import { Site, TENANT, assertSame, contentAt, sample } from "./site.ts";

const CHUNK_SIZE = 1024 * 1024;
/** Hello, description, plan and the like. */
const CONTROL_BYTES_MAX = 16 * 1024;
const TIMEOUT = { timeout: 300_000 };

function memoryFiles(seeded: SeededRandom): FaultyFiles {
  return new FaultyFiles({ random: () => seeded.u32() });
}

async function memorySite(files: FaultyFiles): Promise<Site> {
  await files.makeDirectory("/site");
  await files.syncDirectory("/");
  return Site.open({ files, directory: "/site" });
}

/** A branch `main` with a few MiB of data that does not compress, and a child `dev`; nothing at the other side. */
async function source(seeded: SeededRandom, pageBytes = 50_000): Promise<{ ours: Site; ends: Lsn[] }> {
  const ours = await memorySite(memoryFiles(seeded));
  await ours.init();
  const ends = await ours.write("main", seeded, { records: 60, layers: 2, pageBytes });
  await ours.branch("dev", "main", ends[40]);
  await ours.write("dev", seeded, { records: 30, layers: 1, pageBytes });
  return { ours, ends: ends.slice(0, 41) };
}

/** What of a tenant others can see. */
async function state(site: Site): Promise<string> {
  if (!site.hasTenant) return "no tenant";
  const seen: string[] = [];
  for (const name of site.branches()) {
    const timeline = site.timeline(name);
    seen.push(
      `${name} ${timeline.id} ${timeline.lastRecordLsn} ${await contentAt(timeline, timeline.lastRecordLsn)}`,
    );
  }
  return seen.join("\n");
}

function stagedFiles(files: FaultyFiles): string[] {
  return files.paths().filter((path) => path.includes("/staging/"));
}

async function fails(work: Promise<unknown>): Promise<NeonError> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert(error instanceof NeonError, `a typed error, not ${String(error)}`);
  return error;
}

void test(
  "cut at every percent of the bytes, with a restart now and then: it goes on",
  TIMEOUT,
  async (t) => {
    const seeded = SeededRandom.forTest(t);
    const { ours, ends } = await source(seeded);
    await using _a = ours;
    const whole = await memorySite(memoryFiles(seeded));
    await ours.push(whole, "dev");
    const total = ours.lastBytes;
    await whole[Symbol.asyncDispose]();
    assert.ok(total > 3 * CHUNK_SIZE, `${total} bytes`);
    const lsns = sample(ends, seeded, 3);
    for (let percent = 1; percent < 100; percent++) {
      const files = memoryFiles(seeded);
      let theirs = await memorySite(files);
      const cutAfterBytes = Math.floor((total * percent) / 100);
      await fails(ours.push(theirs, "dev", "dev", { channel: { cutAfterBytes } }));
      const reached = theirs.branches();
      // The last bytes are the receiver's answer that all is done.
      if (reached.length === 0) assert.equal(await state(theirs), "no tenant", `cut at ${percent} %`);
      if (percent % 7 === 0) theirs = await theirs.reopen();
      const done = await ours.push(theirs, "dev");
      if (reached.length === 0) assert.equal(done.result, "created");
      const again = ours.lastBytes - (total - cutAfterBytes);
      assert.ok(
        again <= CHUNK_SIZE + CONTROL_BYTES_MAX,
        `cut at ${percent} %: ${again} bytes were sent again`,
      );
      await assertSame(ours.timeline("dev"), theirs.timeline("dev"), lsns, `cut at ${percent} %`);
      assert.deepEqual(stagedFiles(files), []);
      await theirs[Symbol.asyncDispose]();
    }
  },
);

void test("cut several times on one way, in both directions", TIMEOUT, async (t) => {
  const seeded = SeededRandom.forTest(t);
  const { ours, ends } = await source(seeded);
  await using _a = ours;
  const theirs = await memorySite(memoryFiles(seeded));
  await using _b = theirs;
  let attempts = 0;
  for (; theirs.branches().length === 0; attempts++) {
    const cutAfterBytes = CONTROL_BYTES_MAX + seeded.between(CHUNK_SIZE, 2 * CHUNK_SIZE);
    await theirs.pull(ours, "dev", "dev", { channel: { cutAfterBytes } }).catch((error: unknown) => {
      assert(error instanceof NeonError && error.code === ErrorCode.Unreachable, String(error));
    });
  }
  t.diagnostic(`${attempts} attempts`);
  await assertSame(ours.timeline("dev"), theirs.timeline("dev"), sample(ends, seeded));
});

void test("a transfer that is interrupted goes on", TIMEOUT, async (t) => {
  const seeded = SeededRandom.forTest(t);
  const { ours } = await source(seeded);
  await using _a = ours;
  const theirs = await memorySite(memoryFiles(seeded));
  await using _b = theirs;
  for (const phase of ["prepare", "send", "verify"]) {
    const controller = new AbortController();
    const stop = (event: object): void => {
      if (phase === "prepare" || ("phase" in event && event.phase === phase)) controller.abort();
    };
    const work = ours.push(theirs, "dev", "dev", { signal: controller.signal, onEvent: stop });
    if (phase !== "verify") {
      const error = await fails(work);
      assert.match(error.hint ?? "", /again/);
      assert.equal(await state(theirs), "no tenant");
    } else await work.catch(() => undefined);
  }
  assert.match((await ours.push(theirs, "dev")).result, /created|unchanged/);
});

void test("a flipped bit anywhere is noticed, and the next push goes well", TIMEOUT, async (t) => {
  const seeded = SeededRandom.forTest(t);
  const { ours, ends } = await source(seeded);
  await using _a = ours;
  const theirs = await memorySite(memoryFiles(seeded));
  await using _b = theirs;
  await ours.push(theirs, "main");
  const before = await state(theirs);
  const seen = new Set<string>();
  for (let round = 0; round < 60; round++) {
    const wanted = seeded.below(14);
    let frames = 0;
    const onPayload = (payload: Uint8Array): Uint8Array => {
      if (frames++ !== wanted) return payload;
      const at = seeded.below(Math.min(payload.length, seeded.chance(0.5) ? 60 : payload.length));
      payload[at] = (payload[at] ?? 0) ^ (1 << seeded.below(8));
      return payload;
    };
    const outcome = await ours
      .push(theirs, "dev", "dev", { channel: { onPayload } })
      .catch((error: unknown) => {
        assert(error instanceof NeonError, String(error));
        return error;
      });
    if (outcome instanceof NeonError) {
      seen.add(outcome.code);
      // Only the last answer may be lost after everything was done.
      if (!theirs.branches().includes("dev")) assert.equal(await state(theirs), before);
    }
    if (theirs.branches().includes("dev")) {
      await assertSame(ours.timeline("dev"), theirs.timeline("dev"), sample(ends, seeded, 2));
      await theirs.tenants.get(TENANT).deleteBranch("dev");
    }
  }
  assert.ok(seen.has(ErrorCode.Corrupt), [...seen].join());
  await ours.push(theirs, "dev");
  await assertSame(ours.timeline("dev"), theirs.timeline("dev"), sample(ends, seeded));
});

/** What branch dev takes on a disk that has main already; a little less, since times in small files differ in length. */
async function spaceOf(
  ours: Site,
  seeded: SeededRandom,
  usedOf: (files: FaultyFiles) => number,
): Promise<number> {
  const files = memoryFiles(seeded);
  const site = await memorySite(files);
  await using _ = site;
  await ours.push(site, "main");
  const before = usedOf(files);
  await ours.push(site, "dev");
  return usedOf(files) - before - 100;
}

void test("a full disk: nothing is published, the space is given back", TIMEOUT, async (t) => {
  const seeded = SeededRandom.forTest(t);
  const { ours, ends } = await source(seeded);
  await using _a = ours;
  const usedOf = (disk: FaultyFiles): number =>
    disk.paths().reduce((sum, path) => sum + disk.contentOf(path).length, 0);
  const files = memoryFiles(seeded);
  const theirs = await memorySite(files);
  await using _b = theirs;
  await ours.push(theirs, "main");
  const before = await state(theirs);
  const used = (): number => usedOf(files);
  const usedBefore = used();
  const neededBytes = await spaceOf(ours, seeded, usedOf);
  for (let round = 0; round < 12; round++) {
    files.capacityBytes = usedBefore + seeded.below(neededBytes);
    const error = await fails(ours.push(theirs, "dev"));
    assert.equal(error.code, ErrorCode.Resource, error.message);
    assert.equal(await state(theirs), before);
    assert.deepEqual(stagedFiles(files), []);
    assert.equal(used(), usedBefore);
  }
  files.capacityBytes = Number.POSITIVE_INFINITY;
  await ours.push(theirs, "dev");
  await assertSame(ours.timeline("dev"), theirs.timeline("dev"), sample(ends, seeded));
});

void test(
  "the receiver dies or loses power at any of its last steps: a branch is as before or complete",
  TIMEOUT,
  async (t) => {
    const seeded = SeededRandom.forTest(t);
    const { ours, ends } = await source(seeded, 600);
    await using _a = ours;
    const more = await ours.write("main", seeded, { records: 20, layers: 2 });
    const lsns = sample(ends, seeded, 2);
    for (const isExtension of [false, true]) {
      const branch = isExtension ? "main" : "dev";
      for (let step = 1; ; step++) {
        const files = memoryFiles(seeded);
        const theirs = await memorySite(files);
        if (isExtension) {
          await ours.branch(`old${step}`, "main", ends[40]);
          await ours.push(theirs, `old${step}`, "main");
          await ours.tenants.get(TENANT).deleteBranch(`old${step}`);
        }
        const before = await state(theirs);
        const operations = files.operations;
        let armed = false;
        const onPayload = (payload: Uint8Array): Uint8Array => {
          // Everything is staged when the sender says so; what comes then is what is tested.
          if (payload[4] === 10 && !armed) {
            armed = true;
            files.powerFailsAt = files.operations + step;
          }
          return payload;
        };
        const failed = await ours.push(theirs, branch, branch, { channel: { onPayload } }).then(
          () => false,
          () => true,
        );
        assert.ok(files.operations >= operations);
        files.powerFailsAt = Number.POSITIVE_INFINITY;
        const survivor = seeded.chance(0.5) ? files.afterKill() : files.afterPowerLoss();
        const after = await Site.open({ files: survivor, directory: "/site" });
        const found = await state(after);
        const isDone =
          after.branches().includes(branch) &&
          after.timeline(branch).lastRecordLsn === ours.timeline(branch).lastRecordLsn;
        if (!isDone) assert.ok(found === before || found === "", `step ${step}: ${found}`);
        assert.ok(failed || isDone, `step ${step}: what was confirmed is there`);
        const result = (await ours.push(after, branch)).result;
        assert.equal(result, isDone ? "unchanged" : isExtension ? "updated" : "created", `step ${step}`);
        await assertSame(
          ours.timeline(branch),
          after.timeline(branch),
          isExtension ? [...lsns, ...more.slice(-2)] : lsns,
          `step ${step}`,
        );
        await after[Symbol.asyncDispose]();
        if (!failed) break;
      }
    }
  },
);

void test("of pushes to one branch at once exactly one wins", TIMEOUT, async (t) => {
  const seeded = SeededRandom.forTest(t);
  for (let round = 0; round < 12; round++) {
    const sites: Site[] = [];
    const first = await memorySite(memoryFiles(seeded));
    await first.init();
    await first.write("main", seeded);
    const theirs = await memorySite(memoryFiles(seeded));
    const isNew = round % 2 === 0;
    if (!isNew) await first.push(theirs, "main");
    for (let number = 0; number < 3; number++) {
      const site = await memorySite(memoryFiles(seeded));
      await site.pull(first, "main");
      await site.write("main", seeded, { records: 20 });
      sites.push(site);
    }
    const outcomes = await Promise.all(
      sites.map((site) =>
        site.push(theirs, "main").then(
          ({ result }) => result as string,
          (error: unknown) => (error instanceof NeonError ? error.code : String(error)),
        ),
      ),
    );
    const winners = outcomes.filter((outcome) => outcome === (isNew ? "created" : "updated"));
    assert.equal(winners.length, 1, outcomes.join());
    assert.equal(outcomes.filter((outcome) => outcome === ErrorCode.Conflict).length, 2, outcomes.join());
    const winner = sites[outcomes.findIndex((outcome) => outcome !== ErrorCode.Conflict)];
    assert(winner);
    const end = winner.timeline("main").lastRecordLsn;
    await assertSame(winner.timeline("main"), theirs.timeline("main"), [end]);
    for (const site of [...sites, first, theirs]) await site[Symbol.asyncDispose]();
  }
});
