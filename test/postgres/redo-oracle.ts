/** Our redo against a real server of any major version, record by record and file by file: see redo-replay.ts. */
import assert from "node:assert/strict";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Lsn } from "../../src/base/lsn.ts";
import type { TestContext } from "node:test";
import {
  Fork,
  PAGE_SIZE,
  RELATION_SEGMENT_PAGES,
  Rmgr,
  SLRU_SEGMENT_PAGES,
} from "../../src/postgres/constants.ts";
import { pageChecksum } from "../../src/postgres/page/checksum.ts";
import { PageBuffer, isNewPage, itemId, itemOffset } from "../../src/postgres/page/layout.ts";
import { parseRelationPath } from "../../src/postgres/relation.ts";
import { Slru, parseSlruPath, slruDirectory } from "../../src/postgres/slru.ts";
import { nextRecordLsn, recordEndLsn } from "../../src/postgres/wal/layout.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { type Settings, TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { RecordMangler } from "./redo-mangler.ts";
import { Replay, SHUTDOWN_CHECKPOINT_SIZE, firstDifference, readBlock, readControl } from "./redo-replay.ts";
import { runWorkload } from "./redo-workload.ts";

/** Of every server that is watched. */
export const ORACLE_SETTINGS: Settings = {
  wal_consistency_checking: "all",
  wal_keep_size: "100GB",
  max_wal_size: "20GB",
  max_prepared_transactions: 10,
  shared_buffers: "64MB",
  synchronous_commit: "off",
  wal_writer_delay: "1000ms",
};

/** How each file node is to be masked: by the resource manager that writes its pages. */
type Kinds = ReadonlyMap<number, number>;

async function relationKinds(server: TestPostgres): Promise<Kinds> {
  const rows = await server.query(
    `select pg_relation_filenode(c.oid)::int as node, c.relkind::text as kind, coalesce(a.amname, '') as am
     from pg_class c left join pg_am a on a.oid = c.relam
     where pg_relation_filenode(c.oid) is not null and c.relpersistence = 'p'`,
  );
  const kinds = new Map<number, number>();
  for (const row of rows) {
    const { node, kind, am } = row as { node: number; kind: string; am: string };
    if (kind === "S") kinds.set(node, Rmgr.Seq);
    else if (am === "heap") kinds.set(node, Rmgr.Heap);
    else if (am === "btree") kinds.set(node, Rmgr.Btree);
    else if (am === "bloom") kinds.set(node, Rmgr.Generic);
  }
  return kinds;
}

/** Compares main and map forks of one database directory; returns what differs and how many pages were compared. */
function compareRelations(
  replay: Replay,
  dataDir: string,
  directory: string,
  kinds: Kinds,
  hasChecksums: boolean,
) {
  const theirs = new PageBuffer();
  const scratch = new PageBuffer();
  const differences: string[] = [];
  const pages = { main: 0, map: 0 };
  for (const name of readdirSync(join(dataDir, directory))) {
    const path = `${directory}/${name}`;
    const file = parseRelationPath(path, replay.version);
    const kind = file && kinds.get(file.relNumber);
    if (!file || kind === undefined || file.fork === Fork.FreeSpaceMap) continue;
    const count = statSync(join(dataDir, path)).size / PAGE_SIZE;
    for (let index = 0; index < count; index++) {
      const block = file.segment * RELATION_SEGMENT_PAGES + index;
      assert(readBlock(join(dataDir, path), index, theirs.bytes));
      if (hasChecksums && !isNewPage(theirs)) {
        const expected = theirs.view.getUint16(8, true);
        const sum = pageChecksum(theirs.view, block);
        if (sum !== expected) differences.push(`${path} block ${block}: checksum ${sum}, server ${expected}`);
      }
      const ours = replay.page(file, file.fork, block);
      if (file.fork === Fork.VisibilityMap) {
        pages.map++;
        const same = Buffer.compare(ours.bytes.subarray(24), theirs.bytes.subarray(24)) === 0;
        if (!same) differences.push(`${path} block ${block}: visibility map`);
        continue;
      }
      pages.main++;
      if (kind === Rmgr.Seq) useUpLoggedValues(ours, theirs);
      const difference = firstDifference(kind, ours, theirs, scratch, block);
      if (difference !== undefined) differences.push(`${path} block ${block}: ${difference}`);
    }
  }
  return { differences, pages };
}

/**
 * WAL has a sequence's value from some steps ahead; the server's own page says how many are left. Takes them off ours,
 * for sequences that step by 1.
 */
function useUpLoggedValues(ours: PageBuffer, theirs: PageBuffer): void {
  const lastValue = itemOffset(itemId(ours, 1)) + 24;
  const left = theirs.view.getBigInt64(lastValue + 8, true);
  ours.view.setBigInt64(lastValue, ours.view.getBigInt64(lastValue, true) - left, true);
  ours.view.setBigInt64(lastValue + 8, left, true);
}

function compareSlrus(replay: Replay, dataDir: string) {
  const differences: string[] = [];
  const pages: Record<string, number> = {};
  for (const slru of [Slru.Xact, Slru.MultixactOffsets, Slru.MultixactMembers]) {
    const directory = slruDirectory(slru);
    const theirs = new Uint8Array(PAGE_SIZE);
    let count = 0;
    for (const name of readdirSync(join(dataDir, directory))) {
      const path = `${directory}/${name}`;
      const segment = parseSlruPath(path);
      if (!segment) continue;
      for (let index = 0; readBlock(join(dataDir, path), index, theirs); index++) {
        const pageNumber = segment.segment * SLRU_SEGMENT_PAGES + index;
        count++;
        const ours = replay.slruPage(slru, pageNumber);
        const at = ours.findIndex((byte, i) => byte !== theirs[i]);
        if (at >= 0)
          differences.push(`${path} page ${pageNumber} byte ${at}: ${ours[at]}, server ${theirs[at]}`);
      }
    }
    pages[directory] = count;
  }
  return { differences, pages };
}

export interface OracleOptions {
  /** The embedded Postgres 17 when absent. */
  readonly binDir?: string;
  readonly settings: Settings;
  readonly initdb: readonly string[];
  readonly hintBitsLogged: boolean;
  readonly transactionCount: number;
  /** Changes the new cluster before it runs for the first time. */
  readonly prepare?: (server: TestPostgres) => void;
  /** Does something before the workload. */
  readonly before?: (server: TestPostgres) => Promise<void>;
  /** At the end of the workload, while the server runs; `from` is where its first record begins. */
  readonly running?: (server: TestPostgres, from: Lsn) => Promise<void>;
  /** Sees each record that is replayed. */
  readonly onRecord?: (record: WalRecord) => void;
  /** Sees each block of each record before redo. */
  readonly observer?: (record: WalRecord, blockIndex: number, page: PageBuffer, replay: Replay) => void;
  /** At the end, while the stopped server's files are still there. */
  readonly stopped?: (server: TestPostgres, replay: Replay) => void;
}

/** Runs the workload on a server, replays its WAL and compares. Throws when anything differs. */
export async function checkAgainstServer(t: TestContext, options: OracleOptions): Promise<Replay> {
  const { hintBitsLogged } = options;
  await using server = await TestPostgres.create({
    settings: { ...ORACLE_SETTINGS, ...options.settings },
    initdb: options.initdb,
    ...(options.binDir !== undefined && { binDir: options.binDir }),
    start: false,
  });
  options.prepare?.(server);
  await using base = await server.clone();
  await server.start();
  await options.before?.(server);
  await runWorkload(server, options.transactionCount);
  const kinds = await relationKinds(server);
  const [row] = await server.query("select oid::int as oid from pg_database where datname = 'postgres'");
  const database = (row as { oid: number }).oid;
  const { version, checkpointLsn, walSegmentSize } = readControl(base.dataDir);
  const baseEnd = recordEndLsn(checkpointLsn, SHUTDOWN_CHECKPOINT_SIZE, walSegmentSize);
  await options.running?.(server, nextRecordLsn(baseEnd, walSegmentSize));
  await server.stop();

  const mangler = new RecordMangler(SeededRandom.forTest(t), hintBitsLogged, version);
  const replay: Replay = new Replay(base.dataDir, {
    hintBitsLogged,
    observer: (record, index, page) => {
      options.observer?.(record, index, page, replay);
      mangler.observe(record, index, page);
    },
    ...(options.onRecord && { onRecord: options.onRecord }),
  });
  replay.run(server.dataDir);
  t.diagnostic(`mangled records: ${mangler.applied} applied, ${mangler.refused} refused`);
  t.diagnostic(`${replay.records} records, ${replay.lsnChecks} page LSNs checked`);
  for (const [kind, count] of [...replay.counts].sort()) {
    t.diagnostic(`${kind}: ${count.redone} redone, ${count.restored} restored, ${count.compared} compared`);
  }
  assert.deepEqual(replay.differences, [], `${replay.differenceCount} differences`);

  const directory = `base/${database}`;
  const relations = compareRelations(replay, server.dataDir, directory, kinds, hintBitsLogged);
  const shared = compareRelations(replay, server.dataDir, "global", kinds, hintBitsLogged);
  const slrus = compareSlrus(replay, server.dataDir);
  t.diagnostic(`files compared: ${JSON.stringify([relations.pages, shared.pages, slrus.pages])}`);
  assert.deepEqual([...relations.differences, ...shared.differences, ...slrus.differences], []);
  assert(relations.pages.main > 1000 && relations.pages.map > 10);
  options.stopped?.(server, replay);
  return replay;
}

/** Kinds of records and blocks that the workload must bring about, or this test proves less than it says. */
const KINDS_COMPARED: readonly string[] = [
  ...["0x00 block 0", "0x10 block 0", "0x10 block 1", "0x20 block 0", "0x20 block 1", "0x20 block 2"],
  ...["0x30 block 0", "0x30 block 1", "0x30 block 2", "0x30 block 3", "0x30+posting block 0"],
  ...["0x40 block 0", "0x40 block 1", "0x40 block 2", "0x40 block 3"],
  ...["0x50 block 0", "0x60 block 0", "0x70 block 0", "0xc0 block 0", "0xe0 block 0"],
  ...["0x80 block 0", "0x80 block 1", "0x80 block 2", "0x80 block 3", "0x90 block 0", "0x90 block 4"],
  ...["0xa0 block 0", "0xa0 block 1", "0xa0 block 2", "0xb0 block 0", "0xb0 block 1"],
]
  .map((kind) => `Btree ${kind}`)
  .concat(
    [
      ...["0x00 block 0", "0x00+init block 0", "0x10 block 0", "0x10+super block 0", "0x10+moved block 0"],
      ...["0x20 block 0", "0x20 block 1", "0x20+prefix block 0", "0x20+suffix block 0"],
      ...["0x20+prefix+suffix block 0", "0x20+init block 0", "0x20+init block 1", "0x40 block 0"],
      ...[
        "0x40+prefix block 0",
        "0x40+prefix+suffix block 0",
        "0x50 block 0",
        "0x60 block 0",
        "0x70 block 0",
      ],
    ].map((kind) => `Heap ${kind}`),
    [
      ...["0x30 block 0", "0x40 block 0", "0x40 block 1"],
      ...["0x50 block 0", "0x50+init block 0", "0x60 block 0"],
    ].map((kind) => `Heap2 ${kind}`),
    ["Seq 0x00 block 0", "Generic 0x00 block 0"],
  );

const COMBINED_PRUNES: readonly string[] = [
  ...["0x10+cleanup block 0", "0x10+cleanup+redirect block 0"],
  ...["0x20+cleanup block 0", "0x20+cleanup+freeze block 0"],
].map((kind) => `Heap2 ${kind}`);
const SEPARATE_PRUNES: readonly string[] = ["0x10 block 0", "0x10+redirect block 0", "0x20 block 0"].map(
  (kind) => `Heap2 ${kind}`,
);

/** The kinds of records and blocks that should have been compared and were not. */
export function kindsMissing(replay: Replay): string[] {
  const prunes = replay.version.redo.heapPrune === "combined" ? COMBINED_PRUNES : SEPARATE_PRUNES;
  const wanted = [...KINDS_COMPARED, ...prunes];
  return wanted.filter((kind) => (replay.counts.get(kind)?.compared ?? 0) === 0);
}
