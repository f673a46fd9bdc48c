/**
 * The directory of a tenant for what does not count yet: what other pageservers have begun to send, which stays when the
 * process dies, and scratch files and directories, which a start removes.
 */
import { join } from "node:path";
import { bytesToHex } from "../../base/ids.ts";
import type { Files, Random } from "../../base/seams.ts";

export const STAGING_DIRECTORY = "staging";
/** What the names of scratch begin with; the others are hashes. */
const SCRATCH_PREFIX = "out-";

/** A path that was never used, in a directory that need not exist. */
export function newScratchPath(tenantDirectory: string, random: Random): string {
  return join(tenantDirectory, STAGING_DIRECTORY, `${SCRATCH_PREFIX}${bytesToHex(random.bytes(8))}`);
}

/** Removes what a process that died has left. */
export async function removeScratch(tenantDirectory: string, files: Files): Promise<void> {
  const directory = join(tenantDirectory, STAGING_DIRECTORY);
  if (!(await files.list(tenantDirectory)).includes(STAGING_DIRECTORY)) return;
  for (const name of await files.list(directory)) {
    if (name.startsWith(SCRATCH_PREFIX)) await files.removeTree(join(directory, name));
  }
}
