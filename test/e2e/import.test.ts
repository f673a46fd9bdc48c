/**
 * What other servers have, taken in over libpq: an online base backup by stock pg_basebackup with the WAL that makes it
 * whole, and WAL that was kept. Compared with what stock recovery makes of the same, and with the server itself.
 */
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { promisify } from "node:util";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { extractDataDirectory } from "../../src/compute/data-directory.ts";
import { type LibpqClient, connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { digest } from "../pageserver/stock-recovery.ts";
import { TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { Workload, prepareWorkload } from "../support/workload.ts";
import { Lab, until } from "./support.ts";

const DEBIAN_15 = "/usr/lib/postgresql/15/bin";
const run = promisify(execFile);
const TENANT = "0123456789abcdef0123456789abcdef";
const EMPTY_TENANT = "1123456789abcdef0123456789abcdef";
const TIMELINE = "fedcba9876543210fedcba9876543210";

async function branchesOf(client: LibpqClient, tenant = TENANT): Promise<unknown[]> {
  const { rows } = await client.query(`branch_list ${tenant}`);
  return JSON.parse(rows[0]?.[0] ?? "null") as unknown[];
}

/** A server on the files of a timeline, as stock Postgres sees them. */
async function onTimeline(client: LibpqClient): Promise<TestPostgres> {
  const server = await TestPostgres.create({ empty: true, binDir: DEBIAN_15 });
  rmSync(server.dataDir, { recursive: true });
  await extractDataDirectory(
    Readable.from(client.copyOut(`fullbackup ${TENANT} ${TIMELINE}`)),
    server.dataDir,
  );
  await startOn(server, {});
  return server;
}

async function startOn(server: TestPostgres, settings: Record<string, string>): Promise<void> {
  server.configure({ fsync: "off", autovacuum: "off", max_prepared_transactions: 10, ...settings });
  writeFileSync(join(server.dataDir, "pg_hba.conf"), "local all all trust\n");
  server.ownDataDir();
  await server.start();
}

async function refused(running: Promise<unknown>, code: ErrorCode, pattern: RegExp): Promise<void> {
  await assert.rejects(running, (error) => {
    assert.ok(error instanceof NeonError, String(error));
    assert.match(error.message, pattern);
    assert.equal(error.code, code);
    return true;
  });
}

if (existsSync(join(DEBIAN_15, "pg_basebackup"))) {
  test("a running server is taken in, and its WAL after it", { timeout: 300_000 }, async (t) => {
    const random = SeededRandom.forTest(t);
    await using lab = await Lab.init();
    const address = await lab.ok("config", "get", "pageserver.listen_libpq");
    const token = await lab.ok("config", "get", "pageserver.auth_token");
    await using client = await connectLibpq(
      parseLibpqUri(`postgresql://neon:${token}@${address}?sslmode=disable`),
    );
    await using server = await TestPostgres.create({
      binDir: DEBIAN_15,
      initdb: ["--wal-segsize=1"],
      settings: { fsync: "off", wal_keep_size: "1GB", max_prepared_transactions: 10, full_page_writes: "on" },
    });
    await prepareWorkload(server);
    const workload = new Workload(server, { seed: random.u32(), clients: 3 });
    const backup = join(lab.directory, "backup");
    const connection = ["-h", server.socketDir, "-p", String(server.port), "-U", "postgres"];
    // Slowly enough for much to change meanwhile.
    await run(join(DEBIAN_15, "pg_basebackup"), [
      ...connection,
      "-D",
      backup,
      "-F",
      "t",
      "-X",
      "fetch",
      "-c",
      "fast",
      "-r",
      "16M",
    ]);
    await workload.stop();
    await server.query("create table after_backup as select 1 as i");
    const manifest = JSON.parse(readFileSync(join(backup, "backup_manifest"), "utf8")) as {
      "WAL-Ranges": { "Start-LSN": string; "End-LSN": string }[];
    };
    const range = manifest["WAL-Ranges"][0];
    assert.ok(range);
    const [baseLsn, endLsn] = [range["Start-LSN"], range["End-LSN"]];
    const tar = readFileSync(join(backup, "base.tar"));
    await client.query(`tenant_create ${TENANT} 15`);
    const into = (bytes: Uint8Array, end = endLsn): Promise<void> =>
      client.copyIn(`import basebackup ${TENANT} ${TIMELINE} ${baseLsn} ${end} 15`, [bytes]);

    await t.test("what is not whole leaves nothing behind", async () => {
      await refused(into(new Uint8Array(0)), ErrorCode.Usage, /is empty/);
      await refused(into(tar.subarray(0, 1 << 20)), ErrorCode.Usage, /ends in the middle/);
      await refused(into(Buffer.concat([tar, Buffer.from("more")])), ErrorCode.Usage, /behind the end/);
      await refused(into(tar, baseLsn), ErrorCode.Usage, /consistent from .* on/);
      await refused(into(tar, "7F/0"), ErrorCode.Usage, /no WAL at/);
      const parts = join(lab.directory, "parts");
      mkdirSync(parts);
      execFileSync("tar", ["-xf", join(backup, "base.tar"), "-C", parts]);
      const packed = (...excluded: string[]): Buffer =>
        execFileSync(
          "tar",
          [
            "-cf",
            "-",
            ...excluded.map((each) => `--exclude=${each}`),
            "backup_label",
            "--exclude=./backup_label",
            ".",
          ],
          {
            cwd: parts,
            maxBuffer: 2 ** 30,
          },
        );
      await refused(into(packed("./pg_wal/*")), ErrorCode.Usage, /no WAL in its archive/);
      const last =
        readdirSync(join(parts, "pg_wal"))
          .filter((name) => /^[0-9A-F]{24}$/.test(name))
          .sort()
          .at(-1) ?? "";
      await refused(into(packed(`./pg_wal/${last}`)), ErrorCode.Usage, /before the end of the base backup/);
      await refused(into(packed("./global/pg_control")), ErrorCode.Usage, /no global\/pg_control/);
      assert.deepEqual(await branchesOf(client), []);
    });

    await t.test("the backup is what stock recovery makes of it", async () => {
      await into(tar);
      assert.equal((await branchesOf(client)).length, 1);
      await using ours = await onTimeline(client);
      await using theirs = await TestPostgres.create({ empty: true, binDir: DEBIAN_15 });
      execFileSync("tar", ["-xf", join(backup, "base.tar"), "-C", theirs.dataDir]);
      writeFileSync(join(theirs.dataDir, "recovery.signal"), "");
      await startOn(theirs, {
        restore_command: "false",
        recovery_target_lsn: endLsn,
        recovery_target_inclusive: "off",
        recovery_target_action: "promote",
      });
      await until(
        "recovery to be over",
        async () => (await theirs.value("select pg_is_in_recovery()")) === "false",
      );
      assert.deepEqual(await digest(ours), await digest(theirs));
      await ours.query("create extension if not exists amcheck");
      const checked = await ours.value(
        "select count(bt_index_check(c.oid, true)) from pg_class c join pg_am a on a.oid = relam where amname = 'btree' and relkind = 'i' and relpersistence = 'p'",
      );
      assert.ok(Number(checked) > 100, checked);
      // What was copied before the end of the backup is no moment that ever was.
      await refused(
        client.query(`branch_create ${TENANT} early ${TIMELINE}@${baseLsn}`),
        ErrorCode.NotFound,
        /below the GC cutoff|before/,
      );
    });

    await t.test("WAL that does not fit is refused, all of it", async () => {
      const wal = join(server.dataDir, "pg_wal");
      const names = readdirSync(wal)
        .filter((name) => /^[0-9A-F]{24}$/.test(name))
        .sort();
      const end = await server.value("select pg_current_wal_flush_lsn()::text");
      const archive = (...which: string[]): Buffer =>
        execFileSync("tar", ["-cf", "-", "-C", wal, ...which], { maxBuffer: 2 ** 30 });
      const take = (bytes: Uint8Array, from = endLsn, to = end): Promise<void> =>
        client.copyIn(`import wal ${TENANT} ${TIMELINE} ${from} ${to}`, [bytes]);
      await refused(
        take(archive(...names), baseLsn),
        ErrorCode.Conflict,
        /ends at .*so that is where the WAL must begin/,
      );
      await refused(take(new Uint8Array(0)), ErrorCode.Usage, /is empty/);
      await refused(
        take(archive(...names), endLsn, "7F/0"),
        ErrorCode.Usage,
        /does not continue behind|no WAL at/,
      );
      const middle = (BigInt(`0x${end.split("/")[1] ?? ""}`) - 8n).toString(16);
      await refused(
        take(archive(...names), endLsn, `0/${middle}`),
        ErrorCode.Usage,
        /not the end of a record/,
      );
      await refused(take(archive("archive_status", "../PG_VERSION")), ErrorCode.Usage, /no WAL segment/);
      const torn = archive(...names);
      const at = torn.indexOf("after_backup");
      torn[at] = (torn[at] ?? 0) ^ 1;
      await refused(take(torn), ErrorCode.Usage, /does not continue behind/);
      await using stranger = await TestPostgres.create({
        binDir: DEBIAN_15,
        initdb: ["--wal-segsize=1"],
        start: false,
      });
      const foreign = execFileSync("tar", ["-cf", "-", "-C", join(stranger.dataDir, "pg_wal"), "."], {
        maxBuffer: 2 ** 30,
      });
      await refused(take(foreign), ErrorCode.Conflict, /of another cluster/);
      await refused(
        client.copyIn(`import wal ${EMPTY_TENANT} ${TIMELINE} ${endLsn} ${end}`, [torn]),
        ErrorCode.NotFound,
        /tenant/,
      );
      // Nothing of it has been taken.
      await take(archive(...names));
      await using ours = await onTimeline(client);
      // Postgres logs sequences some values ahead: after a recovery they go on from there.
      const [found, expected] = [await digest(ours), await digest(server)];
      for (const name of Object.keys(found))
        if (/_seq$|^ticket$/.test(name)) expected[name] = found[name] ?? "";
      assert.deepEqual(found, expected);
      assert.equal(await ours.value("select count(*) from after_backup"), "1");
    });
  });
}
