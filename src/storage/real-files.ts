/** The file system of this machine. */
import { constants, fdatasyncSync, writeSync } from "node:fs";
import { type FileHandle as NodeHandle, mkdir, open, readFile, readdir, rename, rm } from "node:fs/promises";
import { messageOf, systemCode } from "../base/errors.ts";
import type { DirectFileHandle, FileHandle, Files } from "../base/seams.ts";

/** Ends the process: after a failed sync nobody knows what is on the disk. */
export type OnFatal = (error: unknown) => never;

export class RealFiles implements Files {
  private readonly onFatal: OnFatal;

  constructor(options: { onFatal?: OnFatal } = {}) {
    this.onFatal = options.onFatal ?? endProcess;
  }

  async open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle> {
    const flags = mode === "w" ? constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC : mode;
    return new RealFileHandle(await open(path, flags, 0o600), this.onFatal);
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
    const names = await readdir(directory);
    return names.sort();
  }

  async makeDirectory(directory: string): Promise<void> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
  }

  async syncDirectory(directory: string): Promise<void> {
    const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await handle.sync().catch(this.onFatal);
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

class RealFileHandle implements DirectFileHandle {
  private readonly handle: NodeHandle;
  private readonly onFatal: OnFatal;

  constructor(handle: NodeHandle, onFatal: OnFatal) {
    this.handle = handle;
    this.onFatal = onFatal;
  }

  async read(target: Uint8Array, offset: number, length: number, position: number): Promise<number> {
    const { bytesRead } = await this.handle.read(target, offset, length, position);
    return bytesRead;
  }

  async write(bytes: Uint8Array, position: number): Promise<void> {
    let done = 0;
    while (done < bytes.length) {
      const { bytesWritten } = await this.handle.write(bytes, done, bytes.length - done, position + done);
      done += bytesWritten;
    }
  }

  /** Data and size, not the times: `fdatasync`. */
  async sync(): Promise<void> {
    await this.handle.datasync().catch(this.onFatal);
  }

  writeNow(bytes: Uint8Array, position: number): void {
    let done = 0;
    while (done < bytes.length) {
      done += writeSync(this.handle.fd, bytes, done, bytes.length - done, position + done);
    }
  }

  syncNow(): void {
    try {
      fdatasyncSync(this.handle.fd);
    } catch (error) {
      this.onFatal(error);
    }
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

function endProcess(error: unknown): never {
  process.stderr.write(`fsync failed, ending the process: ${messageOf(error)}\n`);
  process.exit(1);
}
