/** What a server does while the oracle test of the other index kinds watches: hash, GIN, GiST, SP-GiST and BRIN. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Client } from "pg";
import type { TestPostgres } from "../support/postgres.ts";
import type { SeededRandom } from "../support/random.ts";

/** The statements of a text, one by one and so each in its own transaction. */
async function each(client: Client, statements: readonly string[]): Promise<void> {
  for (const statement of statements) await client.query(statement);
}

/** Marks in an index what a scan finds dead: rows whose deletion everybody can see. */
async function findDead(client: Client, query: string): Promise<void> {
  await each(client, [
    "set enable_seqscan = off",
    "set enable_bitmapscan = off",
    query,
    "reset enable_bitmapscan",
    "reset enable_seqscan",
  ]);
}

/** Rows that come in by COPY: few records for many rows. */
async function load(server: TestPostgres, client: Client, table: string, query: string): Promise<void> {
  const file = join(server.root, `${table}.copy`);
  await each(client, [`copy (${query}) to '${file}'`, `copy ${table} from '${file}'`]);
}

/** Buckets that split, grow by overflow pages, and shrink again. */
async function hash(client: Client): Promise<void> {
  await each(client, [
    "create table h (k int, n int)",
    "create index h_k on h using hash (k)",
    "create index h_n on h using hash (n) with (fillfactor = 20)",
  ]);
  for (let i = 0; i < 6; i++) {
    const from = i * 500;
    await each(client, [`insert into h select i, i % 7 from generate_series(${from}, ${from + 499}) i`]);
    if (i % 2 === 1) await client.query("checkpoint");
  }
  await each(client, [
    "delete from h where n in (1, 2) and k % 5 <> 0",
    "vacuum h",
    "checkpoint",
    "delete from h where n in (3, 4)",
    "vacuum h",
    // A long chain of overflow pages, thinned out: its rows move to the front.
    "insert into h select -i, 5 from generate_series(1, 3000) i",
    "delete from h where n = 5 and k % 2 = 0",
    "vacuum h",
    "checkpoint",
    "delete from h where n = 5 and k between -2900 and -100",
    "vacuum h",
    "insert into h select -i, 5 from generate_series(1, 1800) i",
    "delete from h where n = 5 and k % 3 <> 0",
    "vacuum h",
    // An index over many rows, built at once: with more than the smallest number of buckets from the start.
    "create index h_late on h using hash (k) with (fillfactor = 50)",
    "insert into h select i, 0 from generate_series(1, 600) i",
    "delete from h where k % 3 = 0",
  ]);
  await findDead(client, "select count(*) from h where n = 0");
  await each(client, [
    "insert into h select i, 0 from generate_series(1, 800) i",
    "delete from h where n = 5",
  ]);
  await findDead(client, "select count(*) from h where n = 5");
  await each(client, [
    "vacuum h",
    "create unlogged table h_loose (k int)",
    "create index on h_loose using hash (k)",
    "insert into h_loose select 1",
    "reindex index h_k",
    "delete from h",
    "vacuum h",
    "insert into h select i, i from generate_series(1, 300) i",
  ]);
}

async function ginEntries(client: Client): Promise<void> {
  await each(client, [
    // The pending list: pages added at its end, taken off by vacuum and by the function.
    "create table g (id int, a int[], t text) with (fillfactor = 50)",
    "create index g_a on g using gin (a)",
    "insert into g select i, array[i % 50, i % 7 + 1000, -i], null from generate_series(1, 700) i",
    "select gin_clean_pending_list('g_a')",
    "insert into g select i, array[i % 50, i % 7 + 1000, -i], null from generate_series(701, 1000) i",
    "insert into g select i, array(select generate_series(i, i + 900)), null from generate_series(1001, 1006) i",
    "vacuum g",
    "checkpoint",
    "insert into g values (0, null, null), (0, '{}', null), (0, array[null, 1]::int[], null)",
    "update g set a = a || 77 where id % 10 = 0",
    "delete from g where id % 3 = 0",
    "vacuum g",
    // Straight into the trees: long keys make them deep.
    "create table words (id int, w text[])",
    "create index words_w on words using gin (w) with (fastupdate = off)",
    "create function long(i int) returns text language sql as $$ select string_agg(md5(i || '-' || j), '') from generate_series(1, 40) j $$",
    "insert into words select i, array[long(i), 'k' || i % 20] from generate_series(1, 600) i",
    "checkpoint",
    "insert into words select i, array[long(i), 'k' || i % 20] from generate_series(601, 800) i",
    "delete from words where id % 4 <> 0",
    "vacuum words",
    "insert into words select i, array[md5(i::text), 'k' || i % 30] from generate_series(1, 400) i",
    "create extension pg_trgm",
    "create index words_trgm on words using gin ((w[1]) gin_trgm_ops)",
  ]);
}

/** Trees of TIDs below one key: rows lie far apart, so that few of them fill a page. */
async function ginPostingTrees(server: TestPostgres, client: Client): Promise<void> {
  await client.query("create table p (id int, a int[]) with (fillfactor = 10)");
  await load(server, client, "p", "select i, array[1, 2 + i % 2] from generate_series(1, 24000) i");
  await each(client, [
    "create index p_a on p using gin (a)",
    "delete from p where id between 4000 and 20000",
    "vacuum p",
    "checkpoint",
    // Into the middle of lists, in small numbers and in large ones.
    "insert into p select i, array[1, 5] from generate_series(1, 1500) i",
    "vacuum p",
    "alter index p_a set (fastupdate = off)",
    "insert into p select i, array[1, 2] from generate_series(1, 1500) i",
    "alter index p_a set (fastupdate = on)",
  ]);
  await load(server, client, "p", "select i, array[2, 9] from generate_series(1, 9000) i");
  await each(client, [
    "select gin_clean_pending_list('p_a')",
    "delete from p where id % 5 = 0 and id < 4000",
    "vacuum p",
  ]);
}

async function gist(client: Client): Promise<void> {
  await each(client, [
    "create extension btree_gist",
    "create table s (id int, p point, b box, r int4range, t text)",
    "create index s_p on s using gist (p)",
    "create index s_b on s using gist (b)",
    "create index s_r on s using gist (r, id)",
    // Wide keys: more than two pages from one split.
    "create index s_t on s using gist (t gist_trgm_ops (siglen = 1800))",
    `insert into s select i, point(i % 71, i % 53), box(point(i % 30, i), point(i % 40, i + 5)),
       int4range(i, i + i % 9), md5(i::text) from generate_series(1, 900) i`,
    "checkpoint",
    `insert into s select i, point(i % 71, i % 53), box(point(i % 30, i), point(i % 40, i + 5)),
       int4range(i, i + i % 9), repeat(md5(i::text), 3) from generate_series(901, 1500) i`,
    "drop index s_t",
    "update s set p = point(id, id) where id % 6 = 0",
    "delete from s where p <@ box(point(0, 0), point(40, 40))",
    "vacuum s",
    "checkpoint",
    "delete from s where id between 300 and 1300",
    "vacuum s",
    "insert into s select i, point(i % 17, i % 13), null, 'empty', null from generate_series(1, 1000) i",
    "create index s_sorted on s using gist (p)",
    "create index s_buffered on s using gist (b) with (buffering = on, fillfactor = 60)",
    "delete from s where id % 2 = 0",
  ]);
  await findDead(client, "select count(*) from s where p <@ box(point(0, 0), point(9, 9))");
  await findDead(client, "select count(*) from s where r && int4range(1, 5000)");
  await each(client, [
    "insert into s select i, point(i % 17, i % 13), null, int4range(i, i + 3), null from generate_series(1, 1000) i",
    "delete from s",
    "vacuum s",
    "vacuum s",
    `insert into s select i, point(i, i % 13), box(point(i % 30, i), point(i % 40, i + 5)), int4range(i, i + 3), null
       from generate_series(1, 1200) i`,
    "create table e (r int4range, exclude using gist (r with &&))",
    "insert into e select int4range(i * 10, i * 10 + 5) from generate_series(1, 400) i",
  ]);
}

/** Words of a few random letters and a long tail: inner tuples that get one node after the other. */
function nodeWords(random: SeededRandom, count: number, tail: number): string {
  const letter = () => String.fromCharCode(48 + random.below(70)).replace("\\", "~");
  let text = "";
  for (let i = 0; i < count; i++) {
    text += `${letter()}${letter()}${letter()}${String(random.u32()).repeat(tail)}\n`;
  }
  return text;
}

async function spgist(client: Client): Promise<void> {
  await each(client, [
    "create table q (id int, p point, t text, i inet, r int4range)",
    "create index q_p on q using spgist (p)",
    "create index q_kd on q using spgist (p kd_point_ops)",
    "create index q_t on q using spgist (t)",
    "create index q_i on q using spgist (i)",
    "create index q_r on q using spgist (r)",
    "insert into q select i, point(i, -i), 'same', '10.0.0.1', 'empty' from generate_series(1, 20) i",
    "delete from q where id % 2 = 0",
    "vacuum q",
    `insert into q select i, point(i % 71, i % 53), 'common prefix ' || md5(i::text),
       ('10.' || i % 256 || '.' || i / 256 || '.1')::inet, int4range(i, i + i % 9) from generate_series(1, 1200) i`,
    "checkpoint",
    `insert into q select i, point(i % 71, i % 53), 'com' || i, null, int4range(i, i + i % 9)
       from generate_series(1201, 1800) i`,
    "insert into q select i, null, null, null, null from generate_series(1, 600) i",
    "insert into q select i, point(7, 7), repeat('same', 300), '1.1.1.1', '[1,2)' from generate_series(1, 300) i",
    "delete from q where id % 3 = 0",
    "vacuum q",
    "insert into q select i, point(i % 61, i % 41), repeat(md5(i::text), 5), '::1', null from generate_series(1, 500) i",
    "vacuum q",
    "delete from q where id between 400 and 1600",
    "vacuum q",
    "insert into q select i, point(i % 61, i % 41), 'common prefix', '::1', null from generate_series(1, 500) i",
    "vacuum q",
    "create index q_late on q using spgist (t)",
  ]);
}

async function spgistNodes(server: TestPostgres, client: Client, random: SeededRandom): Promise<void> {
  const words = join(server.root, "words.txt");
  await each(client, [
    "create table nodes (t text)",
    "alter table nodes alter t set storage plain",
    "create index nodes_t on nodes using spgist (t)",
  ]);
  for (let i = 0; i < 3; i++) {
    writeFileSync(words, nodeWords(random, 1000, 60), { mode: 0o644 });
    await each(client, [`copy nodes from '${words}' with (delimiter E'\\x01')`, "checkpoint"]);
  }
  await each(client, ["delete from nodes where t < 'P'", "vacuum nodes", "vacuum nodes"]);
  // Where a list of tuples has died, others that are larger.
  writeFileSync(words, nodeWords(random, 300, 200), { mode: 0o644 });
  await each(client, [`copy nodes from '${words}' with (delimiter E'\\x01')`, "vacuum nodes"]);
}

async function brin(server: TestPostgres, client: Client): Promise<void> {
  await each(client, [
    // One row on a page, so that there are more ranges than a page of the range map has entries.
    "create table n (id int, t text) with (fillfactor = 10)",
    "alter table n alter t set storage plain",
    "create index n_id on n using brin (id) with (pages_per_range = 1, autosummarize = off)",
    "create index n_t on n using brin (t) with (pages_per_range = 2)",
  ]);
  await load(server, client, "n", "select i, repeat('x', 1000) from generate_series(1, 500) i");
  await each(client, [
    "vacuum n",
    "checkpoint",
    "update n set t = repeat('a', 900) where id % 7 = 0",
    "update n set t = repeat('z', 1200) where id % 11 = 0",
    "update n set id = id + 100000 where id % 13 = 0",
    "select brin_desummarize_range('n_id', i) from generate_series(0, 400, 7) i",
    "select brin_desummarize_range('n_t', i) from generate_series(0, 400, 14) i",
    "select brin_summarize_new_values('n_id')",
    "select brin_summarize_range('n_t', i) from generate_series(0, 400, 28) i",
  ]);
  await load(server, client, "n", "select i, repeat('y', 1000) from generate_series(501, 1500) i");
  await each(client, [
    "vacuum n",
    "create index n_late on n using brin (id int4_minmax_multi_ops, t text_bloom_ops) with (pages_per_range = 4)",
    "insert into n select -i, repeat(md5(i::text), 30) from generate_series(1, 150) i",
    "select brin_desummarize_range('n_t', i) from generate_series(0, 1000, 2) i",
    "vacuum n",
    "create unlogged table n_loose (k int)",
    "create index on n_loose using brin (k)",
  ]);
}

/** Several clients at once on a table with an index of each kind. */
export async function runIndexCrowd(
  server: TestPostgres,
  client: Client,
  random: SeededRandom,
): Promise<void> {
  await each(client, [
    "create table c (id serial, n int, p point, a int[], t text)",
    "create index c_n on c using hash (n)",
    "create index c_p on c using gist (p)",
    "create index c_a on c using gin (a) with (gin_pending_list_limit = 64)",
    "create index c_t on c using spgist (t)",
    "create index c_id on c using brin (id) with (pages_per_range = 1, autosummarize = on)",
  ]);
  const work = async (seed: number): Promise<void> => {
    const other = await server.connect();
    try {
      for (let i = 0; i < 10; i++) {
        const from = (seed + i * 7919) % 1000;
        await other.query(
          `insert into c (n, p, a, t) select i % 37, point(i, i % 11), array[i, i % 5, ${seed % 100}], md5(i::text)
           from generate_series(${from}, ${from + 25}) i`,
        );
        await other.query("update c set p = point(n, id), t = t || 'x' where id % 50 = $1", [i]);
        await other.query("delete from c where id % 41 = $1", [(seed + i) % 41]);
        if (i === 5) await other.query("begin; delete from c where n < 20; rollback");
      }
    } finally {
      await other.end();
    }
  };
  // Vacuum of a hash index names the first page of a bucket without locking it. Somebody else may change that page just
  // when consistency checking takes its image, so that image, or even the checksum of the record, is wrong then.
  for (let round = 0; round < 2; round++) {
    await Promise.all([1, 2, 3].map(() => work(random.below(1_000_000))));
    await client.query("vacuum c");
  }
}

/** Everything, in a fixed order. */
export async function runIndexWorkload(server: TestPostgres, random: SeededRandom): Promise<void> {
  const client = await server.connect();
  try {
    await hash(client);
    await ginEntries(client);
    await ginPostingTrees(server, client);
    await gist(client);
    await spgist(client);
    await spgistNodes(server, client, random);
    await brin(server, client);
    await runIndexCrowd(server, client, random);
    await each(client, ["checkpoint", "vacuum"]);
  } finally {
    await client.end();
  }
}
