/**
 * Every record of a real Postgres 17 with checksums, images, and what logical decoding wants; without full page writes,
 * and of the other major versions, in versions-oracle.test.ts.
 */
import { test } from "node:test";
import { checkAgainstServer } from "./redo-oracle.ts";

test("every record of a server with full page writes and checksums", async (t) => {
  await checkAgainstServer(t, {
    settings: { full_page_writes: true, wal_level: "logical", wal_compression: "pglz" },
    initdb: ["--data-checksums"],
    hintBitsLogged: true,
    transactionCount: 300,
  });
});
