/**
 * Our redo of hash, GIN, GiST, SP-GiST and BRIN records against a real server of any major version, record by record
 * and file by file: see redo-replay.ts.
 */
import assert from "node:assert/strict";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type Lsn, INVALID_LSN, toLsn } from "../../src/base/lsn.ts";
import { Fork, PAGE_SIZE, Rmgr } from "../../src/postgres/constants.ts";
import { PageBuffer, isNewPage, pageLsn, pagePruneXid, setPageLsn } from "../../src/postgres/page/layout.ts";
import { parseRelationPath } from "../../src/postgres/relation.ts";
import { restoreBlockImage } from "../../src/postgres/wal/image.ts";
import type { BlockRef, WalRecord } from "../../src/postgres/wal/record.ts";
import { type Settings, TestPostgres, embeddedBinDir } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { variantsOf } from "./redo-index-variants.ts";
import { runIndexWorkload } from "./redo-index-workload.ts";
import { RecordMangler } from "./redo-mangler.ts";
import type { IndexRun } from "./redo-index-kinds.ts";
import { Replay, firstDifference, readBlock, readControl } from "./redo-replay.ts";

const SETTINGS: Settings = {
  wal_consistency_checking: "all",
  wal_keep_size: "100GB",
  max_wal_size: "20GB",
  shared_buffers: "64MB",
  synchronous_commit: "off",
  wal_writer_delay: "1000ms",
};

const GIN_DELETED = 0x04;
/** What a GiST index that is being built has in place of LSNs. */
const GIST_BUILD_LSN = toLsn(1);
/** Until 16 that stays on pages that were sorted into the index. */
const GIST_BUILD_LSN_STAYS_UNTIL = 16;

const RMGR_OF_METHOD: Readonly<Record<string, number>> = {
  hash: Rmgr.Hash,
  gin: Rmgr.Gin,
  gist: Rmgr.Gist,
  spgist: Rmgr.Spgist,
  brin: Rmgr.Brin,
};

export interface IndexKinds {
  /** Oid of the database. */
  readonly database: string;
  /** Resource manager of each index, by the number of its file. */
  readonly nodes: ReadonlyMap<number, number>;
}

export async function indexKinds(server: TestPostgres): Promise<IndexKinds> {
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
  const database = await server.value("select oid::int from pg_database where datname = 'postgres'");
  return { database, nodes: kinds };
}

/** What the masks of wal_consistency_checking hide although it is in the WAL. */
function strictDifference(rmgr: number, ours: PageBuffer, theirs: PageBuffer): string | undefined {
  if (isNewPage(ours) && isNewPage(theirs)) return undefined;
  const hasBuildLsn = rmgr === Rmgr.Gist && pageLsn(theirs) === GIST_BUILD_LSN;
  if (pageLsn(ours) !== pageLsn(theirs) && !hasBuildLsn) {
    return `LSN ${pageLsn(ours)}, server ${pageLsn(theirs)}`;
  }
  switch (rmgr) {
    case Rmgr.Hash:
      return specialDifference(ours, theirs, { start: 8176, flagsAt: 8188, hints: 0x80 });
    case Rmgr.Gist:
      return specialDifference(ours, theirs, { start: 8176, flagsAt: 8188, hints: 0x10 });
    case Rmgr.Gin:
      // Pages taken off the pending list: recovery makes them anew, the server only marks them.
      if (ours.view.getUint16(8190, true) === GIN_DELETED) return undefined;
      if (pagePruneXid(ours) !== pagePruneXid(theirs)) return "xid of the deletion";
      return specialDifference(ours, theirs, { start: 8184, flagsAt: 8190, hints: 0 });
    case Rmgr.Brin:
      return specialDifference(ours, theirs, { start: 8184, flagsAt: 8188, hints: 0x01 });
    default:
      return specialDifference(ours, theirs, { start: 8184, flagsAt: 8184, hints: 0 });
  }
}

function specialDifference(
  ours: PageBuffer,
  theirs: PageBuffer,
  special: { readonly start: number; readonly flagsAt: number; readonly hints: number },
): string | undefined {
  for (let at = special.start; at < PAGE_SIZE; at++) {
    const mask = at === special.flagsAt ? ~special.hints : 0xff;
    if (((ours.bytes[at] ?? 0) ^ (theirs.bytes[at] ?? 0)) & mask) {
      return `byte ${at} of the special area: ${ours.bytes[at]}, server ${theirs.bytes[at]}`;
    }
  }
  return undefined;
}

/** Compares the files of all indexes in a database directory. */
export function compareIndexes(
  replay: Replay,
  dataDir: string,
  directory: string,
  kinds: IndexKinds["nodes"],
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

/** Watches the replay: counts the ways that redo has to take, and sees to LSNs that only a server has. */
export class Watcher {
  readonly variants = new Map<string, number>();
  private readonly image = new PageBuffer();
  private last: Lsn = INVALID_LSN;

  observe(record: WalRecord, index: number, page: PageBuffer, replay: Replay): void {
    const block = record.blocks[index] as BlockRef;
    if (isMadeAnew(record, block)) setPageLsn(page, INVALID_LSN);
    else if (replay.version.major <= GIST_BUILD_LSN_STAYS_UNTIL)
      this.takeBuildLsn(record, block, page, replay);
    if (record.lsn === this.last) return;
    this.last = record.lsn;
    for (const name of variantsOf(record)) this.variants.set(name, (this.variants.get(name) ?? 0) + 1);
  }

  /** The images of a page that was sorted into a GiST index say so by their LSN. */
  private takeBuildLsn(record: WalRecord, block: BlockRef, page: PageBuffer, replay: Replay): void {
    if (!block.hasImage || (record.rmgr !== Rmgr.Gist && record.rmgr !== Rmgr.Xlog)) return;
    restoreBlockImage(record, block, replay.version, this.image.bytes);
    if (pageLsn(this.image) === GIST_BUILD_LSN) setPageLsn(page, GIST_BUILD_LSN);
  }
}

/**
 * The page that squeezing a hash bucket frees, and both halves of a split GIN page, are made anew before their image is
 * taken, so their LSN is 0 there. Redo replaces the page as a whole and does not read the LSN.
 */
function isMadeAnew(record: WalRecord, block: BlockRef): boolean {
  const operation = record.info & 0xf0;
  if (record.rmgr === Rmgr.Hash) return operation === 0x80 && block.id === 2;
  return record.rmgr === Rmgr.Gin && operation === 0x30 && block.id < 3;
}

export interface IndexCheck {
  readonly major: number;
  readonly settings: Settings;
  /** More arguments for initdb. */
  readonly initdb: readonly string[];
  /** Damaged copies of the records are applied, too. */
  readonly mangle?: boolean;
}

/** Lets a server work, replays its WAL, and asserts that there is no difference. */
export async function checkIndexRedo(t: TestContext, options: IndexCheck): Promise<IndexRun> {
  const random = SeededRandom.forTest(t);
  await using server = await TestPostgres.create({
    binDir: embeddedBinDir(options.major),
    settings: { ...SETTINGS, ...options.settings },
    initdb: options.initdb,
    start: false,
  });
  await using base = await server.clone();
  await server.start();
  await runIndexWorkload(server, random);
  const kinds = await indexKinds(server);
  await server.stop();

  const { dataChecksums, version } = readControl(base.dataDir);
  assert.equal(version.major, options.major);
  const mangler = new RecordMangler(random, dataChecksums, version);
  const watcher = new Watcher();
  const replay: Replay = new Replay(base.dataDir, {
    hintBitsLogged: dataChecksums,
    observer: (record, index, page) => {
      watcher.observe(record, index, page, replay);
      if (options.mangle !== false) mangler.observe(record, index, page);
    },
  });
  replay.run(server.dataDir);
  report(t, replay, watcher, mangler);
  assert.deepEqual(replay.differences, [], `${replay.differenceCount} differences`);
  const { differences, pages } = compareIndexes(
    replay,
    server.dataDir,
    `base/${kinds.database}`,
    kinds.nodes,
  );
  t.diagnostic(`${pages} pages of index files compared`);
  assert.deepEqual(differences.slice(0, 20), []);
  assert(pages > 1000, `only ${pages} pages of index files`);
  return { counts: replay.counts, variants: watcher.variants };
}

function report(t: TestContext, replay: Replay, watcher: Watcher, mangler: RecordMangler): void {
  t.diagnostic(`mangled records: ${mangler.applied} applied, ${mangler.refused} refused`);
  t.diagnostic(`${replay.records} records, ${replay.lsnChecks} page LSNs checked`);
  for (const [kind, count] of [...replay.counts].sort()) {
    if (!/^(Hash|Gin|Gist|Spgist|Brin) /.test(kind)) continue;
    t.diagnostic(`${kind}: ${count.redone} redone, ${count.restored} restored, ${count.compared} compared`);
  }
  for (const [variant, count] of [...watcher.variants].sort()) t.diagnostic(`${variant}: ${count} times`);
}
