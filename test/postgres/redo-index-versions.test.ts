/** Our redo of hash, GIN, GiST, SP-GiST and BRIN records against other major versions: see redo-index-oracle.ts. */
import { test } from "node:test";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { EMBEDDED_MAJORS } from "../support/postgres.ts";
import { checkIndexRedo } from "./redo-index-oracle.ts";

for (const major of EMBEDDED_MAJORS) {
  if (major === 17) continue;
  test(`every index record of PostgreSQL ${major}`, async (t) => {
    const initdb = versionByMajor(major).initdbArguments;
    await checkIndexRedo(t, { major, settings: { full_page_writes: false }, initdb, mangle: false });
  });
}
