/** A fault at every call to the file system: of a tenant's life, of a store's, of a WAL log's. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { inThreads } from "./threads.ts";

/** `step`: only every so many of the faults, others with each seed. */
async function everywhere(t: TestContext, task: string, callsMin: number, step = 1): Promise<void> {
  const { calls = 0, points = 0 } = await inThreads(t, task, step);
  assert.ok(calls >= callsMin && points > (2.5 * calls) / step, `${points} points in ${calls} calls`);
}

const LIMIT = { timeout: 1_800_000 };

test("a tenant survives any fault at any call", LIMIT, (t) => everywhere(t, "tenant", 300, 2));

test("a store survives any fault at any call", LIMIT, (t) => everywhere(t, "store", 150));

test("compaction, garbage collection and adoption survive any fault at any call", LIMIT, (t) =>
  everywhere(t, "compaction", 200, 2),
);

test("a WAL log survives any fault at any call", LIMIT, (t) => everywhere(t, "wal", 120));

test("so does one that works on the spot", LIMIT, (t) => everywhere(t, "wal on the spot", 120));
