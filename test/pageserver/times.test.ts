/**
 * Times to LSNs and back, to the microsecond: between commits, at equal times, out of order, before the first, in the
 * future, across branches, and after garbage collection. Against a plain list of what was committed when.
 */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { collectGarbage } from "../../src/pageserver/compaction/tenant-gc.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { Scene } from "../faults/scene.ts";
import { CHECKPOINT_LSN, SEGMENT_SIZE, SYSTEM_ID, TINY_START } from "../faults/tiny-cluster.ts";
import { SeededRandom } from "../support/random.ts";
import { WalBuilder } from "../support/wal-builder.ts";

const XACT_RMGR = 1;
const EPOCH_2000_US = 946_684_800_000_000;
/** When the database was imported, and when it is asked. */
const IMPORTED_MS = 1_700_000_000_000;
const NOW_MS = IMPORTED_MS + 86_400_000;
/** Of the first commit, in microseconds. */
const FIRST_US = (IMPORTED_MS + 3_600_000) * 1000 + 123_457;

/** Commits as distances from the first, in microseconds. Each but the last has a neighbour that is one away or less. */
const DISTANCES = [
  0, 1, 2, 2, 2, 3, 999, 1000, 1001, 999_999, 1_000_000,
  // Over the end of a second, not in the order of their times.
  2_876_544, 2_876_540, 2_876_543, 2_876_542, 7_000_000, 6_999_998, 3_600_000_000, 3_600_000_001,
] as const;

interface Commit {
  readonly lsn: Lsn;
  readonly us: number;
}

/** Commits with these times, and something that is no commit between them. */
class CommitWal {
  private readonly builder: WalBuilder;
  readonly commits: Commit[] = [];
  private xid = 800;

  constructor(start: number = TINY_START, previous: number = CHECKPOINT_LSN) {
    this.builder = new WalBuilder({ start, previous, segmentSize: SEGMENT_SIZE, systemId: SYSTEM_ID });
  }

  add(us: number): void {
    const time = Buffer.alloc(8);
    time.writeBigInt64LE(BigInt(us - EPOCH_2000_US));
    const { endLsn } = this.builder.add({ rmgr: XACT_RMGR, info: 0, xid: ++this.xid, main: time });
    this.commits.push({ lsn: toLsn(endLsn), us });
    this.builder.add({ rmgr: 0, info: 0x20, main: Buffer.alloc(16) });
  }

  get previous(): number {
    return this.builder.records.at(-1)?.lsn ?? 0;
  }

  get bytes(): Uint8Array {
    return this.builder.bytes;
  }
}

/** What an LSN and a time must lead to: the last in the WAL of those at or before it. */
function expectedLsn(commits: readonly Commit[], us: number): Lsn | undefined {
  const before = commits.filter((commit) => commit.us <= us).map((commit) => commit.lsn);
  return before.length === 0 ? undefined : toLsn(Math.max(...before));
}

async function checkTimes(timeline: Timeline, commits: readonly Commit[], from: number): Promise<void> {
  for (const { us } of commits) {
    for (const asked of [us - 1, us, us + 1]) {
      const expected = expectedLsn(commits, asked);
      if (expected === undefined || expected < from) continue;
      assert.equal(await timeline.resolveTimestamp(asked / 1000), expected, `${asked - FIRST_US} us`);
    }
  }
  for (const { lsn } of commits) {
    if (lsn < from) continue;
    const last = commits.findLast((commit) => commit.lsn <= lsn);
    assert.equal(Math.round(((await timeline.commitTimeAt(lsn)) ?? 0) * 1000), last?.us);
  }
}

interface Site {
  readonly scene: Scene;
  readonly main: Timeline;
  readonly wal: CommitWal;
}

async function withCommits(t: TestContext, work: (site: Site) => Promise<void>): Promise<void> {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32() });
  files.addDirectory("/work");
  let nowMs = IMPORTED_MS;
  const scene = await Scene.open(files, random, { clock: { now: () => nowMs } });
  try {
    await scene.createTenant();
    const main = await scene.import("main");
    nowMs = NOW_MS;
    const wal = new CommitWal();
    for (const distance of DISTANCES) wal.add(FIRST_US + distance);
    const intake = await main.openIntake();
    await intake.accept(TINY_START, wal.bytes);
    await intake.waitForDurable(intake.resumeLsn, 60_000);
    await work({ scene, main, wal });
  } finally {
    await scene.stop();
  }
}

test("each microsecond leads to the last commit at or before it, and each commit to its own", (t) =>
  withCommits(t, async ({ main, wal: { commits } }) => {
    await checkTimes(main, commits, 0);
    await main.checkpoint();
    await checkTimes(main, commits, 0);
    const [first] = commits;
    const last = commits.findLast(({ us }) => us === FIRST_US + 3_600_000_001);
    assert.ok(first && last);
    assert.equal(
      await main.resolveTimestamp((first.us - 1) / 1000),
      main.startLsn,
      "before the first commit",
    );
    assert.equal(await main.resolveTimestamp(IMPORTED_MS), main.startLsn);
    assert.equal(await main.commitTimeAt(main.startLsn), null);
    await assert.rejects(main.resolveTimestamp(IMPORTED_MS - 1), /lies before the history, which begins at/);
    assert.equal(await main.resolveTimestamp(NOW_MS), last.lsn, "after the last");
    await assert.rejects(main.resolveTimestamp(NOW_MS + 1), /lies in the future/);
  }));

test("a branch has the commits below its point and its own, and no others", (t) =>
  withCommits(t, async ({ scene, main, wal }) => {
    const at = wal.commits[8];
    assert.ok(at);
    const boundary = await main.recordBoundary(at.lsn);
    await scene.tenant.createBranch("dev", main.id, at.lsn);
    const dev = scene.timeline("dev");
    const inherited = wal.commits.slice(0, 9);
    await checkTimes(dev, inherited, 0);
    const own = new CommitWal(at.lsn, boundary.previousLsn);
    for (const distance of [2000, 2001, 1_500_000]) own.add(FIRST_US + distance);
    const intake = await dev.openIntake();
    await intake.accept(at.lsn, own.bytes);
    await intake.waitForDurable(intake.resumeLsn, 60_000);
    await checkTimes(dev, [...inherited, ...own.commits], 0);
    await checkTimes(main, wal.commits, 0);
  }));

test("after garbage collection, down to the cutoff and at points that branches stand on", (t) =>
  withCommits(t, async ({ scene, main, wal: { commits } }) => {
    const point = commits[2];
    assert.ok(point);
    await scene.tenant.createBranch("dev", main.id, point.lsn);
    // A commit that no millisecond is exact for.
    const cutoff = commits[9];
    assert.ok(cutoff && cutoff.us % 1000 !== 0);
    const pitrIntervalMs = NOW_MS - (cutoff.us + 0.5) / 1000;
    const options = { pitrIntervalMs, gcHorizonBytes: 0, dryRun: false, thorough: true };
    await main.checkpoint();
    await collectGarbage(scene.tenant, options);
    assert.equal(main.gcCutoffLsn, cutoff.lsn);
    for (let round = 0; round < 2; round++) {
      const line = scene.timeline("main");
      await checkTimes(line, commits, cutoff.lsn);
      assert.equal(await line.resolveTimestamp(cutoff.us / 1000), cutoff.lsn);
      await assert.rejects(line.resolveTimestamp((cutoff.us - 1) / 1000), /lies below the GC cutoff/);
      const dev = scene.timeline("dev");
      assert.equal(await dev.resolveTimestamp(NOW_MS), point.lsn);
      assert.equal(await dev.resolveTimestamp(point.us / 1000), point.lsn);
      await assert.rejects(dev.resolveTimestamp((point.us - 1) / 1000), /lies below the GC cutoff/);
      assert.equal(Math.round(((await dev.commitTimeAt(point.lsn)) ?? 0) * 1000), point.us);
      await line.store.rewriteIndex();
    }
  }));
