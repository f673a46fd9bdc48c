/**
 * What servers seldom write: kinds of records that neither applications nor the other workloads bring about. Together
 * the three reach every resource manager.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Client } from "pg";
import { type Counters } from "../support/counters.ts";
import type { TestPostgres } from "../support/postgres.ts";
import type { SeededRandom } from "../support/random.ts";

/** Settings without which some of these records are not written. Nothing may be prepared: it would hold vacuum up. */
export const RARE_SETTINGS = {
  wal_level: "logical",
  track_commit_timestamp: "on",
  max_prepared_transactions: 10,
  max_replication_slots: 10,
} as const;

/**
 * Counters shortly before the end of a segment of each SLRU, and behind the first segment of those for which that costs
 * too many transactions. For `moveCounters`; `retireTransactions` then makes the server remove the segments before.
 */
export const SHORTLY_BEFORE_SEGMENTS: Counters = {
  // Segments of commit status have 1,048,576 transactions, those of commit timestamps 26,208.
  nextXid: BigInt(41 * 26208 - 60),
  nextMulti: 65536 - 40,
  nextMultiOffset: 52352 - 60,
};

const DEADLINE_MS = 60_000;

async function each(client: Client, statements: readonly string[]): Promise<void> {
  for (const statement of statements) await client.query(statement);
}

async function majorOf(client: Client): Promise<number> {
  const { rows } = await client.query<{ major: number }>(
    "select current_setting('server_version_num')::int / 10000 as major",
  );
  return rows[0]?.major ?? 0;
}

/** Asks until the answer is yes. */
async function until(client: Client, question: string, meanwhile?: string): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const { rows } = await client.query<{ yes: boolean }>(`select (${question}) as yes`);
    if (rows[0]?.yes === true) return;
    if (Date.now() > deadline) throw new Error(`never true: ${question}`);
    if (meanwhile !== undefined) await client.query(meanwhile);
    await sleep(20);
  }
}

/**
 * Uses some transactions and multixacts, then freezes every database, so that the server truncates commit status, commit
 * timestamps and multixacts where `SHORTLY_BEFORE_SEGMENTS` left their counters.
 */
export async function retireTransactions(server: TestPostgres): Promise<void> {
  const client = await server.connect();
  try {
    await each(client, [
      "create table retired (id int primary key, n int)",
      "insert into retired select i, 0 from generate_series(1, 30) i",
    ]);
    // Each round a subtransaction of its own locks the row for more than the transaction around it: a multixact each.
    await client.query(
      `do $$ begin
         perform 1 from retired where id = 1 for key share;
         for i in 1..120 loop
           begin
             update retired set n = i where id = 1;
             raise exception 'no';
           exception when raise_exception then null;
           end;
         end loop;
       end $$`,
    );
    await client.query("update pg_database set datallowconn = true where datname = 'template0'");
    for (const database of ["template0", "template1"]) {
      const other = await server.connect(database);
      try {
        await other.query("vacuum (freeze)");
      } finally {
        await other.end();
      }
    }
    await each(client, [
      "update pg_database set datallowconn = false where datname = 'template0'",
      "vacuum (freeze)",
      "checkpoint",
    ]);
  } finally {
    await client.end();
  }
}

/** Records of the server as a whole: backups, restore points, settings, segments. */
async function serverRecords(client: Client, major: number): Promise<void> {
  const [start, stop] =
    major >= 15
      ? ["pg_backup_start('rare', true)", "pg_backup_stop(false)"]
      : ["pg_start_backup('rare', true, false)", "pg_stop_backup(false)"];
  await each(client, [
    `select ${start}`,
    "create table backed_up as select 1 as one",
    `select ${stop}`,
    "select pg_create_restore_point('rare')",
    "select pg_switch_wal()",
    "select pg_logical_emit_message(true, 'rare', 'message')",
  ]);
  const { rows } = await client.query<{ setting: string }>("show full_page_writes");
  const isOn = Object.values(rows[0] ?? {})[0] === "on";
  for (const value of isOn ? ["off", "on"] : ["on", "off"]) {
    await each(client, [`alter system set full_page_writes = ${value}`, "select pg_reload_conf()"]);
    await until(
      client,
      `(select full_page_writes::text from pg_control_checkpoint()) = '${value === "on"}'`,
      "checkpoint",
    );
  }
  await client.query("alter system reset full_page_writes");
}

async function tablespaces(server: TestPostgres, client: Client): Promise<void> {
  for (const name of ["space_kept", "space_dropped"]) {
    const location = join(server.root, name);
    mkdirSync(location, { mode: 0o700 });
    server.own(location);
    await client.query(`create tablespace ${name} location '${location}'`);
    await each(client, [
      `create table in_${name} (i int primary key) tablespace ${name}`,
      `insert into in_${name} select generate_series(1, 100)`,
    ]);
  }
  await each(client, [
    "alter table in_space_dropped set tablespace space_kept",
    "alter index in_space_dropped_pkey set tablespace space_kept",
    "drop table in_space_dropped",
    "drop tablespace space_dropped",
  ]);
}

async function databases(client: Client, major: number): Promise<void> {
  await each(client, [
    `create database by_files ${major >= 15 ? "strategy file_copy" : ""}`,
    "create database dropped",
    "drop database dropped",
    "alter database by_files set tablespace space_kept",
    "vacuum full pg_class",
    "vacuum full pg_database",
  ]);
}

async function origins(client: Client): Promise<void> {
  await each(client, [
    "select pg_replication_origin_create('rare')",
    "select pg_replication_origin_create('rare_dropped')",
    "select pg_replication_origin_advance('rare_dropped', '0/1234')",
    "select pg_replication_origin_session_setup('rare')",
    "begin",
    "select pg_replication_origin_xact_setup('0/5678', now())",
    "create table from_elsewhere as select 1 as one",
    "commit",
    "select pg_replication_origin_session_reset()",
    "select pg_replication_origin_drop('rare_dropped')",
  ]);
}

/** A rewrite of a table that logical decoding reads while somebody may still need its old rows. */
async function logicalRewrite(client: Client): Promise<void> {
  const { rows } = await client.query<{ level: string }>("select current_setting('wal_level') as level");
  if (rows[0]?.level !== "logical") return;
  await each(client, [
    "create table decoded (id int primary key, t text) with (user_catalog_table = true)",
    "select pg_create_logical_replication_slot('rare', 'test_decoding')",
    "insert into decoded select i, 'x' from generate_series(1, 50) i",
    "update decoded set t = 'y' where id % 2 = 0",
    "vacuum full decoded",
    "truncate decoded",
    "select pg_drop_replication_slot('rare')",
  ]);
}

/** Pages of btree and GiST indexes that were given up and are used again. */
async function reusedPages(client: Client): Promise<void> {
  await each(client, [
    "create table reused (id int, p point)",
    "create index reused_id on reused (id)",
    "create index reused_p on reused using gist (p)",
    "insert into reused select i, point(i, i) from generate_series(1, 4000) i",
    "delete from reused where id between 500 and 3500",
    "vacuum reused",
    "select pg_current_xact_id()",
    "vacuum reused",
    "select pg_current_xact_id()",
    "insert into reused select i, point(i, -i) from generate_series(10000, 13000) i",
  ]);
}

/** More subtransactions than a server remembers of one transaction. */
async function manySubtransactions(client: Client): Promise<void> {
  await client.query(
    `do $$ begin for i in 1..200 loop begin insert into retired values (1000 + i, i);
       exception when others then null; end; end loop; end $$`,
  );
}

/** Statements of a kind each, in an order that depends on the seed where order does not matter. */
export async function runRareWorkload(server: TestPostgres, random: SeededRandom): Promise<void> {
  const client = await server.connect();
  try {
    const major = await majorOf(client);
    await client.query("create table if not exists retired (id int primary key, n int)");
    await tablespaces(server, client);
    const parts: (() => Promise<void>)[] = [
      () => serverRecords(client, major),
      () => databases(client, major),
      () => origins(client),
      () => logicalRewrite(client),
      () => reusedPages(client),
      () => manySubtransactions(client),
    ];
    while (parts.length > 0) await parts.splice(random.below(parts.length), 1)[0]?.();
  } finally {
    await client.end();
  }
}

/** Hints on pages that a checkpoint has made old; for a server that logs them (checksums, or wal_log_hints). */
export async function touchOldPages(server: TestPostgres): Promise<void> {
  const client = await server.connect();
  try {
    await each(client, [
      "create table hinted as select i, md5(i::text) t from generate_series(1, 2000) i",
      "checkpoint",
      "select count(*) from hinted",
      "update hinted set t = 'x' where i % 7 = 0",
      "vacuum hinted",
      "begin; insert into hinted values (0, 'left'); savepoint s; update hinted set t = 'y' where i = 3; prepare transaction 'left over'",
      "begin; select * from hinted where i = 5 for share; prepare transaction 'left over, locking'",
      "checkpoint",
    ]);
  } finally {
    await client.end();
  }
}
