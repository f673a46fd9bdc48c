/**
 * The page service over libpq: hot pages by queue depth, with latencies and CPU time of the server, and full backups
 * against copying the stopped data directory in the same run. Needs `npm run build`.
 * Usage: node bench/page-service.bench.ts [pages per measurement, default 60000] [rows of the table, default 200000]
 */
import { execFileSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ByteWriter } from "../src/base/bytes.ts";
import type { Channel } from "../src/pgwire/channel.ts";
import { connectLibpq } from "../src/pgwire/libpq-client.ts";
import { type LibpqTarget, parseLibpqUri } from "../src/pgwire/uri.ts";
import { Cli } from "../test/e2e/cli.ts";

const pages = Number(process.argv[2] ?? 60_000);
const rows = Number(process.argv[3] ?? 200_000);
const LATEST = 2n ** 64n - 1n;
/** Of the table, so that all of them are in the cache. */
const HOT_PAGES = 300;
/** Clock ticks of the kernel per second. */
const TICKS = 100;

interface Relation {
  readonly dbOid: number;
  readonly relNumber: number;
}

function report(name: string, value: string): void {
  console.log(`${name.padEnd(48)} ${value}`);
}

function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(" ");
  return (Number(fields[13]) + Number(fields[14])) / TICKS;
}

function getPage({ dbOid, relNumber }: Relation, id: number): Uint8Array {
  const writer = new ByteWriter(64).u8(2).u64be(BigInt(id)).u64be(LATEST).u64be(8n);
  return writer
    .u32be(1663)
    .u32be(dbOid)
    .u32be(relNumber)
    .u8(0)
    .u32be(id % HOT_PAGES)
    .finish();
}

/** Keeps `depth` requests under way until `count` are answered; the latency of each in microseconds. */
async function read(channel: Channel, relation: Relation, depth: number, count: number): Promise<number[]> {
  const sentAt: number[] = [];
  const latencies: number[] = [];
  const send = async (): Promise<void> => {
    sentAt.push(performance.now());
    await channel.send(getPage(relation, sentAt.length));
  };
  while (sentAt.length < Math.min(depth, count)) await send();
  while (latencies.length < count) {
    const answer = await channel.receive();
    if (answer?.[0] !== 102) throw new Error("no page");
    latencies.push((performance.now() - (sentAt[latencies.length] ?? 0)) * 1000);
    if (sentAt.length < count) await send();
  }
  return latencies;
}

async function measurePages(
  target: LibpqTarget,
  pid: number,
  where: string,
  relation: Relation,
): Promise<void> {
  await using client = await connectLibpq(target);
  const channel = await client.copyBoth(`pagestream_v3 ${where}`);
  await read(channel, relation, 64, pages);
  for (const depth of [1, 16, 64]) {
    const count = depth === 1 ? Math.ceil(pages / 10) : pages;
    const cpu = cpuSeconds(pid);
    const start = performance.now();
    const latencies = (await read(channel, relation, depth, count)).sort((a, b) => a - b);
    const seconds = (performance.now() - start) / 1000;
    const perPage = ((cpuSeconds(pid) - cpu) / count) * 1e6;
    const at = (share: number): string => (latencies[Math.floor(count * share)] ?? 0).toFixed(0);
    report(
      `hot pages, queue depth ${depth}`,
      `${(count / seconds).toFixed(0)} pages/s, p50 ${at(0.5)} us, p99 ${at(0.99)} us, server CPU ${perPage.toFixed(1)} us each`,
    );
  }
  await channel.end();
}

async function measureBackup(target: LibpqTarget, where: string, pgdata: string): Promise<void> {
  await using client = await connectLibpq(target);
  let sizeBytes = 0;
  const start = performance.now();
  for await (const chunk of client.copyOut(`fullbackup ${where}`)) sizeBytes += chunk.length;
  const seconds = (performance.now() - start) / 1000;
  const copy = `${pgdata}.copy`;
  const copying = performance.now();
  execFileSync("cp", ["-r", pgdata, copy]);
  const copySeconds = (performance.now() - copying) / 1000;
  rmSync(copy, { recursive: true });
  const mb = sizeBytes / 1e6;
  report(
    "fullbackup",
    `${(mb / seconds).toFixed(0)} MB/s (${mb.toFixed(0)} MB); cp -r took ${(copySeconds / seconds).toFixed(2)} times as long`,
  );
}

await using cli = new Cli();
await cli.ok("init");
const uri = String((await cli.json("pg", "create", "main"))["uri"]);
await cli.value(uri, `create table t as select i, repeat('x', 100) x from generate_series(1, ${rows}) i`);
const path = String(await cli.value(uri, "select pg_relation_filepath('t')")).split("/");
await cli.ok("pg", "stop", "main");
const token = await cli.ok("config", "get", "pageserver.auth_token");
const address = await cli.ok("config", "get", "pageserver.listen_libpq");
const tenant = await cli.ok("config", "get", "default_tenant_id");
const branches = (await cli.json("branch"))["branches"] as { timeline_id: string }[];
const where = `${tenant} ${branches[0]?.timeline_id ?? ""}`;
const target = parseLibpqUri(`postgresql://neon:${token}@${address}?sslmode=disable`);
await measurePages(target, await cli.pageserverPid(), where, {
  dbOid: Number(path[1]),
  relNumber: Number(path[2]),
});
await measureBackup(target, where, join(cli.directory, ".neon/computes/main/pgdata"));
