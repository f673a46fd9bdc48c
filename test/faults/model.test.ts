/** A hundred thousand random operations on stores agree with a model. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { inThreads } from "./threads.ts";

const OPERATIONS = 100_000;

test("random operations agree with the model", { timeout: 1_800_000 }, async (t) => {
  const counts = await inThreads(t, "model", OPERATIONS);
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  assert.ok(total >= OPERATIONS * 0.97, `${total} operations`);
  for (const what of ["put", "get", "scan", "branch", "delete", "compact", "gc", "restart", "power loss"]) {
    assert.ok((counts[what] ?? 0) > 20, `${what}: ${counts[what]}`);
  }
});
