/**
 * A tar archive as a stream of chunks. Headers are encoded by the `tar` library; what is ours is only the framing,
 * so that files of any size stream through without being held in memory.
 */
import { Header } from "tar";
import { assert } from "../../base/errors.ts";
import type { BackupTarget } from "./backup-target.ts";

const BLOCK = 512;
const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;

/** Bytes gathered before a chunk is handed on. */
const CHUNK_BYTES = 1 << 20;

/** Collects an archive's bytes; `take` returns what is ready in large chunks. */
export class TarWriter implements BackupTarget {
  private readonly mtime: Date;
  private buffer = new Uint8Array(CHUNK_BYTES);
  private used = 0;
  private readonly ready: Uint8Array[] = [];
  private fileLeft = 0;
  private filePadding = 0;

  constructor(options: { mtimeMs: number }) {
    this.mtime = new Date(options.mtimeMs);
  }

  directory(path: string): void {
    this.header({ path: `${path}/`, type: "Directory", mode: DIRECTORY_MODE, size: 0 });
  }

  file(path: string, bytes: Uint8Array): void {
    this.beginFile(path, bytes.length);
    this.write(bytes);
    this.endFile();
  }

  /** Announces a file; exactly `sizeBytes` must be written before `endFile`. */
  beginFile(path: string, sizeBytes: number): void {
    assert(this.fileLeft === 0, "one file at a time");
    this.header({ path, type: "File", mode: FILE_MODE, size: sizeBytes });
    this.fileLeft = sizeBytes;
    this.filePadding = (BLOCK - (sizeBytes % BLOCK)) % BLOCK;
  }

  write(bytes: Uint8Array): void {
    assert(bytes.length <= this.fileLeft, "a file is not longer than announced");
    this.fileLeft -= bytes.length;
    this.push(bytes);
  }

  endFile(): void {
    assert(this.fileLeft === 0, `${this.fileLeft} bytes of the file are missing`);
    this.zeros(this.filePadding);
    this.filePadding = 0;
  }

  /** Two empty blocks end the archive. */
  finish(): void {
    this.zeros(2 * BLOCK);
    this.flush();
  }

  /** Hands out what there is; the reader puts the end there. */
  finishWithoutEnd(): void {
    this.flush();
  }

  /** Whole chunks that are ready to be sent; the caller owns them. */
  take(): Uint8Array[] {
    return this.ready.splice(0);
  }

  private header(fields: { path: string; type: "File" | "Directory"; mode: number; size: number }): void {
    const header = new Header({ ...fields, mtime: this.mtime, uid: 0, gid: 0, uname: "", gname: "" });
    const block = Buffer.alloc(BLOCK);
    const needsExtension = header.encode(block, 0);
    assert(!needsExtension, `the path ${fields.path} fits a plain tar header`);
    this.push(block);
  }

  private push(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      const room = this.buffer.length - this.used;
      const part = Math.min(room, bytes.length - at);
      this.buffer.set(part === bytes.length ? bytes : bytes.subarray(at, at + part), this.used);
      this.used += part;
      at += part;
      if (this.used === this.buffer.length) this.flush();
    }
  }

  private zeros(sizeBytes: number): void {
    let left = sizeBytes;
    while (left > 0) {
      const part = Math.min(left, this.buffer.length - this.used);
      this.buffer.fill(0, this.used, this.used + part);
      this.used += part;
      left -= part;
      if (this.used === this.buffer.length) this.flush();
    }
  }

  private flush(): void {
    if (this.used === 0) return;
    this.ready.push(this.used === this.buffer.length ? this.buffer : this.buffer.slice(0, this.used));
    this.buffer = new Uint8Array(CHUNK_BYTES);
    this.used = 0;
  }
}
