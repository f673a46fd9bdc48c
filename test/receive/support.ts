/** Shared by the tests of WAL reception: plain files, and a sink that keeps raw WAL without understanding it. */
import { type FileHandle as NodeHandle, mkdir, open, readFile, readdir, rename, rm } from "node:fs/promises";
import { fdatasyncSync, writeSync } from "node:fs";
import { systemCode } from "../../src/base/errors.ts";
import type { Lsn } from "../../src/base/lsn.ts";
import type { FileHandle, Files } from "../../src/base/seams.ts";
import type { DirectFileHandle } from "../../src/base/seams.ts";
import type { WalSink } from "../../src/pageserver/receive/receiver.ts";
import type { WalLog } from "../../src/pageserver/receive/wal-log.ts";

class PlainFile implements DirectFileHandle {
  private readonly handle: NodeHandle;
  constructor(handle: NodeHandle) {
    this.handle = handle;
  }
  async read(target: Uint8Array, offset: number, length: number, position: number): Promise<number> {
    return (await this.handle.read(target, offset, length, position)).bytesRead;
  }
  async write(bytes: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      done += (await this.handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
    }
  }
  writeNow(bytes: Uint8Array, position: number): void {
    for (let done = 0; done < bytes.length;) {
      done += writeSync(this.handle.fd, bytes, done, bytes.length - done, position + done);
    }
  }
  sync(): Promise<void> {
    return this.handle.datasync();
  }
  syncNow(): void {
    fdatasyncSync(this.handle.fd);
  }
  async size(): Promise<number> {
    return (await this.handle.stat()).size;
  }
  truncate(sizeBytes: number): Promise<void> {
    return this.handle.truncate(sizeBytes);
  }
  close(): Promise<void> {
    return this.handle.close();
  }
}

/** The file system as it is. */
export class PlainFiles implements Files {
  async open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle> {
    return new PlainFile(await open(path, mode === "w" ? "w+" : mode));
  }
  rename(from: string, to: string): Promise<void> {
    return rename(from, to);
  }
  remove(path: string): Promise<void> {
    return rm(path, { force: true });
  }
  removeTree(directory: string): Promise<void> {
    return rm(directory, { recursive: true, force: true });
  }
  async list(directory: string): Promise<string[]> {
    return (await readdir(directory)).sort();
  }
  async makeDirectory(directory: string): Promise<void> {
    await mkdir(directory, { recursive: true });
  }
  async syncDirectory(directory: string): Promise<void> {
    const handle = await open(directory, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
  async readWhole(path: string): Promise<Uint8Array | undefined> {
    try {
      return await readFile(path);
    } catch (error) {
      if (systemCode(error) === "ENOENT") return undefined;
      throw error;
    }
  }
}

/** Puts raw WAL into a log and syncs it at once; record boundaries do not concern it. */
export class LogSink implements WalSink {
  readonly log: WalLog;
  private readonly listeners = new Set<() => void>();
  /** Thrown by the next `accept`. */
  failure: Error | undefined;
  /** While set, `accept` waits for it. */
  gate: Promise<void> | undefined;
  /** While set, nothing is synced before it resolves. */
  syncGate: Promise<void> | undefined;
  accepted = 0;

  constructor(log: WalLog) {
    this.log = log;
  }
  get resumeLsn(): Lsn {
    return this.log.endLsn;
  }
  get durableLsn(): Lsn {
    return this.log.durableLsn;
  }
  onDurable(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
  accept(lsn: Lsn, bytes: Uint8Array): Promise<void> | void {
    if (this.failure) throw this.failure;
    this.accepted++;
    const full = this.log.append(lsn, bytes);
    void this.syncSoon();
    if (this.gate) return this.gate;
    return full;
  }
  private async syncSoon(): Promise<void> {
    try {
      await this.syncGate;
      await this.log.sync();
    } catch {
      // The next append says so too.
      return;
    }
    for (const listener of this.listeners) listener();
  }
}
