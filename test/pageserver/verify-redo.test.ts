/**
 * Ingest in verify mode: every page of every record that Postgres writes is compared with what Postgres has; a page that
 * is wrong stops the timeline, before the record that shows it, also after a restart.
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { NeonError } from "../../src/base/errors.ts";
import { type Lsn, formatLsn, parseLsn } from "../../src/base/lsn.ts";
import { makeReconstructor } from "../../src/pageserver/read/make-reconstructor.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { Kind, key, kindRange } from "../../src/pageserver/ingest/keyspace.ts";
import { PageCache } from "../../src/pageserver/read/page-cache.ts";
import { PageReader } from "../../src/pageserver/read/page-reader.ts";
import { type Key, ValueFlag } from "../../src/storage/key.ts";
import { pgbench } from "../postgres/redo-workload.ts";
import type { TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { Workload, prepareWorkload } from "../support/workload.ts";
import { Lab } from "./branch-harness.ts";

async function pagesVerified(timeline: Timeline): Promise<number> {
  await timeline.syncWithWriter(60_000);
  assert.equal(timeline.error, undefined);
  return timeline.verifiedPages ?? 0;
}

/** Pages read through the cache, back and forth in time, against pages made from all that the store has of them. */
async function checkReader(timeline: Timeline, random: SeededRandom): Promise<void> {
  const { store, cluster, lastRecordLsn: end, startLsn } = timeline;
  const fresh = await makeReconstructor(store, cluster.pgVersion, end);
  const reconstructor = await makeReconstructor(store, cluster.pgVersion, end);
  const reader = new PageReader({ store, reconstructor, pages: new PageCache({ capacityBytes: 200_000 }) });
  const keys: Key[] = [];
  for await (const batch of store.scan(kindRange(Kind.RelationBlock), end)) {
    for (const entry of batch) if (entry.values.length > 1) keys.push(entry.key);
  }
  const few = Array.from({ length: 30 }, () => random.pick(keys));
  let existing = 0;
  for (let i = 0; i < 600; i++) {
    const page = random.pick(few);
    // Most reads are at the end or near it, as those of a compute are.
    const back = random.chance(0.5) ? 0.05 : 1;
    const at = Math.floor(end - (end - startLsn) * back * (random.below(1000) / 1000));
    const lsn = (await timeline.recordBoundary(at as Lsn)).endLsn;
    const found = await reader.value(page, lsn);
    const expected = fresh.value(page, (await store.get(page, lsn)).values);
    assert.ok(
      found === undefined ? expected === undefined : expected && Buffer.compare(found, expected) === 0,
      `${JSON.stringify(page)} at ${formatLsn(lsn)}`,
    );
    if (found !== undefined) existing++;
  }
  assert.ok(existing > 200, `${existing} pages existed`);
}

test(
  "all that pgbench and the workload write is redone as Postgres does it",
  { timeout: 300_000 },
  async (t) => {
    const random = SeededRandom.forTest(t);
    await using lab = new Lab({ checkpointDistanceBytes: 8 << 20, verifyRedo: true });
    const main = await lab.init();
    const compute = await lab.compute(main, { wal_consistency_checking: "all", max_wal_size: "256MB" });
    await pgbench(compute, ["-i", "-q", "-s", "1"]);
    await pgbench(compute, ["-n", "-c", "3", "-t", "100"]);
    const bench = await pagesVerified(main);
    await prepareWorkload(compute);
    const workload = new Workload(compute, { seed: random.u32(), clients: 3 });
    await sleep(2500);
    await workload.stop();
    const others = (await pagesVerified(main)) - bench;
    t.diagnostic(`${bench} pages of pgbench, ${others} of the workload in ${workload.steps} steps`);
    for (const count of [bench, others]) assert.ok(count > 2000, `${count} pages were compared`);
    await checkReader(main, random);
  },
);

test("without consistency checking nothing is compared, and nothing is asked", async () => {
  await using lab = new Lab({ verifyRedo: true });
  const main = await lab.init();
  assert.equal(main.verifiedPages, undefined);
  const compute = await lab.compute(main);
  await compute.query("create table t as select 1");
  await main.syncWithWriter(10_000);
  assert.equal(main.verifiedPages, 0);
});

/** Puts another page in the place of the one that the timeline has: one bit of the first tuple is another. */
async function spoil(timeline: Timeline, page: Key): Promise<number> {
  const lsn = timeline.lastRecordLsn;
  const { store, cluster } = timeline;
  const reconstructor = await makeReconstructor(store, cluster.pgVersion, lsn);
  const bytes = reconstructor.value(page, (await store.get(page, lsn)).values)?.slice();
  assert.ok(bytes);
  // Tuples begin at the end of the page; the very last bytes are padding.
  const at = 8192 - 20;
  bytes[at] = (bytes[at] ?? 0) ^ 0x20;
  const handle = store.intern(page.kind, page.spcOid, page.dbOid, page.relNumber, page.fork);
  store.put(handle, page.block, lsn, ValueFlag.Image, store.append(bytes, 0, bytes.length));
  return at;
}

async function pageOf(server: TestPostgres, table: string): Promise<Key> {
  const [relNumber, dbOid] = (
    await server.value(
      `select pg_relation_filenode('${table}') || ' ' || oid from pg_database where datname = current_database()`,
    )
  ).split(" ");
  return key(Kind.RelationBlock, { spcOid: 1663, dbOid: Number(dbOid), relNumber: Number(relNumber) });
}

async function untilStopped(timeline: Timeline): Promise<string> {
  const deadline = Date.now() + 20_000;
  while (timeline.state !== "stopped") {
    assert.ok(Date.now() < deadline, "the timeline stops");
    await sleep(10);
  }
  return timeline.error ?? "";
}

test("a page that is not what the compute has stops the timeline before the record that shows it", async () => {
  await using lab = new Lab({ verifyRedo: true });
  const main = await lab.init();
  const compute = await lab.compute(main, { wal_keep_size: "1GB" });
  await compute.query("create table t (id int, v char(20))");
  await compute.query("insert into t select i, 'row' from generate_series(1, 20) i");
  await compute.query("create table other as select 1 as one");
  await main.syncWithWriter(10_000);
  const page = await pageOf(compute, "t");
  const byte = await spoil(main, page);
  await main.checkpoint();
  const before = main.lastRecordLsn;

  // The commit waits for ever: its WAL is not taken in.
  const client = await compute.connect();
  const never = client
    .query("set wal_consistency_checking = 'all'; insert into other values (2); delete from t where id = 7")
    .catch(() => undefined);
  const error = await untilStopped(main);
  assert.match(
    error,
    new RegExp(
      `^redo of Heap record 0x[0-9a-f]+ at [0-9A-F/]+ differs from the compute's page, ` +
        `relation 1663/${page.dbOid}/${page.relNumber} main, block 0: byte ${byte} is 0x\\w\\w here and 0x\\w\\w there$`,
    ),
  );
  const lsn = parseLsn(/ at ([0-9A-F/]+) /.exec(error)?.[1] ?? "") as Lsn;
  assert.ok(main.lastRecordLsn > before, "what came before the record was taken in");
  assert.ok(
    main.lastRecordLsn <= lsn,
    `ends at ${formatLsn(main.lastRecordLsn)}, not behind ${formatLsn(lsn)}`,
  );

  // What came before can be read and branched from, and the record does not come back in by a restart.
  const end = main.lastRecordLsn;
  await main.waitForLsn(end, 10_000);
  const again = await lab.reopen(main);
  assert.equal(again.error, error);
  assert.equal(again.lastRecordLsn, end);
  await assert.rejects(
    again.openWriter({ name: "test", source: { host: "127.0.0.1", port: 1, user: "x" } }),
    (thrown) => thrown instanceof NeonError && thrown.message === error && thrown.data["byte"] === byte,
  );
  const branch = await lab.branch(again, end);
  assert.equal(await (await lab.compute(branch)).value("select count(*)::int from t"), "20");
  await compute.kill();
  await never;
});
