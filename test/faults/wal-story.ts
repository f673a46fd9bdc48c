/** The life of a WAL log: appends, syncs, new segments, truncation, removal, restarts. */
import assert from "node:assert/strict";
import { crc32c } from "../../src/base/crc32c.ts";
import { NeonError } from "../../src/base/errors.ts";
import { type Lsn, lsnAdd, toLsn } from "../../src/base/lsn.ts";
import { WalLog, type WalReader } from "../../src/pageserver/receive/wal-log.ts";
import type { FaultyFiles } from "../../src/storage/faulty-files.ts";
import type { Point, Run, Story } from "./everywhere.ts";

const SEGMENT_SIZE = 2 ** 20;
const RECORD_SIZE = 64;
const START = toLsn(6 * SEGMENT_SIZE - 40 * RECORD_SIZE);

/** A stand-in for WAL: its own LSN, who wrote it, and a checksum; the rest follows from these. */
function records(lsn: number, count: number, writer: number): Uint8Array {
  const bytes = new Uint8Array(count * RECORD_SIZE);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < count; i++) {
    const at = i * RECORD_SIZE;
    view.setFloat64(at, lsn + at, true);
    view.setUint32(at + 8, writer, true);
    bytes.fill((lsn / RECORD_SIZE + i) & 0xff, at + 16, at + RECORD_SIZE);
    view.setUint32(at + 12, checksumAt(bytes, at), true);
  }
  return bytes;
}

function checksumAt(bytes: Uint8Array, at: number): number {
  return (crc32c(bytes, at, at + 12) ^ crc32c(bytes, at + 16, at + RECORD_SIZE)) >>> 0;
}

/** The writer of the record there, or undefined if there is none. */
function writerAt(bytes: Uint8Array, at: number, lsn: number): number | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (view.getFloat64(at, true) !== lsn || view.getUint32(at + 12, true) !== checksumAt(bytes, at))
    return undefined;
  return view.getUint32(at + 8, true);
}

class WalLedger {
  /** Acknowledged: all records below are durable. */
  acknowledged: number = START;
  /** WAL from here on is needed; below it may be removed. */
  wanted: Lsn = START;
  /** Where the writers' records begin: from an LSN on, records are of writer i. */
  readonly writers: number[] = [START];
  /** Who wrote each record, as a look at the disk has found it. */
  seen: Map<number, number> | undefined;

  writerOf(lsn: number): number | undefined {
    return this.seen ? this.seen.get(lsn) : this.writers.findLastIndex((start) => start <= lsn);
  }
}

async function locateEnd(reader: WalReader): Promise<Lsn> {
  const bytes = await reader.read(reader.startLsn, reader.endLsn);
  let at = 0;
  while (at < bytes.length && writerAt(bytes, at, reader.startLsn + at) !== undefined) at += RECORD_SIZE;
  return lsnAdd(reader.startLsn, at);
}

function open(files: FaultyFiles, startLsn: Lsn, onFatal: () => void): Promise<WalLog> {
  return WalLog.open(
    { directory: "/line/wal", segmentSize: SEGMENT_SIZE, startLsn },
    { files, locateEnd, onFatal },
  );
}

async function append(log: WalLog, ledger: WalLedger, count: number): Promise<void> {
  await log.append(log.endLsn, records(log.endLsn, count, ledger.writers.length - 1));
  const end = log.endLsn;
  assert.ok((await log.sync()) >= end);
  ledger.acknowledged = end;
}

async function live({ files }: Run, ledger: WalLedger): Promise<void> {
  files.addDirectory("/line");
  let fatal = false;
  const onFatal = (): void => {
    fatal = true;
  };
  let log = await open(files, START, onFatal);
  const ended = (): void => {
    if (fatal) throw new NeonError("failed", "the process has ended");
  };
  try {
    // Small ones, so that the log learns that syncs are quick.
    for (let i = 0; i < 36; i++) await append(log, ledger, 1);
    ended();
    // Into the next segment.
    for (let i = 0; i < 3; i++) await append(log, ledger, 20);
    ended();
    // A new writer begins below the end: what it replaces must never come back.
    const end = lsnAdd(log.endLsn, -10 * RECORD_SIZE);
    ledger.acknowledged = end;
    ledger.writers.push(end);
    await log.truncateAfter(end);
    for (let i = 0; i < 4; i++) await append(log, ledger, 2);
    ended();
    ledger.wanted = lsnAdd(log.endLsn, -RECORD_SIZE);
    await log.removeBelow(ledger.wanted);
    await append(log, ledger, 5);
    await log[Symbol.asyncDispose]();
    ended();
    log = await open(files, ledger.wanted, onFatal);
    await append(log, ledger, 3);
    ended();
    // Back to the segment before, and forward again.
    await append(log, ledger, SEGMENT_SIZE / RECORD_SIZE);
    const back = lsnAdd(log.endLsn, -(SEGMENT_SIZE / RECORD_SIZE) * RECORD_SIZE);
    ledger.acknowledged = back;
    ledger.writers.push(back);
    await log.truncateAfter(back);
    await append(log, ledger, 7);
    ended();
  } finally {
    await log[Symbol.asyncDispose]().catch(() => undefined);
  }
}

async function look({ files }: Run, ledger: WalLedger, point: Point): Promise<void> {
  let log: WalLog;
  try {
    log = await open(files, ledger.wanted, () => undefined);
  } catch (error) {
    if (point.diskLied && error instanceof NeonError) return;
    if (!files.paths().some((path) => path.startsWith("/line")) && ledger.acknowledged === START) return;
    throw error;
  }
  try {
    const end = log.endLsn;
    if (!point.diskLied)
      assert.ok(end >= ledger.acknowledged, `${ledger.acknowledged} was durable, the end is ${end}`);
    const bytes = await log.read(ledger.wanted, end);
    const seen = new Map<number, number>();
    for (let at = 0; at < bytes.length; at += RECORD_SIZE) {
      const lsn = ledger.wanted + at;
      const writer = writerAt(bytes, at, lsn);
      assert.ok(writer !== undefined, `a whole record at ${lsn}`);
      // Beyond what was acknowledged, records of the writer before may still stand where none has replaced them.
      if (lsn < ledger.acknowledged && !point.diskLied) {
        assert.equal(writer, ledger.writerOf(lsn), `the writer at ${lsn}`);
      }
      seen.set(lsn, writer);
    }
    ledger.writers.push(end);
    await append(log, ledger, 30);
    for (let lsn: number = end; lsn < log.endLsn; lsn += RECORD_SIZE)
      seen.set(lsn, ledger.writers.length - 1);
    ledger.seen = seen;
    await log.removeBelow(ledger.wanted);
  } finally {
    await log[Symbol.asyncDispose]();
  }
}

export const walStory: Story<WalLedger> = { begin: () => new WalLedger(), run: live, check: look };
export const directWalStory: Story<WalLedger> = { ...walStory, files: { direct: true } };
