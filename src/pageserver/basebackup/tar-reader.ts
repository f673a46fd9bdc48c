/** Files of a tar that somebody sends, put aside; an archive that is cut off, or goes on behind its end, is refused. */
import { Readable } from "node:stream";
import { type ReadEntry, Parser } from "tar";
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import type { Spool, SpooledFile } from "./spool.ts";

const BLOCK = 512;
/** Of one archive: more than any cluster has. */
const FILES_MAX = 1_000_000;
/** Characters: more than the path of any file of a cluster has. */
const PATH_LENGTH_MAX = 500;
/** In a header: the size, in octal digits or, with the top bit set, big-endian. */
const SIZE_OFFSET = 124;
const SIZE_LENGTH = 12;

export interface TarWishes {
  /** Whether the content of a file is wanted. Asked in the order of the archive. */
  readonly wants: (path: string) => boolean;
  /** Told of links, which lead to what is not in the archive. */
  readonly onLink?: (path: string) => void;
  /** How the archive is called in errors, such as `data directory`. */
  readonly what: string;
}

/** The wanted files by path, in the spool. No more is read from `tar` while the disk is behind. Throws `usage`, `resource`. */
export async function readTarFiles(
  tar: AsyncIterable<Uint8Array>,
  { wants, onLink, what }: TarWishes,
  spool: Spool,
): Promise<Map<string, SpooledFile>> {
  const files = new Map<string, SpooledFile>();
  const parser = new Parser({ strict: true });
  const failed = new Promise<never>((_, reject) => {
    parser.on("error", reject);
  });
  parser.on("entry", (entry: ReadEntry) => {
    const path = entry.path.replace(/^\.\//, "");
    if (entry.type === "SymbolicLink" || entry.type === "Link") onLink?.(path);
    if (entry.type !== "File" || path.length > PATH_LENGTH_MAX || !wants(path)) {
      entry.resume();
      return;
    }
    const writer = spool.begin(entry.size);
    entry.on("data", (part: Buffer) => {
      writer.add(part);
    });
    entry.on("end", () => {
      files.set(path, writer.end());
    });
  });
  const ended = new Promise<void>((resolve) => {
    parser.on("end", resolve);
  });
  const end = new EndOfTar();
  const fed = (async () => {
    for await (const chunk of Readable.from(tar)) {
      end.look(chunk as Uint8Array);
      if (end.goesOn) throw new NeonError(ErrorCode.Usage, `there are bytes behind the end of the ${what}`);
      if (!parser.write(Buffer.from(chunk as Uint8Array))) {
        await new Promise<void>((resolve) => parser.once("drain", resolve));
      }
      await spool.settle();
      if (files.size > FILES_MAX)
        throw new NeonError(ErrorCode.Usage, `the ${what} has more than ${FILES_MAX} files`);
    }
    if (end.isEmpty) throw new NeonError(ErrorCode.Usage, `the archive of the ${what} is empty`);
    if (end.isCut) throw new NeonError(ErrorCode.Usage, `the archive of the ${what} ends in the middle`);
    parser.end();
    await ended;
    await spool.settle({ all: true });
  })();
  try {
    await Promise.race([fed, failed]);
  } catch (error) {
    if (error instanceof NeonError) throw error;
    throw new NeonError(ErrorCode.Usage, `the archive of the ${what} cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    // Whichever of the two is late says nothing new.
    fed.catch(() => undefined);
    failed.catch(() => undefined);
  }
  return files;
}

/** Follows the blocks of an archive to its end, which are two empty ones: behind them there may be zeros only. */
class EndOfTar {
  /** Whether there was nothing at all. */
  isEmpty = true;
  /** Whether something follows the end. */
  goesOn = false;
  private readonly header = new Uint8Array(BLOCK);
  private headerLength = 0;
  private contentLeft = 0;
  private emptyBlocks = 0;

  /** Whether the end has not come: one that is cut off between two files looks whole otherwise. */
  get isCut(): boolean {
    return this.emptyBlocks < 2;
  }

  look(chunk: Uint8Array): void {
    this.isEmpty &&= chunk.length === 0;
    for (let at = 0; at < chunk.length;) {
      if (this.emptyBlocks >= 2) {
        this.goesOn ||= chunk.subarray(at).some((byte) => byte !== 0);
        return;
      }
      if (this.contentLeft > 0) {
        const skipped = Math.min(this.contentLeft, chunk.length - at);
        this.contentLeft -= skipped;
        at += skipped;
        continue;
      }
      const count = Math.min(BLOCK - this.headerLength, chunk.length - at);
      this.header.set(chunk.subarray(at, at + count), this.headerLength);
      this.headerLength += count;
      at += count;
      if (this.headerLength === BLOCK) this.takeHeader();
    }
  }

  private takeHeader(): void {
    this.headerLength = 0;
    if (this.header.every((byte) => byte === 0)) {
      this.emptyBlocks++;
      return;
    }
    this.emptyBlocks = 0;
    this.contentLeft = Math.ceil(sizeIn(this.header) / BLOCK) * BLOCK;
  }
}

function sizeIn(header: Uint8Array): number {
  const field = header.subarray(SIZE_OFFSET, SIZE_OFFSET + SIZE_LENGTH);
  const first = field[0] ?? 0;
  if (first & 0x80) return field.subarray(1).reduce((size, byte) => size * 256 + byte, 0);
  const digits = /^[0-7]*/.exec(Buffer.from(field).toString("latin1").trimStart())?.[0] ?? "";
  return digits === "" ? 0 : Number.parseInt(digits, 8);
}
