/**
 * Compares the data directory of a stopped server with the files of a base backup at its end: relations page by page,
 * SLRUs, relation maps and prepared transactions byte by byte. The backup is written to it as to a tar; nothing of it
 * is kept. Reads the directory in pieces and gives way to the event loop between them.
 */
import { readdir } from "node:fs/promises";
import { join, relative } from "node:path";
import { assert, messageOf } from "../../base/errors.ts";
import type { FileHandle, Files } from "../../base/seams.ts";
import { Fork, PAGE_SIZE, RELATION_SEGMENT_PAGES } from "../../postgres/constants.ts";
import { PageBuffer } from "../../postgres/page/layout.ts";
import { type RelationFile, parseRelationPath } from "../../postgres/relation.ts";
import { parseSlruPath } from "../../postgres/slru.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { Yielder } from "../../storage/yielder.ts";
import type { BackupTarget } from "../basebackup/backup-target.ts";
import { type MadeBy, comparePages } from "./compare-pages.ts";

export interface Difference {
  /** Relative to the data directory. */
  readonly file: string;
  /** Block of the relation; undefined if it is about a whole file, or the file is no relation's. */
  readonly block: number | undefined;
  /** The first byte that differs, in the page or the file. */
  readonly byte: number | undefined;
  readonly what: string;
}

/** Differences that are kept; the others are counted. */
const DIFFERENCES_MAX = 100;
/** Bytes of the directory read at a time. */
const READ_BYTES = 32 * PAGE_SIZE;

type Kind =
  | { readonly kind: "relation"; readonly relation: RelationFile }
  | { readonly kind: "bytes" }
  | { readonly kind: "ignored" };

/** Paths of all files, also of those in tablespaces, which are links to directories elsewhere. */
async function filesBelow(root: string): Promise<string[]> {
  const links = await readdir(join(root, "pg_tblspc"), { withFileTypes: true }).catch(() => []);
  const elsewhere = links.filter((entry) => entry.isSymbolicLink()).map((entry) => `pg_tblspc/${entry.name}`);
  const found: string[] = [];
  for (const start of ["", ...elsewhere]) {
    // With a slash at its end, a link is followed.
    const directory = start === "" ? root : `${join(root, start)}/`;
    for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
      if (entry.isFile()) found.push(join(start, relative(directory, join(entry.parentPath, entry.name))));
    }
  }
  return found;
}

/** A piece of a file of the backup that waits to be compared. */
interface Piece {
  readonly path: string;
  readonly kind: Kind;
  readonly offset: number;
  length: number;
  /** Undefined for zeros. */
  readonly bytes: Uint8Array | undefined;
  /** No piece follows; the file ends with this one. */
  isLast: boolean;
}

/** Whose files are compared. */
export interface ComparedServer {
  readonly directory: string;
  readonly version: PgVersion;
  readonly madeBy: MadeBy;
}

export class DirectoryComparison implements BackupTarget {
  readonly differences: Difference[] = [];
  /** Differences beyond those that are kept. */
  omitted = 0;
  /** Pages compared so far. */
  pages = 0;
  private readonly root: string;
  private readonly version: PgVersion;
  private readonly files: Files;
  private readonly madeBy: MadeBy;
  private readonly paths: ReadonlySet<string>;
  /** Relations that are not logged, by name: only their init forks are. */
  private readonly unlogged: ReadonlySet<string>;
  private readonly seen = new Set<string>();
  private pieces: Piece[] = [];
  private current: { readonly path: string; readonly kind: Kind; written: number } | undefined;
  private opened: { readonly path: string; readonly handle: FileHandle | undefined } | undefined;
  private readonly yielder = new Yielder();
  private readonly theirs = new PageBuffer();
  private readonly ours = new PageBuffer();

  private constructor(
    server: ComparedServer,
    files: Files,
    found: { paths: ReadonlySet<string>; unlogged: ReadonlySet<string> },
  ) {
    this.root = server.directory;
    this.version = server.version;
    this.madeBy = server.madeBy;
    this.files = files;
    this.paths = found.paths;
    this.unlogged = found.unlogged;
  }

  /** Looks at which files there are. */
  static async open(server: ComparedServer, files: Files): Promise<DirectoryComparison> {
    const { directory, version } = server;
    const paths = new Set<string>();
    const unlogged = new Set<string>();
    for (const path of await filesBelow(directory)) {
      paths.add(path);
      const relation = parseRelationPath(path, version);
      if (relation?.fork === Fork.Init) unlogged.add(nameOf(relation));
    }
    return new DirectoryComparison(server, files, { paths, unlogged });
  }

  directory(): void {
    // Directories say nothing: those that are needed have files.
  }

  file(path: string, bytes: Uint8Array): void {
    this.beginFile(path);
    this.write(bytes);
    this.endFile();
  }

  beginFile(path: string): void {
    this.seen.add(path);
    this.current = { path, kind: this.kindOf(path), written: 0 };
  }

  write(bytes: Uint8Array): void {
    const { current } = this;
    assert(current !== undefined, "a file has been begun");
    if (current.kind.kind !== "ignored" && bytes.length > 0) this.queue(current, bytes);
    current.written += bytes.length;
  }

  endFile(): void {
    const { current } = this;
    assert(current !== undefined, "a file has been begun");
    const last = this.pieces.at(-1);
    if (last !== undefined && last.path === current.path) last.isLast = true;
    else if (current.kind.kind !== "ignored") this.push(current, 0, undefined, true);
    this.current = undefined;
  }

  /** Compares what has been written so far. */
  async drain(): Promise<void> {
    const { pieces } = this;
    this.pieces = [];
    for (const piece of pieces) await this.compare(piece);
  }

  /** After the last file: compares the rest, and looks for files that the backup does not have. */
  async finish(): Promise<void> {
    await this.drain();
    for (const path of this.paths) {
      if (this.seen.has(path)) continue;
      const kind = this.kindOf(path);
      if (kind.kind === "bytes") this.differ(path, "exists in the directory, not in the backup");
      else if (kind.kind === "relation") {
        // What was extended, but never written to, is not logged: such pages are zero.
        await this.compare({ path, kind, offset: 0, length: 0, bytes: undefined, isLast: true });
      }
    }
    await this.close();
  }

  /** Closes what is open; for whoever gives up before `finish`. */
  async close(): Promise<void> {
    await this.opened?.handle?.close();
    this.opened = undefined;
  }

  private kindOf(path: string): Kind {
    const relation = parseRelationPath(path, this.version);
    if (relation === undefined) return { kind: isComparedAsBytes(path) ? "bytes" : "ignored" };
    const isLogged = relation.fork === Fork.Init || !this.unlogged.has(nameOf(relation));
    // The free space map is rebuilt by Postgres when it misses it.
    const counts = isLogged && relation.fork !== Fork.FreeSpaceMap;
    return counts ? { kind: "relation", relation } : { kind: "ignored" };
  }

  /** Adds bytes to the last piece while there is room in it; runs of zero pages take no memory. */
  private queue(file: { path: string; kind: Kind; written: number }, bytes: Uint8Array): void {
    const isZero = bytes.length === PAGE_SIZE && Buffer.compare(bytes, ZERO_PAGE) === 0;
    const last = this.pieces.at(-1);
    const follows = last?.path === file.path && last.offset + last.length === file.written;
    if (isZero) {
      if (follows && last.bytes === undefined) last.length += bytes.length;
      else this.push(file, bytes.length, undefined, false);
    } else if (follows && last.bytes !== undefined && last.length + bytes.length <= last.bytes.length) {
      last.bytes.set(bytes, last.length);
      last.length += bytes.length;
    } else {
      const buffer = new Uint8Array(Math.max(bytes.length, READ_BYTES));
      buffer.set(bytes);
      this.push(file, bytes.length, buffer, false);
    }
  }

  private push(
    file: { path: string; kind: Kind; written: number },
    length: number,
    bytes: Uint8Array | undefined,
    isLast: boolean,
  ): void {
    this.pieces.push({ path: file.path, kind: file.kind, offset: file.written, length, bytes, isLast });
  }

  private async compare(piece: Piece): Promise<void> {
    const handle = await this.openFile(piece.path);
    const size = handle === undefined ? 0 : await handle.size();
    if (piece.kind.kind === "bytes") {
      await this.compareBytes(piece, handle, size);
      return;
    }
    // Beyond the last piece the backup goes on with zeros, as it were.
    const end = piece.isLast ? Math.max(piece.offset + piece.length, size) : piece.offset + piece.length;
    for (let at = piece.offset; at < end; at += READ_BYTES) {
      const length = Math.min(READ_BYTES, end - at);
      const found = await readUpTo(handle, at, length);
      for (let page = 0; page < length; page += PAGE_SIZE) this.comparePage(piece, found, at, page);
      if (this.yielder.due()) await this.yielder.yield();
    }
  }

  /** The page at `offset` of `found`, which was read at `at`. What a file lacks at its end counts as zeros. */
  private comparePage(piece: Piece, found: Uint8Array, at: number, offset: number): void {
    const { theirs, ours } = this;
    assert(piece.kind.kind === "relation", "pages are those of relations");
    const { relation } = piece.kind;
    fillPage(theirs, found, offset);
    fillPage(ours, piece.bytes?.subarray(0, piece.length), at + offset - piece.offset);
    const block = relation.segment * RELATION_SEGMENT_PAGES + (at + offset) / PAGE_SIZE;
    this.pages++;
    try {
      const byte = comparePages(theirs, ours, { ...relation, block, madeBy: this.madeBy });
      if (byte === undefined) return;
      const [there, here] = [theirs.bytes[byte] ?? 0, ours.bytes[byte] ?? 0];
      this.differ(piece.path, `${hex(there)} in the directory, ${hex(here)} in the backup`, { block, byte });
    } catch (error) {
      this.differ(piece.path, `cannot be compared: ${messageOf(error)}`, { block });
    }
  }

  private async compareBytes(piece: Piece, handle: FileHandle | undefined, size: number): Promise<void> {
    if (handle === undefined) {
      if (piece.isLast) this.differ(piece.path, "exists in the backup, not in the directory");
      return;
    }
    const found = await readUpTo(handle, piece.offset, piece.length);
    const expected = piece.bytes?.subarray(0, piece.length) ?? new Uint8Array(piece.length);
    this.pages += Math.ceil(piece.length / PAGE_SIZE);
    const at = found.findIndex((byte, i) => byte !== expected[i]);
    if (at >= 0) {
      const what = `${hex(found[at] ?? 0)} in the directory, ${hex(expected[at] ?? 0)} in the backup`;
      this.differ(piece.path, what, { byte: piece.offset + at });
    }
    const end = piece.offset + piece.length;
    if (piece.isLast && size !== end) {
      this.differ(piece.path, `${size} bytes in the directory, ${end} in the backup`, {
        byte: Math.min(size, end),
      });
    }
  }

  /** Undefined if the directory has no such file. */
  private async openFile(path: string): Promise<FileHandle | undefined> {
    if (this.opened?.path === path) return this.opened.handle;
    await this.close();
    const handle = this.paths.has(path) ? await this.files.open(join(this.root, path), "r") : undefined;
    this.opened = { path, handle };
    return handle;
  }

  private differ(file: string, what: string, where: { block?: number; byte?: number } = {}): void {
    if (this.differences.length >= DIFFERENCES_MAX) this.omitted++;
    else this.differences.push({ file, block: where.block, byte: where.byte, what });
  }
}

const ZERO_PAGE = new Uint8Array(PAGE_SIZE);

function nameOf(relation: RelationFile): string {
  return `${relation.spcOid}/${relation.dbOid}/${relation.relNumber}`;
}

/** Files whose content is exactly as WAL says. */
function isComparedAsBytes(path: string): boolean {
  return (
    parseSlruPath(path) !== undefined || path.endsWith("pg_filenode.map") || path.startsWith("pg_twophase/")
  );
}

/** The page at an offset of `source`, with zeros for what is not there. */
function fillPage(page: PageBuffer, source: Uint8Array | undefined, offset: number): void {
  const bytes = source?.subarray(offset, offset + PAGE_SIZE) ?? ZERO_PAGE;
  page.bytes.set(bytes);
  if (bytes.length < PAGE_SIZE) page.bytes.fill(0, bytes.length);
}

/** Up to `length` bytes: fewer where the file ends. */
async function readUpTo(
  handle: FileHandle | undefined,
  position: number,
  length: number,
): Promise<Uint8Array> {
  if (handle === undefined) return new Uint8Array(0);
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const count = await handle.read(bytes, done, length - done, position + done);
    if (count === 0) break;
    done += count;
  }
  return bytes.subarray(0, done);
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(2, "0")}`;
}
