/** The WAL log of a timeline as seen from outside, while it is not open: whether there is one, and giving it up. */
import { dirname } from "node:path";
import { systemCode } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { DURABLE_SUFFIX, DurableMark } from "./durable-mark.ts";

/** Whether there is WAL, or should be: it was noted to be durable further than the layers reach. */
export async function hasStoredWal(directory: string, layersEnd: Lsn, files: Files): Promise<boolean> {
  const names = await files.list(directory).catch((error: unknown) => {
    if (systemCode(error) === "ENOENT") return [];
    throw error;
  });
  if (names.length > 0) return true;
  const marked = await new DurableMark(directory + DURABLE_SUFFIX, files).read();
  return marked !== undefined && marked > layersEnd;
}

/** Removes it, all of which is in layers. */
export async function removeWalLog(directory: string, files: Files): Promise<void> {
  // In this order: a note that WAL was on disk must not outlive that WAL.
  await files.remove(directory + DURABLE_SUFFIX);
  await files.removeTree(directory);
  await files.syncDirectory(dirname(directory));
}
