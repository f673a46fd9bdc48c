/** Our redo of hash, GIN, GiST, SP-GiST and BRIN records; without full page writes see versions-oracle.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkIndexRedo } from "./redo-index-oracle.ts";

test("every index record of a server with full page writes and checksums", async (t) => {
  const run = await checkIndexRedo(t, {
    major: 17,
    settings: { full_page_writes: true },
    initdb: ["--data-checksums"],
  });
  // The splits that set flags even after an image has been restored.
  assert((run.counts.get("Hash 0x40 block 0")?.restored ?? 0) > 0);
});
