/** The workload of a round of the soak, under which the compute writes a checkpoint every now and then. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, parseLsn } from "../src/base/lsn.ts";
import { runIndexWorkload } from "../test/postgres/redo-index-workload.ts";
import { runWorkload } from "../test/postgres/redo-workload.ts";
import { generate } from "../test/support/generator.ts";
import type { TestPostgres } from "../test/support/postgres.ts";
import { SeededRandom } from "../test/support/random.ts";
import { Workload, prepareWorkload } from "../test/support/workload.ts";
import type { RoundPlan } from "./soak-plan.ts";

/** Returns the LSNs of the checkpoints that were written meanwhile, ascending. */
export async function work(plan: RoundPlan, random: SeededRandom, compute: TestPostgres): Promise<Lsn[]> {
  if (plan.kind === "big") await makeBigRelation(compute);
  const checkpoints = new Checkpoints(compute, { seed: random.u32(), gapMs: plan.checkpointMs });
  try {
    await changes(plan, random, compute);
  } finally {
    await checkpoints.stop();
  }
  return checkpoints.lsns;
}

async function changes(plan: RoundPlan, random: SeededRandom, compute: TestPostgres): Promise<void> {
  if (plan.kind === "zoo") await runWorkload(compute, random.between(10, 60));
  else if (plan.kind === "ddl") {
    await prepareWorkload(compute);
    // Without what is done once on a fresh server: recovery would make the same tablespaces again in the same place.
    await generate(compute, random, { clients: random.between(1, 3), tag: "soak" });
  } else {
    await prepareWorkload(compute);
    const workload = new Workload(compute, { seed: random.u32(), clients: random.between(1, 4) });
    try {
      if (plan.kind === "big") await changeBigRelation(compute, random);
      else if (random.chance(0.4)) await runIndexWorkload(compute, random);
      await databases(compute, random, plan);
    } finally {
      await workload.stop();
    }
  }
  if (random.chance(0.5)) {
    await compute.query("create table left_behind (i int)");
    await compute.query("begin; insert into left_behind values (1); prepare transaction 'left'");
  }
}

/** Writes checkpoints, with random gaps between them, until it is stopped. */
class Checkpoints {
  readonly lsns: Lsn[] = [];
  private readonly stopping = new AbortController();
  private readonly running: Promise<void>;

  constructor(compute: TestPostgres, options: { seed: number; gapMs: number }) {
    this.running = this.run(compute, new SeededRandom(options.seed), options.gapMs);
    // Whoever stops it is told.
    this.running.catch(() => undefined);
  }

  /** Throws what went wrong, if anything did. */
  async stop(): Promise<void> {
    this.stopping.abort();
    await this.running;
  }

  private async run(compute: TestPostgres, random: SeededRandom, gapMs: number): Promise<void> {
    const { signal } = this.stopping;
    const client = await compute.connect();
    try {
      while (!signal.aborted) {
        await sleep(random.between(20, gapMs), undefined, { signal }).catch(() => undefined);
        await client.query("checkpoint");
        const { rows } = await client.query<{ at: string }>(
          "select checkpoint_lsn::text as at from pg_control_checkpoint()",
        );
        const lsn = parseLsn(rows[0]?.at ?? "");
        assert.ok(lsn !== undefined, "the checkpoint has an LSN");
        if (lsn !== this.lsns.at(-1)) this.lsns.push(lsn);
      }
    } finally {
      await client.end();
    }
  }
}

/** Comes and goes of databases while clients work. */
async function databases(compute: TestPostgres, random: SeededRandom, plan: RoundPlan): Promise<void> {
  const until = Date.now() + plan.clientsMs;
  // Before 15 there was but one way to copy a database.
  const strategies = plan.pgVersion >= 15 ? ["", " strategy file_copy"] : [""];
  for (let i = 0; Date.now() < until; i++) {
    await sleep(random.between(100, 700));
    const step = random.below(3);
    if (step === 1) await compute.query(`create database d${i}${random.pick(strategies)}`);
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
  }
  // The end of the second file goes away.
  await compute.query("delete from big where id > 136000");
  await compute.query("vacuum big");
}
