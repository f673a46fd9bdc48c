/**
 * The same WAL, replayed by a stock standby and by us, in one run: pgbench's, with full-page writes on and off. The
 * standby has all of it in its pg_wal and every page in shared buffers; what counts is what it logs about replay
 * alone. Ours is measured twice: decoding and redo into pages in memory, as the standby does, and the whole way of WAL
 * into a branch (log with fsync, decoding, ingest, layer files) and a base backup of every page.
 * Everything of ours runs twice, and the second run counts: a pageserver lives long, and its code is compiled by then.
 * Usage: node bench/replay.bench.ts [scale, default 10] [transactions of each client, default 8000]
 */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { newTimelineId } from "../src/base/ids.ts";
import { type Lsn, toLsn } from "../src/base/lsn.ts";
import { packDataDirectory } from "../src/compute/data-directory.ts";
import { baseBackup } from "../src/pageserver/basebackup/basebackup.ts";
import { makeReconstructor } from "../src/pageserver/read/make-reconstructor.ts";
import { WalIntake } from "../src/pageserver/timeline/wal-intake.ts";
import { parseControlFile } from "../src/postgres/control-file.ts";
import { versionByMajor } from "../src/postgres/versions/versions.ts";
import { parseSegmentName } from "../src/postgres/wal/layout.ts";
import { WalStream } from "../src/postgres/wal/stream.ts";
import { checkpointEndLsn } from "../src/postgres/wal/start-point.ts";
import { Lab } from "../test/pageserver/branch-harness.ts";
import { TestPostgres } from "../test/support/postgres.ts";
import { MemoryStandby } from "./memory-standby.ts";

const SEGMENT = 16 << 20;
const CHUNK = 128 << 10;
const PGBENCH = "/usr/lib/postgresql/15/bin/pgbench";
const VERSION = versionByMajor(17);
const scale = process.argv[2] ?? "10";
const transactions = process.argv[3] ?? "8000";

interface Wal {
  readonly base: TestPostgres;
  readonly server: TestPostgres;
  /** The record before the first one, and the end of all. */
  readonly previousLsn: Lsn;
  readonly from: Lsn;
  readonly to: Lsn;
}

interface Figure {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

async function pgbench(server: TestPostgres, ...args: string[]): Promise<void> {
  const where = ["-h", server.socketDir, "-p", String(server.port), "-U", "postgres"];
  await promisify(execFile)(PGBENCH, [...where, ...args, "postgres"]);
}

async function makeWal(server: TestPostgres): Promise<Wal> {
  const control = (): ReturnType<typeof parseControlFile> =>
    parseControlFile(readFileSync(join(server.dataDir, "global/pg_control")));
  const first = control();
  const base = await server.clone();
  await server.start();
  await pgbench(server, "-i", "-s", scale, "-q");
  await pgbench(server, "-t", transactions, "-c", "8", "-j", "2", "-n");
  await server.query("checkpoint");
  await pgbench(server, "-t", transactions, "-c", "8", "-j", "2", "-n");
  await server.stop();
  return {
    base,
    server,
    previousLsn: first.checkpointLsn,
    from: checkpointEndLsn(first),
    to: checkpointEndLsn(control()),
  };
}

/** All of it, in chunks as a receiver sees them. */
function* chunksOf({ server, from, to }: Wal): Generator<{ lsn: Lsn; bytes: Uint8Array }> {
  for (const name of readdirSync(join(server.dataDir, "pg_wal")).sort()) {
    const start = parseSegmentName(name, SEGMENT)?.startLsn;
    if (start === undefined || start + SEGMENT <= from || start >= to) continue;
    const bytes = readFileSync(join(server.dataDir, "pg_wal", name));
    for (let at = Math.max(from, start); at < Math.min(to, start + SEGMENT);) {
      const end = Math.min(at + CHUNK, start + SEGMENT, to);
      yield { lsn: toLsn(at), bytes: bytes.subarray(at - start, end - start) };
      at = end;
    }
  }
}

/** What stock Postgres says about its own replay. */
async function stock({ base, server }: Wal): Promise<Figure> {
  await using standby = await base.clone();
  cpSync(join(server.dataDir, "pg_wal"), join(standby.dataDir, "pg_wal"), { recursive: true });
  writeFileSync(join(standby.dataDir, "recovery.signal"), "");
  standby.configure({
    restore_command: "exit 1",
    hot_standby: "off",
    shared_buffers: "2GB",
    max_wal_size: "100GB",
    checkpoint_timeout: "1h",
    wal_keep_size: "100GB",
    fsync: "off",
    autovacuum: "off",
    log_min_messages: "info",
  });
  standby.ownDataDir();
  await standby.start();
  const pattern =
    /redo done at .*system usage: CPU: user: ([\d.]+) s, system: ([\d.]+) s, elapsed: ([\d.]+) s/;
  for (;;) {
    const found = pattern.exec(standby.log());
    if (found) {
      const [user, system, elapsed] = found.slice(1).map(Number) as [number, number, number];
      return { seconds: elapsed, cpuSeconds: user + system };
    }
    if (!standby.running) throw new Error(standby.log());
    await sleep(20);
  }
}

/** Decoding and redo of every block, into pages in memory. */
function inMemory(wal: Wal): Figure & { records: number; blocks: number } {
  const { base, from, previousLsn } = wal;
  const stream = new WalStream({ version: VERSION, segmentSize: SEGMENT, startLsn: from, previousLsn });
  const standby = new MemoryStandby(base.dataDir, VERSION);
  const chunks = [...chunksOf(wal)];
  const done = stopwatch();
  for (const { lsn, bytes } of chunks) {
    stream.feed(lsn, bytes);
    for (let record = stream.next(); record !== undefined; record = stream.next()) standby.apply(record);
  }
  return { ...done(), records: standby.records, blocks: standby.blocks };
}

/** Into a branch, and every page out of it again. */
async function wholeWay(wal: Wal): Promise<{ takenIn: Figure; pagesOut: Figure }> {
  const { base, from, previousLsn } = wal;
  await using lab = new Lab();
  const id = newTimelineId({ bytes: (count) => new Uint8Array(randomBytes(count)) });
  const directory = join(lab.directory, id);
  mkdirSync(directory);
  const timeline = await lab.factory.import({
    directory,
    id,
    expected: { pgVersion: VERSION, systemId: undefined },
    tar: packDataDirectory(base.dataDir) as AsyncIterable<Uint8Array>,
    createdAt: Date.now(),
  });
  const { store, cluster } = timeline;
  const reconstructor = await makeReconstructor(store, VERSION, from);
  const intake = await WalIntake.open(
    {
      directory: join(directory, "wal"),
      cluster,
      store,
      durable: { previousLsn, endLsn: from },
      startLsn: from,
      limits: { checkpointDistanceBytes: 64 << 20, checkpointTimeoutMs: 600_000 },
    },
    {
      files: lab.files,
      reconstructor,
      onFatal: (error) => {
        throw error;
      },
      log: { info: () => undefined, error: console.error },
    },
  );
  const chunks = [...chunksOf(wal)];
  const takenIn = stopwatch();
  for (const { lsn, bytes } of chunks) await intake.accept(lsn, bytes);
  await intake.waitForDurable(intake.resumeLsn, 600_000);
  const first = takenIn();
  const pagesOut = stopwatch();
  const { endLsn, previousLsn: before } = intake.lastRecord;
  const source = { store, reconstructor, version: VERSION, readOnly: false, nowMs: Date.now() };
  let sizeBytes = 0;
  for await (const chunk of baseBackup({ ...source, lsn: endLsn, previousLsn: before }))
    sizeBytes += chunk.length;
  const second = pagesOut();
  if (sizeBytes < 1 << 20) throw new Error("the base backup is empty");
  await intake.close();
  await timeline.close();
  return { takenIn: first, pagesOut: second };
}

function stopwatch(): () => Figure {
  const start = performance.now();
  const cpu = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(cpu);
    return { seconds: (performance.now() - start) / 1000, cpuSeconds: (user + system) / 1e6 };
  };
}

function report(name: string, figure: Figure, records: number): void {
  const rate = (of: number): string => `${(records / of / 1000).toFixed(0)} thousand records/s`;
  console.log(
    `${name}: ${figure.seconds.toFixed(2)} s, ${rate(figure.seconds)}; ` +
      `CPU ${figure.cpuSeconds.toFixed(2)} s, ${rate(figure.cpuSeconds)}`,
  );
}

async function measure(name: string, fullPageWrites: boolean): Promise<void> {
  await using server = await TestPostgres.create({
    start: false,
    settings: {
      full_page_writes: fullPageWrites,
      wal_keep_size: "100GB",
      max_wal_size: "50GB",
      shared_buffers: "1GB",
      synchronous_commit: false,
    },
  });
  const wal = await makeWal(server);
  await using _ = wal.base;
  inMemory(wal);
  const ours = inMemory(wal);
  const { records } = ours;
  const megabytes = ((wal.to - wal.from) / 1e6).toFixed(0);
  console.log(`${name}: ${megabytes} MB of WAL, ${records} records that change ${ours.blocks} blocks`);
  report("  stock standby", await stock(wal), records);
  report("  ours, into pages in memory", ours, records);
  await wholeWay(wal);
  const { takenIn, pagesOut } = await wholeWay(wal);
  report("  ours, into a branch", takenIn, records);
  report("  ours, every page out of it", pagesOut, records);
  const seconds = takenIn.seconds + pagesOut.seconds;
  report("  ours, both", { seconds, cpuSeconds: takenIn.cpuSeconds + pagesOut.cpuSeconds }, records);
}

await measure("full-page writes on ", true);
await measure("full-page writes off", false);
