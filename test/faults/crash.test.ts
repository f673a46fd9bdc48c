/** Three hundred rounds of kill -9 against the pageserver, at any moment. Needs `npm run build`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../support/random.ts";
import { crashRounds } from "./crash-rounds.ts";

const ROUNDS = 300;
/** Pageservers at a time. */
const SITES = 2;

test("nothing acknowledged is lost when the pageserver is killed", { timeout: 1_800_000 }, async (t) => {
  const { seed } = SeededRandom.forTest(t);
  const sites = Array.from({ length: SITES }, (_, i) =>
    crashRounds({ seed: seed + i, rounds: ROUNDS / SITES }),
  );
  for (const outcome of await Promise.allSettled(sites)) {
    if (outcome.status === "rejected") throw outcome.reason;
    const { early, acknowledgedBytes, branches } = outcome.value;
    t.diagnostic(
      `${early} killed while starting, ${acknowledgedBytes} bytes acknowledged, ${branches} branches`,
    );
    assert.ok(acknowledgedBytes > 0 && branches > 1, "there was work");
  }
});
