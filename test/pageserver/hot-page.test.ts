/** A row that every transaction changes: its page is read in no more steps than between two images of it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Kind, kindRange } from "../../src/pageserver/ingest/keyspace.ts";
import { Lab } from "./branch-harness.ts";

test("pages that change all the time are put as images now and then", { timeout: 300_000 }, async () => {
  await using lab = new Lab();
  const main = await lab.init();
  const compute = await lab.compute(main, { synchronous_commit: "local", wal_writer_delay: "10ms" });
  await compute.query("create table counter (id int primary key, n int) with (fillfactor = 50)");
  await compute.query("insert into counter values (1, 0)");
  await compute.query(
    `do $$ begin for i in 1..9000 loop update counter set n = n + 1; commit; end loop; end $$`,
  );
  await main.syncWithWriter(30_000);
  let longest = 0;
  for await (const batch of main.store.scan(kindRange(Kind.RelationBlock), main.lastRecordLsn)) {
    for (const entry of batch) longest = Math.max(longest, entry.values.length);
  }
  assert.ok(longest > 100, `chains of up to ${longest} values: the load was there`);
  assert.ok(longest <= 2048, `a chain of ${longest} values`);
  const branch = await lab.compute(await lab.branch(main));
  assert.equal(await branch.value("select n from counter"), "9000");
});
