/** What a database can contain, after a rebuild of its compute and in a branch. */
import assert from "node:assert/strict";
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Json } from "./cli.ts";
import { Lab, isPending, killAndWait } from "./support.ts";
import { appendUnknownRecord } from "./unknown-record.ts";

test(
  "unlogged tables, sequences, prepared transactions, large objects, TOAST",
  { timeout: 300_000 },
  async () => {
    await using lab = await Lab.init();
    await lab.ok("pg", "create", "main", "--no-start");
    // Needed at once, so it is there before the first start.
    const conf = join(lab.computeDirectory("main"), "neon-user.conf");
    appendFileSync(conf, "max_prepared_transactions = 10\n");
    const uri = await lab.ok("pg", "start", "main");
    await lab.execute(
      uri,
      "create unlogged table u (v int primary key)",
      "insert into u select generate_series(1, 1000)",
      "create table t (v int primary key, big text)",
      "alter table t alter big set storage external",
      "insert into t values (1, repeat('0123456789', 300000)), (2, 'small')",
      "create table compressed (big text)",
      "insert into compressed select string_agg(md5(i::text), '') from generate_series(1, 30000) i",
      "create sequence s",
      "select nextval('s') from generate_series(1, 50)",
      "select lo_from_bytea(4711, decode(repeat('00ff', 500000), 'hex'))",
      "create materialized view m as select count(*) as n from t",
      "create database second",
      "comment on table t is 'a comment'",
    );
    const client = await lab.connect(uri);
    await client.query("begin");
    await client.query("insert into t values (3, 'prepared')");
    await client.query("select nextval('s')");
    await client.query("prepare transaction 'gid one'");
    await client.query("begin");
    await client.query("delete from t where v = 2");
    await client.query("prepare transaction 'gid two'");
    await client.end();
    const digest = await lab.value(
      uri,
      "select md5(string_agg(big, '')) from (select big from t union all select big from compressed) x",
    );

    const check = async (where: string, at: string): Promise<void> => {
      assert.equal(await lab.value(at, "select count(*)::int from u"), 0, `${where}: unlogged`);
      await lab.execute(at, "insert into u values (1)", "delete from u");
      assert.deepEqual(await lab.column(at, "select v from t order by v"), [1, 2], where);
      const sql =
        "select md5(string_agg(big, '')) from (select big from t union all select big from compressed) x";
      assert.equal(await lab.value(at, sql), digest, `${where}: TOAST`);
      assert.equal(
        await lab.value(at, "select md5(lo_get(4711)) = md5(decode(repeat('00ff', 500000), 'hex'))"),
        true,
      );
      assert.deepEqual(
        await lab.column(at, "select gid from pg_prepared_xacts order by gid"),
        ["gid one", "gid two"],
        where,
      );
      assert.equal(await lab.value(at, "select n::int from m"), 2);
      assert.equal(await lab.value(at.replace(/postgres$/, "second"), "select current_database()"), "second");
      assert.equal(await lab.value(at, "select obj_description('t'::regclass)"), "a comment");
      const next = Number(await lab.value(at, "select nextval('s')::int"));
      assert(next > 51, `${where}: a sequence never goes back, ${next}`);
      // What a prepared transaction has locked is locked.
      const blocked = await lab.connect(at);
      await blocked.query("set lock_timeout = '200ms'");
      await assert.rejects(blocked.query("delete from t where v = 2"), /lock timeout/, where);
      await blocked.end();
    };
    await killAndWait(await lab.computePid("main"));
    await lab.ok("pg", "start", "main");
    await check("rebuilt", uri);
    await lab.ok("branch", "dev");
    const dev = await lab.ok("pg", "create", "dev");
    await check("branch", dev);
    await lab.execute(dev, "commit prepared 'gid one'", "commit prepared 'gid two'");
    await lab.execute(uri, "rollback prepared 'gid one'", "rollback prepared 'gid two'");
    assert.deepEqual(await lab.column(dev, "select v from t order by v"), [1, 3]);
    assert.deepEqual(await lab.column(uri, "select v from t order by v"), [1, 2]);
    await lab.ok("pg", "restart", "dev");
    await lab.ok("pg", "stop", "main", "--immediate");
    await lab.ok("pg", "start", "main");
    assert.deepEqual(await lab.column(dev, "select v from t order by v"), [1, 3]);
    assert.deepEqual(await lab.column(uri, "select v from t order by v"), [1, 2]);
    assert.deepEqual(await lab.column(uri, "select gid from pg_prepared_xacts"), []);
  },
);

test("extensions that Postgres brings along", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  const extensions = [
    "amcheck",
    "bloom",
    "citext",
    "cube",
    "hstore",
    "intarray",
    "isn",
    "ltree",
    "pg_trgm",
    "pgcrypto",
  ];
  extensions.push(
    "pg_visibility",
    "pgstattuple",
    "tablefunc",
    "unaccent",
    "uuid-ossp",
    "pageinspect",
    "pg_walinspect",
  );
  await lab.execute(
    uri,
    ...extensions.map((name) => `create extension "${name}"`),
    "create table e (id uuid primary key default uuid_generate_v4(), h hstore, c citext unique, l ltree, n int)",
    "create index on e (l)",
    // An index in generic WAL records.
    "create index by_bloom on e using bloom (n)",
    "insert into e (h, c, l, n) select hstore('k', i::text), 'Name' || i, ('a.b' || i)::ltree, i from generate_series(1, 2000) i",
    "vacuum e",
  );
  const check = async (at: string): Promise<void> => {
    const sql = "select count(*)::int from e where h -> 'k' = '7' and c = 'nAME7' and l <@ 'a.b7' and n = 7";
    assert.equal(await lab.value(at, sql), 1);
    await lab.execute(
      at,
      "set enable_seqscan = off",
      "select bt_index_check(indexrelid, true) from pg_index where indrelid = 'e'::regclass and indexrelid <> 'by_bloom'::regclass",
    );
    const [row] = await lab.column(
      at,
      "select array_agg(extname::text order by extname) from pg_extension where extname <> 'plpgsql'",
    );
    assert.deepEqual(row, [...extensions].sort());
    const client = await lab.connect(at);
    await client.query("set enable_seqscan = off");
    const plan = await client.query<Json>("explain select n from e where n = 77");
    assert.match(JSON.stringify(plan.rows), /by_bloom/);
    assert.equal((await client.query("select n from e where n = 77")).rows.length, 1);
    const visible = await client.query("select * from pg_check_frozen('e') limit 1");
    assert.deepEqual(visible.rows, []);
    await client.end();
  };
  await check(uri);
  await killAndWait(await lab.computePid("main"));
  await lab.ok("pg", "start", "main");
  await check(uri);
  await lab.ok("branch", "dev");
  await check(await lab.ok("pg", "create", "dev"));
});

test(
  "what users set for a database or a role does not get in the pageserver's way",
  { timeout: 300_000 },
  async () => {
    await using lab = await Lab.init("main");
    const uri = await lab.ok("pg", "url", "main");
    const conf = join(lab.computeDirectory("main"), "neon-user.conf");
    appendFileSync(conf, "track_commit_timestamp = on\nwal_level = logical\nwal_compression = on\n");
    await lab.execute(uri, "create database keep", "create role other");
    const keep = uri.replace(/postgres$/, "keep");
    await lab.execute(
      keep,
      "drop database postgres with (force)",
      "create table t (v int)",
      "insert into t values (1)",
      "alter role postgres set search_path = nowhere",
      "alter role postgres set statement_timeout = '1ms'",
      "alter role postgres set default_transaction_read_only = on",
      "alter database template1 set role = 'other'",
    );
    await lab.ok("pg", "restart", "main");
    // Returns before it is flushed, so that the pageserver has to ask for that.
    const options =
      "statement_timeout=0 -c default_transaction_read_only=off -c search_path=public -c synchronous_commit=off";
    const free = `${keep}?options=${encodeURIComponent(`-c ${options}`)}`;
    for (let v = 2; v <= 4; v++) {
      await lab.execute(free, `insert into t values (${v})`);
      await lab.ok("branch", `at-${v}`);
    }
    assert.equal(await lab.value(free, "show track_commit_timestamp"), "on");
    for (let v = 2; v <= 4; v++) {
      const branch = await lab.ok("pg", "create", `at-${v}`);
      const { port } = new URL(branch);
      const at = new URL(free);
      at.port = port;
      assert.equal(await lab.value(at.href, "select max(v) from t"), v);
      assert.equal(await lab.value(at.href, "show track_commit_timestamp"), "on", "as on main");
      const timed = `select pg_xact_commit_timestamp(xmin) is not null as timed from t where v = ${v}`;
      assert.equal(await lab.value(at.href, timed), true);
    }
  },
);

test(
  "WAL that is not understood stops its branch only, and `neon status` says so",
  { timeout: 300_000 },
  async (t) => {
    await using lab = await Lab.init("main", "dev");
    const uri = await lab.ok("pg", "url", "main");
    const dev = await lab.ok("pg", "url", "dev");
    await lab.execute(uri, "create table t as select 1 as v");
    await lab.execute(dev, "create table t as select 2 as v");
    await appendUnknownRecord(lab, "main");
    await lab.ok("start");
    const client = await lab.connect(uri);
    const pending = client.query("insert into t values (4)");
    pending.catch(() => undefined);
    assert.ok(await isPending(pending, 1500), "COMMIT waits");
    const stopped = (await lab.branches()).get("main");
    assert.equal(stopped?.["state"], "stopped");
    assert.match(String(stopped["error"]), /^WAL record at 0\/\w+ cannot be ingested: .*not supported/);
    t.diagnostic(String(stopped["error"]));
    const status = await lab.run("status");
    assert.equal(status.code, 0);
    assert.match(status.stdout, /^main .* stopped$/m);
    assert.match(status.stdout, /^dev .* active$/m);
    assert.match(status.stderr, /error: branch main: WAL record at 0\/\w+ cannot be ingested/);
    assert.match(await lab.ok("branch"), /stopped: WAL record at/);
    assert.equal((await lab.run("doctor")).code, 1);

    await lab.execute(dev, "insert into t values (3)");
    assert.deepEqual(await lab.column(dev, "select v from t order by v"), [2, 3], "others go on");
    const refused = await lab.run("branch", "fork", "main");
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /cannot be ingested[^]*hint: .*point before/);
    // What was taken in before is not lost.
    await lab.ok("branch", "saved", `main@${String(stopped["last_record_lsn"])}`);
    const saved = await lab.ok("pg", "create", "saved");
    assert.deepEqual(await lab.column(saved, "select v from t"), [1]);

    // A restart of the pageserver changes nothing about it.
    await killAndWait(await lab.pageserverPid());
    await lab.ok("start");
    const again = (await lab.branches()).get("main");
    assert.equal(again?.["error"], stopped["error"]);
    assert.equal(again?.["last_record_lsn"], stopped["last_record_lsn"]);
    const stop = await lab.run("pg", "stop", "main");
    assert.notEqual(stop.code, 0);
    assert.match(stop.stderr, /cannot be stopped cleanly[^]*cannot be ingested[^]*--immediate/);
    await lab.ok("pg", "stop", "main", "--immediate");
    await client.end().catch(() => undefined);
    const start = await lab.run("pg", "start", "main");
    assert.equal(start.code, 1);
    assert.match(start.stderr, /cannot be ingested/);
    assert.equal(await lab.computeField("main", "state"), "stopped");
  },
);
