/** The workload generator on servers of the newer major versions: see follow-generator.ts. */
import { test } from "node:test";
import { EMBEDDED_MAJORS } from "../support/postgres.ts";
import { followGenerator } from "./follow-generator.ts";

for (const major of EMBEDDED_MAJORS) {
  if (major < 17) continue;
  test(`the generator on a server of major version ${major}`, { timeout: 900_000 }, (t) =>
    followGenerator(t, major),
  );
}
