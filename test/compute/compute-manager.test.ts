/** Computes with a real Postgres: start, stop, crash, rebuild. The pageserver is a fake that really follows the WAL. */
import assert from "node:assert/strict";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { formatLsn } from "../../src/base/lsn.ts";
import { readComputeFile } from "../../src/compute/compute-file.ts";
import type { ComputeInfo } from "../../src/compute/compute-manager.ts";
import { readDirectoryState } from "../../src/compute/directory-setup.ts";
import { processesWorkingIn } from "../../src/compute/process-identity.ts";
import { Seed, Workshop, kill, query } from "./support.ts";

const WRITER = { branch: "main", commit: "remote", start: true } as const;

describe("compute manager", { timeout: 300_000 }, () => {
  let seed: Seed;
  before(async () => {
    seed = await Seed.create();
  });
  after(() => seed[Symbol.dispose]());

  it("starts a compute whose commits wait for the pageserver, and stops when it has everything", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    const first = await manager.create({ name: "main", ...WRITER });
    assert.equal(first.state, "running");
    assert.equal(first.mode, "read-write");
    assert.match(first.uri, new RegExp(`^postgresql://postgres@127\\.0\\.0\\.1:${first.port}/postgres$`));
    await query(first, "create table t as select generate_series(1, 1000) as i");
    const [sync] = await query(first, "select sync_state, application_name from pg_stat_replication");
    assert.deepEqual(sync, { sync_state: "sync", application_name: "pageserver" });
    const [position] = await query(first, "select pg_current_wal_flush_lsn()::text as lsn");
    assert.ok(typeof position?.["lsn"] === "string");

    const stopped = await manager.stop("main");
    assert.equal(stopped.state, "stopped");
    assert.equal(stopped.pid, null);
    const state = readDirectoryState(first.pgdata);
    assert.ok(state?.shutDown);
    assert.equal(formatLsn(pageserver.end), formatLsn(state.endLsn));
    assert.equal(pageserver.openWriterName, undefined);
    assert.deepEqual(recordOf(first)?.stop, { lsn: state.endLsn, ingested: true });
    assert.deepEqual(shop.cautions, []);
  });

  it("keeps the directory after a clean stop, and rebuilds it where it has gone, settings included", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    const first = await manager.create({ name: "main", ...WRITER });
    await query(first, "create table t as select 42 as i");
    await query(first, "alter system set work_mem = '5MB'");
    appendFileSync(join(dirname(first.pgdata), "neon-user.conf"), "maintenance_work_mem = '77MB'\n");
    await manager.stop("main");

    const kept = await manager.start("main");
    assert.equal(pageserver.backupsTaken.length, 1);
    assert.deepEqual(await query(kept, "select i from t"), [{ i: 42 }]);
    assert.deepEqual(await query(kept, "show work_mem"), [{ work_mem: "5MB" }]);
    assert.deepEqual(await query(kept, "show maintenance_work_mem"), [{ maintenance_work_mem: "77MB" }]);
    await manager.stop("main");

    const end = await pageserver.keepBackup(first.pgdata);
    rmSync(first.pgdata, { recursive: true });
    const rebuilt = await manager.start("main");
    assert.deepEqual(pageserver.backupsTaken.at(-1), { lsn: end, readOnly: false });
    assert.equal(rebuilt.lsn, end);
    assert.equal(rebuilt.port, first.port);
    assert.deepEqual(await query(rebuilt, "select i from t"), [{ i: 42 }]);
    assert.deepEqual(await query(rebuilt, "show work_mem"), [{ work_mem: "5MB" }]);
    assert.deepEqual(await query(rebuilt, "show maintenance_work_mem"), [{ maintenance_work_mem: "77MB" }]);
  });

  it("lets nobody turn off what commits depend on", async () => {
    await using shop = await Workshop.create(seed);
    const { manager } = shop;
    const first = await manager.create({ name: "main", ...WRITER });
    await query(first, "alter system set synchronous_standby_names = ''");
    await query(first, "alter system set port = 1");
    await manager.restart("main");
    const second = await manager.get("main");
    assert.deepEqual(await query(second, "show synchronous_standby_names"), [
      { synchronous_standby_names: "pageserver" },
    ]);
  });

  it("rebuilds a compute that was killed, and waits for its orphans first", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    const start = pageserver.end;
    const first = await manager.create({ name: "main", ...WRITER });
    assert.ok(first.pid);
    assert.ok(processesWorkingIn(first.pgdata).length > 3);
    kill(first.pid);
    while ((await manager.get("main")).state === "running") await new Promise(setImmediate);
    assert.equal((await manager.get("main")).state, "crashed");
    // The fake has no pages: it goes back to the moment of the only base backup that it has.
    pageserver.end = start;
    // Left by a start that was interrupted.
    mkdirSync(join(dirname(first.pgdata), "pgdata.new", "base"), { recursive: true });
    mkdirSync(join(dirname(first.pgdata), "pgdata.old"));
    // Two at once: one starts it, the other finds it running.
    const [again, same] = await Promise.all([manager.start("main"), manager.start("main")]);
    assert.equal(same.pid, again.pid);
    assert.deepEqual(
      readdirSync(dirname(first.pgdata)).filter((name) => name.startsWith("pgdata")),
      ["pgdata"],
    );
    assert.equal(pageserver.backupsTaken.length, 2);
    assert.deepEqual(await query(again, "select count(*)::int as n from pg_class where relname = 't'"), [
      { n: 0 },
    ]);
    assert.notEqual(again.pid, first.pid);
  });

  it("recovers in place under commit = local, and sends what the pageserver missed", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    const first = await manager.create({ name: "main", ...WRITER, commit: "local" });
    await pageserver.fail();
    await query(first, "create table t as select 7 as i");
    assert.ok(first.pid);
    for (const pid of processesWorkingIn(first.pgdata)) kill(pid);
    while ((await manager.get("main")).state === "running") await new Promise(setImmediate);
    // The pid that the lock files name has been given to somebody else: to us.
    const socket = join(dirname(first.pgdata), "socket", `.s.PGSQL.${first.port}`);
    for (const lock of [join(first.pgdata, "postmaster.pid"), `${socket}.lock`]) {
      writeFileSync(lock, readFileSync(lock, "utf8").replace(/^\d+/, String(process.pid)));
    }
    pageserver.away = false;
    const again = await manager.start("main");
    assert.equal(pageserver.backupsTaken.length, 1);
    assert.deepEqual(await query(again, "select i from t"), [{ i: 7 }]);
    await manager.stop("main");
    assert.equal(pageserver.end, readDirectoryState(first.pgdata)?.endLsn);
  });

  it("stops a local compute while the pageserver is away, and catches up later", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    const first = await manager.create({ name: "main", ...WRITER, commit: "local" });
    await pageserver.fail();
    await query(first, "create table t as select 8 as i");
    await manager.stop("main");
    assert.match(shop.cautions.join(), /lacks the last commits of main/);
    assert.equal(recordOf(first)?.stop?.ingested, false);
    await assertFails(manager.destroy("main"), ErrorCode.Conflict, /may hold commits/);
    pageserver.away = false;
    await manager.start("main");
    await manager.stop("main");
    assert.equal(pageserver.backupsTaken.length, 1);
    assert.equal(pageserver.end, readDirectoryState(first.pgdata)?.endLsn);
  });

  it("does not stop a remote compute without its pageserver, unless told to", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    await manager.create({ name: "main", ...WRITER });
    await pageserver.fail();
    const error = await assertFails(manager.stop("main"), ErrorCode.Unreachable, /pageserver/);
    assert.match(error.hint ?? "", /--immediate/);
    assert.equal((await manager.get("main")).state, "running");
    assert.equal((await manager.stop("main", { mode: "immediate" })).state, "stopped");
    assert.match(shop.cautions.join(), /still waits for main/);
  });

  it("shows a past moment read-only", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    const lsn = pageserver.end;
    await manager.create({ name: "main", ...WRITER });
    const past = await manager.create({ name: "past", ...WRITER, point: { lsn } });
    assert.equal(past.mode, "read-only");
    assert.equal(past.lsn, lsn);
    assert.deepEqual(pageserver.backupsTaken.at(-1), { lsn, readOnly: true });
    assert.deepEqual(await query(past, "select pg_is_in_recovery() as r"), [{ r: true }]);
    await assert.rejects(query(past, "create table t (i int)"), /read-only/);
    await manager.stop("past");
    const again = await manager.start("past");
    assert.equal(pageserver.backupsTaken.length, 2, "kept after a clean stop");
    assert.deepEqual(await query(again, "select pg_is_in_recovery() as r"), [{ r: true }]);
    assert.deepEqual(
      (await manager.list()).map((info) => [info.name, info.state]),
      [
        ["main", "running"],
        ["past", "running"],
      ],
    );
    assert.equal((await manager.stopAll()).length, 2);
  });

  it("lets one compute write to a branch at a time", async () => {
    await using shop = await Workshop.create(seed);
    const { manager } = shop;
    const first = await manager.create({ name: "main", ...WRITER });
    await assertFails(manager.create({ name: "main", ...WRITER }), ErrorCode.Exists, /already/);
    await assertFails(
      manager.create({ name: "second", ...WRITER }),
      ErrorCode.Conflict,
      /writes to it already/,
    );
    assert.equal((await manager.list()).length, 1);
    const second = await manager.create({ name: "second", ...WRITER, start: false });
    assert.equal(second.state, "stopped");
    assert.notEqual(second.port, first.port);
    await assertFails(manager.start("second"), ErrorCode.Conflict, /"main", which runs/);
  });

  it("rebuilds a compute whose branch went on without it", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    const first = await manager.create({ name: "first", ...WRITER });
    await manager.stop("first");
    await pageserver.keepBackup(first.pgdata);
    const second = await manager.create({ name: "second", ...WRITER });
    await query(second, "create table t as select 9 as i");
    await manager.stop("second");
    await pageserver.keepBackup(second.pgdata);
    const again = await manager.start("first");
    assert.deepEqual(await query(again, "select i from t"), [{ i: 9 }]);
    assert.equal(pageserver.backupsTaken.length, 3);
  });

  it("says what Postgres said when it does not start", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    const first = await manager.create({ name: "main", ...WRITER });
    await manager.stop("main");
    const userConf = join(dirname(first.pgdata), "neon-user.conf");
    writeFileSync(userConf, "shared_buffers = 'no idea'\n");
    const error = await assertFails(manager.start("main"), ErrorCode.Postgres, /shared_buffers/);
    assert.match(error.hint ?? "", /postgres\.log/);
    assert.equal((await manager.get("main")).state, "stopped");
    writeFileSync(userConf, "");
    await manager.start("main");
    assert.equal(pageserver.backupsTaken.length, 1, "the directory was not given up for it");
  });

  it("leaves nothing of a compute that could not be made, and removes one that could", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver, repository } = shop;
    const good = pageserver.end;
    pageserver.end = (good + 8) as typeof good;
    await assertFails(manager.create({ name: "main", ...WRITER }), ErrorCode.NotFound, /no base backup/);
    assert.equal(existsSync(repository.computeDirectory("main")), false);
    assert.equal(pageserver.openWriterName, undefined);
    pageserver.end = good;
    const made = await manager.create({ name: "feature/x", ...WRITER });
    await assertFails(manager.destroy("feature/x"), ErrorCode.Conflict, /is running/);
    await manager.destroy("feature/x", { force: true });
    assert.equal(existsSync(made.pgdata), false);
    assert.equal(pageserver.openWriterName, undefined);
    assert.deepEqual(await manager.list(), []);
    await assertFails(manager.get("feature/x"), ErrorCode.NotFound, /no compute/);
  });

  it("does not take over a pid that belongs to somebody else", async () => {
    await using shop = await Workshop.create(seed);
    const { manager } = shop;
    const first = await manager.create({ name: "main", ...WRITER });
    await manager.stop("main");
    const pidFile = join(first.pgdata, "postmaster.pid");
    writeFileSync(pidFile, `${process.pid}\n${first.pgdata}\n1\n1\n\n\n\nready\n`);
    assert.equal((await manager.get("main")).state, "stopped");
    await manager.stop("main");
    rmSync(pidFile);
    assert.equal(statSync(first.pgdata).mode & 0o777, 0o700);
    assert.equal(readFileSync(join(first.pgdata, "PG_VERSION"), "utf8"), "17\n");
  });
});

function recordOf(info: ComputeInfo): ReturnType<typeof readComputeFile> {
  return readComputeFile(join(dirname(info.pgdata), "compute.json"));
}

async function assertFails(promise: Promise<unknown>, code: ErrorCode, message: RegExp): Promise<NeonError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof NeonError, String(error));
    assert.match(error.message, message);
    assert.equal(error.code, code);
    return error;
  }
  throw new assert.AssertionError({ message: `should have failed with ${code}` });
}
