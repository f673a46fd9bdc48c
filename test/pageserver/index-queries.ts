/**
 * Queries through each index that the workload of redo-index-workload.ts makes, held against sequential scans of the
 * same table.
 */
import assert from "node:assert/strict";
import type { Client } from "pg";
import type { TestPostgres } from "../support/postgres.ts";

interface Query {
  readonly index: string;
  readonly table: string;
  /** About a row of the table and a number `v`. */
  readonly condition: string;
  /** Values of `v`. */
  readonly values: string;
}

const box = "box(point(v, v), point(v + 5, v + 5))";

const QUERIES: readonly Query[] = [
  query("h_k", "h", "k = v", "generate_series(-300, 3000, 19)"),
  query("h_n", "h", "n = v", "generate_series(-2, 30)"),
  query("h_late", "h", "k = v", "generate_series(-300, 3000, 23)"),
  query("g_a", "g", "a @> array[v]", "generate_series(-3, 1006, 4)"),
  query("words_w", "words", "w @> array['k' || v]", "generate_series(0, 31)"),
  query(
    "words_trgm",
    "words",
    "w[1] like '%' || substr(md5(v::text), 3, 9) || '%'",
    "generate_series(1, 30)",
  ),
  query("p_a", "p", "a @> array[v]", "generate_series(0, 10)"),
  query("s_p", "s", `p <@ ${box}`, "generate_series(0, 80, 4)"),
  query("s_sorted", "s", `p <@ ${box}`, "generate_series(0, 80, 4)"),
  query("s_b", "s", `b && ${box}`, "generate_series(0, 80, 4)"),
  query("s_buffered", "s", `b && ${box}`, "generate_series(0, 80, 4)"),
  query("s_r", "s", "r && int4range(v, v + 30)", "generate_series(0, 3000, 50)"),
  query("e_r_excl", "e", "r && int4range(v, v + 7)", "generate_series(0, 4100, 17)"),
  query("q_p", "q", `p <@ ${box}`, "generate_series(0, 80, 4)"),
  query("q_kd", "q", `p <@ ${box}`, "generate_series(0, 80, 4)"),
  query("q_t", "q", "t ^@ ('com' || v)", "generate_series(0, 40)"),
  query("q_late", "q", "t ^@ md5(v::text)", "generate_series(0, 40)"),
  query("q_i", "q", "i <<= ('10.' || v || '.0.0/16')::inet", "generate_series(0, 60)"),
  query("q_r", "q", "r && int4range(v, v + 30)", "generate_series(0, 2000, 50)"),
  query("nodes_t", "nodes", "t ^@ chr(48 + v)", "generate_series(0, 72)"),
  query("n_id", "n", "id between v and v + 9", "generate_series(-100, 1500, 40)"),
  query("n_t", "n", "t between chr(97 + v) and chr(98 + v)", "generate_series(0, 25, 5)"),
  query("n_late", "n", "id = v", "generate_series(-100, 1500, 40)"),
  query("c_n", "c", "n = v", "generate_series(0, 40)"),
  query("c_p", "c", "p <@ box(point(v, 0), point(v + 60, 2000))", "generate_series(0, 1000, 25)"),
  query("c_a", "c", "a @> array[v]", "generate_series(0, 100)"),
  // All that the random numbers may have chosen: a few hundred of these have rows.
  query("c_t", "c", "t ^@ substr(md5(v::text), 1, 4)", "generate_series(0, 1025)"),
  query("c_id", "c", "id between v and v + 9", "generate_series(0, 1500, 40)"),
];

function query(index: string, table: string, condition: string, values: string): Query {
  return { index, table, condition, values };
}

/** For each `v` the number of rows, and where they lie. */
function sqlOf({ table, condition, values }: Query): string {
  const rows = `select count(*) || ' ' || coalesce(sum(hashtext(t.ctid::text)), 0) from ${table} t where ${condition}`;
  return `select v, (${rows}) as rows from ${values} v`;
}

/** Nothing but sequential scans, or none where an index will do. */
async function usePlan(client: Client, sequential: boolean): Promise<void> {
  const [on, off] = sequential ? ["on", "off"] : ["off", "on"];
  await client.query(`set enable_seqscan = ${on}; set enable_indexscan = ${off}; set enable_bitmapscan = ${off};
    set enable_indexonlyscan = ${off}`);
}

async function rowsOf(client: Client, sql: string): Promise<unknown[]> {
  return (await client.query<Record<string, unknown>>(sql)).rows;
}

/** Runs the query through its index alone: the others of the table are gone until the end of the transaction. */
async function throughIndex(client: Client, { index, table }: Query, sql: string): Promise<unknown[]> {
  await client.query("begin");
  try {
    const others = await rowsOf(
      client,
      `select coalesce(c.conname, i.indexrelid::regclass::text) as name, c.conname is not null as is_constraint
       from pg_index i left join pg_constraint c on c.conindid = i.indexrelid
       where i.indrelid = '${table}'::regclass and i.indexrelid <> '${index}'::regclass`,
    );
    for (const other of others as { name: string; is_constraint: boolean }[]) {
      await client.query(
        other.is_constraint
          ? `alter table ${table} drop constraint ${other.name}`
          : `drop index ${other.name}`,
      );
    }
    const plan = JSON.stringify(await rowsOf(client, `explain ${sql}`));
    assert.match(plan, new RegExp(` on ${index}\\b| using ${index}\\b`), `${sql}: ${plan}`);
    return await rowsOf(client, sql);
  } finally {
    await client.query("rollback");
  }
}

/** Asserts that each index that exists finds what a sequential scan does; returns how many rows were found by each. */
export async function checkIndexQueries(server: TestPostgres): Promise<Map<string, number>> {
  const client = await server.connect();
  const found = new Map<string, number>();
  try {
    await client.query("set jit = off");
    for (const each of QUERIES) {
      const exists = await rowsOf(client, `select 1 where to_regclass('${each.index}') is not null`);
      if (exists.length === 0) continue;
      const sql = sqlOf(each);
      await usePlan(client, true);
      const expected = await rowsOf(client, sql);
      await usePlan(client, false);
      assert.deepEqual(await throughIndex(client, each, sql), expected, each.index);
      const counts = (expected as { rows: string }[]).map((row) => Number.parseInt(row.rows, 10));
      found.set(
        each.index,
        counts.reduce((sum, count) => sum + count, 0),
      );
    }
  } finally {
    await client.end();
  }
  return found;
}

/** Names of all indexes that are asked. */
export const QUERIED_INDEXES: readonly string[] = QUERIES.map((each) => each.index);
