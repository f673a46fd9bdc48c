/**
 * A disk that does not keep up: the stream from the compute stops by itself (it reads no more, and acknowledges
 * nothing), memory stays bounded, the lag shows, and when the disk is back everything goes on.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseWriterEpoch } from "../../src/base/ids.ts";
import type { FileHandle, Files } from "../../src/base/seams.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import { FakeCompute } from "./fake-compute.ts";
import { Scene, type SceneOptions } from "./scene.ts";
import { TINY_START, TinyWal } from "./tiny-cluster.ts";

const MIB = 1 << 20;
const WAL_BYTES = 14 * MIB;
const CHECKPOINT_DISTANCE = 2 * MIB;
/** What may be under way when the disk stands still: buffers of the WAL log, of both ends of the socket, and of Node. */
const IN_FLIGHT_MAX = 6 * MIB;
const WAIT_MS_MAX = 120_000;
const FLUSHED_LAYERS_MAX = 2;

/** Writes to files whose path matches wait while it is closed. */
class GatedFiles implements Files {
  private readonly inner: Files;
  private readonly pattern: RegExp;
  private gate: PromiseWithResolvers<void> | undefined;
  /** Writes that have met the closed gate. */
  waiting = 0;

  constructor(inner: Files, pattern: RegExp) {
    this.inner = inner;
    this.pattern = pattern;
  }

  close(): void {
    this.gate = Promise.withResolvers<void>();
  }

  release(): void {
    this.gate?.resolve();
    this.gate = undefined;
  }

  private async pass(path: string): Promise<void> {
    if (this.gate === undefined || !this.pattern.test(path)) return;
    this.waiting++;
    await this.gate.promise;
  }

  async open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle> {
    const handle = await this.inner.open(path, mode);
    return {
      read: (...args) => handle.read(...args),
      write: async (...args) => {
        await this.pass(path);
        await handle.write(...args);
      },
      sync: async () => {
        await this.pass(path);
        await handle.sync();
      },
      size: () => handle.size(),
      truncate: (sizeBytes) => handle.truncate(sizeBytes),
      close: () => handle.close(),
    };
  }
  rename(from: string, to: string): Promise<void> {
    return this.inner.rename(from, to);
  }
  remove(path: string): Promise<void> {
    return this.inner.remove(path);
  }
  removeTree(directory: string): Promise<void> {
    return this.inner.removeTree(directory);
  }
  list(directory: string): Promise<string[]> {
    return this.inner.list(directory);
  }
  makeDirectory(directory: string): Promise<void> {
    return this.inner.makeDirectory(directory);
  }
  syncDirectory(directory: string): Promise<void> {
    return this.inner.syncDirectory(directory);
  }
  readWhole(path: string): Promise<Uint8Array | undefined> {
    return this.inner.readWhole(path);
  }
}

async function until(what: string, condition: () => boolean): Promise<void> {
  for (const deadline = performance.now() + WAIT_MS_MAX; !condition(); await sleep(5)) {
    assert.ok(performance.now() < deadline, what);
  }
}

/** Until a number has not changed for a while. */
async function untilStill(value: () => number): Promise<void> {
  let last = value();
  let since = performance.now();
  for (const deadline = performance.now() + WAIT_MS_MAX; performance.now() - since < 700; await sleep(10)) {
    assert.ok(performance.now() < deadline, "it comes to rest");
    if (value() === last) continue;
    last = value();
    since = performance.now();
  }
}

interface Stage {
  readonly files: GatedFiles;
  readonly compute: FakeCompute;
  readonly timeline: Timeline;
  readonly wal: TinyWal;
  readonly scene: Scene;
}

async function withStream(
  t: TestContext,
  pattern: RegExp,
  work: (stage: Stage) => Promise<void>,
  options: SceneOptions = {},
): Promise<void> {
  const random = SeededRandom.forTest(t);
  const wal = new TinyWal(random, WAL_BYTES);
  const disk = new FaultyFiles({ random: () => random.u32() });
  disk.addDirectory("/work");
  const files = new GatedFiles(disk, pattern);
  const directory = mkdtempSync(join(tmpdir(), "neon-stream-"));
  const compute = await FakeCompute.listen(wal, random, directory);
  const scene = await Scene.open(files, random, { checkpointDistanceBytes: CHECKPOINT_DISTANCE, ...options });
  try {
    await scene.createTenant();
    const timeline = await scene.import("main");
    const { socket_directory: socketDirectory, port, user } = compute.source;
    const source = { socketDirectory, port, user };
    const { epoch, lsn } = await timeline.openWriter({ name: "w", source });
    compute.begin(parseWriterEpoch(epoch), lsn);
    await work({ files, compute, timeline, wal, scene });
    files.release();
    compute.limit = wal.endLsn;
    await until("everything is acknowledged", () => compute.acknowledged >= wal.endLsn);
    await scene.check(timeline, wal, wal.endLsn);
    assert.deepEqual(compute.violations, []);
  } finally {
    files.release();
    await compute[Symbol.asyncDispose]();
    await scene.stop();
    rmSync(directory, { recursive: true });
  }
}

test("WAL that cannot be written is not acknowledged, and the stream waits", { timeout: 300_000 }, (t) =>
  withStream(t, /\/wal\//, async ({ files, compute, timeline, wal }) => {
    compute.limit = TINY_START + MIB;
    await until("the first is acknowledged", () => compute.acknowledged >= compute.limit - 20_000);
    files.close();
    const before = compute.acknowledged;
    compute.limit = wal.endLsn;
    await until("the disk stands still", () => files.waiting > 0);
    await untilStill(() => compute.inFlight);
    assert.ok(compute.acknowledged <= before + MIB, "nothing is acknowledged that was not written");
    assert.ok(compute.inFlight < IN_FLIGHT_MAX, `${compute.inFlight} bytes are under way`);
    assert.ok(
      (timeline.lagBytes ?? 0) > WAL_BYTES - 2 * IN_FLIGHT_MAX,
      `the lag shows: ${timeline.lagBytes}`,
    );
    assert.equal(timeline.state, "active");
  }),
);

test("layers that cannot be written stop the stream before memory grows", { timeout: 300_000 }, (t) =>
  withStream(t, /\/layers\/.*\.delta\.tmp$/, async ({ files, compute, timeline, wal, scene }) => {
    files.close();
    compute.limit = wal.endLsn;
    await until("a layer waits for the disk", () => files.waiting > 0);
    await untilStill(() => compute.acknowledged);
    const { openBytes, frozenBytes, frozenCount } = timeline.store.stats;
    assert.equal(frozenCount, 1, "one layer waits, one is filled");
    // A layer grows by a slab of a megabyte at a time, and is looked at between batches of records.
    assert.ok(
      openBytes + frozenBytes < 2 * (CHECKPOINT_DISTANCE + 2 * MIB),
      `${openBytes + frozenBytes} bytes`,
    );
    assert.ok(compute.acknowledged < wal.endLsn, "the rest waits with the compute");
    assert.ok((timeline.lagBytes ?? 0) > 0, `the lag shows: ${timeline.lagBytes}`);
    // Reading goes on meanwhile.
    await scene.check(timeline, wal, timeline.lastRecordLsn);
  }),
);

test(
  "a compaction that is stuck slows the stream the more, the further it is behind",
  { timeout: 300_000 },
  (t) =>
    withStream(
      t,
      /nothing waits/,
      async ({ compute, timeline, wal, scene }) => {
        compute.limit = wal.endLsn;
        // Nobody compacts. From four layers too many on, each new one waits longer than what counts as still.
        await until("layers pile up", () => timeline.maintenance.flushedLayers >= FLUSHED_LAYERS_MAX + 4);
        await untilStill(() => compute.acknowledged);
        assert.ok(compute.acknowledged < wal.endLsn, "the rest waits with the compute");
        assert.ok((timeline.lagBytes ?? 0) > 0, `the lag shows: ${timeline.lagBytes}`);
        await scene.check(timeline, wal, timeline.lastRecordLsn);
        // Once compaction gets on, so does the stream.
        while (compute.acknowledged < wal.endLsn) {
          await timeline.maintenance.compact({ thorough: true });
          await sleep(5);
        }
      },
      { checkpointDistanceBytes: MIB, flushedLayersMax: FLUSHED_LAYERS_MAX },
    ),
);
