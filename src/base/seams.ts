/**
 * What storage and transfer need from the outside, as small interfaces, so that tests can put a faulty disk, a fixed
 * clock or a replayed seed in the place of the real thing.
 */

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
}

export interface Random {
  /** `count` random bytes, owned by the caller. */
  bytes(count: number): Uint8Array;
}

/** An open file. Offsets and lengths in bytes. */
export interface FileHandle {
  /** Reads up to `length` bytes at `position` into `target[offset..]`; returns the count, 0 at the end of the file. */
  read(target: Uint8Array, offset: number, length: number, position: number): Promise<number>;
  /** Writes all of `bytes` at `position`. */
  write(bytes: Uint8Array, position: number): Promise<void>;
  /** Makes content (and what is needed to find it again) durable. A failure must end the process. */
  sync(): Promise<void>;
  size(): Promise<number>;
  truncate(sizeBytes: number): Promise<void>;
  close(): Promise<void>;
}

/**
 * A file that can also write and sync on the spot, without a trip through the thread pool. Worth it for the small
 * writes of single commits: a trip costs about as much as the write and sync themselves on a good disk.
 */
export interface DirectFileHandle extends FileHandle {
  /** `write`, done when it returns. Only for few bytes: the event loop stands still. */
  writeNow(bytes: Uint8Array, position: number): void;
  /** `sync`, done when it returns. Only where syncs are known to be quick. */
  syncNow(): void;
}

export function isDirect(handle: FileHandle): handle is DirectFileHandle {
  return "writeNow" in handle && "syncNow" in handle;
}

/** The part of a file system that we rely on. Paths are absolute. */
export interface Files {
  /** `r` reads; `w` creates or empties, for writing and reading; `r+` opens what exists for both. */
  open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle>;
  rename(from: string, to: string): Promise<void>;
  /** Removing what is not there is no error. */
  remove(path: string): Promise<void>;
  /** Removes a directory with all that is in it, not as one step; one that is not there is no error. */
  removeTree(directory: string): Promise<void>;
  /** Names in a directory, of files and directories, sorted. */
  list(directory: string): Promise<string[]>;
  /** Creates a directory and its parents; existing is fine. */
  makeDirectory(directory: string): Promise<void>;
  /** Makes renames, creations and removals in a directory durable. */
  syncDirectory(directory: string): Promise<void>;
  /** The whole file, or undefined if there is none. */
  readWhole(path: string): Promise<Uint8Array | undefined>;
}
