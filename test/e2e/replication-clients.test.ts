/**
 * Clients of replication as they are seen from the pageserver, and those of other majors: what pg_basebackup of 15 makes
 * of a branch of 14, and what clients of 16 and later send.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { extractDataDirectory } from "../../src/compute/data-directory.ts";
import { type Lsn, formatLsn, lsnAlignDown, parseLsn } from "../../src/base/lsn.ts";
import type { PgConnection } from "../../src/pgwire/client.ts";
import { decodeServerMessage } from "../../src/pgwire/backend.ts";
import { ServerError } from "../../src/pgwire/errors.ts";
import { encodeQuery } from "../../src/pgwire/frontend.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { decodeReplicationMessage } from "../../src/pgwire/replication.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { segmentName, segmentStart } from "../../src/postgres/wal/layout.ts";
import { TestPostgres } from "../support/postgres.ts";
import type { Json } from "./cli.ts";
import {
  DEBIAN_15,
  HAS_15,
  type Site,
  conninfo,
  run,
  site,
  stock,
  follow,
  oneRow,
} from "./replication-site.ts";
import { until } from "./support.ts";

/** What the pageserver says of those who receive a branch's WAL. */
async function followers({ lab }: Site, branch: string): Promise<Json[]> {
  const branches = (await lab.json("status"))["branches"] as Json[];
  return branches.find(({ name }) => name === branch)?.["followers"] as Json[];
}

/** Values of a metric of a branch, by the labels that tell clients apart. */
async function metric({ lab, token }: Site, name: string): Promise<Map<string, number>> {
  const address = await lab.ok("config", "get", "pageserver.listen");
  const answer = await fetch(`http://${address}/metrics`, { headers: { authorization: `Bearer ${token}` } });
  const values = new Map<string, number>();
  for (const line of (await answer.text()).split("\n")) {
    const match = /^(\w+)\{(.*)\} (\S+)$/.exec(line);
    if (match?.[1] !== name) continue;
    const labels = /branch="main"/.test(match[2] ?? "") ? (match[2] ?? "") : undefined;
    const label = (key: string): string => new RegExp(`\\b${key}="([^"]*)"`).exec(labels ?? "")?.[1] ?? "";
    if (labels !== undefined) values.set(`${label("application")}/${label("slot")}`, Number(match[3]));
  }
  return values;
}

if (HAS_15) {
  test("who receives a branch's WAL is seen", { timeout: 300_000 }, async () => {
    const here = await site(15);
    await using lab = here.lab;
    const uri = await lab.ok("pg", "url", "main");
    assert.deepEqual(await followers(here, "main"), []);
    const archive = join(lab.directory, "archive");
    mkdirSync(archive);
    const info = await conninfo(here, "main");
    await stock("pg_receivewal", "-d", info, "--create-slot", "--slot", "archive");
    const args = ["-d", info, "-D", archive, "--slot", "archive", "--synchronous", "--no-loop"];
    const receiver = spawn(join(DEBIAN_15, "pg_receivewal"), args, { stdio: "ignore" });
    const ended = once(receiver, "exit");
    try {
      await lab.execute(
        uri,
        "create table t (i int primary key, x text)",
        "insert into t select i, repeat('x', 300) from generate_series(1, 5000) i",
      );
      const lsn = parseLsn(String(await lab.value(uri, "select pg_current_wal_flush_lsn()::text")));
      assert.ok(lsn !== undefined);
      await until("pg_receivewal to have everything", async () => {
        const [follower] = await followers(here, "main");
        return (parseLsn(String(follower?.["flush_lsn"])) ?? 0) >= lsn;
      });
      const [follower, ...others] = await followers(here, "main");
      assert.deepEqual(others, []);
      assert.deepEqual(
        ["application_name", "user", "slot", "state"].map((field) => follower?.[field]),
        ["pg_receivewal", "neon", "archive", "streaming"],
      );
      const key = "pg_receivewal/archive";
      await until("nothing that it has not got", async () => {
        return (await metric(here, "neon_walsender_lag_bytes")).get(key) === 0;
      });
      assert.deepEqual([...(await metric(here, "neon_walsenders")).values()], [1]);
      const sent = (await metric(here, "neon_walsender_sent_lsn")).get(key) ?? 0;
      assert.ok(sent >= lsn, `${sent}`);
      assert.equal((await metric(here, "neon_walsender_flush_lsn")).get(key), sent);
      const bytes = [...(await metric(here, "neon_walsender_sent_bytes_total")).values()];
      assert.ok((bytes[0] ?? 0) > 5000 * 300, `${bytes.join()} bytes`);
      assert.match(await lab.ok("status"), /FOLLOWER +BRANCH.*\n.*pg_receivewal +main +archive +[0-9A-F]+\//);
    } finally {
      receiver.kill("SIGINT");
      await ended;
    }
    await until("nobody", async () => (await followers(here, "main")).length === 0);
    assert.deepEqual([...(await metric(here, "neon_walsenders")).values()], [0]);
    assert.deepEqual([...(await metric(here, "neon_walsender_lag_bytes")).keys()], []);
    // The slot stays, and keeps what comes.
    await lab.execute(uri, "insert into t select i, repeat('y', 300) from generate_series(5001, 9000) i");
    await until("WAL that the slot keeps", async () => {
      return ((await metric(here, "neon_replication_slot_kept_bytes")).get("/archive") ?? 0) > 4000 * 300;
    });
  });

  test("pg_basebackup of 15 takes a branch of Postgres 14", { timeout: 300_000 }, async () => {
    const here = await site(14);
    await using lab = here.lab;
    const uri = await lab.ok("pg", "url", "main");
    await lab.execute(
      uri,
      "create table t (i int primary key, x text)",
      "insert into t select i, repeat('x', 300) from generate_series(1, 3000) i",
      "checkpoint",
      "update t set x = 'y' where i % 3 = 0",
    );
    const info = await conninfo(here, "main");
    const count = "select count(*) || ' ' || md5(string_agg(x, ',' order by i)) from t";
    const expected = String(await lab.value(uri, count));
    for (const [name, ...args] of [
      ["plain", "-X", "stream"],
      ["tar", "-X", "fetch", "-F", "t", "-z", "--manifest-checksums=CRC32C"],
    ]) {
      const backup = join(lab.directory, name ?? "");
      await stock("pg_basebackup", "-d", info, "-D", backup, "--progress", ...args);
      await using server = await TestPostgres.create({ empty: true, binDir: here.binDir });
      if (name === "tar") {
        await run("tar", ["-xzf", join(backup, "base.tar.gz"), "-C", server.dataDir]);
        await run("cp", [join(backup, "backup_manifest"), server.dataDir]);
      } else {
        await run("cp", ["-r", `${backup}/.`, server.dataDir]);
      }
      // pg_waldump of 15 cannot read WAL of 14.
      assert.match(await stock("pg_verifybackup", "--no-parse-wal", server.dataDir), /successfully verified/);
      writeFileSync(join(server.dataDir, "pg_hba.conf"), "local all all trust\n");
      server.configure({ fsync: "off", max_wal_senders: 20 });
      server.ownDataDir();
      await server.start();
      assert.equal(await server.value(count), expected);
      await server.query("insert into t values (-1, 'its own')");
    }
  });
}

/** A statement and all frames of its answer. */
async function frames(
  connection: PgConnection,
  statement: string,
): Promise<{ type: string; body: Buffer }[]> {
  const found: { type: string; body: Buffer }[] = [];
  const done = Promise.withResolvers<void>();
  connection.send(encodeQuery(statement));
  const streaming = connection.streamTo(({ type, body }) => {
    const letter = String.fromCharCode(type);
    if (letter === "E") done.reject(new ServerError(decodeServerMessage(body)));
    found.push({ type: letter, body: Buffer.from(body) });
    if (letter === "Z") done.resolve();
  });
  await Promise.race([done.promise, streaming]).finally(() => {
    connection.destroy();
    streaming.catch(() => undefined);
  });
  return found;
}

for (const major of [16, 18]) {
  test(`what clients of ${major} send`, { timeout: 300_000 }, async () => {
    const here = await site(major);
    await using lab = here.lab;
    const uri = await lab.ok("pg", "url", "main");
    await lab.execute(
      uri,
      "create table t as select i, repeat('x', 300) x from generate_series(1, 3000) i",
      "checkpoint",
    );
    const connect = (): Promise<PgConnection> => follow(here, "pg_basebackup");
    // In the order in which pg_basebackup, pg_receivewal and a walreceiver send them.
    await using connection = await connect();
    const one = async (command: string) => (await connection.query(command))[0]?.rows[0];
    assert.deepEqual(await one("SELECT pg_catalog.set_config('search_path', '', false)"), [""]);
    assert.deepEqual(await one("SHOW wal_segment_size"), ["1MB"]);
    assert.deepEqual(await one("SHOW data_directory_mode"), ["0700"]);
    const [systemId, timeline, end] = (await one("IDENTIFY_SYSTEM")) ?? [];
    assert.match(systemId ?? "", /^\d{19,20}$/);
    assert.equal(timeline, "1");
    assert.deepEqual(
      await one('CREATE_REPLICATION_SLOT "pg_basebackup_77" TEMPORARY PHYSICAL ( RESERVE_WAL)'),
      ["pg_basebackup_77", "0/0", null, null],
    );
    assert.equal((await one('READ_REPLICATION_SLOT "pg_basebackup_77"'))?.[0], "physical");
    const refused = (command: string, message: RegExp) =>
      assert.rejects(connection.query(command), (error) => {
        assert.ok(error instanceof ServerError, String(error));
        assert.equal(error.sqlState, "0A000", error.message);
        assert.match(error.message, message);
        return true;
      });
    await refused("UPLOAD_MANIFEST", /incremental/);
    await refused("BASE_BACKUP ( LABEL 'x', INCREMENTAL, MANIFEST 'yes')", /incremental/);
    await refused("BASE_BACKUP ( LABEL 'x', COMPRESSION 'gzip', TARGET 'client')", /compression/);
    await refused('ALTER_REPLICATION_SLOT "pg_basebackup_77" ( FAILOVER)', /nothing to alter/);
    await refused('CREATE_REPLICATION_SLOT "l" LOGICAL "pgoutput" (SNAPSHOT \'nothing\')', /physical/);
    // The connection is as good as before.
    assert.equal((await one("IDENTIFY_SYSTEM"))?.[0], systemId);

    const answer = await frames(
      await connect(),
      "BASE_BACKUP ( LABEL 'pg_basebackup base backup', PROGRESS, CHECKPOINT 'fast', WAL, WAIT 0, MANIFEST 'yes', TARGET 'client')",
    );
    const tar: Buffer[] = [];
    const manifest: Buffer[] = [];
    let part: Buffer[] = tar;
    for (const { type, body } of answer) {
      if (type !== "d") continue;
      const kind = String.fromCharCode(body[0] ?? 0);
      if (kind === "m") part = manifest;
      else if (kind === "d") part.push(body.subarray(1));
    }
    const parsed = JSON.parse(Buffer.concat(manifest).toString()) as Json;
    // From 17 on a manifest names the cluster.
    assert.equal(parsed["PostgreSQL-Backup-Manifest-Version"], major >= 17 ? 2 : 1);
    assert.equal("System-Identifier" in parsed, major >= 17);
    if (major >= 17) assert.ok(Buffer.concat(manifest).includes(`"System-Identifier": ${systemId}`));
    await using server = await TestPostgres.create({ empty: true, binDir: here.binDir });
    await run("rm", ["-rf", server.dataDir]);
    await extractDataDirectory(Readable.from(tar), server.dataDir);
    assert.match(
      readFileSync(join(server.dataDir, "backup_label"), "utf8"),
      /LABEL: pg_basebackup base backup/,
    );
    writeFileSync(join(server.dataDir, "pg_hba.conf"), "local all all trust\n");
    server.configure({ fsync: "off", max_wal_senders: 20 });
    server.ownDataDir();
    await server.start();
    assert.equal(await server.value("select count(*)::text from t"), "3000");

    await using receiver = await connect();
    await receiver.beginCopyBoth(`START_REPLICATION ${end} TIMELINE 1`);
    receiver.destroy();
  });
}

test("a segment in which history begins by now", { timeout: 200_000 }, async () => {
  const here = await site(17);
  await using lab = here.lab;
  const uri = await lab.ok("pg", "url", "main");
  const { host, port } = await here.address();
  const timeline = String((await lab.branches()).get("main")?.["timeline_id"]);
  const one = (command: string): Promise<readonly (string | null)[]> => oneRow(here, command);
  const lsnOf = async (command: string, column: number): Promise<Lsn> => {
    const lsn = parseLsn((await one(command))[column] ?? "");
    assert.ok(lsn !== undefined, command);
    return lsn;
  };
  // A slot in the middle of a segment, and more WAL in the same.
  const message = (size: number): string => `select pg_logical_emit_message(true, 'm', repeat('x', ${size}))`;
  await lab.execute(uri, "select pg_switch_wal()", message(200_000));
  await one('CREATE_REPLICATION_SLOT "keep" PHYSICAL (RESERVE_WAL)');
  const slotLsn = await lsnOf('READ_REPLICATION_SLOT "keep"', 1);
  const first = segmentStart(slotLsn, SEGMENT);
  assert.ok(slotLsn - first > 100_000 && slotLsn - first < 500_000, formatLsn(slotLsn));
  await lab.execute(uri, message(200_000));
  await lab.ok("pg", "stop", "main");
  const end = await lsnOf("IDENTIFY_SYSTEM", 2);
  assert.ok(end < first + SEGMENT, `${formatLsn(end)} is in the next segment`);
  const name = segmentName(1, first, SEGMENT);
  const written = readFileSync(join(lab.computeDirectory("main"), "pgdata/pg_wal", name));
  const collect = async (): Promise<void> => {
    await using client = await connectLibpq(
      parseLibpqUri(`postgresql://neon:${here.token}@${host}:${port}?sslmode=disable`),
    );
    await client.query(`checkpoint ${here.tenant} ${timeline}`);
    await client.query(`do_gc ${here.tenant} ${timeline} 0`);
  };
  await collect();
  const kept = await receiveAll(
    await follow(here),
    `START_REPLICATION SLOT "keep" ${formatLsn(first)} TIMELINE 1`,
    end,
  );
  assert.deepEqual(kept.warnings, []);
  assert.ok(kept.bytes.equals(ofCompute(written, end - first)), "all of the segment is there");

  await until("the slot to be free", () =>
    one("DROP_REPLICATION_SLOT keep").then(
      () => true,
      () => false,
    ),
  );
  await collect();
  const rest = await receiveAll(await follow(here), `START_REPLICATION ${formatLsn(first)} TIMELINE 1`, end);
  assert.match(rest.warnings.join(), /^WAL before (\S+) has been removed: zeros .* 0{7}10{8}/);
  const floor = parseLsn(/before (\S+) has/.exec(rest.warnings.join())?.[1] ?? "");
  assert.ok(floor !== undefined && floor > slotLsn && floor <= end, rest.warnings.join());
  // Behind the heads of its first page and of the page of the floor everything up to there is void.
  const page = lsnAlignDown(floor, WAL_PAGE) - first;
  assert.ok(rest.bytes.subarray(40, page).every((byte) => byte === 0));
  assert.ok(rest.bytes.subarray(page + 24, floor - first).every((byte) => byte === 0));
  assert.ok(rest.bytes.subarray(floor - first).equals(written.subarray(floor - first, end - first)));
});

const SEGMENT = 1 << 20;
const WAL_PAGE = 8192;
/** A flag of WAL pages that says whether a backup was running. */
const BACKUP_REMOVABLE = 0x04;

/** The same without that flag. */
function ofCompute(segment: Buffer, size: number): Buffer {
  const bytes = Buffer.from(segment.subarray(0, size));
  for (let at = 0; at < size; at += WAL_PAGE) bytes[at + 2] = (bytes[at + 2] ?? 0) & ~BACKUP_REMOVABLE;
  return bytes;
}

/** The WAL that comes up to an LSN, without that flag, and what the user is warned of. */
async function receiveAll(
  connection: PgConnection,
  command: string,
  end: Lsn,
): Promise<{ bytes: Buffer; warnings: string[] }> {
  const parts: Uint8Array[] = [];
  const warnings: string[] = [];
  const enough = Promise.withResolvers<void>();
  connection.send(encodeQuery(command));
  let next = 0;
  const streaming = connection.streamTo(({ type, body }) => {
    const letter = String.fromCharCode(type);
    if (letter === "N") warnings.push(decodeServerMessage(body).message);
    if (letter === "E") enough.reject(new ServerError(decodeServerMessage(body)));
    if (letter !== "d") return;
    const message = decodeReplicationMessage(body);
    if (message.kind !== "wal") return;
    if (next !== 0) assert.equal(message.lsn, next);
    parts.push(message.bytes.slice());
    next = message.lsn + message.bytes.length;
    if (next >= end) enough.resolve();
  });
  await Promise.race([enough.promise, streaming]).finally(() => {
    connection.destroy();
    streaming.catch(() => undefined);
  });
  const all = Buffer.concat(parts);
  return { bytes: ofCompute(all, all.length), warnings };
}
