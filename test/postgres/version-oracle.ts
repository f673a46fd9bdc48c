/**
 * Real servers of each major version (of those other than 17, npm has the binaries as optional packages): every record of
 * a workload that reaches every resource manager against our redo, pages and SLRUs against the server's files, the
 * records against Postgres' own reading of them, and the clean end of the WAL and pg_control written by us, byte for
 * byte. In the end, every kind of record that the version has must have occurred, or be shown by a test that is named.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import {
  ClusterState,
  cleanShutdown,
  parseControlFile,
  renderControlFile,
} from "../../src/postgres/control-file.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { segmentName, segmentStart } from "../../src/postgres/wal/layout.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { synthesizeStart } from "../../src/postgres/wal/start-point.ts";
import { moveCounters } from "../support/counters.ts";
import { type TestPostgres, embeddedBinDir } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { visitEdgeRecords } from "./edge-server.ts";
import { allKinds, kindOfRecord } from "./kind-collector.ts";
import { assertIndexKinds } from "./redo-index-kinds.ts";
import { type IndexKinds, Watcher, compareIndexes, indexKinds } from "./redo-index-oracle.ts";
import { runIndexWorkload } from "./redo-index-workload.ts";
import { ORACLE_SETTINGS, checkAgainstServer, kindsMissing } from "./redo-oracle.ts";
import {
  RARE_SETTINGS,
  SHORTLY_BEFORE_SEGMENTS,
  retireTransactions,
  runRareWorkload,
  touchOldPages,
} from "./redo-rare-workload.ts";
import type { Replay } from "./redo-replay.ts";

/** What all records of a kind have together. */
interface KindTotal {
  records: number;
  bytes: number;
  mainBytes: number;
  imageBytes: number;
}

/** Postgres' totals for each kind of record, and up to where. */
interface Opinion {
  readonly end: Lsn;
  readonly totals: ReadonlyMap<string, KindTotal>;
}

/** Our names for resource managers are not always pg_walinspect's; those for kinds of records are. */
const RMGR_NAMES: Readonly<Record<string, string>> = {
  XLOG: "Xlog",
  Transaction: "Xact",
  Storage: "Smgr",
  CLOG: "Clog",
  Database: "Dbase",
  Tablespace: "Tblspc",
  MultiXact: "Multixact",
  RelMap: "Relmap",
  Sequence: "Seq",
  SPGist: "Spgist",
  BRIN: "Brin",
  CommitTs: "CommitTs",
  ReplicationOrigin: "ReplOrigin",
  LogicalMessage: "LogicalMsg",
};

/** Reads the records with the server's own extension; 14 does not have it. */
async function askServer(server: TestPostgres, from: Lsn): Promise<Opinion | undefined> {
  const known = await server.query("select 1 from pg_available_extensions where name = 'pg_walinspect'");
  if (known.length === 0) return undefined;
  await server.query("create extension pg_walinspect");
  // Flushes all WAL, whatever synchronous_commit says.
  await server.query("checkpoint");
  const end = await server.lsn();
  const rows = await server.query(
    `select resource_manager as rmgr, replace(record_type, '+INIT', '') as kind, count(*)::float8 as records, sum(record_length)::float8 as bytes,
            sum(main_data_length)::float8 as main, sum(fpi_length)::float8 as images
     from pg_get_wal_records_info($1, $2) group by 1, 2`,
    [formatLsn(from), formatLsn(end)],
  );
  const totals = new Map<string, KindTotal>();
  for (const row of rows) {
    const name = String(row["rmgr"]);
    totals.set(`${RMGR_NAMES[name] ?? name} ${String(row["kind"])}`, {
      records: Number(row["records"]),
      bytes: Number(row["bytes"]),
      mainBytes: Number(row["main"]),
      imageBytes: Number(row["images"]),
    });
  }
  return { end, totals };
}

function addRecord(totals: Map<string, KindTotal>, record: WalRecord, version: PgVersion): void {
  const name = kindOfRecord(record, version.records);
  const total = totals.get(name) ?? { records: 0, bytes: 0, mainBytes: 0, imageBytes: 0 };
  totals.set(name, total);
  total.records++;
  total.bytes += record.length;
  total.mainBytes += record.mainLength;
  for (let i = 0; i < record.blockCount; i++) total.imageBytes += record.blocks[i]?.imageLength ?? 0;
}

/** The shutdown record and pg_control of a stopped server, made by us from what is before them, are the server's. */
function checkRoundTrip(server: TestPostgres, version: PgVersion, before: Replay["lastBefore"]): void {
  assert(before, "there is a record before the shutdown checkpoint");
  const controlBytes = readFileSync(join(server.dataDir, "global/pg_control"));
  const control = parseControlFile(controlBytes);
  assert.equal(control.version, version);
  const { walSegmentSize: segmentSize, checkpoint } = control;
  const start = synthesizeStart({
    lsn: before.endLsn,
    previousLsn: before.lsn,
    checkpoint,
    version,
    systemId: control.systemId,
    segmentSize,
    timelineNumber: checkpoint.timeline,
  });
  assert.equal(formatLsn(start.recordLsn), formatLsn(control.checkpointLsn));
  const file = join(server.dataDir, "pg_wal", segmentName(checkpoint.timeline, before.endLsn, segmentSize));
  const at = before.endLsn - segmentStart(before.endLsn, segmentSize);
  const real = readFileSync(file).subarray(at, at + start.wal.length);
  assert.ok(Buffer.from(start.wal).subarray(0, real.length).equals(real), "the shutdown record");
  const changes = cleanShutdown(start.recordLsn, start.checkpoint, control.parameters);
  const scrambled = renderControlFile(controlBytes, {
    state: ClusterState.InProduction,
    timeSeconds: 1,
    checkpoint: { ...checkpoint, nextXid: 1n, walLevel: 0 },
    parameters: { ...control.parameters, maxConnections: 1 },
  });
  const rendered = renderControlFile(scrambled, { ...changes, timeSeconds: control.timeSeconds });
  assert.ok(Buffer.from(rendered).equals(controlBytes), "pg_control");
}

/** Kinds that no server can be made to write, and the test that shows what we do with them. */
export const SHOWN_ELSEWHERE: Readonly<Record<string, string>> = {
  // Reserved for tests of Postgres itself.
  "Xlog NOOP": "test/ingest/checkpoint-state.test.ts",
};

/** Asserts that every kind of the version occurred. */
function assertAllKinds(version: PgVersion, seen: ReadonlySet<string>): void {
  const missing = allKinds(version.records).filter((kind) => !seen.has(kind) && !(kind in SHOWN_ELSEWHERE));
  assert.deepEqual(missing, [], `kinds of records of PostgreSQL ${version.major} that no test exercises`);
}

/**
 * Rare records, under other settings: among them that changes of hints are logged, which changes what redo does to pages,
 * and that more is logged for logical decoding, which changes what redo is given.
 */
async function restart(server: TestPostgres, random: SeededRandom): Promise<void> {
  // Nothing that holds vacuum up.
  await server.query("commit prepared 'p4'");
  await server.stop();
  server.configure({
    ...ORACLE_SETTINGS,
    ...RARE_SETTINGS,
    wal_log_hints: "on",
    full_page_writes: "on",
    max_connections: 37,
  });
  await server.start();
  await runRareWorkload(server, random);
  await touchOldPages(server);
}

/** Runs a server of the version and throws at the first difference. */
export async function checkMajor(t: TestContext, major: number): Promise<void> {
  const random = SeededRandom.forTest(t);
  const version = versionByMajor(major);
  const totals = new Map<string, KindTotal>();
  const seen = new Set<string>();
  const watcher = new Watcher();
  let opinion: Opinion | undefined;
  let indexes: IndexKinds | undefined;
  const replay = await checkAgainstServer(t, {
    binDir: embeddedBinDir(major),
    settings: { ...RARE_SETTINGS, wal_level: "replica", full_page_writes: false },
    // Without page checksums: with them, and without full page writes, servers stamp hints that no replay stamps.
    initdb: version.initdbArguments,
    hintBitsLogged: false,
    transactionCount: 150,
    prepare: (server) => {
      moveCounters(server, SHORTLY_BEFORE_SEGMENTS);
    },
    before: async (server) => {
      await retireTransactions(server);
      await runIndexWorkload(server, random);
    },
    running: async (server, from) => {
      // Bits of compressed images were renumbered in 15.
      await server.query("set wal_compression = on; update churn set n = n + 1; reset wal_compression");
      await restart(server, random);
      opinion = await askServer(server, from);
      indexes = await indexKinds(server);
    },
    observer: (record, index, page, replayed) => {
      watcher.observe(record, index, page, replayed);
    },
    onRecord: (record) => {
      seen.add(kindOfRecord(record, version.records));
      if (opinion !== undefined && record.endLsn <= opinion.end) addRecord(totals, record, version);
    },
    stopped: (server, replayed) => {
      checkRoundTrip(server, version, replayed.lastBefore);
      checkIndexFiles(t, server, replayed, indexes);
    },
  });
  assert.deepEqual(kindsMissing(replay), []);
  assertIndexKinds({ counts: replay.counts, variants: watcher.variants });
  if (opinion !== undefined) assert.deepEqual(totals, opinion.totals);
  await visitEdgeRecords(version, (record) => seen.add(kindOfRecord(record, version.records)));
  assertAllKinds(version, seen);
}

function checkIndexFiles(t: TestContext, server: TestPostgres, replay: Replay, kinds?: IndexKinds): void {
  assert(kinds);
  const { differences, pages } = compareIndexes(
    replay,
    server.dataDir,
    `base/${kinds.database}`,
    kinds.nodes,
  );
  t.diagnostic(`${pages} pages of index files compared`);
  assert.deepEqual(differences.slice(0, 20), []);
  assert(pages > 1000, `only ${pages} pages of index files`);
}
