/**
 * Push and pull of a database over the loopback interface, against pg_dump into psql, pg_basebackup and `cp -r` in the
 * same run; and what a push of a change of 1 % of the pages takes, against the WAL of that change. Needs `npm run build`,
 * the programs of Postgres 15, and disk for eight times the database.
 * Usage: node bench/transfer.bench.ts [scale of the database, default 70, which is 1 GB]
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Cli } from "../test/e2e/cli.ts";
import { TestPostgres } from "../test/support/postgres.ts";

const scale = Number(process.argv[2] ?? 70);
const BIN = "/usr/lib/postgresql/15/bin";
const MIB = 1024 * 1024;
const run = promisify(execFile);

function report(name: string, value: string): void {
  console.log(`${name.padEnd(40)} ${value}`);
}

async function timed<T>(work: () => Promise<T>): Promise<{ seconds: number; result: T }> {
  const start = performance.now();
  const result = await work();
  return { seconds: (performance.now() - start) / 1000, result };
}

async function sizeBytes(directory: string): Promise<number> {
  const { stdout } = await run("du", ["-sb", directory]);
  return Number(stdout.split("\t")[0]);
}

/** Where others reach the repository's pageserver. */
function uriOf(cli: Cli): string {
  const text = readFileSync(join(cli.directory, ".neon/config.toml"), "utf8");
  const setting = (key: string): string => new RegExp(`^${key} = "([^"]*)"`, "m").exec(text)?.[1] ?? "";
  return `postgresql://neon:${setting("auth_token")}@${setting("listen_libpq")}`;
}

interface Outcome {
  readonly result: string;
  readonly bytes_sent: number;
  readonly bytes_received: number;
  readonly from_lsn: string | null;
  readonly to_lsn: string;
}

async function transfer(cli: Cli, ...args: string[]): Promise<Outcome> {
  return JSON.parse(await cli.ok(...args, "--json")) as Outcome;
}

function lsnBytes(lsn: string): number {
  const [high, low] = lsn.split("/").map((part) => Number.parseInt(part, 16));
  return (high ?? 0) * 2 ** 32 + (low ?? 0);
}

const scratch = mkdtempSync(join(tmpdir(), "neon-transfer-bench-"));
try {
  await using ours = new Cli();
  await using theirs = new Cli();
  await using cloned = new Cli();
  await ours.ok("init", "--pg-version", "15");
  await theirs.ok("init", "--pg-version", "15");
  const uri = await ours.ok("pg", "create", "main");
  await run(join(BIN, "pgbench"), ["-i", "-s", String(scale), "-q", uri]);
  await ours.value(uri, "checkpoint");
  const databaseBytes = Number(await ours.value(uri, "select sum(pg_database_size(oid)) from pg_database"));
  const perSecond = (seconds: number): string =>
    `${seconds.toFixed(1)} s, ${(databaseBytes / MIB / seconds).toFixed(0)} MB/s`;
  report("database", `${(databaseBytes / MIB).toFixed(0)} MB`);

  await ours.ok("origin", "add", "there", uriOf(theirs));
  const push = await timed(() => transfer(ours, "push", "main", "there"));
  assert.equal(push.result.result, "created");
  report(
    "neon push",
    `${perSecond(push.seconds)}, ${(push.result.bytes_sent / MIB).toFixed(0)} MB on the wire`,
  );
  const clone = await timed(() => cloned.ok("clone", uriOf(ours), join(cloned.directory, "clone")));
  report("neon clone (one pull)", perSecond(clone.seconds));
  await cloned.ok("stop", "--repo", join(cloned.directory, "clone"));

  await using plain = await TestPostgres.create({
    binDir: BIN,
    settings: { shared_buffers: "128MB", max_wal_size: "4GB" },
  });
  const dump = await timed(() =>
    run("sh", ["-c", '"$0/pg_dump" "$1" | "$0/psql" -q -o /dev/null "$2"', BIN, uri, plain.url()]),
  );
  report("pg_dump | psql", perSecond(dump.seconds));
  const backup = await timed(() =>
    run(join(BIN, "pg_basebackup"), ["-d", uri, "-D", join(scratch, "backup"), "-c", "fast", "-X", "stream"]),
  );
  report("pg_basebackup", perSecond(backup.seconds));
  const tenants = join(ours.directory, ".neon/pageserver/tenants");
  const copy = await timed(async () => {
    await run("cp", ["-r", tenants, join(scratch, "copy")]);
    await run("sync", ["-f", scratch]);
  });
  report(
    "cp -r of the pageserver's files, sync",
    `${perSecond(copy.seconds)}, ${((await sizeBytes(tenants)) / MIB).toFixed(0)} MB`,
  );

  // The base backup has begun another segment of WAL: that is not part of the change.
  await ours.ok("push", "main", "there");
  await ours.value(
    uri,
    "update pgbench_accounts set abalance = abalance + 1 where (ctid::text::point)[0]::int % 100 = 0 and (ctid::text::point)[1] = 1",
  );
  const change = await timed(() => transfer(ours, "push", "main", "there"));
  const { from_lsn: from, to_lsn: to, bytes_sent: sent } = change.result;
  assert(from !== null);
  const wal = lsnBytes(to) - lsnBytes(from);
  report(
    "push of a change of 1 % of the pages",
    `${change.seconds.toFixed(2)} s, ${(wal / MIB).toFixed(2)} MB of WAL, ${(sent / MIB).toFixed(2)} MB on the wire, ratio ${(sent / wal).toFixed(2)}`,
  );
  // A running Postgres writes a little WAL by itself.
  await ours.ok("pg", "stop", "main");
  await ours.ok("push", "main", "there");
  const again = await timed(() => transfer(ours, "push", "main", "there"));
  assert.equal(again.result.result, "unchanged");
  report(
    "neon push, unchanged",
    `${again.seconds.toFixed(2)} s, ${again.result.bytes_sent + again.result.bytes_received} bytes`,
  );
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
