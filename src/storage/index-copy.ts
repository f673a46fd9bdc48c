/**
 * The second copy of a timeline's index, so that an index that is damaged can be made again: what garbage collection has
 * left of the history, and which layers others have replaced, stands nowhere else.
 *
 * It is written before the index that it is a copy of gets its name, and files go only once both names are durable. So,
 * whatever happens between the two, all that either of them names is there, and nothing that was acknowledged is missing
 * from it. A start, and a publication that fails, make them equal again.
 */
import type { Files } from "../base/seams.ts";
import { TEMPORARY_SUFFIX } from "./index-file.ts";

export const INDEX_COPY_NAME = "copy.index.json";

/** Writes and syncs it; its name is durable once the directory is synced. */
export async function writeIndexCopy(directory: string, bytes: Uint8Array, files: Files): Promise<void> {
  const path = `${directory}/${INDEX_COPY_NAME}`;
  const handle = await files.open(path + TEMPORARY_SUFFIX, "w");
  try {
    await handle.write(bytes, 0);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await files.rename(path + TEMPORARY_SUFFIX, path);
}

/**
 * Has it say what the index says; where that has no layers there is none. If it can be neither written nor removed, it may
 * name files that are gone, which whoever needs it finds out: it is no reason not to go on.
 */
export async function alignIndexCopy(directory: string, index: Uint8Array, files: Files): Promise<void> {
  const path = `${directory}/${INDEX_COPY_NAME}`;
  const copy = await files.readWhole(path).catch(() => undefined);
  if (copy && equalBytes(copy, index)) return;
  try {
    await writeIndexCopy(directory, index, files);
    await files.syncDirectory(directory);
  } catch {
    await removeIndexCopy(directory, files);
  }
}

export async function removeIndexCopy(directory: string, files: Files): Promise<void> {
  const path = `${directory}/${INDEX_COPY_NAME}`;
  for (const each of [path, path + TEMPORARY_SUFFIX]) await files.remove(each).catch(() => undefined);
}

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
