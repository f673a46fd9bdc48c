/**
 * Branches: names for timelines, one file each in `refs/`. All are held in memory; one process owns them, and a
 * change is durable before it is visible. Format: docs/formats/refs.md.
 *
 * Rules for names are git's (git-check-ref-format) and two of ours: no "@", because NAME@LSN is a point in time, and
 * no 32 hexadecimal digits, because they are a timeline id.
 */
import { join } from "node:path";
import { ErrorCode, NeonError, assert, corrupt } from "../../base/errors.ts";
import { type TimelineId, isId } from "../../base/ids.ts";
import type { Files } from "../../base/seams.ts";
import { TEMPORARY_SUFFIX, readJsonFile, writeJsonFile } from "./json-file.ts";

const MAGIC = "neon-ref";
const VERSION = 1;
/** File systems allow 255 bytes; the temporary file's ending must fit too. */
const FILE_NAME_LENGTH_MAX = 240;

export interface Ref {
  readonly name: string;
  readonly timelineId: TimelineId;
}

/** Why a text is no name for a branch, or undefined if it is one. */
export function refNameProblem(name: string): string | undefined {
  if (name === "") return "is empty";
  if (!name.isWellFormed()) return "is not well-formed Unicode";
  if (hasControlCharacter(name)) return "contains a control character";
  const bad = /[ ~^:?*[\\@]/.exec(name);
  if (bad) return `contains "${bad[0]}"`;
  if (name.includes("..")) return 'contains ".."';
  if (name.startsWith("-")) return 'begins with "-"';
  if (name.endsWith(".")) return 'ends with "."';
  for (const part of name.split("/")) {
    if (part === "") return 'begins or ends with "/", or contains "//"';
    if (part.startsWith(".")) return 'has a part that begins with "."';
    if (part.endsWith(".lock")) return 'has a part that ends with ".lock"';
  }
  if (isId(name.toLowerCase())) return "looks like a timeline id";
  if (refFileName(name).length > FILE_NAME_LENGTH_MAX) return "is too long";
  return undefined;
}

/** Throws `usage` for a text that is no name for a branch. */
export function checkRefName(name: string): void {
  const problem = refNameProblem(name);
  if (problem === undefined) return;
  throw new NeonError(ErrorCode.Usage, `"${name}" is no name for a branch: it ${problem}`, {
    hint: 'Names follow git\'s rules for branches: no spaces, none of ~ ^ : ? * [ \\ @, no "..", no part that begins with a dot.',
  });
}

/** What the directory of refs holds on disk. */
export interface RefFiles {
  readonly refs: readonly Ref[];
  /** `name` is that of the file if no ref's file is called so. */
  readonly damaged: readonly { readonly name: string; readonly path: string; readonly error: NeonError }[];
  /** Paths of what interrupted writes left. */
  readonly leftovers: readonly string[];
}

/** Reads all files of refs and changes none. */
export async function readRefFiles(files: Files, directory: string): Promise<RefFiles> {
  const refs: Ref[] = [];
  const damaged: { name: string; path: string; error: NeonError }[] = [];
  const leftovers: string[] = [];
  for (const fileName of await files.list(directory)) {
    const path = join(directory, fileName);
    if (fileName.endsWith(TEMPORARY_SUFFIX)) {
      leftovers.push(path);
      continue;
    }
    const name = refNameOfFile(fileName);
    try {
      if (name === undefined) throw corrupt(`${path}: this is no name of a ref's file`, { path });
      refs.push(await readRef(files, path, name));
    } catch (error) {
      if (!(error instanceof NeonError)) throw error;
      damaged.push({ name: name ?? fileName, path, error });
    }
  }
  return { refs, damaged, leftovers };
}

/** The branches of one tenant. Callers serialize changes; look-ups are always consistent. */
export class Refs {
  private readonly files: Files;
  private readonly directory: string;
  private readonly byName = new Map<string, Ref>();
  private readonly namesByTimeline = new Map<TimelineId, Set<string>>();
  /** Names whose files could not be read, with the reason. */
  readonly damaged = new Map<string, NeonError>();

  private constructor(files: Files, directory: string) {
    this.files = files;
    this.directory = directory;
  }

  /** Reads all refs; removes what an interrupted write left. A damaged file is remembered, not fatal. */
  static async open(files: Files, directory: string): Promise<Refs> {
    const refs = new Refs(files, directory);
    const found = await readRefFiles(files, directory);
    for (const path of found.leftovers) await files.remove(path);
    for (const ref of found.refs) refs.remember(ref);
    for (const { name, error } of found.damaged) refs.damaged.set(name, error);
    return refs;
  }

  get(name: string): Ref | undefined {
    return this.byName.get(name);
  }

  /** Sorted by name. */
  list(): Ref[] {
    return [...this.byName.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  }

  /** All names of a timeline, sorted. */
  namesOf(timelineId: TimelineId): string[] {
    return [...(this.namesByTimeline.get(timelineId) ?? [])].sort();
  }

  /** Throws `exists` when a branch has the name, also when only a damaged file has it. */
  checkFree(name: string): void {
    checkRefName(name);
    if (this.byName.has(name) || this.damaged.has(name)) {
      throw new NeonError(ErrorCode.Exists, `branch "${name}" exists already`, {
        hint: "Choose another name, or delete that branch first with `neon branch -d`.",
      });
    }
  }

  /**
   * Makes the branch name `next`, if it names `expected` now (undefined: if there is no such branch). Throws
   * `exists` or `conflict` otherwise. Durable when it returns.
   */
  async update(name: string, expected: TimelineId | undefined, next: TimelineId): Promise<void> {
    if (expected === undefined) this.checkFree(name);
    const current = this.byName.get(name);
    if (current?.timelineId !== expected) {
      throw new NeonError(ErrorCode.Conflict, `branch "${name}" was changed by someone else`, {
        hint: "Look at it again and repeat.",
        data: { expected: expected ?? null, found: current?.timelineId ?? null },
      });
    }
    const ref: Ref = { name, timelineId: next };
    await this.write(ref);
    this.remember(ref);
  }

  /** Throws `not_found`; `exists` when the new name is taken. One rename of a file, so no crash leaves both names. */
  async rename(name: string, newName: string): Promise<void> {
    const ref = this.byName.get(name);
    if (!ref) throw branchNotFound(name);
    this.checkFree(newName);
    await this.files.rename(this.path(name), this.path(newName));
    this.forget(ref);
    this.remember({ ...ref, name: newName });
    await this.files.syncDirectory(this.directory);
  }

  /** Durable when it returns. */
  async delete(name: string): Promise<void> {
    const ref = this.byName.get(name);
    if (!ref) throw branchNotFound(name);
    await this.files.remove(this.path(name));
    this.forget(ref);
    await this.files.syncDirectory(this.directory);
  }

  /** Writes the file of a branch again, from memory. */
  async rewrite(name: string): Promise<void> {
    const ref = this.byName.get(name);
    if (!ref) throw branchNotFound(name);
    await this.write(ref);
  }

  /** Gives a branch whose file is damaged a timeline. */
  async restore(name: string, timelineId: TimelineId): Promise<void> {
    assert(this.damaged.has(name), `the file of branch ${name} is damaged`);
    const ref: Ref = { name, timelineId };
    await this.write(ref);
    this.damaged.delete(name);
    this.remember(ref);
  }

  private write(ref: Ref): Promise<void> {
    return writeJsonFile(this.files, this.path(ref.name), MAGIC, VERSION, {
      timeline_id: ref.timelineId,
    });
  }

  private remember(ref: Ref): void {
    const before = this.byName.get(ref.name);
    if (before) this.forget(before);
    this.byName.set(ref.name, ref);
    const names = this.namesByTimeline.get(ref.timelineId) ?? new Set();
    this.namesByTimeline.set(ref.timelineId, names.add(ref.name));
  }

  private forget(ref: Ref): void {
    this.byName.delete(ref.name);
    const names = this.namesByTimeline.get(ref.timelineId);
    names?.delete(ref.name);
    if (names?.size === 0) this.namesByTimeline.delete(ref.timelineId);
  }

  /** The file of a ref. */
  path(name: string): string {
    return join(this.directory, refFileName(name));
  }
}

export function branchNotFound(name: string): NeonError {
  return new NeonError(ErrorCode.NotFound, `there is no branch "${name}"`, {
    hint: "`neon branch` lists the branches.",
  });
}

/**
 * The file of a ref. Everything but a-z, 0-9, "_", "-" and "." is written as % and two hexadecimal digits per UTF-8
 * byte: so two branches never share a file where the file system ignores case or normalizes Unicode, and `a` may
 * exist beside `a/b`.
 */
export function refFileName(name: string): string {
  let text = "";
  for (const byte of new TextEncoder().encode(name)) {
    const character = String.fromCharCode(byte);
    text += /[a-z0-9_.-]/.test(character) ? character : `%${byte.toString(16).padStart(2, "0")}`;
  }
  return text;
}

/** The name of the ref that a file holds, or undefined if `refFileName` never makes such a file name. */
export function refNameOfFile(fileName: string): string | undefined {
  let name: string;
  try {
    name = decodeURIComponent(fileName);
  } catch {
    return undefined;
  }
  return refFileName(name) === fileName && refNameProblem(name) === undefined ? name : undefined;
}

async function readRef(files: Files, path: string, name: string): Promise<Ref> {
  const file = await readJsonFile(files, path, MAGIC, VERSION);
  if (!file) throw corrupt(`${path} is gone`, { path });
  return {
    name,
    timelineId: file.fields.timelineId("timeline_id"),
  };
}

function hasControlCharacter(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x20 || code === 0x7f) return true;
  }
  return false;
}
