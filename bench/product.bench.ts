/**
 * What a user feels, against plain Postgres in the same run: start of the program, `neon branch` and the first query
 * on a small and on a large database, transactions per second with both kinds of commit, memory of the pageserver
 * while it takes in a load. Needs `npm run build`, pgbench, and the repository's own disk for some gigabytes.
 * Usage: node bench/product.bench.ts [scale of the large database, default 70, which is 1 GB] [seconds per pgbench run] ["large": only that]
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { TestPostgres } from "../test/support/postgres.ts";
import { Cli } from "../test/e2e/cli.ts";

const scale = Number(process.argv[2] ?? 70);
const seconds = Number(process.argv[3] ?? 10);
const PGBENCH = "/usr/lib/postgresql/15/bin/pgbench";
const run = promisify(execFile);

function report(name: string, value: string): void {
  console.log(`${name.padEnd(56)} ${value}`);
}

async function timed<T>(work: () => Promise<T>): Promise<{ ms: number; result: T }> {
  const start = performance.now();
  const result = await work();
  return { ms: performance.now() - start, result };
}

async function bestOf(times: number, work: () => Promise<unknown>): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < times; i++) best = Math.min(best, (await timed(work)).ms);
  return best;
}

/** Transactions per second of a pgbench run. */
async function tps(uri: string, clients: number, ...args: string[]): Promise<number> {
  const flags = ["-n", "-T", String(seconds), "-c", String(clients), "-j", "1", ...args, uri];
  const { stdout } = await run(PGBENCH, flags);
  return Number(/tps = ([0-9.]+)/.exec(stdout)?.[1] ?? Number.NaN);
}

async function residentMiB(pid: number): Promise<{ now: number; peak: number }> {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const read = (name: string): number =>
    Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)?.[1] ?? 0) / 1024;
  return { now: read("VmRSS"), peak: read("VmHWM") };
}

async function measureStart(cli: Cli): Promise<void> {
  report("neon --version, best of 10", `${(await bestOf(10, () => cli.ok("--version"))).toFixed(0)} ms`);
  report("neon status, best of 10", `${(await bestOf(10, () => cli.ok("status"))).toFixed(0)} ms`);
}

async function measureBranch(cli: Cli, what: string): Promise<void> {
  let n = 0;
  const ms = await bestOf(5, () => cli.ok("branch", `b${what.replaceAll(/\W/g, "")}${n++}`));
  report(`neon branch, ${what}, best of 5`, `${ms.toFixed(0)} ms`);
}

/** From `neon pg create` to the first answer, against copying the stopped directory and starting on it. */
async function measureFirstQuery(cli: Cli, what: string): Promise<void> {
  const name = `first${what.replaceAll(/\W/g, "")}`;
  await cli.ok("branch", name);
  const ours = await timed(async () => {
    const uri = await cli.ok("pg", "create", name);
    return cli.value(uri, "select count(*) from pg_class");
  });
  await cli.ok("pg", "stop", name);
  const directory = join(cli.directory, ".neon/computes", name, "pgdata");
  const { stdout } = await run("du", ["-sm", directory]);
  await using plain = await TestPostgres.create({ empty: true });
  const copy = await timed(async () => {
    await run("cp", ["-r", `${directory}/.`, plain.dataDir]);
    plain.ownDataDir();
    plain.configure({ wal_level: "replica", autovacuum: false });
    await plain.start();
    await plain.query("select count(*) from pg_class");
  });
  const size = stdout.split("\t")[0];
  report(
    `pg create to first query, ${what} (${size} MB)`,
    `${(ours.ms / 1000).toFixed(2)} s; cp -r and start ${(copy.ms / 1000).toFixed(2)} s; ratio ${(ours.ms / copy.ms).toFixed(1)}`,
  );
  await cli.ok("pg", "destroy", name, "--force");
}

async function measureTps(): Promise<void> {
  const settings = { shared_buffers: "128MB", max_wal_size: "4GB", fsync: true };
  await using plain = await TestPostgres.create({ settings });
  const plainUri = plain.url();
  await run(PGBENCH, ["-i", "-s", "10", "-q", plainUri]);
  const uris = new Map([["plain", plainUri]]);
  await using cli = new Cli();
  await cli.ok("init");
  for (const commit of ["remote", "local"]) {
    await cli.ok("branch", commit);
    const uri = await cli.ok("pg", "create", commit, "--commit", commit);
    await run(PGBENCH, ["-i", "-s", "10", "-q", uri]);
    uris.set(commit, uri);
  }
  for (const clients of [1, 8]) {
    const results = new Map<string, number>();
    for (const [name, uri] of uris) results.set(name, await tps(uri, clients));
    const base = results.get("plain") ?? Number.NaN;
    const text = [...results].map(
      ([name, value]) => `${name} ${value.toFixed(0)} (${(value / base).toFixed(2)})`,
    );
    report(`pgbench tps, scale 10, ${clients} clients`, text.join(", "));
  }
}

async function measureLarge(): Promise<void> {
  await using cli = new Cli();
  await cli.ok("init");
  const uri = await cli.ok("pg", "create", "main");
  await measureStart(cli);
  await measureBranch(cli, "20 MB");
  await measureFirstQuery(cli, "20 MB");
  const load = await timed(() => run(PGBENCH, ["-i", "-s", String(scale), "-q", uri]));
  await using plain = await TestPostgres.create({
    settings: { shared_buffers: "128MB", max_wal_size: "4GB", fsync: true },
  });
  const plainLoad = await timed(() => run(PGBENCH, ["-i", "-s", String(scale), "-q", plain.url()]));
  report(
    `pgbench -i -s ${scale}`,
    `${(load.ms / 1000).toFixed(1)} s; plain ${(plainLoad.ms / 1000).toFixed(1)} s; ratio ${(load.ms / plainLoad.ms).toFixed(2)}`,
  );
  await tps(uri, 4);
  const memory = await residentMiB(await cli.pageserverPid());
  report(
    "pageserver resident after that",
    `${memory.now.toFixed(0)} MiB, peak ${memory.peak.toFixed(0)} MiB`,
  );
  await measureBranch(cli, "large");
  await measureFirstQuery(cli, "large");
  const compaction = await timed(() => cli.ok("compact"));
  report("neon compact", `${(compaction.ms / 1000).toFixed(1)} s`);
  await measureFirstQuery(cli, "large, compacted");
}

if (process.argv[4] !== "large") await measureTps();
await measureLarge();
