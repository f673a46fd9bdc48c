import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { parseWriterEpoch } from "../../src/base/ids.ts";
import { type Lsn, lsnAdd, lsnAlignDown, lsnMin } from "../../src/base/lsn.ts";
import { parseControlFile } from "../../src/postgres/control-file.ts";
import { segmentName } from "../../src/postgres/wal/layout.ts";
import { TestPostgres } from "../support/postgres.ts";
import { EPOCH, Harness, SEGMENT_SIZE, until } from "./harness.ts";

const SETTINGS = {
  "neon.writer_epoch": EPOCH,
  synchronous_standby_names: "pageserver",
  full_page_writes: false,
  wal_sender_timeout: "20s",
};

let server: TestPostgres;
before(async () => {
  server = await TestPostgres.create({ settings: SETTINGS });
  await server.query("set synchronous_commit = local; create table t (i int, filler text)");
});
after(async () => {
  await server[Symbol.asyncDispose]();
});

/** The server's own WAL files must have the same bytes as the log. */
async function assertSameAsServer(harness: Harness): Promise<void> {
  const { log } = harness;
  let compared = 0;
  for (let at = harness.startLsn; at < log.durableLsn;) {
    const start = lsnAlignDown(at, SEGMENT_SIZE);
    const end = lsnMin(lsnAdd(start, SEGMENT_SIZE), log.durableLsn);
    const file = join(server.dataDir, "pg_wal", segmentName(1, start, SEGMENT_SIZE));
    if (existsSync(file)) {
      const expected = readFileSync(file).subarray(at - start, end - start);
      assert.equal(Buffer.compare(await log.read(at, end), expected), 0, `segment ${file}`);
      compared += end - at;
    }
    at = end;
  }
  assert.ok(compared > 0);
}

function noWalsender(): Promise<void> {
  const count = "select count(*)::int from pg_stat_replication";
  return until("the walsender is gone", async () => (await server.value(count)) === "0");
}

const hasCode =
  (code: ErrorCode) =>
  (error: unknown): boolean =>
    error instanceof NeonError && error.code === code;

void test("streams into the log through a slot, as the synchronous standby", async () => {
  await using harness = await Harness.create(server);
  await harness.streaming();
  const client = await server.connect();
  try {
    await client.query("insert into t select i, repeat('x', 500) from generate_series(1, 5000) i");
    assert.equal(await server.value("select sync_state from pg_stat_replication"), "sync");
    assert.equal(await server.value("select application_name from pg_stat_replication"), "pageserver");
    const slots = await server.query("select slot_type, active, restart_lsn::text from pg_replication_slots");
    assert.deepEqual([slots.length, slots[0]?.["slot_type"], slots[0]?.["active"]], [1, "physical", true]);
    assert.notEqual(slots[0]?.["restart_lsn"], null);
    const end = await harness.caughtUp();
    assert.ok((harness.receiver.state.remoteFlushLsn ?? 0) >= end);
    await assertSameAsServer(harness);
  } finally {
    await client.end();
  }
  await harness.receiver[Symbol.asyncDispose]();
  await harness.receiver[Symbol.asyncDispose]();
  assert.equal(harness.receiver.state.kind, "stopped");
  const end = harness.log.endLsn;
  await harness.reopen();
  assert.equal(harness.log.endLsn, end, "real WAL ends where the log did");
});

void test("a commit returns only after its WAL is durable", async () => {
  await using harness = await Harness.create(server);
  await harness.streaming();
  const client = await server.connect();
  try {
    for (let i = 0; i < 20; i++) {
      const gate = Promise.withResolvers<void>();
      harness.sink.syncGate = gate.promise;
      let returned = false;
      const commit = client.query("insert into t values (1)").then(() => {
        returned = true;
        return undefined;
      });
      const waiting = "select count(*)::int from pg_stat_activity where wait_event = 'SyncRep'";
      await until("the commit waits for us", async () => (await server.value(waiting)) === "1");
      const insert = await server.lsn("select pg_current_wal_insert_lsn()");
      assert.equal(returned, false);
      harness.sink.syncGate = undefined;
      gate.resolve();
      await commit;
      assert.ok(harness.log.durableLsn >= insert);
    }
  } finally {
    await client.end();
  }
});

void test("goes on after its connection is killed, again and again", async () => {
  await using harness = await Harness.create(server);
  await harness.streaming();
  const kill = "select count(pg_terminate_backend(pid))::int from pg_stat_replication";
  for (let i = 0; i < 5; i++) {
    await server.query("insert into t select i, repeat('y', 300) from generate_series(1, 20000) i");
    await server.query(kill);
    await until("noticed", () => harness.messages.some((message) => message.startsWith("receive WAL")));
    harness.messages.length = 0;
    await harness.streaming();
  }
  await harness.caughtUp();
  await assertSameAsServer(harness);
  assert.equal(harness.receiver.state.error, undefined);
});

void test("asks by SQL for the slot where the replication commands cannot tell", async () => {
  await using harness = await Harness.create(server);
  const logged = server.log().length;
  for (const attempt of [1, 2]) {
    await using receiver = harness.newReceiver({ canReadSlot: false, slotName: "asked_by_sql" });
    await harness.streaming(receiver);
    const slots = await server.value(
      "select count(*)::int from pg_replication_slots where slot_name = 'asked_by_sql'",
    );
    assert.equal(slots, "1", `attempt ${attempt}`);
  }
  assert.doesNotMatch(server.log().slice(logged), /ERROR/);
  const free = "select active_pid is null as free from pg_replication_slots where slot_name = 'asked_by_sql'";
  await until("the slot is free", async () => (await server.value(free)) === "true");
  await server.query("select pg_drop_replication_slot('asked_by_sql')");
});

void test("goes on after the server was stopped, killed and started again", async () => {
  await using harness = await Harness.create(server);
  const { port } = server;
  await harness.streaming();
  for (const stop of ["fast", "immediate", "kill"] as const) {
    await server.query("insert into t select i, repeat('z', 300) from generate_series(1, 10000) i");
    await harness.caughtUp();
    if (stop === "kill") await server.kill();
    else await server.stop(stop);
    await until("waiting", () => harness.receiver.state.kind === "waiting");
    assert.ok(harness.receiver.state.error);
    await server.start();
    // A test server takes another port each time; the compute of the receiver keeps its own.
    const socket = `${server.socketDir}/.s.PGSQL.${port}`;
    rmSync(socket, { force: true });
    symlinkSync(`.s.PGSQL.${server.port}`, socket);
    await until("streaming", () => harness.receiver.state.kind === "streaming");
    await server.query("set synchronous_commit = local");
  }
  await harness.caughtUp();
  await assertSameAsServer(harness);
});

void test("a stop finds everything received, the shutdown checkpoint included, and is not held up", async () => {
  await using harness = await Harness.create(server);
  await harness.streaming();
  await server.query("insert into t select i, repeat('s', 300) from generate_series(1, 10000) i");
  const started = performance.now();
  await server.stop("fast");
  const tookMs = performance.now() - started;
  assert.ok(tookMs < 5000, `the stop took ${tookMs} ms`);
  const control = parseControlFile(readFileSync(join(server.dataDir, "global", "pg_control")));
  assert.equal(harness.log.durableLsn, lsnAdd(control.checkpointLsn, 120));
  await assertSameAsServer(harness);
  await harness.receiver[Symbol.asyncDispose]();
  await harness.reopen();
  assert.equal(harness.log.endLsn, lsnAdd(control.checkpointLsn, 120));
  await server.start();
  await server.query("set synchronous_commit = local");
});

void test("refuses what is not its compute, says why, and takes the right one afterwards", async () => {
  await using harness = await Harness.create(server);
  const other = parseWriterEpoch("ffffffffffffffffffffffffffffffff");
  const wrong = [
    { changes: { epoch: other }, reason: /writes in epoch 00112233445566778899aabbccddeeff/ },
    { changes: { systemId: harness.systemId + 1n }, reason: /belongs to system/ },
    { changes: { timelineNumber: 2 }, reason: /on timeline 1, not 2/ },
  ];
  for (const { changes, reason } of wrong) {
    await using receiver = harness.newReceiver(changes);
    receiver.start();
    await until("refused", () => receiver.state.error !== undefined);
    assert.match(receiver.state.error ?? "", reason);
    assert.notEqual(receiver.state.kind, "streaming");
  }
  assert.equal(harness.sink.accepted, 0);
  await using plain = await TestPostgres.create({ settings: {} });
  const systemId = BigInt(await plain.value("select system_identifier::text from pg_control_system()"));
  const source = { socketDirectory: plain.socketDir, port: plain.port, user: "postgres" };
  await using receiver = harness.newReceiver({ source, systemId });
  receiver.start();
  await until("refused", () => receiver.state.error !== undefined);
  assert.match(receiver.state.error ?? "", /has no neon\.writer_epoch/);
  assert.equal(await plain.value("select count(*)::int from pg_replication_slots"), "0");
  await harness.streaming();
});

void test("refuses a compute whose WAL ends before what is here", async () => {
  await using harness = await Harness.create(server);
  await harness.log.append(harness.startLsn, new Uint8Array(2 ** 22));
  await harness.log.sync();
  harness.receiver.start();
  await until("refused", () => harness.receiver.state.error !== undefined);
  assert.match(harness.receiver.state.error ?? "", /WAL ends at .*, before/);
});

void test("reads nothing while the sink is busy, and loses nothing", async () => {
  await using harness = await Harness.create(server);
  await harness.streaming();
  await harness.caughtUp();
  const gate = Promise.withResolvers<void>();
  harness.sink.gate = gate.promise;
  const before = harness.sink.accepted;
  await server.query("insert into t select i, repeat('b', 900) from generate_series(1, 30000) i");
  const sent = async (): Promise<string> => server.value("select sent_lsn::text from pg_stat_replication");
  let last = "";
  await until("the walsender is stuck", async () => {
    const now = await sent();
    const stuck = now === last;
    last = now;
    await new Promise((resolve) => setTimeout(resolve, 200));
    return stuck;
  });
  assert.equal(harness.sink.accepted, before + 1);
  assert.equal(harness.receiver.state.kind, "streaming");
  harness.sink.gate = undefined;
  gate.resolve();
  await harness.caughtUp();
  await assertSameAsServer(harness);
});

void test("an error of the sink stops it for good", async () => {
  for (const asynchronous of [false, true]) {
    await using harness = await Harness.create(server);
    await harness.streaming();
    await harness.caughtUp();
    const { accepted } = harness.sink;
    const failure = new NeonError(ErrorCode.Unsupported, "no such record");
    const gate = Promise.withResolvers<void>();
    if (asynchronous) harness.sink.gate = gate.promise;
    else harness.sink.failure = failure;
    await server.query("insert into t values (1)");
    if (asynchronous) {
      await until("busy", () => harness.sink.accepted > accepted);
      gate.reject(failure);
    }
    await until("stopped", () => harness.receiver.state.kind === "stopped");
    assert.equal(harness.receiver.state.error, "no such record");
    await noWalsender();
  }
});

void test("is closed at any moment", async () => {
  await using harness = await Harness.create(server);
  for (let delay = 0; delay < 12; delay++) {
    const receiver = harness.newReceiver();
    receiver.start();
    await new Promise((resolve) => setTimeout(resolve, delay));
    await receiver[Symbol.asyncDispose]();
    assert.equal(receiver.state.kind, "stopped");
  }
  const never = harness.newReceiver();
  await never[Symbol.asyncDispose]();
  assert.equal(never.state.kind, "stopped");
  await noWalsender();
});

void test("logs in over TCP with SCRAM, MD5 and clear-text passwords", async () => {
  const hba = join(server.dataDir, "pg_hba.conf");
  const trust = readFileSync(hba, "utf8");
  const odd = "p\u00e4ss \u00a0'x";
  await server.query(`
    create role with_scram superuser login replication;
    create role with_md5 superuser login replication;
    set password_encryption = 'scram-sha-256'; alter role with_scram password '${odd.replaceAll("'", "''")}';
    set password_encryption = 'md5'; alter role with_md5 password 'secret'`);
  const rules = ["scram-sha-256 with_scram", "md5 with_md5"].flatMap((rule) => {
    const [method, role] = rule.split(" ");
    return ["all", "replication"].map((database) => `host ${database} ${role} 127.0.0.1/32 ${method}`);
  });
  try {
    for (const [role, password] of [
      ["with_scram", odd],
      ["with_md5", "secret"],
    ] as const) {
      for (const method of [rules, rules.map((rule) => rule.replace(/\S+$/, "password"))]) {
        writeFileSync(hba, `${method.join("\n")}\nlocal all all trust\nlocal replication all trust\n`);
        await server.query("select pg_reload_conf()");
        await until("the rules count", async () => {
          const rows = await server.query(
            "select count(*)::int as n from pg_hba_file_rules where database = '{replication}'",
          );
          return rows[0]?.["n"] === 3;
        });
        await using harness = await Harness.create(server);
        const source = { host: "127.0.0.1", port: server.port, user: role };
        await using receiver = harness.newReceiver({ source: { ...source, password } });
        await harness.streaming(receiver);
        await using wrong = harness.newReceiver({ source: { ...source, password: "wrong" } });
        await assert.rejects(wrong.flushPosition(), /password authentication failed/);
        await using without = harness.newReceiver({ source });
        await assert.rejects(without.flushPosition(), hasCode(ErrorCode.Unreachable));
        await harness.caughtUp();
      }
    }
  } finally {
    writeFileSync(hba, trust);
    await server.query("select pg_reload_conf()");
  }
});

void test("the flush position covers every commit that returned, and is the end of a record", async () => {
  await using harness = await Harness.create(server);
  await harness.streaming();
  const ends = new Set<Lsn>();
  const client = await server.connect();
  try {
    await client.query("set synchronous_commit = off");
    for (let i = 0; i < 30; i++) {
      await client.query("insert into t select i, repeat('f', 100) from generate_series(1, $1) i", [
        1 + i * 7,
      ]);
      // An open transaction leaves a record half flushed at the end of a page.
      if (i % 3 === 2) await client.query("begin; insert into t select i from generate_series(1, 2000) i");
      const commit = await server.lsn("select pg_current_wal_insert_lsn()");
      const position = await harness.receiver.flushPosition();
      if (i % 3 === 2) await client.query("commit");
      // The insert position may lie behind the header of a page that nothing was put on yet.
      assert.ok(position >= commit - 40, `${position} does not cover ${commit}`);
      assert.ok(position <= (await server.lsn()));
      ends.add(position);
      await until("arrives", () => harness.log.durableLsn >= position);
    }
    assert.equal(
      await server.value("select pg_current_wal_insert_lsn() >= pg_current_wal_flush_lsn()"),
      "true",
    );
  } finally {
    await client.end();
  }
  await harness.receiver[Symbol.asyncDispose]();
  const known = await harness.recordEnds();
  for (const end of ends) assert.ok(known.has(end), `${end} is the end of a record`);
  const other = parseWriterEpoch("ffffffffffffffffffffffffffffffff");
  await using wrong = harness.newReceiver({ epoch: other });
  await assert.rejects(wrong.flushPosition(), hasCode(ErrorCode.Conflict));
  await using nowhere = harness.newReceiver({ source: { socketDirectory: "/nowhere", port: 1, user: "u" } });
  await assert.rejects(nowhere.flushPosition(), hasCode(ErrorCode.Unreachable));
});
