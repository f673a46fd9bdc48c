/**
 * Content of the files of an archive, until all of it is here and can be read in another order: in memory as long as that
 * is little, then in one file on disk that goes away with the spool. Nothing in it is synced: after a crash it is nobody's.
 */
import { dirname } from "node:path";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { FileHandle, Files } from "../../base/seams.ts";
import { asResourceError } from "../../storage/layer-set.ts";
import { readExactly } from "../../storage/read-file.ts";

/** Held in memory in all: enough for what initdb makes. */
const MEMORY_BYTES = 64 * 1024 * 1024;
/** Written at a time. */
const WRITE_BYTES = 1024 * 1024;

/** A file that has arrived as a whole. */
export interface SpooledFile {
  readonly sizeBytes: number;
  /** The bytes from one position up to another, at most those that it has; the caller's to keep. */
  read(from?: number, to?: number): Promise<Uint8Array>;
}

/** A file that is arriving. */
export interface SpoolWriter {
  add(bytes: Uint8Array): void;
  end(): SpooledFile;
}

export class Spool implements AsyncDisposable {
  private readonly path: string;
  private readonly files: Files;
  private readonly memoryBytes: number;
  private inMemory = 0;
  private handle: FileHandle | undefined;
  /** Bytes that are in the file, and those that wait to be written behind them. */
  private written = 0;
  private waiting: Uint8Array[] = [];
  private waitingBytes = 0;
  private writing: Promise<void> = Promise.resolve();
  private closed = false;

  /** `path` is that of a file that does not exist; its directory is made. */
  constructor(path: string, files: Files, { memoryBytes = MEMORY_BYTES }: { memoryBytes?: number } = {}) {
    this.path = path;
    this.files = files;
    this.memoryBytes = memoryBytes;
  }

  /** The next file, after the one before has ended. What it is said to have decides only where it is put. */
  begin(claimedBytes: number): SpoolWriter {
    if (this.inMemory + claimedBytes <= this.memoryBytes) return this.beginInMemory();
    const start = this.written + this.waitingBytes;
    let sizeBytes = 0;
    return {
      add: (bytes) => {
        sizeBytes += bytes.length;
        this.waiting.push(bytes);
        this.waitingBytes += bytes.length;
      },
      end: () => ({
        sizeBytes,
        read: (from = 0, to = sizeBytes) => this.readBack(start + from, start + Math.min(to, sizeBytes)),
      }),
    };
  }

  /** Has what waits written, if it is much: to be called between two pieces of an archive. Throws `resource`. */
  async settle({ all = false } = {}): Promise<void> {
    if (this.closed) throw new NeonError(ErrorCode.Failed, "the archive is not wanted any more");
    if (this.waitingBytes === 0 || (!all && this.waitingBytes < WRITE_BYTES)) return;
    const bytes = Buffer.concat(this.waiting);
    const position = this.written;
    this.waiting = [];
    this.waitingBytes = 0;
    this.written += bytes.length;
    this.writing = this.write(bytes, position);
    await this.writing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    // Whoever waits for it is told.
    await this.writing.catch(() => undefined);
    const { handle } = this;
    if (handle === undefined) return;
    await handle.close();
    await this.files.remove(this.path);
  }

  private async write(bytes: Uint8Array, position: number): Promise<void> {
    try {
      this.handle ??= await this.create();
      await this.handle.write(bytes, position);
    } catch (error) {
      throw asResourceError(error, `put an archive aside in ${this.path}`);
    }
  }

  private beginInMemory(): SpoolWriter {
    const parts: Uint8Array[] = [];
    return {
      add: (bytes) => {
        parts.push(bytes);
        this.inMemory += bytes.length;
      },
      end: () => {
        const content = Buffer.concat(parts);
        return { sizeBytes: content.length, read: async (from, to) => content.subarray(from, to) };
      },
    };
  }

  private async create(): Promise<FileHandle> {
    await this.files.makeDirectory(dirname(this.path));
    return this.files.open(this.path, "w");
  }

  private async readBack(from: number, to: number): Promise<Uint8Array> {
    await this.settle({ all: true });
    if (this.handle === undefined || to <= from) return new Uint8Array(0);
    return readExactly(this.handle, from, to - from, this.path);
  }
}
