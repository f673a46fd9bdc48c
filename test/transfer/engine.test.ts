/** Push and pull between two pageservers: who gets what, and that it is the same afterwards. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { SeededRandom } from "../support/random.ts";
import { Site, TENANT, assertSame, sample } from "./site.ts";

void test("a branch is pushed to an empty pageserver, changed, and pushed again", async (t) => {
  const seeded = SeededRandom.forTest(t);
  await using ours = await Site.open();
  await using theirs = await Site.open();
  await ours.init();
  const ends = await ours.write("main", seeded, { records: 400 });
  const first = await ours.push(theirs, "main");
  assert.equal(first.result, "created");
  await assertSame(ours.timeline("main"), theirs.timeline("main"), sample(ends, seeded));
  const unchanged = await ours.push(theirs, "main");
  assert.equal(unchanged.result, "unchanged");
  assert.ok(ours.lastBytes < 2000, `${ours.lastBytes} bytes for nothing`);
  for (let round = 0; round < 4; round++) {
    ends.push(...(await ours.write("main", seeded, { records: seeded.between(1, 60) })));
    assert.equal((await ours.push(theirs, "main")).result, "updated");
    await assertSame(
      ours.timeline("main"),
      theirs.timeline("main"),
      sample(ends, seeded, 12),
      `round ${round}`,
    );
  }
  assert.deepEqual(readdirSync(join(theirs.directory, "tenants", TENANT, "staging")), []);
});
