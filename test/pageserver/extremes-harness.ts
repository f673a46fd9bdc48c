/**
 * For tests of what is rare in the life of a cluster: counters set near their limits before the import, and any moment
 * of a timeline compared with stock recovery, file by file.
 */
import assert from "node:assert/strict";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, formatLsn, lsnAdd } from "../../src/base/lsn.ts";
import { compareXids } from "../../src/pageserver/ingest/checkpoint-state.ts";
import type { Timeline, TimelineDependencies } from "../../src/pageserver/timeline/timeline.ts";
import type { CheckPoint } from "../../src/postgres/checkpoint.ts";
import {
  type ControlFile,
  cleanShutdown,
  parseControlFile,
  renderControlFile,
} from "../../src/postgres/control-file.ts";
import { PAGE_SIZE, SLRU_SEGMENT_PAGES } from "../../src/postgres/constants.ts";
import { Slru, slruPath } from "../../src/postgres/slru.ts";
import { parseSegmentName, segmentName } from "../../src/postgres/wal/layout.ts";
import { checkpointEndLsn, synthesizeStart } from "../../src/postgres/wal/start-point.ts";
import type { Settings, TestPostgres } from "../support/postgres.ts";
import type { Lab } from "./branch-harness.ts";
import { compareDirectories } from "./compare-directories.ts";

const RECOVERY_TIMEOUT_MS = 120_000;
const XIDS_PER_PAGE = 4 * PAGE_SIZE;
const MULTIS_PER_PAGE = PAGE_SIZE / 4;
const MEMBERS_PER_PAGE = 1636;

/** Counters that tests set. */
export type Counters = Partial<
  Pick<CheckPoint, "nextXid" | "nextOid" | "nextMulti" | "nextMultiOffset" | "oldestXid" | "oldestMulti">
>;

export function readControl(server: TestPostgres): ControlFile {
  return parseControlFile(readFileSync(join(server.dataDir, "global/pg_control")));
}

/**
 * What pg_resetwal does with -x, -e, -m, -O, -o and -u, by one more shutdown checkpoint behind the last one. Makes the
 * pages that the next ids need.
 */
export function setCounters(server: TestPostgres, counters: Counters): void {
  const file = join(server.dataDir, "global/pg_control");
  const template = readFileSync(file);
  const control = parseControlFile(template);
  const start = synthesizeStart({
    lsn: checkpointEndLsn(control),
    previousLsn: control.checkpointLsn,
    checkpoint: { ...control.checkpoint, ...counters },
    version: control.version,
    systemId: control.systemId,
    segmentSize: control.walSegmentSize,
    timelineNumber: control.checkpoint.timeline,
  });
  for (const segment of start.segments) {
    const path = join(server.dataDir, "pg_wal", segment.name);
    const content = existsSync(path) ? readFileSync(path) : new Uint8Array(segment.sizeBytes);
    // What makes up for WAL that is not there is not needed: it is there.
    const last = segment.regions.at(-1);
    assert(last !== undefined, "a segment has the record or a part of it");
    content.set(last.bytes, last.offset);
    writeFileSync(path, content, { mode: 0o600 });
    server.own(path);
  }
  const { checkpoint } = start;
  writeFileSync(file, renderControlFile(template, cleanShutdown(start.recordLsn, checkpoint)));
  const xid = Number(BigInt.asUintN(32, checkpoint.nextXid));
  makeSlruPage(server, Slru.Xact, Math.floor(xid / XIDS_PER_PAGE));
  makeSlruPage(server, Slru.MultixactOffsets, Math.floor(checkpoint.nextMulti / MULTIS_PER_PAGE));
  makeSlruPage(server, Slru.MultixactMembers, Math.floor(checkpoint.nextMultiOffset / MEMBERS_PER_PAGE));
}

function makeSlruPage(server: TestPostgres, slru: Slru, pageNumber: number): void {
  const path = join(server.dataDir, slruPath(slru, Math.floor(pageNumber / SLRU_SEGMENT_PAGES)));
  const size = ((pageNumber % SLRU_SEGMENT_PAGES) + 1) * PAGE_SIZE;
  if (!existsSync(path)) writeFileSync(path, "", { mode: 0o600 });
  if (statSync(path).size < size) truncateSync(path, size);
  server.own(path);
}

/** VACUUM FREEZE of all databases, template0 included: nothing older than now is needed any more. */
export async function freezeAll(server: TestPostgres): Promise<void> {
  await server.query("update pg_database set datallowconn = true where not datallowconn");
  const databases = await server.query("select datname from pg_database order by datname");
  for (const { datname } of databases) {
    const client = await server.connect(String(datname));
    await client.query("vacuum freeze");
    await client.end();
  }
}

/** Subtransactions that each insert a row into a table with an integer column, and so take an xid. */
export function subtransactions(table: string, count: number): string {
  return `do $$ begin for i in 1..${count} loop
    begin insert into ${table} values (i); exception when division_by_zero then null; end;
  end loop; end $$`;
}

/** The WAL of all computes that a timeline has had, as stock recovery reads it. */
export class WalArchive {
  readonly directory: string;
  private readonly base: TestPostgres;

  constructor(base: TestPostgres, name = "archive") {
    this.base = base;
    this.directory = join(base.root, name);
    mkdirSync(this.directory, { recursive: true });
    base.own(this.directory);
  }

  /** Adds WAL that begins at the start of a segment; as above, what lies before `startLsn` is the base's. */
  addBytes(lsn: Lsn, bytes: Buffer, startLsn: Lsn): void {
    const { walSegmentSize } = readControl(this.base);
    for (let at = 0; at < bytes.length; at += walSegmentSize) {
      const name = segmentName(1, lsnAdd(lsn, at), walSegmentSize);
      const segment = Buffer.alloc(walSegmentSize);
      bytes.copy(segment, 0, at);
      if (lsn + at < startLsn) {
        const before = readFileSync(join(this.base.dataDir, "pg_wal", name));
        before.copy(segment, 0, 0, startLsn - lsn - at);
      }
      writeFileSync(join(this.directory, name), segment);
      this.base.own(join(this.directory, name));
    }
  }

  /** Adds a compute's segments. Before `startLsn` its first one counts as far as nothing better is known. */
  add(compute: TestPostgres, startLsn: Lsn): void {
    const { walSegmentSize } = readControl(compute);
    const directory = join(compute.dataDir, "pg_wal");
    for (const name of readdirSync(directory)) {
      const segment = parseSegmentName(name, walSegmentSize);
      if (segment === undefined || segment.startLsn + walSegmentSize <= startLsn) continue;
      const target = join(this.directory, name);
      const older = [target, join(this.base.dataDir, "pg_wal", name)].find((path) => existsSync(path));
      const before = older === undefined ? undefined : readFileSync(older);
      copyFileSync(join(directory, name), target);
      if (before !== undefined && segment.startLsn < startLsn) {
        const whole = readFileSync(target);
        before.copy(whole, 0, 0, startLsn - segment.startLsn);
        writeFileSync(target, whole);
      }
      this.base.own(target);
    }
  }
}

/**
 * Stock recovery from the first directory to `lsn`, stopped without that anybody has looked at it: the files are as
 * recovery has left them.
 */
export async function recoveredDirectory(
  base: TestPostgres,
  archive: WalArchive,
  lsn: Lsn,
  settings: Settings = {},
): Promise<TestPostgres> {
  const server = await base.clone();
  server.configure({
    restore_command: `cp ${archive.directory}/%f %p`,
    recovery_target_lsn: formatLsn(lsn),
    recovery_target_inclusive: "off",
    recovery_target_action: "promote",
    // Not ready before recovery is over.
    hot_standby: "off",
    max_prepared_transactions: 20,
    fsync: "off",
    autovacuum: "off",
    ...settings,
  });
  const signal = join(server.dataDir, "recovery.signal");
  writeFileSync(signal, "");
  server.own(signal);
  try {
    await server.start();
    await untilPromoted(server);
    await server.stop();
  } catch (error) {
    throw new Error(`recovery to ${formatLsn(lsn)} failed:\n${server.log().slice(-3000)}`, { cause: error });
  }
  assert.match(server.log(), /recovery stopping before/, "recovery reached its target");
  return server;
}

async function untilPromoted(server: TestPostgres): Promise<void> {
  const deadline = Date.now() + RECOVERY_TIMEOUT_MS;
  while (!server.log().includes("database system is ready to accept connections")) {
    assert(server.running && Date.now() < deadline, "recovery ends");
    await sleep(20);
  }
}

/** What the pageserver's part in a test complains about is shown with the test: a COMMIT may wait for it in vain. */
export function complainTo(t: TestContext): TimelineDependencies["log"] {
  const quiet = (): void => undefined;
  return {
    info: quiet,
    warn: quiet,
    error: (data, message) => t.diagnostic(`${message}: ${JSON.stringify(data)}`),
  };
}

/** Counters of a checkpoint that must be as stock Postgres has them. */
function countersOf(server: TestPostgres): object {
  const { checkpoint } = readControl(server);
  const { nextXid, nextOid, nextMulti, nextMultiOffset } = checkpoint;
  const { oldestMulti, oldestMultiDb } = checkpoint;
  const { oldestCommitTsXid, newestCommitTsXid } = checkpoint;
  return {
    ...{ nextXid, nextOid, nextMulti, nextMultiOffset },
    ...{ oldestMulti, oldestMultiDb },
    ...{ oldestCommitTsXid, newestCommitTsXid },
  };
}

/** A base backup at `lsn` has the files and the counters that stock recovery has there. Returns the pages compared. */
export async function compareWithRecovery(
  lab: Lab,
  timeline: Timeline,
  options: { archive: WalArchive; lsn: Lsn; where: string; settings?: Settings },
): Promise<number> {
  const { archive, lsn, where, settings } = options;
  await using theirs = await recoveredDirectory(lab.base, archive, lsn, settings);
  const ours = await lab.extract(timeline, { lsn });
  assert.deepEqual(countersOf(ours), countersOf(theirs), `counters ${where}, ${formatLsn(lsn)}`);
  // Recovery takes it from checkpoints only, although it removes pg_xact as the records say; the server itself knows.
  const [known, recovered] = [ours, theirs].map((server) => readControl(server).checkpoint.oldestXid);
  assert(
    compareXids(known ?? 0, recovered ?? 0) >= 0,
    `oldest xid ${known} ${where}, recovered ${recovered}`,
  );
  const { pages, differences } = await compareDirectories(
    theirs.dataDir,
    ours.dataDir,
    timeline.cluster.pgVersion,
  );
  assert.deepEqual(differences.slice(0, 10), [], `files ${where}, ${formatLsn(lsn)}`);
  await lab.release(ours);
  return pages;
}

/** Segments of an SLRU that a stopped server has. */
export function segmentsOf(server: TestPostgres, slru: Slru): string[] {
  return readdirSync(join(server.dataDir, dirname(slruPath(slru, 0)))).sort();
}
