/**
 * How long a start takes after a crash. First with as much WAL behind the last layer as is asked for, of small records
 * over many pages and of whole pages: what replay costs. Then as it comes about: a process that takes in a gigabyte, on
 * one branch or on eight, with `checkpoint_distance` set to more than that and the limit for all layers in memory at its
 * default, is killed, and what it has left is opened as the pageserver opens it.
 * Usage: node bench/restart.bench.ts [megabytes of WAL, default 128 and 1024]
 */
import { spawnSync } from "node:child_process";
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32cUpdate } from "../src/base/crc32c.ts";
import { toLsn } from "../src/base/lsn.ts";
import { segmentName } from "../src/postgres/wal/layout.ts";
import { LayerMemory } from "../src/pageserver/timeline/layer-memory.ts";
import type { WriterSource } from "../src/pageserver/timeline/metadata.ts";
import type { WalIntake } from "../src/pageserver/timeline/wal-intake.ts";
import { RealFiles } from "../src/storage/real-files.ts";
import { Scene } from "../test/faults/scene.ts";
import { CHECKPOINT_LSN, SEGMENT_SIZE, SYSTEM_ID, TINY_START } from "../test/faults/tiny-cluster.ts";
import { SeededRandom } from "../test/support/random.ts";

const MIB = 2 ** 20;
const UNLIMITED = 2 ** 36;
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
    const hasHole = bytes.length < PAGE;
    view.setUint16(30, hasHole ? 24 : 0, true);
    record[32] = hasHole ? 3 : 2;
  }
  const at = 28 + imageHead;
  view.setUint32(at, 1663, true);
  view.setUint32(at + 4, 5, true);
  view.setUint32(at + 8, 20_000 + (page % 7), true);
  view.setUint32(at + 12, Math.floor(page / 7), true);
  record.set(bytes, at + 16);
  return record;
}

type Content = "small records" | "whole pages";

/** The header of a page with room for one change at its end. */
function pageImage(sizeBytes: number): Uint8Array {
  const image = new Uint8Array(sizeBytes);
  const header = new DataView(image.buffer);
  for (const [at, value] of [
    [12, 24],
    [14, PAGE - 40],
    [16, PAGE],
    [18, 0x2004],
  ] as const)
    header.setUint16(at, value, true);
  return image;
}

function makeWal(directory: string, sizeBytes: number, content: Content): number {
  const wal = new WalFiles(directory);
  const small = content === "small records";
  const image = pageImage(small ? 64 : PAGE);
  if (!small) image.fill(0x5a, 24);
  const change = new Uint8Array(CHANGE_BYTES);
  new DataView(change.buffer).setUint16(0, PAGE - 40, true);
  new DataView(change.buffer).setUint16(2, 36, true);
  const random = new SeededRandom(1);
  for (let page = 0; page < PAGES && wal.end < TINY_START + sizeBytes; page++)
    wal.add(pageRecord(page, { image: true, bytes: image }));
  while (wal.end < TINY_START + sizeBytes) {
    const page = random.below(PAGES);
    wal.add(pageRecord(page, small ? { image: false, bytes: change } : { image: true, bytes: image }));
  }
  wal.finish();
  return wal.end;
}

async function measure(megabytes: number, content: Content): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "neon-restart-"));
  const files = new RealFiles();
  try {
    const options = { directory: join(directory, "tenants"), checkpointDistanceBytes: UNLIMITED };
    const before = await Scene.open(files, new SeededRandom(1), options);
    await before.createTenant();
    const main = await before.import("main");
    await before.noteWriter(main, nobody(directory));
    const wal = join(before.directoryOf(main.id), "wal");
    await before.stop();
    mkdirSync(wal, { recursive: true });
    const end = makeWal(wal, megabytes * MIB, content);
    const opened = await open(options);
    if (opened.ends[0] !== end) throw new Error(`replayed to ${opened.ends[0]}, WAL ends at ${end}`);
    const rate = (megabytes / opened.seconds).toFixed(0);
    console.log(`${megabytes} MiB of ${content} in no layer: ${opened.text}, ${rate} MiB/s`);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

interface Opened {
  readonly ends: readonly number[];
  readonly seconds: number;
  readonly text: string;
}

/** Opens what is in a directory of tenants, and ends again. */
async function open(options: { directory: string; checkpointDistanceBytes: number }): Promise<Opened> {
  const layerMemory = new LayerMemory({ limitBytes: UNLIMITED });
  const cpu = process.cpuUsage();
  const started = performance.now();
  const scene = await Scene.open(new RealFiles(), new SeededRandom(2), { ...options, layerMemory });
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const timelines = scene.tenant.branches().map(({ ref }) => scene.timeline(ref.name));
  const unflushed = timelines.reduce((sum, each) => sum + each.lastRecordLsn - each.store.durableLsn, 0);
  const text =
    `${seconds.toFixed(2)} s (CPU ${((user + system) / 1e6).toFixed(2)} s), ` +
    `${(unflushed / MIB).toFixed(0)} MiB replayed into ${(layerMemory.usedBytes / MIB).toFixed(0)} MiB`;
  const ends = timelines.map((each) => each.lastRecordLsn);
  // Nothing is to be written: it is over.
  return { ends, seconds, text };
}

/** Takes in WAL on some branches in turns, then kills its own process. */
async function feedAndDie(directory: string, branches: number, end: number): Promise<never> {
  const options = { directory: join(directory, "tenants"), checkpointDistanceBytes: UNLIMITED };
  const layerMemory = new LayerMemory({ limitBytes: 192 * MIB });
  const scene = await Scene.open(new RealFiles(), new SeededRandom(1), { ...options, layerMemory });
  await scene.createTenant();
  const wal = join(directory, "source");
  const segments = readdirSync(wal).sort();
  const intakes: WalIntake[] = [];
  for (let i = 0; i < branches; i++) {
    const timeline = await scene.import(`branch-${i}`);
    await scene.noteWriter(timeline, nobody(directory));
    intakes.push(await timeline.openIntake());
  }
  const first = Math.floor(TINY_START / SEGMENT_SIZE) * SEGMENT_SIZE;
  for (const [number, name] of segments.entries()) {
    const bytes = readFileSync(join(wal, name));
    const start = Math.max(TINY_START, first + number * SEGMENT_SIZE);
    const piece = bytes.subarray(start % SEGMENT_SIZE, (start % SEGMENT_SIZE) + end - start);
    for (const intake of intakes) await intake.accept(toLsn(start), piece);
  }
  for (const intake of intakes) await intake.waitForDurable(intake.resumeLsn, 60_000);
  process.kill(process.pid, "SIGKILL");
  return new Promise(() => undefined);
}

async function afterKill(branches: number, content: Content): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "neon-restart-"));
  try {
    mkdirSync(join(directory, "source"));
    const end = makeWal(join(directory, "source"), (1024 / branches) * MIB, content);
    const args = [import.meta.filename, "feed", directory, String(branches), String(end)];
    const child = spawnSync(process.execPath, args);
    if (child.signal !== "SIGKILL") throw new Error(`it was to be killed: ${child.stderr.toString()}`);
    const { text } = await open({
      directory: join(directory, "tenants"),
      checkpointDistanceBytes: UNLIMITED,
    });
    console.log(`killed after 1024 MiB of ${content} on ${branches} branches: ${text}`);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** A compute that is not there. */
function nobody(directory: string): WriterSource {
  return { socketDirectory: directory, port: 1, user: "nobody" };
}

const [first, directory = "", branches, end] = process.argv.slice(2);
if (first === "feed") await feedAndDie(directory, Number(branches), Number(end));
for (const content of ["small records", "whole pages"] as const) {
  for (const megabytes of first === undefined ? [128, 1024] : [Number(first)]) {
    await measure(megabytes, content);
  }
  for (const count of [1, 8]) await afterKill(count, content);
}
process.exit(0);
