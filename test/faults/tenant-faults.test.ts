/** The life of a tenant with a fault at every call to the file system. */
import { test } from "node:test";
import { faultEverywhere } from "./everywhere.ts";
import { tenantStory } from "./tenant-story.ts";

test("a tenant survives any fault at any call", { timeout: 600_000 }, (t) =>
  faultEverywhere(t, tenantStory, { callsMin: 150 }),
);
