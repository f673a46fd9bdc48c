/**
 * A Postgres data directory as a tar stream: packed for the import of a tenant, extracted from a base backup. The
 * stream of a base backup may come from another machine, so nothing in it is believed: only plain files and
 * directories, only below the target, nothing twice, and the archive must have its end.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { type ReadEntry, Parser, create } from "tar";
import { NeonError, assert, corrupt, messageOf, systemCode } from "../base/errors.ts";
import { CONTROL_FILE_SIZE, parseControlFile } from "../postgres/control-file.ts";
import { fileError } from "../repository/atomic-file.ts";
import type { RunAs } from "./run-as.ts";

/** Directories below each other in a data directory: `pg_wal/archive_status`, `base/5`; room for growth. */
const DEPTH_MAX = 8;
/** Files and directories of one data directory. */
const ENTRIES_MAX = 50_000_000;
/** Longest path within a data directory, characters. */
const PATH_MAX = 1000;

/** Segments of WAL are mostly zeros that nobody has written yet: they need no room on the disk. */
const WAL_DIRECTORY = "pg_wal/";
const WAL_SEGMENT = /^pg_wal\/[0-9A-F]{24}$/;
const CONTROL_FILE = "global/pg_control";
const ZEROS = Buffer.alloc(64 * 1024);

interface OpenFile {
  readonly descriptor: number;
  readonly leavesHoles: boolean;
  /** Where the next bytes go. */
  position: number;
}

/** What a server that runs leaves lying about and what says nothing about the data. */
const NOT_PACKED = new Set(["postmaster.pid", "postmaster.opts", "pg_internal.init"]);

/** What stands in pg_wal says nothing that pg_control does not say of a directory that was shut down cleanly. */
const WAL_FILE = /(?:^|\/)pg_wal\/./;

/** A data directory that no server runs on, without its WAL, as an uncompressed tar stream. */
export function packDataDirectory(directory: string): Readable {
  // pg_control and the version come first: the other side refuses at once what it cannot take.
  const names = readdirSync(directory).sort((a, b) => packOrder(a) - packOrder(b) || (a < b ? -1 : 1));
  const archive = create(
    {
      cwd: directory,
      portable: true,
      filter: (path) => !NOT_PACKED.has(path.slice(path.lastIndexOf("/") + 1)) && !WAL_FILE.test(path),
    },
    names,
  );
  // Whoever reads gets the error; once nobody reads any more, a file that has gone is none.
  archive.on("error", () => undefined);
  return Readable.from(archive, { objectMode: false });
}

function packOrder(name: string): number {
  return name === "PG_VERSION" ? 0 : name === "global" ? 1 : 2;
}

export interface ExtractOptions {
  /** Who shall own what is extracted; needs root. */
  readonly owner?: RunAs | undefined;
  /** Called after each piece with the bytes written so far. */
  readonly progress?: (bytes: number) => void;
}

/**
 * Extracts a tar stream into `directory`, which is created (its parent must exist) and must not exist before. Nothing
 * is synced. Throws `corrupt` for an archive that is damaged, cut off or not a data directory, `resource` for a full
 * disk, and whatever the stream fails with. What was extracted until then stays: the caller removes it.
 */
export async function extractDataDirectory(
  stream: AsyncIterable<Uint8Array>,
  directory: string,
  options: ExtractOptions = {},
): Promise<{ readonly bytes: number; readonly files: number }> {
  const target = new Extraction(directory, options);
  try {
    for await (const chunk of stream) {
      await target.feed(chunk);
      options.progress?.(target.bytes);
    }
    target.finish();
  } catch (error) {
    target.abandon();
    throw error instanceof NeonError || systemCode(error) === undefined
      ? error
      : fileError(`cannot write the data directory ${directory}`, error);
  }
  return { bytes: target.bytes, files: target.files };
}

/**
 * The receiving end of one archive. Files are written with synchronous calls: a data directory has a thousand files of
 * a few kilobytes, for which a round trip through the thread pool per call costs several times the call.
 */
class Extraction {
  bytes = 0;
  files = 0;
  private readonly directory: string;
  private readonly owner: RunAs | undefined;
  private readonly parser = new Parser({ strict: true });
  private readonly directories = new Set<string>();
  /** Absolute paths of the segments of WAL. */
  private readonly segments: string[] = [];
  private descriptor: number | undefined;
  private failure: unknown;
  private sawEnd = false;

  constructor(directory: string, options: ExtractOptions) {
    this.directory = directory;
    this.owner = options.owner;
    try {
      // It stays ours until the end, so that nobody else can put a link into a path that we are about to write to.
      mkdirSync(directory, { mode: 0o700 });
    } catch (error) {
      throw fileError(`cannot create ${directory}`, error);
    }
    this.parser.on("entry", (entry: ReadEntry) => this.accept(entry));
    this.parser.on("error", (error: Error) => this.fail(badArchive(messageOf(error), error)));
    this.parser.on("eof", () => (this.sawEnd = true));
  }

  async feed(chunk: Uint8Array): Promise<void> {
    const buffer = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    if (!this.parser.write(buffer) && this.failure === undefined) {
      await new Promise<void>((resume) => this.parser.once("drain", resume));
    }
    this.throwFailure();
  }

  finish(): void {
    this.parser.end();
    this.throwFailure();
    if (!this.sawEnd || this.descriptor !== undefined) throw badArchive("it ends early");
    if (this.files === 0) throw badArchive("it is empty");
    this.completeSegments();
    if (!this.owner) return;
    for (const path of [...this.directories]
      .map((name) => join(this.directory, name))
      .concat(this.directory)) {
      lchownSync(path, this.owner.uid, this.owner.gid);
    }
  }

  /** Gives segments of WAL the length that Postgres' own have; what is missing are zeros, as holes. */
  private completeSegments(): void {
    if (this.segments.length === 0) return;
    const segmentSize = walSegmentSize(join(this.directory, CONTROL_FILE));
    for (const path of this.segments) {
      const descriptor = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
      try {
        if (fstatSync(descriptor).size < segmentSize) ftruncateSync(descriptor, segmentSize);
      } finally {
        closeSync(descriptor);
      }
    }
  }

  abandon(): void {
    if (this.descriptor !== undefined) closeSync(this.descriptor);
    this.descriptor = undefined;
  }

  private accept(entry: ReadEntry): void {
    let isFile = false;
    this.guarded(() => {
      const path = checkedPath(entry.path);
      if (this.files + this.directories.size >= ENTRIES_MAX) throw badArchive("it has too many entries");
      if (entry.type === "Directory") this.makeDirectory(path);
      else if (entry.type === "File" || entry.type === "OldFile") {
        this.receiveFile(path, entry);
        isFile = true;
      } else throw badArchive(`${path} is a ${entry.type}, not a file or directory`);
    });
    // What nobody listens to must be read past, or the parser waits for ever.
    if (!isFile) entry.resume();
  }

  private receiveFile(path: string, entry: ReadEntry): void {
    assert(this.descriptor === undefined, "one file of an archive at a time");
    const parent = dirname(path);
    if (parent !== ".") this.makeDirectory(parent);
    const flags = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW;
    const descriptor = openSync(join(this.directory, path), flags, 0o600);
    this.descriptor = descriptor;
    this.files++;
    // The umask may have taken away what Postgres needs.
    fchmodSync(descriptor, 0o600);
    if (this.owner) fchownSync(descriptor, this.owner.uid, this.owner.gid);
    if (WAL_SEGMENT.test(path)) this.segments.push(join(this.directory, path));
    const file: OpenFile = { descriptor, leavesHoles: path.startsWith(WAL_DIRECTORY), position: 0 };
    entry.on("data", (chunk: Buffer) => this.guarded(() => this.writeChunk(file, chunk)));
    entry.on("end", () => this.guarded(() => this.closeFile(file)));
  }

  private writeChunk(file: OpenFile, chunk: Buffer): void {
    if (!file.leavesHoles || !isZero(chunk)) {
      for (let done = 0; done < chunk.length;) {
        done += writeSync(file.descriptor, chunk, done, chunk.length - done, file.position + done);
      }
    }
    file.position += chunk.length;
    this.bytes += chunk.length;
  }

  private closeFile(file: OpenFile): void {
    if (file.leavesHoles) ftruncateSync(file.descriptor, file.position);
    this.abandon();
  }

  /** Runs what a parser event asks for. A failure cannot be thrown through the parser: it waits for `feed`. */
  private guarded(action: () => void): void {
    if (this.failure !== undefined) return;
    try {
      action();
    } catch (error) {
      this.fail(error);
    }
  }

  /** Makes a directory and those above it, unless they have been made for this archive before. */
  private makeDirectory(path: string): void {
    if (this.directories.has(path)) return;
    const parent = dirname(path);
    if (parent !== ".") this.makeDirectory(parent);
    if (path === ".") return;
    mkdirSync(join(this.directory, path), { mode: 0o700 });
    this.directories.add(path);
  }

  private fail(error: unknown): void {
    this.failure ??= systemCode(error) === "EEXIST" ? badArchive("it has a path twice", error) : error;
  }

  private throwFailure(): void {
    if (this.failure !== undefined) throw this.failure;
  }
}

/** A path of the archive relative to its root, without `./` and trailing slash; refuses what leads elsewhere. */
function checkedPath(path: string): string {
  const parts = path.split("/").filter((part, index) => part !== "." && (part !== "" || index === 0));
  const bad =
    path.length > PATH_MAX ||
    path.includes("\0") ||
    path.includes("\\") ||
    parts.length > DEPTH_MAX ||
    parts.includes("..") ||
    parts[0] === "";
  if (bad) throw badArchive(`the path ${JSON.stringify(path.slice(0, 100))} is not allowed`);
  return parts.length === 0 ? "." : parts.join("/");
}

/** 0 where there is no usable pg_control: whoever starts Postgres on the directory says so. */
function walSegmentSize(controlFile: string): number {
  try {
    if (lstatSync(controlFile).size > CONTROL_FILE_SIZE) return 0;
    return parseControlFile(readFileSync(controlFile)).walSegmentSize;
  } catch (error) {
    if (error instanceof NeonError || systemCode(error) === "ENOENT") return 0;
    throw error;
  }
}

function isZero(chunk: Buffer): boolean {
  for (let at = 0; at < chunk.length; at += ZEROS.length) {
    const end = Math.min(chunk.length, at + ZEROS.length);
    if (ZEROS.compare(chunk, at, end, 0, end - at) !== 0) return false;
  }
  return true;
}

function badArchive(message: string, cause?: unknown): NeonError {
  return corrupt(`the archive of the data directory is damaged: ${message}`, {}, cause);
}
