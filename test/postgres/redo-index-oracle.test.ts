/** Our redo of hash, GIN, GiST, SP-GiST and BRIN records against a real server: see redo-replay.ts. */
import assert from "node:assert/strict";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Fork, PAGE_SIZE, Rmgr } from "../../src/postgres/constants.ts";
import { PageBuffer, isNewPage, pageLsn, pagePruneXid, setPageLsn } from "../../src/postgres/page/layout.ts";
import { parseRelationPath } from "../../src/postgres/relation.ts";
import { INVALID_LSN } from "../../src/base/lsn.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { type Settings, TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { runIndexWorkload } from "./redo-index-workload.ts";
import { variantsOf } from "./redo-index-variants.ts";
import { RecordMangler } from "./redo-mangler.ts";
import { Replay, firstDifference, readBlock } from "./redo-replay.ts";

const SETTINGS: Settings = {
  wal_consistency_checking: "all",
  wal_keep_size: "100GB",
  max_wal_size: "20GB",
  shared_buffers: "64MB",
  synchronous_commit: "off",
  wal_writer_delay: "1000ms",
};

const GIN_DELETED = 0x04;

const RMGR_OF_METHOD: Readonly<Record<string, number>> = {
  hash: Rmgr.Hash,
  gin: Rmgr.Gin,
  gist: Rmgr.Gist,
  spgist: Rmgr.Spgist,
  brin: Rmgr.Brin,
};

/** Resource manager of each index, by the number of its file. */
async function indexKinds(server: TestPostgres): Promise<ReadonlyMap<number, number>> {
  const rows = await server.query(
    `select pg_relation_filenode(c.oid)::int as node, a.amname::text as am
     from pg_class c join pg_am a on a.oid = c.relam where c.relkind = 'i' and c.relpersistence = 'p'`,
  );
  const kinds = new Map<number, number>();
  for (const row of rows) {
    const { node, am } = row as { node: number; am: string };
    const rmgr = RMGR_OF_METHOD[am];
    if (rmgr !== undefined) kinds.set(node, rmgr);
  }
  return kinds;
}

/** What the masks of wal_consistency_checking hide although it is in the WAL. */
function strictDifference(rmgr: number, ours: PageBuffer, theirs: PageBuffer): string | undefined {
  const special = (hints: number, flagsAt: number) => {
    for (let at = rmgr === Rmgr.Hash || rmgr === Rmgr.Gist ? 8176 : 8184; at < PAGE_SIZE; at++) {
      const mask = at === flagsAt ? ~hints : 0xff;
      if (((ours.bytes[at] ?? 0) ^ (theirs.bytes[at] ?? 0)) & mask) {
        return `byte ${at} of the special area: ${ours.bytes[at]}, server ${theirs.bytes[at]}`;
      }
    }
    return undefined;
  };
  if (isNewPage(ours) && isNewPage(theirs)) return undefined;
  if (pageLsn(ours) !== pageLsn(theirs)) return `LSN ${pageLsn(ours)}, server ${pageLsn(theirs)}`;
  switch (rmgr) {
    case Rmgr.Hash:
      return special(0x80, 8188);
    case Rmgr.Gist:
      return special(0x10, 8188);
    case Rmgr.Gin:
      // Pages taken off the pending list: recovery makes them anew, the server only marks them.
      if (ours.view.getUint16(8190, true) === GIN_DELETED) return undefined;
      if (pagePruneXid(ours) !== pagePruneXid(theirs)) return "xid of the deletion";
      return special(0, 0);
    case Rmgr.Brin:
      return special(0x01, 8188);
    default:
      return special(0, 0);
  }
}

function compareIndexes(
  replay: Replay,
  dataDir: string,
  directory: string,
  kinds: ReadonlyMap<number, number>,
) {
  const theirs = new PageBuffer();
  const scratch = new PageBuffer();
  const differences: string[] = [];
  let pages = 0;
  for (const name of readdirSync(join(dataDir, directory))) {
    const path = `${directory}/${name}`;
    const file = parseRelationPath(path, replay.version);
    const kind = file && kinds.get(file.relNumber);
    if (!file || kind === undefined || file.fork !== Fork.Main) continue;
    const count = statSync(join(dataDir, path)).size / PAGE_SIZE;
    for (let block = 0; block < count; block++) {
      assert(readBlock(join(dataDir, path), block, theirs.bytes));
      const ours = replay.page(file, file.fork, block);
      // The first page of an SP-GiST index remembers pages with room, as a hint that is not logged.
      if (kind === Rmgr.Spgist && block === 0) continue;
      pages++;
      const difference =
        strictDifference(kind, ours, theirs) ?? firstDifference(kind, ours, theirs, scratch, block);
      if (difference !== undefined) differences.push(`${path} block ${block} (${kind}): ${difference}`);
    }
  }
  return { differences, pages };
}

/**
 * The page that squeezing a hash bucket frees, and both halves of a split GIN page, are made anew before their image is
 * taken, so their LSN is 0 there. Redo replaces the page as a whole and does not read the LSN.
 */
function forgetLsnOfNewPage(record: WalRecord, index: number, page: PageBuffer): void {
  const operation = record.info & 0xf0;
  const id = record.blocks[index]?.id ?? 0;
  const isFreed = record.rmgr === Rmgr.Hash && operation === 0x80 && id === 2;
  const isHalf = record.rmgr === Rmgr.Gin && operation === 0x30 && id < 3;
  if (isFreed || isHalf) setPageLsn(page, INVALID_LSN);
}

/** Counts the ways that redo has to take. */
class Variants {
  readonly counts = new Map<string, number>();
  private last: number = -1;

  observe(record: WalRecord): void {
    if (record.lsn === this.last) return;
    this.last = record.lsn;
    for (const name of variantsOf(record)) this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
  }
}

async function checkAgainstServer(
  t: TestContext,
  settings: Settings,
  initdb: readonly string[],
): Promise<Replay> {
  const random = SeededRandom.forTest(t);
  const hintBitsLogged = initdb.includes("--data-checksums");
  const binDir = process.env["NEON_TEST_BINDIR"];
  await using server = await TestPostgres.create({
    ...(binDir === undefined ? {} : { binDir }),
    settings: { ...SETTINGS, ...settings },
    initdb,
    start: false,
  });
  await using base = await server.clone();
  await server.start();
  const t0 = Date.now();
  await runIndexWorkload(server, random);
  t.diagnostic(`workload ${Date.now() - t0} ms`);
  const kinds = await indexKinds(server);
  const database = await server.value("select oid::int from pg_database where datname = 'postgres'");
  await server.stop();

  const t1 = Date.now();
  const mangler = new RecordMangler(random, hintBitsLogged);
  const variants = new Variants();
  const replay = new Replay(base.dataDir, {
    hintBitsLogged,
    observer: (record, index, page) => {
      forgetLsnOfNewPage(record, index, page);
      variants.observe(record);
      mangler.observe(record, index, page);
    },
  });
  replay.run(server.dataDir);
  t.diagnostic(`replay ${Date.now() - t1} ms`);
  t.diagnostic(`mangled records: ${mangler.applied} applied, ${mangler.refused} refused`);
  t.diagnostic(`${replay.records} records, ${replay.lsnChecks} page LSNs checked`);
  for (const [kind, count] of [...replay.counts].sort()) {
    if (!/^(Hash|Gin|Gist|Spgist|Brin) /.test(kind)) continue;
    t.diagnostic(`${kind}: ${count.redone} redone, ${count.restored} restored, ${count.compared} compared`);
  }
  for (const [variant, count] of [...variants.counts].sort()) t.diagnostic(`${variant}: ${count} records`);
  assert.deepEqual(replay.differences, [], `${replay.differenceCount} differences`);
  const { differences, pages } = compareIndexes(replay, server.dataDir, `base/${database}`, kinds);
  t.diagnostic(`${pages} pages of index files compared`);
  assert.deepEqual(differences.slice(0, 20), []);
  return replay;
}

test("every index record of a server with full page writes and checksums", async (t) => {
  await checkAgainstServer(t, { full_page_writes: true }, ["--data-checksums"]);
});

test("every index record of a server without full page writes", async (t) => {
  await checkAgainstServer(t, { full_page_writes: false }, []);
});
