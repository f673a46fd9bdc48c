/**
 * One round of the soak: a fresh cluster, a random workload under random settings, and then Postgres' opinion. At many
 * LSNs of its history a base backup must be, page by page, what stock recovery of the same WAL makes; at one of them a
 * branch is opened, and its rows and indexes are compared; and in the end the compute's own directory must be what a
 * base backup would be.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type Lsn, formatLsn } from "../src/base/lsn.ts";
import { readDirectoryState } from "../src/compute/directory-setup.ts";
import type { Timeline } from "../src/pageserver/timeline/timeline.ts";
import type { Difference } from "../src/pageserver/verify/compare-directory.ts";
import type { MadeBy } from "../src/pageserver/verify/compare-pages.ts";
import type { Verification } from "../src/pageserver/verify/verify-directory.ts";
import { Findings } from "../src/storage/findings.ts";
import { checkStore, openToCheck } from "../src/storage/fsck.ts";
import { Lab } from "../test/pageserver/branch-harness.ts";
import { archiveWal, digest, recoverTo } from "../test/pageserver/stock-recovery.ts";
import type { Settings, TestPostgres } from "../test/support/postgres.ts";
import type { SeededRandom } from "../test/support/random.ts";
import type { RoundPlan } from "./soak-plan.ts";
import { Standby } from "./soak-standby.ts";
import { work } from "./soak-work.ts";

/** Images for checking in every record make a gigabyte of WAL, and other rounds work beside this one. Milliseconds. */
const WAIT_MS = 30 * 60_000;

export interface RoundResult {
  /** (workload, LSN) pairs that were equal to stock recovery. */
  readonly pairs: number;
  /** Pages that were compared for them. */
  readonly pairPages: number;
  /** Pages compared record by record, and in the end with the directory. */
  readonly verifiedPages: number;
  readonly directoryPages: number;
  readonly walBytes: number;
}

export interface RoundOptions {
  /** The round ends early, after a pair, when this says so. */
  readonly isOver: () => boolean;
  /** Called with what is being done. */
  readonly progress: (what: string) => void;
}

/** What is compared, and with what. */
interface Case {
  readonly lab: Lab;
  readonly main: Timeline;
  readonly archive: string;
  /** Without them a server with larger segments does not start, or does not recover. */
  readonly settings: Settings;
}

/** Throws at the first difference. */
export async function runRound(
  plan: RoundPlan,
  random: SeededRandom,
  options: RoundOptions,
): Promise<RoundResult> {
  await using lab = new Lab({ checkpointDistanceBytes: plan.checkpointDistanceBytes, verifyRedo: true });
  const main = await lab.init(plan.initdb, plan.pgVersion);
  const { startLsn } = main;
  const compute = await lab.compute(main, plan.settings);
  options.progress("workload");
  const checkpoints = await work(plan, random, compute);
  options.progress("following the WAL");
  await main.syncWithWriter(WAIT_MS);
  const last = main.lastRecordLsn;
  // Recovery stops before the first record that starts at its target, so there has to be one.
  await compute.query("create table behind_the_last_point as select 1 as one");
  await main.syncWithWriter(WAIT_MS);
  assert.equal(main.error, undefined);
  const archive = archiveWal(lab.base, compute, { startLsn, segmentSize: main.cluster.segmentSize });
  const { min_wal_size = "80MB", track_commit_timestamp = "off" } = plan.settings;
  const the: Case = { lab, main, archive, settings: { min_wal_size, track_commit_timestamp } };
  const lsns = await chooseLsns(random, main, { checkpoints, last, count: plan.pairs });
  const found = await comparePairs(the, lsns, options);
  options.progress("rows and indexes");
  const one = random.pick(lsns.slice(0, found.pairs));
  const { differences } = await compareInOneGo(the, one);
  assert.deepEqual(differences.slice(0, 5), [], `${differences.length} at ${formatLsn(one)}, in one go`);
  await compareRows(the, one);
  options.progress("directory");
  const directoryPages = await compareDirectory(main, compute);
  await checkFiles(lab, main);
  return {
    pairs: found.pairs,
    pairPages: found.pages,
    verifiedPages: main.verifiedPages ?? 0,
    directoryPages,
    walBytes: main.lastRecordLsn - startLsn,
  };
}

/** Ends of records, ascending, each behind another checkpoint than the one before. */
async function chooseLsns(
  random: SeededRandom,
  main: Timeline,
  from: { checkpoints: readonly Lsn[]; last: Lsn; count: number },
): Promise<Lsn[]> {
  const spans = from.checkpoints
    .map((start, i) => ({ start, end: from.checkpoints[i + 1] ?? from.last }))
    .filter(({ start, end }) => start < from.last && end - start > 512);
  while (spans.length > Math.max(1, from.count)) spans.splice(random.below(spans.length), 1);
  const lsns: Lsn[] = [];
  for (const { start, end } of spans) {
    // Checkpoint records are shorter than 200 bytes.
    const at = start + 200 + Math.floor((end - start - 200) * (random.below(10_000) / 10_000));
    const { endLsn } = await main.recordBoundary(at as Lsn);
    if (endLsn > start) lsns.push(endLsn);
  }
  assert.ok(lsns.length > 0, "there are LSNs to compare");
  return lsns;
}

/** Moves a stock standby along the LSNs and holds its files against base backups. */
async function comparePairs(
  the: Case,
  lsns: readonly Lsn[],
  options: RoundOptions,
): Promise<{ pairs: number; pages: number }> {
  const standby = await newStandby(the);
  let isFresh = true;
  let pairs = 0;
  let pages = 0;
  try {
    for (const lsn of lsns) {
      if (pairs > 0 && options.isOver()) break;
      options.progress(`pair ${pairs + 1} of ${lsns.length}`);
      await standby.moveTo(lsn);
      const madeBy = isFresh ? "recovery" : "restarted-recovery";
      const found = await compareAt(the, standby, { lsn, madeBy });
      if (found.differences.length > 0) await judge(the, lsn, found);
      isFresh = false;
      pages += found.pages;
      pairs++;
    }
  } finally {
    await standby[Symbol.asyncDispose]();
  }
  return { pairs, pages };
}

/** Is it because recovery was started again? Throws in any case. */
async function judge(the: Case, lsn: Lsn, found: Verification): Promise<void> {
  const inOneGo = await compareInOneGo(the, lsn);
  assert.deepEqual(
    { restarted: found.differences.slice(0, 5), inOneGo: inOneGo.differences.slice(0, 5) },
    { restarted: [], inOneGo: [] },
    `${found.differences.length} differences at ${formatLsn(lsn)}, ${inOneGo.differences.length} in one go`,
  );
}

function newStandby({ lab, archive, settings }: Case): Promise<Standby> {
  return Standby.create(lab.base, archive, settings);
}

/** The same with a standby that recovers to the LSN without a stop on the way. */
async function compareInOneGo(the: Case, lsn: Lsn): Promise<Verification> {
  await using standby = await newStandby(the);
  await standby.moveTo(lsn);
  return await compareAt(the, standby, { lsn, madeBy: "recovery" });
}

async function compareAt(
  { main }: Case,
  standby: Standby,
  at: { lsn: Lsn; madeBy: MadeBy },
): Promise<Verification> {
  const { endLsn } = await main.recordBoundary(standby.nextLsn);
  assert.equal(endLsn, at.lsn, `recovery stopped at ${formatLsn(at.lsn)}`);
  const found = await main.verifyDirectory(
    { directory: standby.directory, ...at },
    { signal: new AbortController().signal, progress: () => undefined },
  );
  return { ...found, differences: found.differences.filter((each) => !isStillInMemory(each)) };
}

/** A standby keeps transactions that were prepared since its last checkpoint in memory (twophase.c, CheckPointTwoPhase). */
function isStillInMemory(difference: Difference): boolean {
  return difference.file.startsWith("pg_twophase/") && difference.what.includes("not in the directory");
}

/** A branch at an LSN, and a server that stock recovery has brought there: the same rows, and sound indexes. */
async function compareRows(the: Case, lsn: Lsn): Promise<void> {
  const { lab, main, archive, settings } = the;
  const where = `at ${formatLsn(lsn)}`;
  // Both are waited for, whatever becomes of the other.
  const [branched, recovered] = await Promise.allSettled([
    lab.branch(main, lsn).then((branch) => lab.compute(branch, settings)),
    recoverTo(lab.base, archive, lsn, settings),
  ]);
  try {
    if (branched.status === "rejected") throw branched.reason;
    if (recovered.status === "rejected") throw recovered.reason;
    const [ours, theirs] = await Promise.all([digest(branched.value), digest(recovered.value)]);
    assert.deepEqual(ours, theirs, where);
    await checkContents(branched.value, where);
  } finally {
    if (recovered.status === "fulfilled") await recovered.value[Symbol.asyncDispose]();
    if (branched.status === "fulfilled") await lab.release(branched.value);
  }
}

/** Postgres' own checks of heaps and B-trees. */
async function checkContents(server: TestPostgres, where: string): Promise<void> {
  await server.query("create extension if not exists amcheck");
  await server.query(
    `select bt_index_check(c.oid, true) from pg_class c join pg_am a on a.oid = c.relam
     join pg_index i on i.indexrelid = c.oid
     where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p' and i.indisvalid
       and pg_relation_size(i.indrelid) < 200000000`,
  );
  const rows = await server.query(
    `select c.relname, v.* from pg_class c, lateral verify_heapam(c.oid) v
     where c.relkind in ('r', 't') and c.relpersistence = 'p' and pg_relation_size(c.oid) < 200000000`,
  );
  assert.deepEqual(rows, [], where);
}

async function compareDirectory(main: Timeline, compute: TestPostgres): Promise<number> {
  await compute.stop();
  const state = readDirectoryState(compute.dataDir);
  assert.ok(state?.shutDown, "the compute was shut down");
  const lsn = state.endLsn;
  await main.waitForLsn(lsn, WAIT_MS);
  const { pages, differences } = await main.verifyDirectory(
    { directory: compute.dataDir, lsn },
    { signal: new AbortController().signal, progress: () => undefined },
  );
  assert.deepEqual(differences.slice(0, 5), [], `${differences.length} pages of the compute's directory`);
  return pages;
}

/** What is on disk is whole. */
async function checkFiles(lab: Lab, main: Timeline): Promise<void> {
  const findings = new Findings();
  const { store } = main;
  const toCheck = await openToCheck(
    join(lab.directory, main.id, "layers"),
    { open: store },
    findings,
    lab.files,
  );
  await checkStore(toCheck, store, findings, lab.files);
  assert.deepEqual(findings.list, [], "files of the timeline");
}
