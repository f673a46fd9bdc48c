/**
 * Work that takes long and needs nothing but the processor, in two threads, away from the test runner, which follows
 * every promise. What there is to be done is named in `tasks.ts`.
 */
import assert from "node:assert/strict";
import { availableParallelism } from "node:os";
import type { TestContext } from "node:test";
import { Worker } from "node:worker_threads";
import { SeededRandom } from "../support/random.ts";

/** What a thread is to do: a part of a task, every `shares`th piece of it from `share` on. */
export interface Share {
  readonly task: string;
  readonly seed: number;
  /** How much in all, for tasks that can be of any size. */
  readonly size: number;
  readonly share: number;
  readonly shares: number;
}

export interface ShareResult {
  /** What was done, by kind. */
  readonly counts: Readonly<Record<string, number>>;
  /** The first thing that was wrong, and how to see it again. */
  readonly failure: string | undefined;
}

/** Runs a task and returns what was done. */
export async function inThreads(t: TestContext, task: string, size = 0): Promise<Record<string, number>> {
  const { seed } = SeededRandom.forTest(t);
  const shares = Math.min(2, availableParallelism());
  const results = await Promise.all(
    Array.from({ length: shares }, (_, share) => inThread({ task, seed, size, share, shares })),
  );
  const total: Record<string, number> = {};
  for (const { counts, failure } of results) {
    assert.equal(failure, undefined, `NEON_TEST_SEED=${seed}: ${failure}`);
    for (const [name, count] of Object.entries(counts)) total[name] = (total[name] ?? 0) + count;
  }
  t.diagnostic(JSON.stringify(total));
  return total;
}

async function inThread(share: Share): Promise<ShareResult> {
  const worker = new Worker(new URL("thread.ts", import.meta.url), { workerData: share });
  try {
    return await new Promise((resolve, reject) => {
      worker.once("message", resolve).once("error", reject);
      worker.once("exit", (code) => {
        reject(new Error(`the thread ended with ${code}`));
      });
    });
  } finally {
    await worker.terminate();
  }
}

/** An error with its causes, as text. */
export function described(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return `${error.stack}${error.cause === undefined ? "" : `\ncaused by ${described(error.cause)}`}`;
}
