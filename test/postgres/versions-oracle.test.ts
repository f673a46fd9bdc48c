/**
 * Real servers of the major versions other than 17, whose binaries npm has as optional packages: every record of a
 * workload against our redo, the records against Postgres' own reading of them, and the clean end of the WAL and pg_control
 * written by us, byte for byte.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import { rmgrName } from "../../src/postgres/constants.ts";
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
import { EMBEDDED_MAJORS, type TestPostgres, embeddedBinDir } from "../support/postgres.ts";
import { checkAgainstServer, kindsMissing } from "./redo-oracle.ts";
import type { Replay } from "./redo-replay.ts";

const MAJORS = EMBEDDED_MAJORS.filter((major) => major !== 17);

/** What all records of a kind have together. */
interface KindTotal {
  records: number;
  bytes: number;
  mainBytes: number;
  imageBytes: number;
}

/** Postgres' totals for each resource manager and name of a record, and up to where. */
interface Opinion {
  readonly end: Lsn;
  readonly totals: ReadonlyMap<string, KindTotal>;
}

/** Our names for resource managers are not always pg_walinspect's. */
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
    `select resource_manager as rmgr, count(*)::float8 as records, sum(record_length)::float8 as bytes,
            sum(main_data_length)::float8 as main, sum(fpi_length)::float8 as images
     from pg_get_wal_records_info($1, $2) group by 1`,
    [formatLsn(from), formatLsn(end)],
  );
  const totals = new Map<string, KindTotal>();
  for (const row of rows) {
    const name = String(row["rmgr"]);
    totals.set(RMGR_NAMES[name] ?? name, {
      records: Number(row["records"]),
      bytes: Number(row["bytes"]),
      mainBytes: Number(row["main"]),
      imageBytes: Number(row["images"]),
    });
  }
  return { end, totals };
}

function addRecord(totals: Map<string, KindTotal>, record: WalRecord): void {
  const name = rmgrName(record.rmgr);
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

async function checkMajor(t: TestContext, major: number): Promise<void> {
  const version = versionByMajor(major);
  const totals = new Map<string, KindTotal>();
  let opinion: Opinion | undefined;
  const replay = await checkAgainstServer(t, {
    binDir: embeddedBinDir(major),
    settings: { full_page_writes: false },
    // Without page checksums: with them, and without full page writes, servers stamp hints that no replay stamps.
    initdb: version.initdbArguments,
    hintBitsLogged: false,
    transactionCount: 150,
    running: async (server, from) => {
      // Bits of compressed images were renumbered in 15.
      await server.query("set wal_compression = on; update churn set n = n + 1; reset wal_compression");
      opinion = await askServer(server, from);
    },
    onRecord: (record) => {
      if (opinion !== undefined && record.endLsn <= opinion.end) addRecord(totals, record);
    },
    stopped: (server, { lastBefore }) => {
      checkRoundTrip(server, version, lastBefore);
    },
  });
  assert.deepEqual(kindsMissing(replay), []);
  if (opinion !== undefined) assert.deepEqual(totals, opinion.totals);
}

for (const major of MAJORS) {
  test(`every record of a server of major version ${major}`, (t) => checkMajor(t, major));
}
