/**
 * How fast WAL is taken in: a real server's pgbench WAL, from its segment files through the whole intake (raw log with
 * fsync, decoding with CRC, ingest, layer files). With full-page writes MB/s count, without them records/s. The
 * baseline is a single-threaded pass over the same bytes with CRC-32C only.
 * Usage: node bench/ingest.bench.ts [scale, default 20]
 */
import { join } from "node:path";
import { crc32c } from "../src/base/crc32c.ts";
import { toLsn } from "../src/base/lsn.ts";
import { packDataDirectory } from "../src/compute/data-directory.ts";
import { newTimelineId } from "../src/base/ids.ts";
import { versionByMajor } from "../src/postgres/versions/versions.ts";
import { WalIntake } from "../src/pageserver/timeline/wal-intake.ts";
import { Reconstructor } from "../src/pageserver/read/reconstruct.ts";
import { Lab } from "../test/pageserver/branch-harness.ts";
import { TestPostgres } from "../test/support/postgres.ts";
import { CHUNK, pgbench, readWal } from "./real-wal.ts";
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";

const scale = Number(process.argv[2] ?? 20);

async function measure(name: string, fullPageWrites: boolean): Promise<void> {
  await using server = await TestPostgres.create({
    start: false,
    settings: {
      full_page_writes: fullPageWrites,
      wal_keep_size: "100GB",
      max_wal_size: "50GB",
      shared_buffers: "256MB",
      synchronous_commit: false,
    },
  });
  await using lab = new Lab();
  const id = newTimelineId({ bytes: (n) => new Uint8Array(randomBytes(n)) });
  const directory = join(lab.directory, id);
  mkdirSync(directory);
  const timeline = await lab.factory.import({
    directory,
    id,
    expected: { pgVersion: versionByMajor(17), systemId: undefined },
    tar: packDataDirectory(server.dataDir) as AsyncIterable<Uint8Array>,
    createdAt: Date.now(),
  });
  await server.start();
  const from = timeline.startLsn;
  await pgbench(server, "-i", "-s", String(scale), "-q");
  const loaded = await server.lsn("select pg_current_wal_flush_lsn()");
  await pgbench(server, "-T", "15", "-c", "8", "-j", "2", "-n");
  await server.query("checkpoint");
  await pgbench(server, "-T", "5", "-c", "8", "-j", "2", "-n");
  const end = await server.lsn("select pg_current_wal_flush_lsn()");
  await server.stop();
  const intake = await WalIntake.open(
    {
      directory: join(directory, "wal"),
      cluster: timeline.cluster,
      store: timeline.store,
      durable: { previousLsn: (await timeline.recordBoundary(from)).previousLsn, endLsn: from },
      startLsn: from,
      limits: { checkpointDistanceBytes: 64 << 20, checkpointTimeoutMs: 600_000 },
    },
    {
      files: lab.files,
      onFatal: (error) => {
        throw error;
      },
      log: { info: () => undefined, error: console.error },
      reconstructor: new Reconstructor({ version: timeline.cluster.pgVersion, hintBitsLogged: false }),
    },
  );
  await takeIn(`${name}, load`, server.dataDir, intake, from, loaded);
  await takeIn(`${name}, transactions`, server.dataDir, intake, loaded, end);
  await intake.close();
  await timeline.close();
}

/** Feeds WAL to the intake as fast as it takes it and reports. */
async function takeIn(
  name: string,
  dataDir: string,
  intake: WalIntake,
  from: number,
  to: number,
): Promise<void> {
  const chunks = [...readWal(dataDir, from, to)];
  let crcMs = performance.now();
  for (const { bytes } of chunks) crc32c(bytes);
  crcMs = performance.now() - crcMs;
  const records = intake.recordCount;
  const cpu = process.cpuUsage();
  const started = performance.now();
  let peak = 0;
  for (const { lsn, bytes } of chunks) {
    await intake.accept(toLsn(lsn), bytes);
    if (lsn % (4 << 20) < CHUNK) peak = Math.max(peak, process.memoryUsage.rss());
  }
  await intake.waitForDurable(intake.resumeLsn, 60_000);
  const ms = performance.now() - started;
  const { user, system } = process.cpuUsage(cpu);
  const megabytes = (to - from) / 1e6;
  const count = intake.recordCount - records;
  console.log(
    `${name}: ${megabytes.toFixed(0)} MB in ${(ms / 1000).toFixed(2)} s = ${((megabytes / ms) * 1000).toFixed(0)} MB/s, ` +
      `${(count / ms).toFixed(0)}k records/s (${count}, ${((megabytes * 1e6) / count).toFixed(0)} bytes each), ` +
      `CPU ${((user + system) / 1e6).toFixed(2)} s; CRC alone ${((megabytes / crcMs) * 1000).toFixed(0)} MB/s; RSS ${(peak / 2 ** 20).toFixed(0)} MiB`,
  );
}

await measure("full-page writes on ", true);
await measure("full-page writes off", false);
