/**
 * Files that can also write and sync on the spot, without a trip through the thread pool. Worth it for the small
 * writes of single commits: a trip costs about as much as the write and sync themselves on a good disk.
 */
import type { FileHandle } from "../../base/seams.ts";

export interface DirectFileHandle extends FileHandle {
  /** `write`, done when it returns. Only for few bytes: the event loop stands still. */
  writeNow(bytes: Uint8Array, position: number): void;
  /** `sync`, done when it returns. Only where syncs are known to be quick. */
  syncNow(): void;
}

export function isDirect(handle: FileHandle): handle is DirectFileHandle {
  return "writeNow" in handle && "syncNow" in handle;
}
