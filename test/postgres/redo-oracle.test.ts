/** Every record of a real Postgres 17; other major versions are in versions-oracle.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkAgainstServer, kindsMissing } from "./redo-oracle.ts";

test("every record of a server with full page writes and checksums", async (t) => {
  await checkAgainstServer(t, {
    settings: { full_page_writes: true, wal_level: "logical", wal_compression: "pglz" },
    initdb: ["--data-checksums"],
    hintBitsLogged: true,
    transactionCount: 300,
  });
});

test("every record of a server without full page writes", async (t) => {
  const replay = await checkAgainstServer(t, {
    settings: { full_page_writes: false },
    initdb: [],
    hintBitsLogged: false,
    transactionCount: 2000,
  });
  assert.deepEqual(kindsMissing(replay), []);
});
