import assert from "node:assert/strict";
import { mkdtemp, readFile, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { crc32c } from "../../src/base/crc32c.ts";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { type Lsn, lsnAdd, toLsn } from "../../src/base/lsn.ts";
import type { Files } from "../../src/base/seams.ts";
import { WalLog, type WalReader } from "../../src/pageserver/receive/wal-log.ts";
import { MemoryFiles, seeded } from "./memory-files.ts";
import { PlainFiles } from "./support.ts";

const SEGMENT_SIZE = 2 ** 20;
const START = toLsn(5 * SEGMENT_SIZE + 4000);
const RECORD_SIZE = 16;

/** A stand-in for WAL: 16 bytes that carry their LSN, who wrote them, and a checksum. */
function record(lsn: Lsn, writer: number): Uint8Array {
  const bytes = new Uint8Array(RECORD_SIZE);
  const view = new DataView(bytes.buffer);
  view.setFloat64(0, lsn, true);
  view.setUint32(8, writer, true);
  view.setUint32(12, crc32c(bytes, 0, 12), true);
  return bytes;
}

function records(lsn: Lsn, count: number, writer: number): Uint8Array {
  const bytes = new Uint8Array(count * RECORD_SIZE);
  for (let i = 0; i < count; i++) bytes.set(record(lsnAdd(lsn, i * RECORD_SIZE), writer), i * RECORD_SIZE);
  return bytes;
}

/** Like the real one, it believes every complete record with a good checksum that says it belongs where it is. */
async function locateEnd(reader: WalReader): Promise<Lsn> {
  let at = reader.startLsn;
  for (;;) {
    const to = Math.min(at + 2 ** 16 * RECORD_SIZE, reader.endLsn);
    const bytes = await reader.read(at, toLsn(to));
    const view = new DataView(bytes.buffer);
    let offset = 0;
    for (; offset + RECORD_SIZE <= bytes.length; offset += RECORD_SIZE) {
      if (view.getFloat64(offset, true) !== at + offset) return lsnAdd(at, offset);
      if (view.getUint32(offset + 12, true) !== crc32c(bytes, offset, offset + 12)) return lsnAdd(at, offset);
    }
    if (offset === 0) return at;
    at = lsnAdd(at, offset);
  }
}

function open(files: Files, directory = "/wal", startLsn = START): Promise<WalLog> {
  return WalLog.open(
    { directory, segmentSize: SEGMENT_SIZE, startLsn },
    { files, locateEnd, onFatal: () => undefined },
  );
}

async function withDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "wal-log-"));
  try {
    await body(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

void test("keeps bytes across segments, in files that Postgres would name so", async () => {
  await withDirectory(async (directory) => {
    const bytes = records(START, 200_000, 1);
    {
      await using log = await open(new PlainFiles(), directory);
      assert.equal(log.endLsn, START);
      for (let at = 0; at < bytes.length; at += 99_984) {
        const piece = bytes.subarray(at, at + 99_984);
        await log.append(lsnAdd(START, at), piece);
        piece.slice().fill(0);
      }
      assert.equal(await log.sync(), START + bytes.length);
      assert.deepEqual(await log.read(START, log.endLsn), bytes);
    }
    const names = await readdir(directory);
    assert.deepEqual(
      names,
      [5, 6, 7, 8].map((n) => `0000000100000000${n.toString(16).padStart(8, "0")}`),
    );
    assert.equal((await readFile(join(directory, names[0] ?? ""))).length, SEGMENT_SIZE);
    await using log = await open(new PlainFiles(), directory);
    assert.equal(log.endLsn, START + bytes.length);
    assert.equal(log.durableLsn, log.endLsn);
    assert.deepEqual(
      await log.read(toLsn(START + 16), toLsn(START + 2_000_000)),
      bytes.subarray(16, 2_000_000),
    );
  });
});

void test("segment names above 4 GiB", async () => {
  const files = new MemoryFiles(seeded(1));
  const start = toLsn(0x12_0000_0000 + 3 * SEGMENT_SIZE);
  await using log = await open(files, "/wal", start);
  void log.append(start, records(start, 1, 1));
  await log.sync();
  assert.deepEqual(await files.list("/wal"), ["000000010000001200000003"]);
});

void test("append copies, must be contiguous, and asks to wait above a mark", async () => {
  await using log = await open(new MemoryFiles(seeded(1)));
  const bytes = records(START, 10, 1);
  const expected = bytes.slice();
  assert.equal(log.append(START, bytes), undefined);
  bytes.fill(7);
  assert.deepEqual(await log.read(START, log.endLsn), expected);
  assert.throws(() => log.append(START, bytes), /continues the log's end/);
  assert.throws(() => log.append(lsnAdd(log.endLsn, 8), bytes), /continues the log's end/);
  const waiting = log.append(log.endLsn, records(log.endLsn, 70_000, 1));
  assert.ok(waiting instanceof Promise);
  await waiting;
  assert.equal(log.append(log.endLsn, records(log.endLsn, 1, 1)), undefined);
});

void test("syncs of many callers coalesce, and each covers what its caller appended", async () => {
  const files = new MemoryFiles(seeded(1));
  await using log = await open(files);
  const before = files.syncCount;
  const waits: Promise<void>[] = [];
  for (let i = 0; i < 500; i++) {
    const end = lsnAdd(log.endLsn, RECORD_SIZE);
    void log.append(log.endLsn, records(log.endLsn, 1, 1));
    waits.push(
      log.sync().then((durable) => {
        assert.ok(durable >= end);
        assert.ok(log.durableLsn >= end);
        return undefined;
      }),
    );
    if (i % 100 === 99) await nextTurn();
  }
  await Promise.all(waits);
  const syncs = files.syncCount - before;
  assert.ok(syncs >= 2 && syncs < 20, `${syncs} syncs`);
  assert.equal(await log.sync(), log.endLsn);
});

void test("after a truncation other bytes follow, also across a crash, and nothing of the old ones returns", async () => {
  const files = new MemoryFiles(seeded(1));
  {
    await using log = await open(files);
    void log.append(START, records(START, 150_000, 1));
    const cut = lsnAdd(START, 20_000 * RECORD_SIZE);
    await log.truncateAfter(cut);
    assert.equal(log.endLsn, cut);
    assert.equal((await files.list("/wal")).length, 1);
    // One record of another writer; behind it lay 129,999 valid ones of the first.
    void log.append(cut, records(cut, 1, 2));
    await log.sync();
  }
  await using log = await open(files);
  assert.equal(log.endLsn, START + 20_001 * RECORD_SIZE);
  const last = await log.read(lsnAdd(log.endLsn, -RECORD_SIZE), log.endLsn);
  assert.equal(new DataView(last.buffer).getUint32(8, true), 2);
});

void test("truncation to the start, to a segment boundary, and to the end", async () => {
  const files = new MemoryFiles(seeded(1));
  await using log = await open(files);
  void log.append(START, records(START, 150_000, 1));
  await log.truncateAfter(log.endLsn);
  assert.equal(log.endLsn, START + 150_000 * RECORD_SIZE);
  const boundary = toLsn(6 * SEGMENT_SIZE);
  await log.truncateAfter(boundary);
  assert.deepEqual(await files.list("/wal"), ["000000010000000000000005"]);
  void log.append(boundary, records(boundary, 3, 2));
  await log.sync();
  assert.equal((await files.list("/wal")).length, 2);
  await log.truncateAfter(START);
  assert.equal(log.durableLsn, START);
  void log.append(START, records(START, 3, 2));
  assert.equal(await log.sync(), START + 3 * RECORD_SIZE);
  assert.throws(() => void log.append(START, records(START, 3, 2)));
});

void test("removes whole segments below an LSN and goes on", async () => {
  const files = new MemoryFiles(seeded(1));
  {
    await using log = await open(files);
    void log.append(START, records(START, 250_000, 1));
    await log.sync();
    await log.removeBelow(toLsn(7 * SEGMENT_SIZE - 1));
    assert.equal(log.oldestLsn, 6 * SEGMENT_SIZE);
    await log.removeBelow(log.endLsn);
    assert.ok(log.oldestLsn <= log.endLsn && log.endLsn - log.oldestLsn < SEGMENT_SIZE);
    await assert.rejects(log.read(START, lsnAdd(START, 16)), /within the segments/);
    void log.append(log.endLsn, records(log.endLsn, 5, 1));
    await log.sync();
  }
  const startLsn = toLsn(START + 249_000 * RECORD_SIZE);
  await using log = await open(files, "/wal", startLsn);
  assert.equal(log.endLsn, START + 250_005 * RECORD_SIZE);
});

void test("a lost segment is an error, leftovers of a removal are not", async () => {
  const files = new MemoryFiles(seeded(1));
  {
    await using log = await open(files);
    void log.append(START, records(START, 250_000, 1));
    await log.sync();
  }
  const late = toLsn(START + 200_000 * RECORD_SIZE);
  await files.remove("/wal/000000010000000000000006");
  await assert.rejects(
    open(files),
    (error) => error instanceof NeonError && error.code === ErrorCode.Corrupt,
  );
  {
    await using log = await open(files, "/wal", late);
    assert.equal(log.endLsn, START + 250_000 * RECORD_SIZE);
    assert.equal(log.oldestLsn, 7 * SEGMENT_SIZE);
  }
  await files.remove("/wal/000000010000000000000008");
  await assert.rejects(open(files, "/wal", late), /is missing/);
});

const isFull = (error: unknown): boolean =>
  error instanceof NeonError && error.code === ErrorCode.Resource && error.message.includes("disk full");

void test("a full disk is waited for; nothing is durable until there is room", async () => {
  const files = new MemoryFiles(seeded(1));
  await using log = await open(files);
  void log.append(START, records(START, 100, 1));
  const durable = await log.sync();
  files.spaceLeft = 1000;
  void log.append(log.endLsn, records(log.endLsn, 100, 1));
  let synced = false;
  const syncing = log.sync().then((lsn) => {
    synced = true;
    return lsn;
  });
  while (log.shortage === undefined) await new Promise((resolve) => setImmediate(resolve));
  assert.match(log.shortage.message, /disk full/);
  assert.equal(synced, false);
  assert.equal(log.durableLsn, durable);
  files.spaceLeft = Number.POSITIVE_INFINITY;
  assert.equal(await syncing, log.endLsn);
  assert.equal(log.shortage, undefined);
  assert.deepEqual(await log.read(START, log.endLsn), records(START, 200, 1));
});

void test("closed on a full disk, the log fails with a clear error; reopened, it holds what was durable", async () => {
  const files = new MemoryFiles(seeded(1));
  let durable: Lsn;
  {
    await using log = await open(files);
    void log.append(START, records(START, 100, 1));
    durable = await log.sync();
    files.spaceLeft = 1000;
    void log.append(log.endLsn, records(log.endLsn, 100, 1));
    const syncing = log.sync();
    log.giveUp();
    await assert.rejects(syncing, isFull);
    assert.throws(() => void log.append(log.endLsn, records(log.endLsn, 1, 1)), isFull);
    await assert.rejects(log.sync(), isFull);
    await assert.rejects(log.read(START, durable), isFull);
    assert.equal(log.durableLsn, durable);
  }
  files.spaceLeft = Number.POSITIVE_INFINITY;
  await using log = await open(files);
  assert.ok(log.endLsn >= durable && log.endLsn < durable + 1000);
  assert.deepEqual(await log.read(START, durable), records(START, 100, 1));
});

void test("a failed sync is fatal", async () => {
  const files = new MemoryFiles(seeded(1));
  const fatal: Error[] = [];
  const log = await WalLog.open(
    { directory: "/wal", segmentSize: SEGMENT_SIZE, startLsn: START },
    { files, locateEnd, onFatal: (error) => fatal.push(error) },
  );
  void log.append(START, records(START, 100, 1));
  await log.sync();
  files.failSync = true;
  void log.append(log.endLsn, records(log.endLsn, 100, 1));
  await assert.rejects(log.sync(), /sync WAL up to/);
  assert.equal(fatal.length, 1);
  await log[Symbol.asyncDispose]();
  await log[Symbol.asyncDispose]();
  assert.equal(files.openHandles, 0);
});

for (const direct of [false, true]) {
  void test(`power loss and kills at any moment, ${direct ? "direct" : "ordinary"} files`, async (t) => {
    const seed = Number(process.env["SEED"] ?? Math.floor(Math.random() * 2 ** 31));
    t.diagnostic(`SEED=${seed}`);
    const run = new PowerLossRun(seed, direct);
    for (let round = 0; round < 40; round++) await run.round(round);
  });
}

/** A log that is written to, truncated and cut off at random, held against a model of what it must contain. */
class PowerLossRun {
  private readonly random: () => number;
  private readonly files: MemoryFiles;
  /** Everything from START on, as the log last had it. */
  private model: Uint8Array = new Uint8Array(0);
  private startLsn = START;
  /** What the log ever reported as durable, and was not truncated since. */
  private durable = START;

  constructor(seed: number, direct: boolean) {
    this.random = seeded(seed);
    this.files = new MemoryFiles(this.random, direct);
  }

  private pick(max: number): number {
    return Math.floor(this.random() * max);
  }

  private pickRecordEnd(low: Lsn, high: Lsn): Lsn {
    return lsnAdd(low, this.pick((high - low) / RECORD_SIZE + 1) * RECORD_SIZE);
  }

  async round(round: number): Promise<void> {
    const log = await open(this.files, "/wal", this.startLsn);
    await this.compare(log, `round ${round}`);
    for (let step = this.random() < 0.2 ? 0 : this.pick(30); step > 0; step--) await this.step(log, round);
    for (let turns = this.pick(10); turns > 0; turns--) await nextTurn();
    this.durable = log.durableLsn;
    if (this.random() < 0.5) this.files.losePower();
    else this.files.killProcess();
    await log[Symbol.asyncDispose]();
  }

  /** Everything durable must be there, and nothing that the model does not have. */
  private async compare(log: WalLog, when: string): Promise<void> {
    assert.ok(log.endLsn >= this.durable, `${when}: durable up to ${this.durable}, found ${log.endLsn}`);
    const length = log.endLsn - START;
    assert.ok(length <= this.model.length, `${when}: the log is longer than what was written`);
    this.model = this.model.slice(0, length);
    const found = await log.read(this.startLsn, log.endLsn);
    const expected = this.model.subarray(this.startLsn - START);
    assert.equal(Buffer.compare(found, expected), 0, `${when}: other bytes than were written`);
  }

  private async step(log: WalLog, writer: number): Promise<void> {
    const what = this.random();
    if (what < 0.6) {
      const bytes = records(log.endLsn, 1 + this.pick(this.random() < 0.2 ? 60_000 : 300), writer);
      const waiting = log.append(log.endLsn, bytes);
      this.model = Buffer.concat([this.model, bytes]);
      if (this.random() < 0.5) await waiting;
    } else if (what < 0.9) {
      const waiting = log.sync();
      waiting.catch(() => undefined);
      if (this.random() < 0.7) await waiting;
    } else if (what < 0.95) {
      const cut = this.pickRecordEnd(this.startLsn, log.endLsn);
      await log.truncateAfter(cut);
      this.model = this.model.slice(0, cut - START);
    } else {
      this.startLsn = this.pickRecordEnd(this.startLsn, log.durableLsn);
      await log.removeBelow(this.startLsn);
    }
  }
}

void test("the void behind a WAL switch takes no room on the disk", async () => {
  await withDirectory(async (directory) => {
    const before = records(START, 100, 1);
    const end = toLsn(8 * SEGMENT_SIZE);
    const after = records(end, 100, 2);
    {
      await using log = await open(new PlainFiles(), directory);
      await log.append(START, before);
      const zeros = new Uint8Array(2 ** 17);
      while (log.endLsn < end)
        await log.append(log.endLsn, zeros.subarray(0, Math.min(zeros.length, end - log.endLsn)));
      await log.append(end, after);
      assert.equal(await log.sync(), end + after.length);
    }
    const files = (await readdir(directory)).sort();
    assert.equal(files.length, 4);
    const [, second, third] = await Promise.all(files.map((name) => stat(join(directory, name))));
    assert.equal(third?.size, SEGMENT_SIZE);
    assert.ok((second?.blocks ?? 0) < 64, "the second is a hole, nearly");
    await using log = await WalLog.open(
      { directory, segmentSize: SEGMENT_SIZE, startLsn: START },
      {
        files: new PlainFiles(),
        locateEnd: async () => lsnAdd(end, after.length),
        onFatal: () => undefined,
      },
    );
    const bytes = await log.read(START, log.endLsn);
    assert.deepEqual(bytes.subarray(0, before.length), before);
    assert.ok(bytes.subarray(before.length, end - START).every((byte) => byte === 0));
    assert.deepEqual(bytes.subarray(end - START), after);
  });
});
