/**
 * Moves the counters of a cluster that has never run or was stopped cleanly, as pg_resetwal does: so that a test reaches
 * the ends of pages and segments of the SLRUs without using up a million transactions first.
 */
import { mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type CheckPoint, decodeCheckPoint, encodeCheckPoint } from "../../src/postgres/checkpoint.ts";
import { PAGE_SIZE, SLRU_SEGMENT_PAGES } from "../../src/postgres/constants.ts";
import { parseControlFile, renderControlFile } from "../../src/postgres/control-file.ts";
import { Slru, slruPath } from "../../src/postgres/slru.ts";
import { segmentName } from "../../src/postgres/wal/layout.ts";
import type { TestPostgres } from "./postgres.ts";
import { slowCrc32c } from "./wal-builder.ts";

export interface Counters {
  readonly nextXid?: bigint;
  readonly nextMulti?: number;
  readonly nextMultiOffset?: number;
}

const XIDS_PER_PAGE = 32768;
const MULTIS_PER_PAGE = 2048;
const MEMBERS_PER_PAGE = 1636;
/** Fixed header of the record, then one byte each for kind and length of the main data. */
const CHECKPOINT_OFFSET = 26;

/** Changes pg_control and the shutdown checkpoint's record, and makes the SLRU pages on which the counters then are. */
export function moveCounters(server: TestPostgres, counters: Counters): void {
  const { dataDir } = server;
  const controlPath = join(dataDir, "global/pg_control");
  const bytes = readFileSync(controlPath);
  const control = parseControlFile(bytes);
  const checkpoint: CheckPoint = { ...control.checkpoint, ...counters };
  writeFileSync(controlPath, renderControlFile(bytes, { checkpoint }));

  const { checkpointLsn, walSegmentSize, version } = control;
  const name = segmentName(checkpoint.timeline, checkpointLsn, walSegmentSize);
  const wal = readFileSync(join(dataDir, "pg_wal", name));
  const at = checkpointLsn % walSegmentSize;
  const record = wal.subarray(at, at + wal.readUInt32LE(at));
  if (decodeCheckPoint(record, CHECKPOINT_OFFSET, version).nextXid !== control.checkpoint.nextXid)
    throw new Error("the checkpoint's record is not in one piece");
  record.set(encodeCheckPoint(checkpoint, version), CHECKPOINT_OFFSET);
  record.writeUInt32LE(slowCrc32c(record.subarray(24), record.subarray(0, 20)), 20);
  writeFileSync(join(dataDir, "pg_wal", name), wal);

  const pages: [Slru, number][] = [
    [Slru.Xact, Math.floor(Number(checkpoint.nextXid % 2n ** 32n) / XIDS_PER_PAGE)],
    [Slru.MultixactOffsets, Math.floor(checkpoint.nextMulti / MULTIS_PER_PAGE)],
    [Slru.MultixactMembers, Math.floor(checkpoint.nextMultiOffset / MEMBERS_PER_PAGE)],
  ];
  for (const [slru, page] of pages) makePage(server, slru, page);
}

/** A zero page and those before it in its segment, unless they are there. */
function makePage(server: TestPostgres, slru: Slru, page: number): void {
  const path = join(server.dataDir, slruPath(slru, Math.floor(page / SLRU_SEGMENT_PAGES)));
  mkdirSync(dirname(path), { recursive: true });
  const size = ((page % SLRU_SEGMENT_PAGES) + 1) * PAGE_SIZE;
  const existing = statSync(path, { throwIfNoEntry: false })?.size;
  if (existing === undefined) writeFileSync(path, "", { mode: 0o600 });
  if ((existing ?? 0) < size) truncateSync(path, size);
  server.own(path);
}
