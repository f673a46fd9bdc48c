/** Open files for reading, at most a given number that are not in use; the least recently used is closed first. */
import type { FileHandle, Files } from "../base/seams.ts";

interface Entry {
  readonly opening: Promise<FileHandle>;
  users: number;
}

export class HandlePool implements AsyncDisposable {
  private readonly files: Files;
  private readonly handlesMax: number;
  /** Least recently used first. */
  private readonly entries = new Map<string, Entry>();
  private readonly closing = new Set<Promise<void>>();

  constructor(files: Files, handlesMax: number) {
    this.files = files;
    this.handlesMax = handlesMax;
  }

  /** Calls `work` with a handle that stays open until it is done. */
  async use<T>(path: string, work: (handle: FileHandle) => Promise<T>): Promise<T> {
    const entry = this.entries.get(path) ?? { opening: this.files.open(path, "r"), users: 0 };
    this.entries.delete(path);
    this.entries.set(path, entry);
    entry.users++;
    try {
      return await work(await entry.opening);
    } catch (error) {
      // A handle that failed is not used again; it is closed when the last user lets go of it.
      if (this.entries.get(path) === entry) this.entries.delete(path);
      throw error;
    } finally {
      entry.users--;
      if (entry.users === 0 && this.entries.get(path) !== entry) this.close(entry);
      this.shrink();
    }
  }

  /** Closes a file's handle as soon as it is idle. */
  forget(path: string): void {
    const entry = this.entries.get(path);
    if (entry === undefined) return;
    this.entries.delete(path);
    if (entry.users === 0) this.close(entry);
  }

  /** Closes all idle handles and waits for it. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const path of this.entries.keys()) this.forget(path);
    await Promise.all(this.closing);
  }

  private shrink(): void {
    if (this.entries.size <= this.handlesMax) return;
    for (const [path, entry] of this.entries) {
      if (entry.users > 0) continue;
      this.forget(path);
      if (this.entries.size <= this.handlesMax) return;
    }
  }

  private close(entry: Entry): void {
    const closed = entry.opening
      .then((handle) => handle.close())
      // Nothing was written through it, so that a failed close loses nothing.
      .catch(() => undefined)
      .finally(() => this.closing.delete(closed));
    this.closing.add(closed);
  }
}
