/** Every record of servers of the older major versions, whose binaries npm has as optional packages: see version-oracle.ts. */
import { test } from "node:test";
import { EMBEDDED_MAJORS } from "../support/postgres.ts";
import { checkMajor } from "./version-oracle.ts";

for (const major of EMBEDDED_MAJORS) {
  if (major >= 17) continue;
  test(`every record of a server of major version ${major}`, { timeout: 900_000 }, (t) =>
    checkMajor(t, major),
  );
}
