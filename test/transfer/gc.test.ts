/** Transfers of timelines whose layers were compacted, and whose past was garbage collected on either side. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode } from "../../src/base/errors.ts";
import { type Lsn, formatLsn, toLsn } from "../../src/base/lsn.ts";
import { collectGarbage } from "../../src/pageserver/compaction/tenant-gc.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import { Site, TENANT, contentAt, sample } from "./site.ts";

async function memorySite(seeded: SeededRandom): Promise<Site> {
  const files = new FaultyFiles({ random: () => seeded.u32() });
  await files.makeDirectory("/site");
  return Site.open({ files, directory: "/site" });
}

function write(site: Site, branch: string, seeded: SeededRandom): Promise<Lsn[]> {
  return site.write(branch, seeded, { records: 60, layers: 6, images: true, pages: 12 });
}

async function collect(site: Site, gcHorizonBytes = 0): Promise<void> {
  for (const [, entry] of site.tenants.get(TENANT).timelineEntries()) {
    if (entry.kind === "open") await entry.timeline.maintenance.compact({ thorough: true });
  }
  await collectGarbage(site.tenants.get(TENANT), {
    pitrIntervalMs: 0,
    gcHorizonBytes,
    dryRun: false,
    thorough: true,
  });
}

async function assertReadable(
  ours: Site,
  theirs: Site,
  branches: [string, string],
  lsns: readonly Lsn[],
): Promise<void> {
  const [here, there] = branches;
  for (const lsn of lsns) {
    const wanted = await contentAt(ours.timeline(here), lsn, true);
    assert.equal(await contentAt(theirs.timeline(there), lsn, true), wanted, `${here} at ${lsn}`);
    assert.equal((await theirs.timeline(there).recordBoundary(lsn)).endLsn, lsn);
  }
}

/** What was there before is, and what was not sent is refused. */
async function assertGap(
  site: Site,
  branch: string,
  { early, gap, cutoff }: { early: readonly Lsn[]; gap: readonly Lsn[]; cutoff: Lsn },
): Promise<void> {
  const timeline = site.timeline(branch);
  for (const lsn of early) assert.equal((await timeline.recordBoundary(lsn)).endLsn, lsn);
  for (const lsn of gap) {
    const error = { code: ErrorCode.NotFound, message: new RegExp(`GC cutoff ${formatLsn(cutoff)}`) };
    await assert.rejects(timeline.recordBoundary(lsn), error);
    await assert.rejects(timeline.baseBackup({ lsn, readOnly: true }), error);
  }
}

void test("what a receiver had before a gap is kept as long as it wants to, and sent on", async (t) => {
  const seeded = SeededRandom.forTest(t);
  await using ours = await memorySite(seeded);
  await using theirs = await memorySite(seeded);
  await using third = await memorySite(seeded);
  await using fourth = await memorySite(seeded);
  await ours.init();
  const rounds: Lsn[][] = [];
  const contents = new Map<Lsn, string>();
  const cutoffs: Lsn[] = [];
  for (let round = 0; round < 4; round++) {
    rounds.push([...(await write(ours, "main", seeded)), ...(await write(ours, "main", seeded))]);
    for (const lsn of sample(rounds.at(-1) ?? [], seeded)) {
      contents.set(lsn, await contentAt(ours.timeline("main"), lsn, true));
    }
    await collect(ours, 6000);
    cutoffs.push(ours.timeline("main").gcCutoffLsn);
    assert.equal((await ours.push(theirs, "main")).result, round === 0 ? "created" : "updated");
    // It goes on from the first round's end, each time over more that it never saw.
    if (round === 0) await theirs.push(third, "main");
  }
  const check = async (site: Site, gaps: readonly (readonly [Lsn, Lsn])[]): Promise<void> => {
    const timeline = site.timeline("main");
    for (const [lsn, content] of contents) {
      const isGone = gaps.some(([from, to]) => lsn > from && lsn < to);
      if (isGone) await assert.rejects(timeline.recordBoundary(lsn), { code: ErrorCode.NotFound });
      else {
        assert.equal((await timeline.recordBoundary(lsn)).endLsn, lsn);
        assert.equal(await contentAt(timeline, lsn, true), content);
      }
    }
  };
  const end = (round: number): Lsn => rounds[round]?.at(-1) as Lsn;
  const start = toLsn(0);
  const gapsOf = (first: number): (readonly [Lsn, Lsn])[] => [
    [start, cutoffs[0] as Lsn],
    ...cutoffs.slice(first).map((cutoff, index) => [end(index + first - 1), cutoff] as const),
  ];
  await check(theirs, gapsOf(1));
  await theirs.push(third, "main");
  await check(third, [
    [start, cutoffs[0] as Lsn],
    [end(0), cutoffs[3] as Lsn],
  ]);
  await theirs.push(fourth, "main");
  await check(fourth, gapsOf(1));
  // A restart changes nothing; garbage collection moves the beginnings of stretches, then drops them.
  await using again = await theirs.reopen();
  await check(again, gapsOf(1));
  const report = await again.tenants
    .get(TENANT)
    .check({ signal: AbortSignal.timeout(60_000), progress: () => undefined });
  assert.equal(report.state, "clean", JSON.stringify(report));
  const until = rounds[1]?.at(-5) as Lsn;
  assert.ok(until > (cutoffs[1] as Lsn));
  const oldContent = contents.get(end(0));
  const keptLsn = rounds[1]?.at(-3) as Lsn;
  const keptContent = await contentAt(again.timeline("main"), keptLsn, true);
  await again.branch("kept", "main", keptLsn);
  await again.branch("old", "main", end(0));
  await collect(again, end(3) - until);
  contents.delete(end(0));
  await check(again, [[start, until], ...gapsOf(2)]);
  await collect(again);
  assert.equal(again.timeline("main").store.retention?.stretches, undefined);
  const kept = again.timeline("kept");
  assert.equal(await contentAt(kept, kept.lastRecordLsn, true), keptContent);
  assert.equal(await contentAt(again.timeline("old"), end(0), true), oldContent);
  await assert.rejects(again.timeline("main").recordBoundary(end(2)), { code: ErrorCode.NotFound });
});

void test(
  "a compacted, collected branch: its copy can be read as far as itself, and grows",
  { timeout: 300_000 },
  async (t) => {
    const seeded = SeededRandom.forTest(t);
    await using ours = await memorySite(seeded);
    await using theirs = await memorySite(seeded);
    await using fresh = await memorySite(seeded);
    await ours.init();
    const ends = await write(ours, "main", seeded);
    const fork = ends[30] as Lsn;
    await ours.branch("dev", "main", fork);
    const devEnds = await write(ours, "dev", seeded);
    await ours.push(theirs, "main");
    const early = ours.timeline("main").lastRecordLsn;
    const later = await write(ours, "main", seeded);
    await collect(ours);
    const main = ours.timeline("main");
    const cutoff = main.gcCutoffLsn;
    assert.ok(cutoff > early, "history was given up");
    await assert.rejects(main.baseBackup({ lsn: ends[3] as Lsn, readOnly: true }), {
      code: ErrorCode.NotFound,
    });

    // A receiver that ends below the cutoff has its own history and what there is here; the changes between are gone.
    const before = await contentAt(theirs.timeline("main"), early, true);
    assert.equal((await ours.push(theirs, "main")).result, "updated");
    assert.equal(theirs.timeline("main").gcCutoffLsn, cutoff);
    const there = later.filter((lsn) => lsn >= cutoff);
    await assertReadable(ours, theirs, ["main", "main"], sample(there, seeded));
    await assertGap(theirs, "main", { early: ends, gap: later.filter((lsn) => lsn < cutoff), cutoff });
    assert.equal(await contentAt(theirs.timeline("main"), early, true), before);

    // A fresh copy has what there is: from the cutoff on, and what branches stand on.
    await ours.push(fresh, "main");
    assert.equal(fresh.timeline("main").gcCutoffLsn, cutoff);
    const readable = [...later.filter((lsn) => lsn >= cutoff), fork];
    await assertReadable(ours, fresh, ["main", "main"], sample(readable, seeded));
    await assert.rejects(fresh.timeline("main").baseBackup({ lsn: ends[3] as Lsn, readOnly: true }), {
      code: ErrorCode.NotFound,
    });
    const more = await write(ours, "main", seeded);
    assert.equal((await ours.push(fresh, "main")).result, "updated");
    await assertReadable(ours, fresh, ["main", "main"], sample(more, seeded));

    // A branch that stands on a point below the cutoff, there and here.
    assert.equal((await ours.push(fresh, "dev")).result, "created");
    await assertReadable(ours, fresh, ["dev", "dev"], devEnds.slice(-1));
    const again = await fresh.reopen();
    await assertReadable(ours, again, ["dev", "dev"], devEnds.slice(-1));
    await assertReadable(ours, again, ["main", "main"], sample(more, seeded));
    await again[Symbol.asyncDispose]();
  },
);

void test(
  "a branch point below the cutoff is all of an ancestor that is sent",
  { timeout: 300_000 },
  async (t) => {
    const seeded = SeededRandom.forTest(t);
    await using ours = await memorySite(seeded);
    await using theirs = await memorySite(seeded);
    await ours.init();
    const ends = await write(ours, "main", seeded);
    const fork = ends[30] as Lsn;
    await ours.branch("dev", "main", fork);
    const devEnds = await write(ours, "dev", seeded);
    await write(ours, "main", seeded);
    await collect(ours);
    assert.equal((await ours.push(theirs, "dev")).result, "created");
    await assertReadable(ours, theirs, ["dev", "dev"], devEnds.slice(-1));
    await write(theirs, "dev", seeded);
    assert.equal((await ours.pull(theirs, "dev")).result, "updated");
    await assertReadable(theirs, ours, ["dev", "dev"], [theirs.timeline("dev").lastRecordLsn]);
  },
);

void test("the receiver has given up what a branch would stand on", { timeout: 300_000 }, async (t) => {
  const seeded = SeededRandom.forTest(t);
  await using ours = await memorySite(seeded);
  await using theirs = await memorySite(seeded);
  await ours.init();
  const ends = await write(ours, "main", seeded);
  await ours.push(theirs, "main");
  await collect(theirs);
  await ours.branch("dev", "main", ends[10]);
  const devEnds = await write(ours, "dev", seeded);
  // So it gets all of it again, under other ids; it is the same history.
  assert.equal((await ours.push(theirs, "dev")).result, "created");
  await assertReadable(ours, theirs, ["dev", "dev"], sample([...ends.slice(0, 11), ...devEnds], seeded));
  assert.equal((await ours.push(theirs, "dev")).result, "unchanged");
  await write(ours, "main", seeded);
  assert.equal((await ours.push(theirs, "main")).result, "updated");
  await using again = await theirs.reopen();
  await write(again, "dev", seeded);
  assert.equal((await ours.pull(again, "dev")).result, "updated");
  await assertReadable(again, ours, ["dev", "dev"], [again.timeline("dev").lastRecordLsn]);
  assert.equal((await again.pull(ours, "main")).result, "unchanged");
});

void test(
  "what is being sent stays until it is sent, whatever is collected meanwhile",
  { timeout: 300_000 },
  async (t) => {
    const seeded = SeededRandom.forTest(t);
    await using ours = await memorySite(seeded);
    await ours.init();
    for (let round = 0; round < 4; round++) {
      await using theirs = await memorySite(seeded);
      const ends = await write(ours, "main", seeded);
      let isSent = false;
      const pushing = ours.push(theirs, "main").finally(() => (isSent = true));
      let collections = 0;
      do {
        await collect(ours);
        collections++;
      } while (!isSent);
      assert.equal((await pushing).result, "created");
      assert.ok(collections > 0);
      await assertReadable(ours, theirs, ["main", "main"], ends.slice(-1));
    }
  },
);
