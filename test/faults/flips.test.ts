/** Ten thousand flipped bits, in every kind of file. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { inThreads } from "./threads.ts";

const TRIALS = 10_000;

test("a flipped bit is noticed, or has changed nothing", { timeout: 1_800_000 }, async (t) => {
  const counts = await inThreads(t, "flips", TRIALS);
  for (const kind of ["layer", "index", "WAL", "mark", "metadata", "ref", "tenant"]) {
    assert.ok((counts[kind] ?? 0) > TRIALS / 20, `${counts[kind]} flips in files of kind ${kind}`);
  }
  const found = ["found when opened", "found when read", "found by the check"].map(
    (name) => counts[name] ?? 0,
  );
  const noticed = found.reduce((sum, count) => sum + count, 0);
  assert.equal(noticed + (counts["changed nothing"] ?? 0), TRIALS);
  assert.ok(noticed > TRIALS / 2, `${noticed} were noticed`);
});
