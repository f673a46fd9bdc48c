/** Two data directories, by the comparison that `neon verify` makes of one with a base backup. */
import { readFileSync, readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { PAGE_SIZE } from "../../src/postgres/constants.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { type Difference, DirectoryComparison } from "../../src/pageserver/verify/compare-directory.ts";
import { RealFiles } from "../../src/storage/real-files.ts";

export interface Comparison {
  readonly pages: number;
  readonly differences: readonly string[];
}

/** `theirs` is that of a stopped compute, `ours` a base backup at its end, extracted. */
export async function compareDirectories(
  theirs: string,
  ours: string,
  version: PgVersion,
): Promise<Comparison> {
  const server = { directory: theirs, version, madeBy: "primary" } as const;
  const comparison = await DirectoryComparison.open(server, new RealFiles());
  for (const entry of readdirSync(ours, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const bytes = readFileSync(path);
    comparison.beginFile(relative(ours, path));
    for (let at = 0; at < bytes.length; at += PAGE_SIZE) comparison.write(bytes.subarray(at, at + PAGE_SIZE));
    comparison.endFile();
    await comparison.drain();
  }
  await comparison.finish();
  return { pages: comparison.pages, differences: comparison.differences.map(inWords) };
}

function inWords({ file, block, byte, what }: Difference): string {
  return [
    file,
    ...(block === undefined ? [] : [`block ${block}`]),
    ...(byte === undefined ? [] : [`byte ${byte}`]),
    what,
  ].join(", ");
}
