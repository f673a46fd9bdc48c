/**
 * The page service: hot pages by protocol, clients, queue depth and batch, with latencies and CPU time of the server, and
 * full backups against copying the stopped data directory in the same run. Clients are a process of their own. Needs
 * `npm run build`.
 * Usage: node bench/page-service.bench.ts [pages per measurement, default 60000] [rows of the table, default 200000]
 *          [protocols, default all] [full: every combination]
 */
import { execFileSync, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { connectLibpq } from "../src/pgwire/libpq-client.ts";
import { type LibpqTarget, parseLibpqUri } from "../src/pgwire/uri.ts";
import { Cli } from "../test/e2e/cli.ts";
import type { Load, Measured, PageTarget } from "./page-protocol.ts";

const pages = Number(process.argv[2] ?? 60_000);
const rows = Number(process.argv[3] ?? 200_000);
const protocols = (process.argv[4] ?? "libpq,grpc,http").split(",");
const full = process.argv[5] === "full";
/** Of the table, so that all of them are in the cache. */
const HOT_PAGES = 300;
/** Clock ticks of the kernel per second. */
const TICKS = 100;

/** Clients, requests under way for each, pages of a request. */
type Shape = readonly [number, number, number];

const SHAPES: readonly Shape[] = full
  ? [1, 16].flatMap((c) => [1, 16, 64].flatMap((d) => [1, 16, 32].map((b): Shape => [c, d, b])))
  : [
      [1, 1, 1],
      [1, 16, 1],
      [1, 64, 1],
      [1, 1, 32],
      [1, 4, 32],
      [16, 1, 1],
      [16, 16, 1],
      [16, 4, 32],
    ];

function report(name: string, value: string): void {
  console.log(`${name.padEnd(48)} ${value}`);
}

function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(" ");
  return (Number(fields[13]) + Number(fields[14])) / TICKS;
}

/** Puts a load on the server; also the CPU time that it took there, in microseconds per page. */
async function measure(load: Load, target: PageTarget, pid: number): Promise<Measured & { cpu: number }> {
  const child = fork(join(import.meta.dirname, "page-client.ts"), [
    JSON.stringify(load),
    JSON.stringify(target),
  ]);
  const cpu: number[] = [];
  let measured: Measured | undefined;
  child.on("message", (message: "begin" | "end" | Measured) => {
    if (typeof message === "string") cpu.push(cpuSeconds(pid));
    else measured = message;
  });
  const [code] = (await once(child, "exit")) as [number | null];
  const [begin, end] = cpu;
  if (code !== 0 || !measured || begin === undefined || end === undefined) throw new Error("a client failed");
  return { ...measured, cpu: ((end - begin) / measured.pages) * 1e6 };
}

async function measurePages(target: PageTarget, pid: number): Promise<void> {
  for (const protocol of protocols) {
    for (const [clients, depth, batch] of SHAPES) {
      const count = clients * depth * batch === 1 ? Math.ceil(pages / 10) : pages;
      const load = { protocol, clients, depth, batch, pages: count, warmUpPages: count, hotPages: HOT_PAGES };
      const { seconds, p50, p99, cpu, ...done } = await measure(load, target, pid);
      report(
        `${protocol}: ${clients} clients, depth ${depth}, batch ${batch}`,
        `${(done.pages / seconds).toFixed(0)} pages/s, p50 ${p50.toFixed(0)} us, p99 ${p99.toFixed(0)} us, server CPU ${cpu.toFixed(1)} us a page`,
      );
    }
  }
}

async function measureBackup(target: LibpqTarget, pid: number, where: string, pgdata: string): Promise<void> {
  for (const command of ["fullbackup", "basebackup"]) {
    await using client = await connectLibpq(target);
    let sizeBytes = 0;
    const cpu = cpuSeconds(pid);
    const start = performance.now();
    for await (const chunk of client.copyOut(`${command} ${where}`)) sizeBytes += chunk.length;
    const seconds = (performance.now() - start) / 1000;
    const mb = sizeBytes / 1e6;
    const perSecond = `${(mb / seconds).toFixed(0)} MB/s (${mb.toFixed(0)} MB in ${(seconds * 1000).toFixed(0)} ms)`;
    report(
      command,
      `${perSecond}, ${(mb / (cpuSeconds(pid) - cpu)).toFixed(0)} MB a second of the server's CPU`,
    );
  }
  const copy = `${pgdata}.copy`;
  const copying = performance.now();
  execFileSync("cp", ["-r", pgdata, copy]);
  report("cp -r of the stopped directory", `${(performance.now() - copying).toFixed(0)} ms`);
  rmSync(copy, { recursive: true });
}

await using cli = new Cli();
await cli.ok("init");
const uri = String((await cli.json("pg", "create", "main"))["uri"]);
await cli.value(uri, `create table t as select i, repeat('x', 100) x from generate_series(1, ${rows}) i`);
const path = String(await cli.value(uri, "select pg_relation_filepath('t')")).split("/");
await cli.ok("pg", "stop", "main");
const token = await cli.ok("config", "get", "pageserver.auth_token");
const address = await cli.ok("config", "get", "pageserver.listen_libpq");
const tenantId = await cli.ok("config", "get", "default_tenant_id");
const branches = (await cli.json("branch"))["branches"] as { timeline_id: string }[];
const timelineId = branches[0]?.timeline_id ?? "";
const grpcAddress = await cli.ok("config", "get", "pageserver.listen_grpc");
const httpAddress = await cli.ok("config", "get", "pageserver.listen");
const [host = "", port] = address.split(":");
const portOf = (listen: string): number => Number(listen.split(":")[1]);
const ports = { libpq: Number(port), grpc: portOf(grpcAddress), http: portOf(httpAddress) };
const relation = { dbOid: Number(path[1]), relNumber: Number(path[2]) };
const pid = await cli.pageserverPid();
await measurePages({ host, ports, token, tenantId, timelineId, ...relation }, pid);
const libpq = parseLibpqUri(`postgresql://neon:${token}@${address}?sslmode=disable`);
await measureBackup(
  libpq,
  pid,
  `${tenantId} ${timelineId}`,
  join(cli.directory, ".neon/computes/main/pgdata"),
);
