/** Transfers of timelines whose layers were compacted, and whose past was garbage collected on either side. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode } from "../../src/base/errors.ts";
import type { Lsn } from "../../src/base/lsn.ts";
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

async function collect(site: Site): Promise<void> {
  for (const [, entry] of site.tenants.get(TENANT).timelineEntries()) {
    if (entry.kind === "open") await entry.timeline.maintenance.compact({ thorough: true });
  }
  await collectGarbage(site.tenants.get(TENANT), {
    pitrIntervalMs: 0,
    gcHorizonBytes: 0,
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

    // Where the receiver ends below the cutoff, the changes between are gone.
    await assert.rejects(ours.push(theirs, "main"), {
      code: ErrorCode.Conflict,
      message: /keeps changes from/,
      hint: /garbage collected/,
    });
    assert.equal(theirs.timeline("main").lastRecordLsn, early);

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
  await write(ours, "dev", seeded);
  await assert.rejects(ours.push(theirs, "dev"), { code: ErrorCode.Conflict, message: /keeps it from/ });
  assert.deepEqual(theirs.branches(), ["main"]);
  await write(ours, "main", seeded);
  assert.equal((await ours.push(theirs, "main")).result, "updated");
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
