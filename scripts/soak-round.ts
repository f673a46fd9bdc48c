/**
 * One round of the soak: a fresh cluster, a random workload under random settings, and then Postgres' opinion. At random
 * LSNs of its history a branch must hold what stock recovery makes of the same WAL, its indexes must agree with its
 * tables, and in the end the compute's own directory must be what a base backup would be.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, formatLsn } from "../src/base/lsn.ts";
import type { Timeline } from "../src/pageserver/timeline/timeline.ts";
import { Findings } from "../src/storage/findings.ts";
import { checkStore, openToCheck } from "../src/storage/fsck.ts";
import { Lab } from "../test/pageserver/branch-harness.ts";
import { archiveWal, digest, recoverTo } from "../test/pageserver/stock-recovery.ts";
import { runIndexWorkload } from "../test/postgres/redo-index-workload.ts";
import { runWorkload } from "../test/postgres/redo-workload.ts";
import type { Settings, TestPostgres } from "../test/support/postgres.ts";
import type { SeededRandom } from "../test/support/random.ts";
import { Workload, prepareWorkload } from "../test/support/workload.ts";

/** What the round works on: several clients at once, the zoo of rare statements, or a relation of more than 1 GB. */
export const ROUND_KINDS = ["clients", "zoo", "big"] as const;
export type RoundKind = (typeof ROUND_KINDS)[number];

export interface RoundPlan {
  readonly kind: RoundKind;
  readonly pgVersion: number;
  readonly initdb: readonly string[];
  readonly settings: Settings;
  readonly checkpointDistanceBytes: number;
  /** Length of the part with several clients, in milliseconds. */
  readonly clientsMs: number;
  /** LSNs to compare. */
  readonly pairs: number;
}

export interface RoundResult {
  /** (workload, LSN) pairs that were equal to stock recovery. */
  readonly pairs: number;
  /** Pages compared record by record, and in the end with the directory. */
  readonly verifiedPages: number;
  readonly directoryPages: number;
  readonly walBytes: number;
}

export function planRound(
  random: SeededRandom,
  fixed: { kind: RoundKind; pgVersion: number; pairs: number },
): RoundPlan {
  const isBig = fixed.kind === "big";
  // Images for checking in every record make the WAL of a big relation several times as long.
  const consistency = !isBig && random.chance(0.4);
  const segmentMb = random.pick([1, 16, 16, 64]);
  return {
    ...fixed,
    initdb: [...(random.chance(0.5) ? ["--data-checksums"] : []), `--wal-segsize=${segmentMb}`],
    settings: {
      wal_keep_size: "20GB",
      min_wal_size: `${5 * segmentMb}MB`,
      max_wal_size: isBig ? "1GB" : `${5 * segmentMb * random.between(1, 4)}MB`,
      checkpoint_timeout: "30s",
      full_page_writes: random.chance(0.5) ? "on" : "off",
      wal_compression: random.pick(["off", "off", "pglz"]),
      wal_log_hints: random.chance(0.3) ? "on" : "off",
      track_commit_timestamp: random.chance(0.3) ? "on" : "off",
      autovacuum: random.chance(0.3) ? "on" : "off",
      shared_buffers: random.pick(["2MB", "16MB", "64MB"]),
      ...(consistency ? { wal_consistency_checking: "all" } : {}),
    },
    checkpointDistanceBytes: (isBig ? 32 : random.pick([1, 2, 8, 32])) << 20,
    clientsMs: random.between(1500, 6000),
  };
}

/** Throws at the first difference. Ends early, after a pair, when `isOver` says so. */
export async function runRound(
  plan: RoundPlan,
  random: SeededRandom,
  isOver: () => boolean,
): Promise<RoundResult> {
  await using lab = new Lab({ checkpointDistanceBytes: plan.checkpointDistanceBytes, verifyRedo: true });
  const main = await lab.init(plan.initdb, plan.pgVersion);
  const { startLsn } = main;
  const compute = await lab.compute(main, plan.settings);
  const marks = await work(plan, random, compute, main);
  await main.syncWithWriter(120_000);
  const last = main.lastRecordLsn;
  // Recovery stops before the first record that starts at its target, so there has to be one.
  await compute.query("create table behind_the_last_point as select 1 as one");
  await main.syncWithWriter(60_000);
  assert.equal(main.error, undefined);
  const archive = archiveWal(lab.base, compute, { startLsn, segmentSize: main.cluster.segmentSize });
  // Without them a server with larger segments does not start, or does not recover.
  const { min_wal_size = "80MB", track_commit_timestamp = "off" } = plan.settings;
  const settings = { min_wal_size, track_commit_timestamp };
  let pairs = 0;
  for (; pairs < plan.pairs && (pairs === 0 || !isOver()); pairs++) {
    const from = marks[0] ?? startLsn;
    const at = pairs === 0 ? last : from + Math.floor((last - from) * (random.below(10_000) / 10_000));
    const { endLsn: lsn } = await main.recordBoundary(at as Lsn);
    await comparePair(lab, main, { archive, lsn, settings });
  }
  const directoryPages = await compareDirectory(main, compute);
  await checkFiles(lab, main);
  return {
    pairs,
    verifiedPages: main.verifiedPages ?? 0,
    directoryPages,
    walBytes: main.lastRecordLsn - startLsn,
  };
}

/** Returns LSNs from which on there is something to look at. */
async function work(
  plan: RoundPlan,
  random: SeededRandom,
  compute: TestPostgres,
  main: Timeline,
): Promise<Lsn[]> {
  const marks: Lsn[] = [];
  if (plan.kind === "zoo") await runWorkload(compute, random.between(10, 60));
  if (plan.kind === "big") {
    await makeBigRelation(compute);
    marks.push(main.lastRecordLsn);
  }
  if (plan.kind !== "zoo") {
    await prepareWorkload(compute);
    const workload = new Workload(compute, { seed: random.u32(), clients: random.between(1, 4) });
    try {
      if (plan.kind === "big") await changeBigRelation(compute, random);
      else if (random.chance(0.4)) await runIndexWorkload(compute, random);
      await databases(compute, random, plan.clientsMs);
    } finally {
      await workload.stop();
    }
  }
  if (random.chance(0.5)) {
    await compute.query("create table left_behind (i int)");
    await compute.query("begin; insert into left_behind values (1); prepare transaction 'left'");
  }
  return marks;
}

/** Comes and goes of databases while clients work. */
async function databases(compute: TestPostgres, random: SeededRandom, lengthMs: number): Promise<void> {
  const until = Date.now() + lengthMs;
  for (let i = 0; Date.now() < until; i++) {
    await sleep(random.between(100, 700));
    const step = random.below(4);
    if (step === 0) await compute.query("checkpoint");
    if (step === 1)
      await compute.query(`create database d${i}${random.chance(0.5) ? " strategy file_copy" : ""}`);
    if (step === 2 && i > 0) await compute.query(`drop database if exists d${i - 1}`);
  }
}

/** More than 131,072 pages, with one row on each, so that its WAL stays short. */
async function makeBigRelation(compute: TestPostgres): Promise<void> {
  for (const statement of [
    "create table big (id int, filler text) with (fillfactor = 10)",
    "alter table big alter filler set storage plain",
    "insert into big select i, repeat('x', 380) from generate_series(1, 140000) i",
    "create index on big (id)",
    "analyze big",
  ]) {
    await compute.query(statement);
  }
  const pages = Number(await compute.value("select relpages from pg_class where relname = 'big'"));
  assert.ok(pages > 131_072, `the relation has ${pages} pages`);
}

async function changeBigRelation(compute: TestPostgres, random: SeededRandom): Promise<void> {
  for (let i = 0; i < 30; i++) {
    const id = random.between(1, 139_000);
    await compute.query(`update big set filler = filler || 'y' where id between ${id} and ${id + 300}`);
    if (i % 10 === 3) await compute.query(`delete from big where id between ${id} and ${id + 900}`);
    if (i % 10 === 7) await compute.query("checkpoint");
  }
  // The end of the second file goes away.
  await compute.query("delete from big where id > 136000");
  await compute.query("vacuum big");
}

/** A branch at an LSN, and stock recovery to it. */
async function comparePair(
  lab: Lab,
  main: Timeline,
  at: { archive: string; lsn: Lsn; settings: Settings },
): Promise<void> {
  const { archive, lsn, settings } = at;
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
  const { lsn } = await endOfDirectory(compute);
  await main.waitForLsn(lsn, 60_000);
  const { pages, differences } = await main.verifyDirectory(
    { directory: compute.dataDir, lsn },
    { signal: new AbortController().signal, progress: () => undefined },
  );
  assert.deepEqual(differences.slice(0, 5), [], `${differences.length} pages of the compute's directory`);
  return pages;
}

async function endOfDirectory(compute: TestPostgres): Promise<{ lsn: Lsn }> {
  const { readDirectoryState } = await import("../src/compute/directory-setup.ts");
  const state = readDirectoryState(compute.dataDir);
  assert.ok(state?.shutDown, "the compute was shut down");
  return { lsn: state.endLsn };
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
