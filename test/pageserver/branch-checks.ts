/** What must hold on a branch of the workload's database. */
import assert from "node:assert/strict";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import type { TestPostgres } from "../support/postgres.ts";

const ACCOUNT_SUM = "select coalesce(sum(balance), 0)::int from account";

/** The xids of all transactions that have written, in order. */
export async function journal(server: TestPostgres): Promise<number[]> {
  const rows = await server.query("select xid::int as xid from journal order by xid");
  return rows.map((row) => Number(row["xid"]));
}

/** Every B-tree with its table, by Postgres' own check. */
async function checkIndexes(server: TestPostgres): Promise<void> {
  await server.query("create extension if not exists amcheck");
  await server.query(
    `select bt_index_check(c.oid, true) from pg_class c join pg_am a on a.oid = c.relam
     where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence <> 't'`,
  );
}

async function checkHeaps(server: TestPostgres): Promise<void> {
  const rows = await server.query(
    `select c.relname, v.* from pg_class c, lateral verify_heapam(c.oid) v
     where c.relkind in ('r', 't') and c.relpersistence = 'p'`,
  );
  assert.deepEqual(rows, []);
}

/** The branch has these transactions and no others, its indexes agree with its tables, and it can be written to. */
export async function checkBranch(server: TestPostgres, expected: number[], lsn: Lsn): Promise<void> {
  assert.deepEqual(await journal(server), expected, `journal at ${formatLsn(lsn)}`);
  assert.equal(await server.value(ACCOUNT_SUM), "0", `sum of balances at ${formatLsn(lsn)}`);
  assert.equal(await server.value("select count(*)::int from scratch"), "0", "unlogged tables begin empty");
  await checkIndexes(server);
  await checkHeaps(server);
  await server.query("insert into journal (note) values ('on the branch')");
}
