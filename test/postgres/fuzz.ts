/** What the fuzz tests share: for how long, what counts as a proper refusal, and how bytes and records are damaged. */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { Worker } from "node:worker_threads";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { decodeRecord } from "../../src/postgres/wal/decode-record.ts";
import { WalRecord } from "../../src/postgres/wal/record.ts";
import type { SeededRandom } from "../support/random.ts";
import type { Sample } from "./fuzz-corpus.ts";

const SECONDS = Number(process.env["NEON_FUZZ_SECONDS"] ?? 40);
/** Without any progress for so long, far above what any step takes, the process is ended. */
const STUCK_MS = 120_000;
const RSS_BYTES_MAX = 3 * 2 ** 30;
/** Beyond what there is before the first step. */
const MEMORY_BYTES_MAX = 400 << 20;
/**
 * A step that never ends cannot be interrupted from within its thread, not even by a signal that the test handles. So
 * another thread watches, and ends the process when there is no progress, or memory runs away. CommonJS, as workers that
 * are given as text are.
 */
const WATCHDOG = `
  const { workerData } = require("node:worker_threads");
  const beat = new Int32Array(workerData.beat);
  let last = -1;
  let since = Date.now();
  setInterval(() => {
    const now = Atomics.load(beat, 0);
    const moved = now !== last;
    if (moved) [last, since] = [now, Date.now()];
    const bytes = process.memoryUsage.rss();
    if (Date.now() - since < workerData.stuckMs && bytes < workerData.rssMax) return;
    const what = "step " + now + " takes " + (Date.now() - since) + " ms so far, the process has " + bytes + " bytes";
    require("node:fs").writeSync(2, "fuzz: " + what + "; NEON_TEST_SEED=" + workerData.seed + "\\n");
    process.kill(process.pid, "SIGKILL");
  }, 500);
`;

/** Runs steps until the time is over, and watches how long each takes and what it leaves behind. */
export async function fuzz(
  t: TestContext,
  share: number,
  seed: number,
  step: () => void | Promise<void>,
): Promise<number> {
  const beat = new Int32Array(new SharedArrayBuffer(4));
  const limits = { beat: beat.buffer, stuckMs: STUCK_MS, rssMax: RSS_BYTES_MAX, seed };
  const watchdog = new Worker(WATCHDOG, { eval: true, workerData: limits });
  try {
    return await runSteps(t, share, async () => {
      Atomics.add(beat, 0, 1);
      await step();
    });
  } finally {
    await watchdog.terminate();
  }
}

async function runSteps(t: TestContext, share: number, step: () => Promise<void>): Promise<number> {
  const end = Date.now() + SECONDS * share * 1000;
  const memory = (): number => process.memoryUsage().arrayBuffers + process.memoryUsage().heapUsed;
  const before = memory();
  let steps = 0;
  let slowest = 0;
  for (let now = Date.now(); now < end; steps++) {
    await step();
    const after = Date.now();
    slowest = Math.max(slowest, after - now);
    now = after;
    if (steps % 1000 === 0) assert.ok(memory() - before < MEMORY_BYTES_MAX, "memory grows");
  }
  t.diagnostic(`${steps} steps, the slowest ${slowest} ms`);
  return steps;
}

/** Damages a few bytes, or many. */
export function damage(random: SeededRandom, bytes: Uint8Array, from: number, to: number): void {
  const count = random.pick([1, 1, 2, 5, 30]);
  for (let i = 0; i < count; i++) {
    const at = random.between(from, to - 1);
    const old = bytes[at] ?? 0;
    bytes[at] = random.chance(0.5)
      ? old ^ (1 << random.below(8))
      : random.pick([0, 1, 0x7f, 0x80, 0xff, random.below(256)]);
  }
}

/** Whether the damage was found, and said to be that. */
export function isTyped(error: unknown): boolean {
  return (
    error instanceof NeonError &&
    (error.code === ErrorCode.Corrupt || error.code === ErrorCode.Unsupported) &&
    error.message.length > 0
  );
}

/** A damaged copy of a record, or undefined when the decoder refuses it. */
export function damagedRecord(
  random: SeededRandom,
  sample: Sample,
  version: PgVersion,
): WalRecord | undefined {
  const bytes = sample.bytes.slice();
  if (random.chance(0.15)) bytes[17] = random.below(24);
  if (random.chance(0.2)) bytes[16] = random.below(256);
  // Redo reads what comes last; in front are block headers.
  const reach = Math.min(bytes.length - 16, random.pick([12, 60, bytes.length]));
  if (random.chance(0.9)) damage(random, bytes, bytes.length - reach, bytes.length);
  const record = new WalRecord();
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  try {
    decodeRecord(record, bytes, view, 0, bytes.length, version);
  } catch (error) {
    if (isTyped(error)) return undefined;
    throw error;
  }
  record.lsn = sample.lsn;
  record.endLsn = sample.endLsn;
  if (random.chance(0.2)) record.mainLength = random.below(record.mainLength + 1);
  return record;
}
