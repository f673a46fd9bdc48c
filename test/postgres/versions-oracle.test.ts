/** Every record of servers of the newer major versions: see version-oracle.ts. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { EMBEDDED_MAJORS } from "../support/postgres.ts";
import { SHOWN_ELSEWHERE, checkMajor } from "./version-oracle.ts";

test("what no server writes is shown by the test that is named for it", () => {
  for (const [kind, file] of Object.entries(SHOWN_ELSEWHERE)) {
    const text = readFileSync(new URL(`../../${file}`, import.meta.url), "utf8");
    assert.ok(text.includes(kind), `${file} says nothing of ${kind}`);
  }
});

for (const major of EMBEDDED_MAJORS) {
  if (major < 17) continue;
  test(`every record of a server of major version ${major}`, { timeout: 900_000 }, (t) =>
    checkMajor(t, major),
  );
}
