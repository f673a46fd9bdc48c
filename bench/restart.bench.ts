/**
 * How long a start takes after a crash, by how much WAL lies behind the last layer: the directory of a cluster that is
 * made here, with WAL of small records over many pages, opened as the pageserver opens it. How much WAL there can be
 * is bounded by `checkpoint_distance`: at most two layers of that size are in memory only, one being filled, one being
 * written. Usage: node bench/restart.bench.ts [megabytes of WAL, default 128 and 1024]
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32cUpdate } from "../src/base/crc32c.ts";
import { toLsn } from "../src/base/lsn.ts";
import { segmentName } from "../src/postgres/wal/layout.ts";
import { RealFiles } from "../src/storage/real-files.ts";
import { Scene } from "../test/faults/scene.ts";
import { CHECKPOINT_LSN, SEGMENT_SIZE, SYSTEM_ID, TINY_START } from "../test/faults/tiny-cluster.ts";
import { SeededRandom } from "../test/support/random.ts";

const PAGE = 8192;
const PAGES = 100_000;
const RECORD_HEAD = 24;
const BLOCK_HEAD = 20;
/** Of a record that changes a page; about what an update of a small row takes. */
const CHANGE_BYTES = 120;

/** Bytes of WAL records, with page headers wherever one is due, into segment files. */
class WalFiles {
  private readonly directory: string;
  private segment = new Uint8Array(SEGMENT_SIZE);
  private view = new DataView(this.segment.buffer);
  private at: number = TINY_START;
  private previous: number = CHECKPOINT_LSN;

  constructor(directory: string) {
    this.directory = directory;
  }

  get end(): number {
    return this.at;
  }

  add(record: Uint8Array): void {
    if (this.at % PAGE === 0) this.pageHeader(0);
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    view.setBigUint64(8, BigInt(this.previous), true);
    const crc = crc32cUpdate(crc32cUpdate(-1, record, RECORD_HEAD, record.length), record, 0, 20);
    view.setUint32(20, (crc ^ -1) >>> 0, true);
    this.previous = this.at;
    for (let done = 0; done < record.length;) {
      if (this.at % PAGE === 0) this.pageHeader(record.length - done);
      const size = Math.min(record.length - done, PAGE - (this.at % PAGE));
      this.segment.set(record.subarray(done, done + size), this.at % SEGMENT_SIZE);
      done += size;
      this.advance(size);
    }
    const padding = (8 - (this.at % 8)) % 8;
    if (padding > 0) this.advance(padding);
  }

  private pageHeader(remaining: number): void {
    const at = this.at % SEGMENT_SIZE;
    const isLong = at === 0;
    this.view.setUint16(at, 0xd116, true);
    this.view.setUint16(at + 2, (remaining > 0 ? 1 : 0) | (isLong ? 2 : 0) | 4, true);
    this.view.setUint32(at + 4, 1, true);
    this.view.setBigUint64(at + 8, BigInt(this.at), true);
    this.view.setUint32(at + 16, remaining, true);
    if (isLong) {
      this.view.setBigUint64(at + 24, SYSTEM_ID, true);
      this.view.setUint32(at + 32, SEGMENT_SIZE, true);
      this.view.setUint32(at + 36, PAGE, true);
    }
    this.advance(isLong ? 40 : 24);
  }

  private advance(size: number): void {
    this.at += size;
    if (this.at % SEGMENT_SIZE === 0) this.write(this.at - SEGMENT_SIZE);
  }

  /** Writes the segment that begins at `start`, and begins the next. */
  private write(start: number): void {
    const file = openSync(join(this.directory, segmentName(1, toLsn(start), SEGMENT_SIZE)), "w", 0o600);
    writeSync(file, this.segment);
    ftruncateSync(file, SEGMENT_SIZE);
    closeSync(file);
    this.segment = new Uint8Array(SEGMENT_SIZE);
    this.view = new DataView(this.segment.buffer);
  }

  finish(): void {
    if (this.at % SEGMENT_SIZE !== 0) this.write(this.at - (this.at % SEGMENT_SIZE));
  }
}

/** A record of the resource manager for generic changes; with an image, one that holds a whole page. */
function pageRecord(page: number, content: { image: boolean; bytes: Uint8Array }): Uint8Array {
  const { image, bytes } = content;
  const imageHead = image ? 5 : 0;
  const record = new Uint8Array(RECORD_HEAD + BLOCK_HEAD + imageHead + bytes.length);
  const view = new DataView(record.buffer);
  view.setUint32(0, record.length, true);
  record[16] = image ? 0xb0 : 0;
  record[17] = image ? 0 : 20;
  record[25] = image ? 0x10 : 0x20;
  view.setUint16(26, image ? 0 : bytes.length, true);
  if (image) {
    view.setUint16(28, bytes.length, true);
    view.setUint16(30, 24, true);
    record[32] = 3;
  }
  const at = 28 + imageHead;
  view.setUint32(at, 1663, true);
  view.setUint32(at + 4, 5, true);
  view.setUint32(at + 8, 20_000 + (page % 7), true);
  view.setUint32(at + 12, Math.floor(page / 7), true);
  record.set(bytes, at + 16);
  return record;
}

function makeWal(directory: string, sizeBytes: number): number {
  const wal = new WalFiles(directory);
  const image = new Uint8Array(64);
  const header = new DataView(image.buffer);
  for (const [at, value] of [
    [12, 24],
    [14, PAGE - 40],
    [16, PAGE],
    [18, 0x2004],
  ] as const)
    header.setUint16(at, value, true);
  const change = new Uint8Array(CHANGE_BYTES);
  new DataView(change.buffer).setUint16(0, PAGE - 40, true);
  new DataView(change.buffer).setUint16(2, 36, true);
  const random = new SeededRandom(1);
  for (let page = 0; page < PAGES; page++) wal.add(pageRecord(page, { image: true, bytes: image }));
  while (wal.end < TINY_START + sizeBytes) {
    wal.add(pageRecord(random.below(PAGES), { image: false, bytes: change }));
  }
  wal.finish();
  return wal.end;
}

async function measure(megabytes: number): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "neon-restart-"));
  const files = new RealFiles();
  try {
    const options = { directory: join(directory, "tenants"), checkpointDistanceBytes: 64 * 2 ** 30 };
    const before = await Scene.open(files, new SeededRandom(1), options);
    await before.createTenant();
    const main = await before.import("main");
    await before.noteWriter(main);
    const wal = join(before.directoryOf(main.id), "wal");
    await before.stop();
    mkdirSync(wal, { recursive: true });
    const end = makeWal(wal, megabytes * 2 ** 20);
    const cpu = process.cpuUsage();
    const started = performance.now();
    const scene = await Scene.open(files, new SeededRandom(2), options);
    const seconds = (performance.now() - started) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    const timeline = scene.timeline("main");
    const { recordCount } = await timeline.openIntake();
    if (timeline.lastRecordLsn !== end)
      throw new Error(`replayed to ${timeline.lastRecordLsn}, WAL ends at ${end}`);
    const memory = (process.memoryUsage.rss() / 2 ** 20).toFixed(0);
    console.log(
      `restart with ${megabytes} MiB of WAL in no layer: ${seconds.toFixed(2)} s (${(megabytes / seconds).toFixed(0)} MiB/s, ` +
        `${(recordCount / seconds / 1000).toFixed(0)}k records/s), CPU ${((user + system) / 1e6).toFixed(2)} s, RSS ${memory} MiB`,
    );
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const [only] = process.argv.slice(2);
for (const megabytes of only === undefined ? [128, 1024] : [Number(only)]) await measure(megabytes);
process.exitCode = 0;
