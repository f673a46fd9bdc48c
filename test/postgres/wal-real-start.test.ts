/**
 * Real servers start from synthesized start points: at every kind of place in a page and a segment, with the true WAL
 * position and with made-up later ones, generation after generation on the same data directory. Major versions other
 * than 17 at a few of the places.
 */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { formatLsn, type Lsn, lsnAlignUp, toLsn } from "../../src/base/lsn.ts";
import { cleanShutdown, parseControlFile, renderControlFile } from "../../src/postgres/control-file.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { findEndOfWal } from "../../src/postgres/wal/end-of-wal.ts";
import { parseSegmentName, segmentName } from "../../src/postgres/wal/layout.ts";
import { segmentContent, type StartPoint, synthesizeStart } from "../../src/postgres/wal/start-point.ts";
import { WalStream, type WalStreamOptions } from "../../src/postgres/wal/stream.ts";
import { EMBEDDED_MAJORS, TestPostgres, embeddedBinDir } from "../support/postgres.ts";

const MiB = 1024 * 1024;

/** Replaces the WAL of a stopped cluster by a start point at `lsn`. */
function moveTo(server: TestPostgres, lsn: Lsn, previousLsn: Lsn): StartPoint {
  const controlFile = join(server.dataDir, "global/pg_control");
  const template = readFileSync(controlFile);
  const control = parseControlFile(template);
  const point = synthesizeStart({
    lsn,
    previousLsn,
    checkpoint: { ...control.checkpoint, timeSeconds: Math.floor(Date.now() / 1000) },
    version: control.version,
    systemId: control.systemId,
    segmentSize: control.walSegmentSize,
    timelineNumber: 1,
  });
  const walDirectory = join(server.dataDir, "pg_wal");
  rmSync(walDirectory, { recursive: true });
  mkdirSync(walDirectory, { mode: 0o700 });
  for (const segment of point.segments)
    writeFileSync(join(walDirectory, segment.name), segmentContent(segment));
  writeFileSync(controlFile, renderControlFile(template, cleanShutdown(point.recordLsn, point.checkpoint)));
  server.ownDataDir();
  return point;
}

/** The WAL files of a cluster from `lsn` on, back to back. */
function readWal(server: TestPostgres, lsn: Lsn, segmentSize: number): Buffer {
  const directory = join(server.dataDir, "pg_wal");
  const first = segmentName(1, lsn, segmentSize);
  const names = readdirSync(directory).filter((name) => parseSegmentName(name, segmentSize) && name >= first);
  assert.ok(names.includes(first), `${first} is kept`);
  return Buffer.concat(names.sort().map((name) => readFileSync(join(directory, name)))).subarray(
    lsn % segmentSize,
  );
}

/** Starts, works, stops, and reads the WAL from the start point to the shutdown record, every link checked. */
async function runGeneration(
  server: TestPostgres,
  point: StartPoint,
  options: WalStreamOptions,
  number: number,
): Promise<void> {
  const logBefore = server.log().length;
  await server.start();
  const log = server.log().slice(logBefore);
  assert.match(log, /database system was shut down at/);
  assert.doesNotMatch(log, /redo starts|automatic recovery|not properly shut down|PANIC|FATAL|ERROR/);

  assert.ok((await server.lsn("select pg_current_wal_insert_lsn()")) >= point.endLsn);
  assert.equal(
    await server.value("select redo_lsn from pg_control_checkpoint()"),
    formatLsn(point.recordLsn),
  );
  assert.equal(await server.value("select count(*)::int from generations"), String(number));
  await server.query(`insert into generations values (${number}, repeat('x', 20000))`);
  await server.query(`create table t${number} as select g from generate_series(1, 200) g`);
  await server.stop("fast");

  const control = parseControlFile(readFileSync(join(server.dataDir, "global/pg_control")));
  const wal = readWal(server, options.startLsn, options.segmentSize);
  assert.ok(wal.subarray(0, point.wal.length).equals(point.wal), "the synthesized WAL is untouched");
  const end = await findEndOfWal(options, (lsn) =>
    wal.subarray(lsn - options.startLsn, lsn - options.startLsn + MiB),
  );
  assert.equal(
    end.previousLsn,
    control.checkpointLsn,
    "one chain from the start point to the shutdown record",
  );
  const stream = new WalStream(options);
  stream.feed(options.startLsn, wal.subarray(0, end.endLsn - options.startLsn));
  assert.equal(stream.next()?.lsn, point.recordLsn);
  assert.equal(stream.next()?.previousLsn, point.recordLsn, "Postgres goes on right behind the record");
}

/** Distances from a boundary: the record of 120 bytes before, across, at its end, behind the header. */
const PAGE_PLACES = [800, 0, 24, 32, 8192 - 8, 8192 - 16, 8192 - 24, 8192 - 112, 8192 - 120];
const SEGMENT_PLACES = [0, 40, 48, 4096, 8192, -8, -24, -112, -120];

interface Variant {
  readonly name: string;
  readonly major: number;
  readonly segmentSize: number;
  readonly initdb: readonly string[];
  readonly pagePlaces: readonly number[];
  readonly segmentPlaces: readonly number[];
}

const VARIANTS: readonly Variant[] = [
  {
    name: "segments of 1 MiB",
    major: 17,
    segmentSize: MiB,
    initdb: ["--wal-segsize=1"],
    pagePlaces: PAGE_PLACES,
    segmentPlaces: SEGMENT_PLACES,
  },
  {
    name: "segments of 16 MiB, page checksums",
    major: 17,
    segmentSize: 16 * MiB,
    initdb: ["--data-checksums"],
    pagePlaces: [800],
    segmentPlaces: [0, -24],
  },
  ...EMBEDDED_MAJORS.filter((major) => major !== 17).map((major) => ({
    name: `major version ${major}`,
    major,
    segmentSize: MiB,
    initdb: ["--wal-segsize=1"],
    pagePlaces: [8192 - 24],
    segmentPlaces: [0, -112],
  })),
];

for (const variant of VARIANTS) {
  test(`Postgres starts on synthesized start points: ${variant.name}`, async () => {
    const { segmentSize } = variant;
    await using server = await TestPostgres.create({
      binDir: embeddedBinDir(variant.major),
      initdb: variant.initdb,
      settings: { wal_keep_size: "1GB" },
    });
    await server.query("create table generations (n int, filler text)");
    const readFrom = await server.flushedLsn();
    await server.query("alter table generations alter filler set storage external");
    await server.stop("fast");

    // The true position: where the last record before the shutdown record ends.
    const control = parseControlFile(readFileSync(join(server.dataDir, "global/pg_control")));
    const { systemId, checkpointLsn } = control;
    assert.equal(control.version, versionByMajor(variant.major));
    const identity = { version: control.version, segmentSize, systemId };
    const tail = readWal(server, readFrom, segmentSize);
    let last = { lsn: toLsn(0), endLsn: readFrom };
    const stream = new WalStream({ ...identity, startLsn: readFrom });
    stream.feed(readFrom, tail.subarray(0, checkpointLsn - readFrom));
    for (let record = stream.next(); record; record = stream.next())
      last = { lsn: record.lsn, endLsn: record.endLsn };
    assert.ok(last.lsn > 0, "there is a record before the shutdown record");
    let number = 0;
    const startAt = async (startLsn: Lsn, previousLsn: Lsn): Promise<void> => {
      const point = moveTo(server, startLsn, previousLsn);
      const label = `generation ${number} at ${formatLsn(startLsn)}`;
      try {
        await runGeneration(server, point, { ...identity, startLsn, previousLsn }, number++);
      } catch (error) {
        throw new Error(`${label} failed`, { cause: error });
      }
    };
    await startAt(last.endLsn, last.lsn);

    const places = [
      ...variant.pagePlaces.map((place) => 5 * 8192 + place),
      ...variant.segmentPlaces.map((place) => segmentSize + place),
    ];
    for (const place of places) {
      const end = parseControlFile(readFileSync(join(server.dataDir, "global/pg_control"))).checkpointLsn;
      const startLsn = toLsn(lsnAlignUp(toLsn(end + 8192), segmentSize) + place);
      await startAt(startLsn, toLsn(startLsn - 64));
    }
    assert.equal(number, places.length + 1);
  });
}
