/** Statements that change what a database is made of, in groups that stand for themselves: for random orders. */
import type { Client } from "pg";
import type { SeededRandom } from "./random.ts";

/** Each group works on objects of its own, whose names contain the tag. */
const GROUPS: readonly ((tag: string) => readonly string[])[] = [
  (tag) => [
    `create table rewritten_${tag} (id serial primary key, a int, b text default 'b')`,
    `insert into rewritten_${tag} (a) select i from generate_series(1, 300) i`,
    `alter table rewritten_${tag} add c int default 5`,
    `alter table rewritten_${tag} add d timestamptz default clock_timestamp()`,
    `alter table rewritten_${tag} alter a type bigint using a * 2`,
    `alter table rewritten_${tag} drop column b, alter c set not null, add check (c > 0) not valid`,
    `alter table rewritten_${tag} validate constraint rewritten_${tag}_c_check`,
    `alter table rewritten_${tag} set (fillfactor = 50), alter d set statistics 100`,
    `vacuum full rewritten_${tag}`,
    `cluster rewritten_${tag} using rewritten_${tag}_pkey`,
  ],
  (tag) => [
    `create unlogged table flipped_${tag} (id int primary key, t text)`,
    `insert into flipped_${tag} select i, md5(i::text) from generate_series(1, 200) i`,
    `create index on flipped_${tag} using gin (to_tsvector('simple', t))`,
    `alter table flipped_${tag} set logged`,
    `update flipped_${tag} set t = t || 'x' where id % 3 = 0`,
    `alter table flipped_${tag} set unlogged`,
    `alter table flipped_${tag} set logged`,
  ],
  (tag) => [
    `create table parted_${tag} (k int, v text, primary key (k)) partition by hash (k)`,
    ...[0, 1, 2].map(
      (i) =>
        `create table parted_${tag}_${i} partition of parted_${tag} for values with (modulus 3, remainder ${i})`,
    ),
    `insert into parted_${tag} select i, 'v' from generate_series(1, 300) i`,
    `create index on parted_${tag} (v)`,
    `alter table parted_${tag} detach partition parted_${tag}_1`,
    `truncate parted_${tag}_1`,
    `alter table parted_${tag} attach partition parted_${tag}_1 for values with (modulus 3, remainder 1)`,
    `update parted_${tag} set v = 'w' where k % 2 = 0`,
    `drop table parted_${tag}_2`,
  ],
  (tag) => [
    `create table indexed_${tag} (id int, p point, a int[], t text, r int4range)`,
    `insert into indexed_${tag} select i, point(i, -i), array[i, i % 5], md5(i::text), int4range(i * 10, i * 10 + 5) from generate_series(1, 400) i`,
    `create index concurrently indexed_id_${tag} on indexed_${tag} (id) include (t)`,
    `create index on indexed_${tag} using hash (t)`,
    `create index on indexed_${tag} using gist (p)`,
    `create index on indexed_${tag} using spgist (r)`,
    `create index on indexed_${tag} using gin (a)`,
    `create index on indexed_${tag} using brin (id) with (pages_per_range = 1)`,
    `create index on indexed_${tag} (lower(t)) where id > 100`,
    `reindex table concurrently indexed_${tag}`,
    `reindex table indexed_${tag}`,
    `alter index indexed_id_${tag} rename to renamed_id_${tag}`,
    `drop index concurrently renamed_id_${tag}`,
    `alter table indexed_${tag} add constraint once_${tag} exclude using gist (r with -|-) deferrable initially deferred`,
  ],
  (tag) => [
    `create materialized view seen_${tag} as select i, i % 7 as m from generate_series(1, 300) i`,
    `create unique index on seen_${tag} (i)`,
    `refresh materialized view seen_${tag}`,
    `refresh materialized view concurrently seen_${tag}`,
    `create view shown_${tag} as select * from seen_${tag} where m = 1`,
    `create or replace view shown_${tag} as select i, m, m + 1 as n from seen_${tag}`,
    `drop materialized view seen_${tag} cascade`,
  ],
  (tag) => [
    `create type mood_${tag} as enum ('sad', 'ok')`,
    `alter type mood_${tag} add value 'happy' after 'ok'`,
    `create domain positive_${tag} as int check (value > 0)`,
    `create type pair_${tag} as (a int, b text)`,
    `create table typed_${tag} (m mood_${tag}, p positive_${tag}, c pair_${tag}, g int generated always as (1 + 1) stored)`,
    `insert into typed_${tag} values ('sad', 1, row(1, 'x')), ('happy', 2, null)`,
    `alter type pair_${tag} add attribute c int cascade`,
    `comment on table typed_${tag} is 'some words'`,
    `drop type mood_${tag} cascade`,
  ],
  (tag) => [
    `create function touched_${tag}() returns trigger language plpgsql as $$ begin new.n = new.n + 1; return new; end $$`,
    `create table triggered_${tag} (id int generated always as identity, n int)`,
    `create trigger before_${tag} before insert or update on triggered_${tag} for each row execute function touched_${tag}()`,
    `insert into triggered_${tag} (n) select i from generate_series(1, 50) i`,
    `alter table triggered_${tag} disable trigger before_${tag}`,
    `create rule nothing_${tag} as on delete to triggered_${tag} do instead nothing`,
    `create statistics stats_${tag} (dependencies) on id, n from triggered_${tag}`,
    `analyze triggered_${tag}`,
    `alter sequence triggered_${tag}_id_seq restart with 1000 increment by 7`,
    `insert into triggered_${tag} (n) values (1), (2)`,
  ],
  (tag) => [
    `create schema aside_${tag}`,
    `create table aside_${tag}.t (i int) with (autovacuum_enabled = off)`,
    `create role somebody_${tag}`,
    `grant select, insert on aside_${tag}.t to somebody_${tag}`,
    `alter table aside_${tag}.t enable row level security`,
    `create policy own_${tag} on aside_${tag}.t using (i > 0)`,
    `alter schema aside_${tag} rename to elsewhere_${tag}`,
    `alter table elsewhere_${tag}.t set schema public`,
    `drop table t`,
    `drop schema elsewhere_${tag} cascade`,
    `drop role somebody_${tag}`,
  ],
  (tag) => [
    `create table parent_${tag} (id int primary key)`,
    `create table heir_${tag} (x int) inherits (parent_${tag})`,
    `create table child_${tag} (p int references parent_${tag} on delete cascade)`,
    `insert into parent_${tag} select generate_series(1, 50)`,
    `insert into child_${tag} select i from generate_series(1, 50) i`,
    `truncate parent_${tag} restart identity cascade`,
    `drop table parent_${tag} cascade`,
  ],
  (tag) => [
    `create table blobs_${tag} as select lo_from_bytea(0, decode(repeat('ab', 5000), 'hex')) as oid from generate_series(1, 3)`,
    `select lo_put(oid, 100, 'changed') from blobs_${tag}`,
    `select lo_unlink(oid) from (select oid from blobs_${tag} limit 1) first`,
  ],
  (tag) => [
    `create table told_${tag} (i int primary key)`,
    `create publication told_${tag} for table told_${tag}`,
    `insert into told_${tag} values (1)`,
    `drop publication told_${tag}`,
    `begin; create table never_${tag} (i int primary key); insert into never_${tag} values (1); truncate never_${tag}; rollback`,
    `begin; create table twice_${tag} as select 1 as i; truncate twice_${tag}; insert into twice_${tag} values (2); commit`,
    `begin; create temporary table gone_${tag} (i int) on commit drop; insert into gone_${tag} values (1); commit`,
  ],
];

/** Runs every group once, in an order of the seed's choosing. */
export async function runDdlZoo(client: Client, random: SeededRandom, tag: string): Promise<void> {
  const groups = [...GROUPS];
  while (groups.length > 0) {
    const [group] = groups.splice(random.below(groups.length), 1);
    for (const statement of group?.(tag) ?? []) {
      await client.query(statement).catch((error: unknown) => {
        throw new Error(`this failed: ${statement}`, { cause: error });
      });
    }
  }
}
