/**
 * What compaction and garbage collection cost and bring, with the WAL of a real server (`full_page_writes = off`, as under
 * `commit = remote`): for a bulk load, updates all over a large table, and many small transactions, how fast WAL is taken
 * in without and with compaction beside it, how long the event loop stood, and how often each byte was written; then the
 * space that pgbench takes, per transaction and so per day, before and after garbage collection.
 * Usage: node bench/background.bench.ts [scale, default 20]
 */
import { newTimelineId } from "../src/base/ids.ts";
import { toLsn } from "../src/base/lsn.ts";
import type { FileHandle, Files } from "../src/base/seams.ts";
import { packDataDirectory } from "../src/compute/data-directory.ts";
import { CompactionThread } from "../src/pageserver/compaction/compaction-thread.ts";
import type { Timeline } from "../src/pageserver/timeline/timeline.ts";
import { versionByMajor } from "../src/postgres/versions/versions.ts";
import { RealFiles } from "../src/storage/real-files.ts";
import { Lab } from "../test/pageserver/branch-harness.ts";
import { TestPostgres } from "../test/support/postgres.ts";
import { pgbench, readWal } from "./real-wal.ts";
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { watchLoop } from "./watch-loop.ts";

const scale = Number(process.argv[2] ?? 20);
const MIB = 2 ** 20;
const COMPACTION_PERIOD_MS = 1000;
/** Transactions in 24 hours at 100 in a second. */
const PER_DAY = 100 * 86_400;

/** Bytes that go to the disk from this thread. */
class CountingFiles extends RealFiles implements Files {
  writtenBytes = 0;

  override async open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle> {
    const handle = await super.open(path, mode);
    return {
      read: (...args) => handle.read(...args),
      write: async (bytes, position) => {
        this.writtenBytes += bytes.length;
        await handle.write(bytes, position);
      },
      sync: () => handle.sync(),
      size: () => handle.size(),
      truncate: (sizeBytes) => handle.truncate(sizeBytes),
      close: () => handle.close(),
    };
  }
}

interface Workload {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly transactions: number;
}

async function makeWorkloads(server: TestPostgres, from: number): Promise<Workload[]> {
  const workloads: Workload[] = [];
  let start = from;
  const add = async (name: string, run: () => Promise<number>): Promise<void> => {
    const transactions = await run();
    const to = await server.lsn("select pg_current_wal_flush_lsn()");
    workloads.push({ name, from: start, to, transactions });
    start = to;
  };
  await add("bulk load", async () => {
    await pgbench(server, "-i", "-s", String(scale), "-q");
    return 1;
  });
  await add("updates all over a table", async () => {
    for (let i = 0; i < 30; i++)
      await server.query(`update pgbench_accounts set abalance = abalance + 1 where aid % 61 = ${i}`);
    return 30;
  });
  await add("small transactions", async () => {
    const output = await pgbench(server, "-T", "40", "-c", "8", "-j", "2", "-n", "-M", "prepared");
    return Number(/actually processed: (\d+)/.exec(output)?.[1]);
  });
  return workloads;
}

async function importTimeline(lab: Lab, tar: Uint8Array): Promise<Timeline> {
  const id = newTimelineId({ bytes: (n) => new Uint8Array(randomBytes(n)) });
  const directory = join(lab.directory, id);
  mkdirSync(directory);
  return lab.factory.import({
    directory,
    id,
    expected: { pgVersion: versionByMajor(17), systemId: undefined },
    tar: ReadableStream.from([tar]),
    createdAt: Date.now(),
  });
}

/** Takes in one workload as fast as it goes. */
async function takeIn(
  timeline: Timeline,
  workload: Workload,
  dataDir: string,
  compacts: boolean,
): Promise<{ seconds: number; cpuSeconds: number; stoodMs: number; writtenBytes: number }> {
  const chunks = [...readWal(dataDir, workload.from, workload.to)];
  const intake = await timeline.openIntake();
  let writtenBytes = 0;
  let compacting: Promise<void> | undefined;
  const compact = async (): Promise<void> => {
    const { deltaBytes, imageBytes } = await timeline.maintenance.compact({ thorough: false });
    writtenBytes += deltaBytes + imageBytes;
  };
  const timer = setInterval(() => {
    if (compacts) compacting ??= compact().finally(() => (compacting = undefined));
  }, COMPACTION_PERIOD_MS);
  const stood = watchLoop();
  const cpu = process.threadCpuUsage();
  const started = performance.now();
  for (const { lsn, bytes } of chunks) await intake.accept(toLsn(lsn), bytes);
  await intake.waitForDurable(intake.resumeLsn, 600_000);
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.threadCpuUsage(cpu);
  const cpuSeconds = (user + system) / 1e6;
  const stoodMs = stood();
  clearInterval(timer);
  await compacting;
  if (compacts) await compact();
  return { seconds, cpuSeconds, stoodMs, writtenBytes };
}

async function run(server: TestPostgres, tar: Uint8Array, compacts: boolean): Promise<number[]> {
  const files = new CountingFiles();
  await using thread = new CompactionThread(files);
  await using lab = new Lab({ files, compaction: thread, flushedLayersMin: 4 });
  const timeline = await importTimeline(lab, tar);
  const rates: number[] = [];
  for (const workload of await workloadsOf(server, timeline.startLsn)) {
    // What was before is not to be counted here.
    await timeline.checkpoint();
    const walBytes = workload.to - workload.from;
    const [before, sizeBefore] = [files.writtenBytes, timeline.physicalBytes];
    const taken = await takeIn(timeline, workload, server.dataDir, compacts);
    await timeline.checkpoint();
    const rate = walBytes / 1e6 / taken.seconds;
    rates.push(rate);
    const written = (files.writtenBytes - before + taken.writtenBytes) / walBytes;
    console.log(
      `${workload.name}, ${compacts ? "with" : "without"} compaction: ${(walBytes / 1e6).toFixed(0)} MB of WAL at ` +
        `${rate.toFixed(0)} MB/s (${(walBytes / 1e6 / taken.cpuSeconds).toFixed(0)} MB per second of its CPU), loop stood ${taken.stoodMs.toFixed(1)} ms of CPU, each byte written ${written.toFixed(2)} times`,
    );
    if (workload.transactions < 100) continue;
    const grown = timeline.physicalBytes - sizeBefore;
    console.log(
      `  ${workload.transactions} transactions: ${(walBytes / workload.transactions).toFixed(0)} bytes of WAL and ` +
        `${(grown / workload.transactions).toFixed(0)} bytes of layers each; ` +
        `a day at 100/s: ${((grown / workload.transactions) * (PER_DAY / 2 ** 30)).toFixed(1)} GiB`,
    );
  }
  if (compacts) await collect(timeline);
  await timeline.close();
  return rates;
}

/** What stays when no history is kept. */
async function collect(timeline: Timeline): Promise<void> {
  const before = timeline.physicalBytes;
  const wanted = await timeline.maintenance.planCutoff({ pitrIntervalMs: 0, gcHorizonBytes: 0 });
  if (wanted === undefined) return;
  const [cutoff] = await timeline.maintenance.describe([wanted.cutoff.endLsn]);
  if (cutoff === undefined) return;
  await timeline.maintenance.retain({ cutoff, points: [] });
  await timeline.maintenance.collect({ thorough: true });
  console.log(
    `all of it: ${(before / MIB).toFixed(0)} MiB on disk; without history ${(timeline.physicalBytes / MIB).toFixed(0)} MiB`,
  );
}

let known: Workload[] | undefined;
async function workloadsOf(server: TestPostgres, from: number): Promise<Workload[]> {
  if (known !== undefined) return known;
  await server.start();
  known = await makeWorkloads(server, from);
  const megabytes = await server.query("select pg_database_size('postgres') / 1048576 as mb");
  console.log(`the database has ${String(Object.values(megabytes[0] ?? {})[0])} MiB`);
  await server.stop();
  return known;
}

const settings = {
  full_page_writes: "off",
  wal_keep_size: "100GB",
  max_wal_size: "50GB",
  shared_buffers: "256MB",
  synchronous_commit: "off",
};
await using server = await TestPostgres.create({ start: false, settings });
const tar: Uint8Array[] = [];
for await (const bytes of packDataDirectory(server.dataDir) as AsyncIterable<Uint8Array>) tar.push(bytes);
const without = await run(server, Buffer.concat(tar), false);
const beside = await run(server, Buffer.concat(tar), true);
for (const [i, { name }] of (known ?? []).entries()) {
  const share = ((beside[i] ?? 0) / (without[i] ?? 1)) * 100;
  console.log(`${name}: with compaction beside it ${share.toFixed(0)} % of the rate without`);
}
