/**
 * Branches followed by stock clients of replication: a standby, pg_receivewal, pg_basebackup, while computes write, stop
 * and start, and the pageserver is started anew.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { extractDataDirectory } from "../../src/compute/data-directory.ts";
import { type Lsn, formatLsn, parseLsn } from "../../src/base/lsn.ts";
import type { PgConnection } from "../../src/pgwire/client.ts";
import { ServerError } from "../../src/pgwire/errors.ts";
import { decodeReplicationMessage } from "../../src/pgwire/replication.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { WalStream } from "../../src/postgres/wal/stream.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { TestPostgres } from "../support/postgres.ts";
import { HAS_15, type Site, follow, oneRow, conninfo, run, site, start, stock } from "./replication-site.ts";
import { until } from "./support.ts";

/** A flag of WAL pages that says whether a backup was running. */
const BACKUP_REMOVABLE = 0x04;
const WAL_PAGE = 8192;

/** A standby from the pageserver's backup, which follows a branch, or stays where it is. */
async function standby(
  here: Site,
  branch: string,
  settings: Record<string, string> = {},
): Promise<TestPostgres> {
  const { lab, token, tenant } = here;
  const { host, port } = await here.address();
  const timeline = String((await lab.branches()).get(branch)?.["timeline_id"]);
  await using client = await connectLibpq(
    parseLibpqUri(`postgresql://neon:${token}@${host}:${port}?sslmode=disable`),
  );
  const server = await TestPostgres.create({ empty: true, binDir: here.binDir });
  rmSync(server.dataDir, { recursive: true });
  const tar = client.copyOut(`fullbackup ${tenant} ${timeline} latest --replica`);
  await extractDataDirectory(Readable.from(tar), server.dataDir);
  await startStandby(here, server, branch, settings);
  return server;
}

async function startStandby(
  here: Site,
  server: TestPostgres,
  branch: string,
  settings: Record<string, string> = {},
): Promise<void> {
  server.configure({
    primary_conninfo: await conninfo(here, branch),
    hot_standby: "on",
    max_connections: "100",
    max_prepared_transactions: "100",
    max_wal_senders: "20",
    max_worker_processes: "20",
    wal_retrieve_retry_interval: "200ms",
    fsync: "off",
    shared_buffers: "16MB",
    ...settings,
  });
  writeFileSync(join(server.dataDir, "pg_hba.conf"), "local all all trust\n");
  server.ownDataDir();
  await server.start();
}

const digest = (table: string): string =>
  `select count(*) || ' ' || md5(string_agg(x::text, chr(10) order by i)) from ${table} x`;

/** Until the standby has replayed what the compute has flushed; then both must have the same. */
async function agree(here: Site, compute: string, server: TestPostgres, ...tables: string[]): Promise<void> {
  const uri = await here.lab.ok("pg", "url", compute);
  const lsn = String(await here.lab.value(uri, "select pg_current_wal_flush_lsn()::text"));
  await until(`the standby to reach ${lsn}`, async () => {
    if (!server.running) throw new Error(server.log().slice(-3000));
    return (await server.value(`select pg_last_wal_replay_lsn() >= '${lsn}'::pg_lsn`)) === "true";
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}\n${server.log().slice(-3000)}`);
  });
  for (const table of tables) {
    assert.equal(await server.value(digest(table)), String(await here.lab.value(uri, digest(table))), table);
  }
}

for (const major of [...(HAS_15 ? [15] : []), 17]) {
  test(`a stock standby follows a branch, Postgres ${major}`, { timeout: 300_000 }, async (t) => {
    const here = await site(major);
    await using lab = here.lab;
    const main = await lab.ok("pg", "url", "main");
    await lab.execute(
      main,
      "create table t (i int primary key, x text)",
      "insert into t select i, repeat('x', 100) from generate_series(1, 5000) i",
      "checkpoint",
      "update t set x = 'y' where i % 3 = 0",
    );
    await lab.ok("branch", "dev");
    t.diagnostic("before anybody writes to the branch");
    await using early = await standby(here, "dev");
    await lab.ok("pg", "create", "dev");
    const dev = await lab.ok("pg", "url", "dev");
    await lab.execute(dev, "insert into t select i, 'dev' from generate_series(5001, 6000) i", "vacuum t");
    await agree(here, "dev", early, "t");
    t.diagnostic("while somebody writes");
    await using late = await standby(here, "dev");
    await lab.execute(
      dev,
      "create table big as select i, repeat('z', 500) z from generate_series(1, 6000) i",
      "checkpoint",
      "select pg_switch_wal()",
      "delete from t where i % 7 = 0",
    );
    await agree(here, "dev", early, "t", "big");
    await agree(here, "dev", late, "t", "big");
    t.diagnostic("the standby is stopped, and the compute too, and the pageserver");
    await late.stop();
    await lab.ok("pg", "stop", "dev");
    await start(lab, "dev");
    await lab.execute(
      await lab.ok("pg", "url", "dev"),
      "insert into t select i, 'again' from generate_series(7001, 7500) i",
    );
    await agree(here, "dev", early, "t", "big");
    await lab.ok("stop");
    await lab.ok("start");
    await start(lab, "dev");
    await lab.execute(await lab.ok("pg", "url", "dev"), "update t set x = 'last' where i % 5 = 0");
    await startStandby(here, late, "dev");
    await agree(here, "dev", late, "t", "big");
    await agree(here, "dev", early, "t", "big");
  });
}

/** The WAL that a connection is sent, until there is some up to an LSN; every record is checked. */
async function receive(connection: PgConnection, from: Lsn, to: Lsn, stream: WalStream): Promise<number> {
  let records = 0;
  const enough = Promise.withResolvers<void>();
  const streaming = connection.streamTo(({ type, body }) => {
    if (String.fromCharCode(type) !== "d") return;
    const message = decodeReplicationMessage(body);
    if (message.kind !== "wal") return;
    stream.feed(message.lsn, message.bytes.slice());
    while (stream.next()) records++;
    if (stream.position >= to) enough.resolve();
  });
  assert.ok(from < to);
  await Promise.race([enough.promise, streaming]);
  connection.destroy();
  await streaming.catch(() => undefined);
  return records;
}

test("a slot keeps garbage collection from the WAL of its client", { timeout: 200_000 }, async () => {
  const here = await site(17);
  await using lab = here.lab;
  const uri = await lab.ok("pg", "url", "main");
  const { host, port } = await here.address();
  const timeline = String((await lab.branches()).get("main")?.["timeline_id"]);
  const connect = (): Promise<PgConnection> => follow(here);
  const one = (command: string): Promise<readonly (string | null)[]> => oneRow(here, command);
  const refused = async (command: string, sqlState: string): Promise<void> => {
    await using connection = await connect();
    await assert.rejects(connection.beginCopyBoth(command), (error) => {
      assert.ok(error instanceof ServerError, String(error));
      assert.equal(error.sqlState, sqlState, error.message);
      return true;
    });
  };
  assert.deepEqual(await one("READ_REPLICATION_SLOT keep"), [null, null, null]);
  assert.equal((await one('CREATE_REPLICATION_SLOT "keep" PHYSICAL (RESERVE_WAL)'))[0], "keep");
  await assert.rejects(one('CREATE_REPLICATION_SLOT "keep" PHYSICAL'), /already exists/);
  await assert.rejects(one('CREATE_REPLICATION_SLOT "Keep!" PHYSICAL'), /not valid/);
  await assert.rejects(
    one('CREATE_REPLICATION_SLOT "l" LOGICAL pgoutput'),
    /physical replication slots only/,
  );
  const [kind, restart] = await one("READ_REPLICATION_SLOT keep");
  assert.equal(kind, "physical");
  const from = parseLsn(restart ?? "");
  assert.ok(from !== undefined);
  await lab.execute(
    uri,
    "create table t as select i, repeat('x', 500) x from generate_series(1, 8000) i",
    "checkpoint",
    "update t set x = 'y'",
  );
  await lab.ok("pg", "stop", "main");
  await using client = await connectLibpq(
    parseLibpqUri(`postgresql://neon:${here.token}@${host}:${port}?sslmode=disable`),
  );
  const collect = async (): Promise<void> => void (await client.query(`do_gc ${here.tenant} ${timeline} 0`));
  await collect();
  const end = parseLsn((await one("IDENTIFY_SYSTEM"))[2] ?? "");
  assert.ok(end !== undefined && end > from);
  const start = `${formatLsn(from)} TIMELINE 1`;
  {
    await using connection = await connect();
    await connection.beginCopyBoth(`START_REPLICATION SLOT "keep" ${start}`);
    await refused(`START_REPLICATION SLOT "keep" ${start}`, "55006");
    await assert.rejects(one("DROP_REPLICATION_SLOT keep"), /used by another connection/);
    const stream = new WalStream({ version: versionByMajor(17), segmentSize: 1 << 20, startLsn: from });
    const records = await receive(connection, from, end, stream);
    assert.ok(records > 16_000, `${records} records`);
    assert.equal(stream.position, end);
  }
  await refused(`START_REPLICATION SLOT "other" ${start}`, "42704");
  await refused(`START_REPLICATION 7F/0 TIMELINE 1`, "XX000");
  await refused(`START_REPLICATION ${formatLsn(from)} TIMELINE 2`, "XX000");
  await until("the slot to be free", () =>
    one("DROP_REPLICATION_SLOT keep").then(
      () => true,
      () => false,
    ),
  );
  await collect();
  await refused(`START_REPLICATION ${start}`, "58P01");
});

/** The segments of a directory that are whole, by name; of recycled ones the pages say where they were. */
function segments(directory: string): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const name of readdirSync(directory).filter((each) => /^[0-9A-F]{24}$/.test(each))) {
    const bytes = readFileSync(join(directory, name));
    const low = Number.parseInt(name.slice(16), 16) * bytes.length;
    if (bytes.readUInt32LE(8) !== low) continue;
    for (let at = 0; at < bytes.length; at += WAL_PAGE) {
      bytes[at + 2] = (bytes[at + 2] ?? 0) & ~BACKUP_REMOVABLE;
    }
    found.set(name, bytes);
  }
  return found;
}

/** Segments that are in both, from one on, must be the same; how many. */
function compareSegments(ours: Map<string, Buffer>, theirs: Map<string, Buffer>, firstName: string): number {
  let count = 0;
  for (const [name, bytes] of theirs) {
    const own = ours.get(name);
    if (own === undefined || name < firstName) continue;
    const page = Array.from({ length: bytes.length / WAL_PAGE }, (_, i) => i * WAL_PAGE).find(
      (at) => !own.subarray(at, at + WAL_PAGE).equals(bytes.subarray(at, at + WAL_PAGE)),
    );
    assert.equal(page, undefined, `${name} differs`);
    count++;
  }
  return count;
}

if (HAS_15) {
  test("pg_receivewal and pg_basebackup of a branch", { timeout: 300_000 }, async (t) => {
    const here = await site(15);
    await using lab = here.lab;
    const uri = await lab.ok("pg", "url", "main");
    await lab.execute(uri, "alter system set wal_keep_size = '1GB'", "select pg_reload_conf()");
    const info = await conninfo(here, "main");
    await stock("pg_receivewal", "-d", info, "--create-slot", "--slot", "archive");
    await lab.execute(uri, "create table t (i int primary key, x text)");

    await t.test("where there is no checkpoint yet, the compute makes one", async () => {
      const first = join(lab.directory, "first");
      await stock("pg_basebackup", "-d", info, "-D", first, "-X", "fetch");
      await stock("pg_verifybackup", first);
    });

    await lab.execute(
      uri,
      "insert into t select i, repeat('x', 300) from generate_series(1, 10000) i",
      "checkpoint",
      "select pg_switch_wal()",
      "update t set x = 'y' where i % 3 = 0",
      "select pg_logical_emit_message(false, 'nothing', repeat('x', 3000000))",
    );
    // pg_receivewal ends when it has got beyond.
    const end = String(await lab.value(uri, "select pg_current_wal_insert_lsn()::text"));
    await lab.execute(uri, "select pg_switch_wal()");
    const pgWal = join(lab.computeDirectory("main"), "pgdata/pg_wal");
    const archive = join(lab.directory, "archive");
    mkdirSync(archive);
    const receive = (...more: string[]): Promise<string> =>
      stock("pg_receivewal", "-d", info, "-D", archive, "--endpos", end, "--no-loop", ...more);

    await t.test("as it came", async () => {
      await receive("--slot", "archive");
      const received = segments(archive);
      assert.ok(received.size >= 5, `${received.size} segments`);
      assert.equal(
        compareSegments(received, segments(pgWal), [...received.keys()].sort()[1] ?? ""),
        received.size - 1,
      );
      const names = [...received.keys()].sort();
      const dump = await stock("pg_waldump", "-p", archive, names[0] ?? "", names.at(-1) ?? "");
      assert.match(dump, /INSERT off/);
      assert.match(dump, /SWITCH/);
    });

    await t.test("put together again from layers", async () => {
      const theirs = segments(pgWal);
      await lab.ok("pg", "stop", "main");
      rmSync(archive, { recursive: true });
      mkdirSync(archive);
      // The slot knows that it has them already; without one all would begin at the end.
      const first = [...theirs.keys()].sort()[0] ?? "";
      writeFileSync(join(archive, first), theirs.get(first) ?? "");
      await receive();
      const received = segments(archive);
      assert.ok(received.size >= 5, `${received.size} segments`);
      assert.equal(compareSegments(received, theirs, first), received.size);
    });

    await t.test("a base backup that verifies, starts, and follows", async () => {
      await start(lab, "main");
      await using server = await TestPostgres.create({ empty: true, binDir: here.binDir });
      rmSync(server.dataDir, { recursive: true });
      await stock("pg_basebackup", "-d", info, "-D", server.dataDir, "-X", "stream", "-R", "--progress");
      await stock("pg_verifybackup", server.dataDir);
      await startStandby(here, server, "main");
      await lab.execute(
        await lab.ok("pg", "url", "main"),
        "delete from t where i % 5 = 0",
        "create table u as select 1 i",
      );
      await agree(here, "main", server, "t", "u");
    });

    await t.test("a base backup on its own", async () => {
      await using server = await TestPostgres.create({ empty: true, binDir: here.binDir });
      const tar = join(lab.directory, "tar");
      await stock("pg_basebackup", "-d", info, "-D", tar, "-X", "fetch", "-F", "t", "-z", "--no-manifest");
      await run("tar", ["-xzf", join(tar, "base.tar.gz"), "-C", server.dataDir]);
      server.configure({ fsync: "off", max_wal_senders: 20 });
      writeFileSync(join(server.dataDir, "pg_hba.conf"), "local all all trust\n");
      server.ownDataDir();
      await server.start();
      const expected = String(await lab.value(await lab.ok("pg", "url", "main"), digest("t")));
      assert.equal(await server.value(digest("t")), expected);
      await server.query("insert into t values (-1, 'its own')");
    });
  });
}
