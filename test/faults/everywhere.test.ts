/** A fault at every call to the file system: of a tenant's life, of a store's, of a WAL log's. */
import { test } from "node:test";
import { faultEverywhere } from "./everywhere.ts";

const LIMIT = { timeout: 900_000 };

test("a tenant survives any fault at any call", LIMIT, (t) =>
  faultEverywhere(t, "tenant", { calls: 300, points: 1000 }),
);

test("a store survives any fault at any call", LIMIT, (t) =>
  faultEverywhere(t, "store", { calls: 150, points: 500 }),
);

test("a WAL log survives any fault at any call", LIMIT, (t) =>
  faultEverywhere(t, "wal", { calls: 80, points: 250 }),
);

test("a WAL log that works on the spot survives any fault at any call", LIMIT, (t) =>
  faultEverywhere(t, "wal on the spot", { calls: 100, points: 300 }),
);
