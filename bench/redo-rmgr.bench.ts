/**
 * How many pages redo changes per second, for each resource manager: the records are those of the workload generator on a
 * real server, sampled at random with the pages as they were before. Copying the page, which a read does once and not
 * for each record, is measured as well and taken off.
 * Usage: node bench/redo-rmgr.bench.ts [Postgres major, default 17]
 */
import { rmgrName } from "../src/postgres/constants.ts";
import { PageBuffer } from "../src/postgres/page/layout.ts";
import { redoBlock } from "../src/postgres/redo/apply.ts";
import { RedoContext } from "../src/postgres/redo/context.ts";
import { decodeRecord } from "../src/postgres/wal/decode-record.ts";
import { WalRecord } from "../src/postgres/wal/record.ts";
import { versionByMajor } from "../src/postgres/versions/versions.ts";
import { Replay } from "../test/postgres/redo-replay.ts";
import { SHORTLY_BEFORE_SEGMENTS } from "../test/postgres/redo-rare-workload.ts";
import { moveCounters } from "../test/support/counters.ts";
import { GENERATOR_SETTINGS, generate } from "../test/support/generator.ts";
import { TestPostgres, embeddedBinDir } from "../test/support/postgres.ts";
import { SeededRandom } from "../test/support/random.ts";

/** Few enough for their pages to stay in the cache of the processor. */
const SAMPLES_PER_KIND = 200;
const MEASURE_MS = 500;
/** Applied images are a resource manager of their own here: restoring one is the same whoever logged it. */
const IMAGES = "(full-page images)";

interface Sample {
  readonly record: WalRecord;
  readonly blockIndex: number;
  readonly before: Uint8Array;
}

/** A random choice of so many, whatever their number. */
class Reservoir {
  readonly samples: Sample[] = [];
  seen = 0;
  private readonly random: SeededRandom;

  constructor(random: SeededRandom) {
    this.random = random;
  }

  offer(make: () => Sample): void {
    const at = this.seen < SAMPLES_PER_KIND ? this.seen : this.random.below(this.seen + 1);
    this.seen++;
    if (at < SAMPLES_PER_KIND) this.samples[at] = make();
  }
}

const major = Number(process.argv[2] ?? 17);
const version = versionByMajor(major);
const random = new SeededRandom(1);
await using server = await TestPostgres.create({
  start: false,
  binDir: embeddedBinDir(major),
  initdb: version.initdbArguments,
  settings: {
    ...GENERATOR_SETTINGS,
    full_page_writes: "off",
    wal_keep_size: "100GB",
    max_wal_size: "20GB",
    synchronous_commit: "off",
  },
});
moveCounters(server, SHORTLY_BEFORE_SEGMENTS);
await using base = await server.clone();
await server.start();
await generate(server, random, { clients: 2 });
await server.stop();

const kinds = new Map<string, Reservoir>();
new Replay(base.dataDir, {
  hintBitsLogged: false,
  observer: (record, blockIndex, page) => {
    const name = record.blocks[blockIndex]?.applyImage ? IMAGES : rmgrName(record.rmgr);
    const kind = kinds.get(name) ?? new Reservoir(random);
    kinds.set(name, kind);
    kind.offer(() => ({ record: copyOf(record), blockIndex, before: page.bytes.slice() }));
  },
}).run(server.dataDir);

function copyOf(record: WalRecord): WalRecord {
  const bytes = record.bytes.slice(record.offset, record.offset + record.length);
  const copy = new WalRecord();
  const view = new DataView(bytes.buffer);
  decodeRecord(copy, bytes, view, 0, bytes.length, version);
  copy.lsn = record.lsn;
  copy.endLsn = record.endLsn;
  return copy;
}

/** Nanoseconds of CPU for each sample: other programs on the machine do not count. */
function measure(samples: readonly Sample[], run: (sample: Sample) => void): number {
  for (let i = 0; i < 5; i++) for (const sample of samples) run(sample);
  const start = process.cpuUsage();
  let count = 0;
  for (;;) {
    for (const sample of samples) run(sample);
    count += samples.length;
    const { user, system } = process.cpuUsage(start);
    if (user + system > MEASURE_MS * 1000) return ((user + system) / count) * 1000;
  }
}

const page = new PageBuffer();
const context = new RedoContext({ version, hintBitsLogged: false });
for (const [name, { samples, seen }] of [...kinds].sort(([a], [b]) => a.localeCompare(b))) {
  const copyNs = measure(samples, ({ before }) => {
    page.bytes.set(before);
  });
  const bothNs = measure(samples, ({ record, blockIndex, before }) => {
    page.bytes.set(before);
    redoBlock(page, record, blockIndex, context);
  });
  const redoNs = Math.max(1, bothNs - copyNs);
  const thousands = (1e6 / redoNs).toFixed(0).padStart(6);
  console.log(
    `${name.padEnd(20)} ${thousands} thousand pages/s (${redoNs.toFixed(0)} ns; with the copy ${bothNs.toFixed(0)} ns; ` +
      `${samples.length} of ${seen} blocks)`,
  );
}
