/** What a server does while the oracle test watches: every kind of heap, btree, sequence and SLRU record we can provoke. */
import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Client } from "pg";
import type { TestPostgres } from "../support/postgres.ts";

const PGBENCH = "/usr/lib/postgresql/15/bin/pgbench";

export async function pgbench(server: TestPostgres, args: readonly string[]): Promise<void> {
  const all = ["-h", server.socketDir, "-p", String(server.port), "-U", server.user, ...args, "postgres"];
  await promisify(execFile)(PGBENCH, all, { env: { PATH: "", LC_ALL: "C" } });
}

/** Runs a pgbench script from several clients at once. */
async function script(
  server: TestPostgres,
  name: string,
  sql: string,
  args: readonly string[],
): Promise<void> {
  const file = join(server.root, `${name}.sql`);
  writeFileSync(file, sql, { mode: 0o644 });
  await pgbench(server, ["-n", "-f", file, ...args]);
}

/** The statements of a text, one by one and so each in its own transaction. */
async function each(client: Client, statements: readonly string[]): Promise<void> {
  for (const statement of statements) await client.query(statement);
}

async function tables(client: Client): Promise<void> {
  await each(client, [
    "create table plain (id int primary key, a int, b text, c text)",
    "insert into plain select i, i % 100, 'row ' || i, repeat('x', i % 60) from generate_series(1, 4000) i",
    "create index plain_a on plain (a)",
    "update plain set a = a + 1 where id % 7 = 0",
    "update plain set c = c || 'y' where id % 5 = 0",
    "update plain set b = 'z' || b where id % 11 = 0",
    "update plain set b = repeat(b, 20) where id % 13 = 0",
    "delete from plain where id % 9 = 0",
    "vacuum plain",
    "update plain set c = null where id % 10 = 1",
    "select count(*) from plain where id in (select id from plain where a < 50 for update)",
    "delete from plain where id between 1000 and 1500",
    "vacuum (freeze, index_cleanup on) plain",
    "insert into plain select i, 0, 'again', '' from generate_series(1000, 1200) i on conflict do nothing",
    "update plain set a = 5 where id between 2000 and 2100",
    "delete from plain where id between 2200 and 2250",
    "select id from plain where id between 2300 and 2310 for share",
    "delete from plain where id > 3000",
    "vacuum (truncate on) plain",
    // Updates that share the front, the back or nothing with the old tuple, on the same page.
    "create table fronts (x text, n int) with (fillfactor = 40)",
    "create index fronts_n on fronts (n)",
    "insert into fronts select 'some text in front', i from generate_series(1, 300) i",
    "update fronts set n = (n * 2654435761 % 2000000011)::int",
    "create table backs (n int, x text) with (fillfactor = 40)",
    "create index backs_n on backs (n)",
    "insert into backs select i, 'some text behind' from generate_series(1, 300) i",
    "update backs set n = (n * 2654435761 % 2000000011)::int",
    "create table pairs (a int, b int) with (fillfactor = 40)",
    "insert into pairs select i, i from generate_series(1, 300) i",
    "update pairs set a = a + 1, b = (b::bigint * 2654435761 % 2000000011)::int",
    "create table parts (k int, v text) partition by range (k)",
    "create table parts_low partition of parts for values from (0) to (100)",
    "create table parts_high partition of parts for values from (100) to (200)",
    "insert into parts select i, 'v' from generate_series(0, 199) i",
    "update parts set k = k + 100 where k < 40",
    "create table big (id int, t text)",
    "alter table big alter t set storage external",
    "insert into big select i, repeat('toast', 3000) from generate_series(1, 40) i",
    "update big set t = repeat('other', 2500) where id % 3 = 0",
    "delete from big where id % 4 = 0",
    "vacuum big",
    "create unlogged table loose (id int primary key, s serial)",
    "insert into loose select 1",
    "create table clustered as select * from plain order by b",
    "create unique index clustered_id on clustered (id)",
    "cluster clustered using clustered_id",
    "vacuum full plain",
    "truncate parts_low",
    "create sequence counter cache 1",
    "select nextval('counter') from generate_series(1, 200)",
    "select setval('counter', 10000)",
    "alter sequence counter restart with 7",
    "create database other",
    "alter database other set work_mem = '8MB'",
    "analyze",
  ]);
  await client.query("begin");
  await client.query("create table frozen (id int, t text)");
  await client
    .query("copy frozen from program 'seq 1 3000' with (freeze, delimiter E'\\t', format csv)")
    .catch(async () => {
      // One column per line is not two: the copy fails, and so does the transaction. Done again below.
      await client.query("rollback; begin; create table frozen (id int)");
      await client.query("copy frozen from program 'seq 1 3000' with (freeze)");
    });
  await client.query("commit");
  await each(client, [
    "update frozen set id = id + 1 where id % 500 = 0",
    "select * from frozen where id = 77 for update",
    "vacuum (freeze) frozen",
  ]);
}

async function indexes(client: Client): Promise<void> {
  await each(client, [
    "create table keys (k text, n int)",
    "create index keys_k on keys (k)",
    "create index keys_n on keys (n)",
    "insert into keys select md5(i::text), i % 20 from generate_series(1, 8000) i",
    "insert into keys select md5(i::text), 7 from generate_series(1, 3000) i",
    "delete from keys where n < 5",
    "vacuum keys",
    "insert into keys select md5((i * 3)::text), i % 6 from generate_series(1, 6000) i",
    "delete from keys where n = 3 and k < '8'",
    "vacuum (index_cleanup on) keys",
    // Wide keys make a tree of four levels from few rows.
    "create table wide (k text)",
    "alter table wide alter k set storage plain",
    "create index wide_k on wide (k)",
    "insert into wide select lpad(i::text, 900, '0') from generate_series(1, 3000) i",
    "delete from wide where k > lpad('40', 900, '0') and k < lpad('2900', 900, '0')",
    "vacuum wide",
    "vacuum wide",
    "insert into wide select lpad(i::text, 900, '0') || 'b' from generate_series(1, 1500) i",
    "delete from wide",
    "vacuum wide",
    "insert into wide select lpad((i * 7919 % 3001)::text, 900, '0') from generate_series(1, 3000) i",
    "delete from wide where k > lpad('3', 900, '0')",
    "vacuum wide",
    "vacuum wide",
    "insert into wide select lpad((i * 7919 % 3001)::text, 900, '0') from generate_series(1, 600) i",
    // Rows that go into the middle of full posting lists, because the heap has room at its start only.
    "create table duplicates (n int)",
    "create index duplicates_n on duplicates (n)",
    "insert into duplicates select i % 3 from generate_series(1, 9000) i",
    "delete from duplicates where n = 1",
    "vacuum duplicates",
    "insert into duplicates select 2 from generate_series(1, 2900) i",
    // Versions of rows that only one index cares about: deletion from the bottom up, and dead items.
    "create table churn (id int primary key, n int, t text)",
    "create index churn_n on churn (n)",
    "create index churn_t on churn (t)",
    "insert into churn select i, i, 'same' from generate_series(1, 500) i",
  ]);
  for (let i = 0; i < 12; i++) await client.query(`update churn set n = n + ${i}`);
  await each(client, [
    "set enable_seqscan = off",
    "delete from churn where id % 2 = 0",
    "select count(*) from churn where n > 0",
    "select count(*) from churn where t = 'same'",
    "insert into churn select i, i, 'same' from generate_series(501, 1500) i",
    "reset enable_seqscan",
    "reindex table keys",
    "create extension if not exists bloom",
    "create index keys_bloom on keys using bloom (k, n)",
    "insert into keys select md5(i::text), i from generate_series(1, 500) i",
    "delete from keys where n between 100 and 200",
    "vacuum keys",
  ]);
}

async function transactions(server: TestPostgres, client: Client): Promise<void> {
  await each(client, [
    "create table parent (id int primary key, v int)",
    "create table child (id serial primary key, p int references parent)",
    "insert into parent select i, 0 from generate_series(1, 30) i",
    "create table subs (i int, t text)",
    `do $$ begin for i in 1..300 loop begin
       insert into subs values (i, 'x'); if i % 3 = 0 then raise exception 'no'; end if;
       exception when raise_exception then null; end; end loop; end $$`,
    // Rows of temporary tables are not logged, but their subtransactions have xids: commit status over several pages.
    "create temporary table unlogged_subs (i int)",
    `do $$ begin for i in 1..40000 loop begin insert into unlogged_subs values (i);
       exception when others then null; end; end loop; end $$`,
    "begin; insert into subs values (0, 'two'); savepoint s; update subs set t = 'three' where i = 0; prepare transaction 'p1'",
    "begin; insert into subs values (-1, 'two'); savepoint s; delete from subs where i = 1; prepare transaction 'p2'",
    "begin; create table made (i int); insert into made values (1); prepare transaction 'p3'",
    "commit prepared 'p1'",
    "rollback prepared 'p2'",
    "commit prepared 'p3'",
    "begin; drop table made; create table gone (i int primary key); insert into gone values (1); rollback",
    "begin; insert into subs values (-2, 'stays prepared'); prepare transaction 'p4'",
  ]);
  const other = await server.connect();
  try {
    // A row whose locker follows the chain of versions: lock of an updated tuple.
    await other.query("begin; update parent set v = v + 1 where id <= 5");
    await client.query("insert into child (p) select i from generate_series(1, 5) i");
    await other.query("update parent set v = v + 1 where id <= 3");
    await client.query("begin; select * from parent where id <= 3 for key share");
    await other.query("commit");
    await client.query("commit");
    await other.query("begin; select * from parent where id between 6 and 9 for share");
    await client.query("begin; select * from parent where id between 6 and 9 for share");
    await other.query("commit");
    await client.query("update parent set v = -1 where id between 6 and 9; commit");
    await other.query("begin; select * from parent where id = 12 for key share");
    await client.query("begin; update parent set v = 3 where id = 12; rollback");
    await other.query("commit");
  } finally {
    await other.end();
  }
}

/**
 * An insertion with ON CONFLICT that finds out only after it has put the row into the table that somebody else was
 * faster, and takes it back. The index calls a function, and this waits when the row is there.
 */
async function speculativeAbort(server: TestPostgres, client: Client): Promise<void> {
  await each(client, [
    "create table contested (k text)",
    `create function waiting(text) returns text immutable language plpgsql as $$
     declare calls int := coalesce(nullif(current_setting('test.calls', true), ''), '0')::int + 1;
     begin
       perform set_config('test.calls', calls::text, false);
       if current_setting('test.wait', true) = 'on' and calls = 2 then
         perform pg_advisory_lock(42);
         perform pg_advisory_unlock(42);
       end if;
       return $1;
     end $$`,
    "create unique index contested_k on contested (waiting(k))",
    "select pg_advisory_lock(42)",
  ]);
  const other = await server.connect();
  try {
    await other.query("set test.wait = 'on'");
    const slow = other.query("insert into contested values ('same') on conflict do nothing");
    const waiting = "select count(*) > 0 as yes from pg_locks where locktype = 'advisory' and not granted";
    const deadline = Date.now() + 30_000;
    for (;;) {
      if (Date.now() > deadline) throw new Error("nobody waits for the advisory lock");
      const result = await client.query<{ yes: boolean }>(waiting);
      if (result.rows[0]?.yes) break;
    }
    await client.query("insert into contested values ('same')");
    await client.query("select pg_advisory_unlock(42)");
    await slow;
  } finally {
    await other.end();
  }
}

async function crowd(server: TestPostgres, client: Client, transactionCount: number): Promise<void> {
  await each(client, [
    "create table hot (id int primary key, v int)",
    "insert into hot select i, 0 from generate_series(1, 4) i",
    "create table unique_keys (k int primary key, t text)",
  ]);
  const clients = ["-c", "4", "-j", "2"];
  await script(
    server,
    "share",
    `\\set r random(1, 4)
     begin;
     select v from hot where id = :r for share;
     select v from hot where id = :r for key share;
     end;`,
    [...clients, "-t", String(transactionCount)],
  );
  await script(
    server,
    "upsert",
    `\\set k random(1, 200)
     insert into unique_keys values (:k, 'x') on conflict (k) do update set t = unique_keys.t || 'y';
     \\set k random(1, 400)
     delete from unique_keys where k = :k;`,
    [...clients, "-t", String(Math.ceil(transactionCount / 4))],
  );
  await pgbench(server, ["-n", ...clients, "-t", String(Math.ceil(transactionCount / 3))]);
}

/** Everything, in a fixed order. `transactionCount` scales the part with several clients. */
export async function runWorkload(server: TestPostgres, transactionCount: number): Promise<void> {
  const client = await server.connect();
  try {
    await pgbench(server, ["-i", "-q", "-s", "1"]);
    await tables(client);
    await indexes(client);
    await transactions(server, client);
    await speculativeAbort(server, client);
    await crowd(server, client, transactionCount);
    await each(client, ["vacuum (freeze) hot", "vacuum", "checkpoint", "update hot set v = v + 1"]);
  } finally {
    await client.end();
  }
}
