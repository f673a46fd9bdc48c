/**
 * A file system in memory that fails on purpose, for tests. It can lose power (what was not synced survives in part,
 * sector by sector; what was not made durable in a directory is there or not, name by name), fill up, return less
 * than was asked for, fail a given operation, and flip bits. The same seed gives the same faults.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { unreachable } from "../base/errors.ts";
import type { FileHandle, Files } from "../base/seams.ts";
import { DurableFile } from "./durable-file.ts";

export interface FaultyFilesOptions {
  /** A number below 2^32 for each call; its sequence decides what happens. */
  readonly random: () => number;
  /** Bytes of content that fit. */
  readonly capacityBytes?: number;
  /** Reads return less than was asked for, now and then. */
  readonly shortReads?: boolean;
  /** Operations give way to others, now and then. */
  readonly interleave?: boolean;
}

/** Thrown by the operation during which the power fails and by all after it. */
export class PowerLossError extends Error {
  constructor() {
    super("the power has failed");
    this.name = "PowerLossError";
  }
}

/** A system error as Node.js makes them. */
export class FaultError extends Error {
  readonly code: string;

  constructor(code: string, what: string) {
    super(`${code}: ${what}`);
    this.name = "FaultError";
    this.code = code;
  }
}

/** A change of names that is not durable yet. */
type NameChange =
  | { readonly kind: "link"; readonly path: string; readonly file: DurableFile }
  | { readonly kind: "unlink"; readonly path: string }
  | { readonly kind: "rename"; readonly from: string; readonly path: string; readonly file: DurableFile }
  | { readonly kind: "directory"; readonly path: string };

/** What a disk holds. */
interface Names {
  readonly files: Map<string, DurableFile>;
  readonly directories: Set<string>;
}

export class FaultyFiles implements Files {
  /** Operations that change something, so far. */
  operations = 0;
  /** Handles that are open. */
  openHandles = 0;
  /** The power fails during this operation, counted from 1. */
  powerFailsAt = Number.POSITIVE_INFINITY;
  /** These operations fail with the given system error, once. */
  readonly failures = new Map<number, string>();
  capacityBytes: number;

  private readonly options: FaultyFilesOptions;
  private readonly names: Names;
  private readonly durable: Names;
  private pending: NameChange[] = [];
  private powerless = false;

  constructor(options: FaultyFilesOptions) {
    this.options = options;
    this.capacityBytes = options.capacityBytes ?? Number.POSITIVE_INFINITY;
    this.names = { files: new Map(), directories: new Set(["/"]) };
    this.durable = { files: new Map(), directories: new Set(["/"]) };
  }

  /** What a machine finds when the power comes back: another file system. This one stays dead. */
  afterPowerLoss(): FaultyFiles {
    this.powerless = true;
    const after = new FaultyFiles(this.options);
    const kept = this.keptNames();
    for (const path of kept.directories) {
      after.names.directories.add(path);
      after.durable.directories.add(path);
    }
    for (const [path, file] of kept.files) {
      if (!kept.directories.has(parentOf(path))) continue;
      const survivor = file.afterPowerLoss(this.options.random);
      after.names.files.set(path, survivor);
      after.durable.files.set(path, survivor);
    }
    return after;
  }

  /** What is left when only the process dies: everything it has written. */
  afterKill(): FaultyFiles {
    this.powerless = true;
    const after = new FaultyFiles(this.options);
    for (const [path, file] of this.names.files) after.names.files.set(path, file);
    for (const path of this.names.directories) after.names.directories.add(path);
    for (const [path, file] of this.durable.files) after.durable.files.set(path, file);
    for (const path of this.durable.directories) after.durable.directories.add(path);
    after.pending = [...this.pending];
    return after;
  }

  /** The bytes of a file, to look at or to damage. */
  contentOf(path: string): Uint8Array {
    return this.fileAt(path).content();
  }

  replaceContent(path: string, bytes: Uint8Array): void {
    const file = new DurableFile();
    file.write(bytes, 0);
    file.sync();
    this.names.files.set(path, file);
    this.durable.files.set(path, file);
  }

  paths(): string[] {
    return [...this.names.files.keys()].sort();
  }

  async open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle> {
    await this.turn();
    if (mode === "w") {
      this.step("open");
      if (!this.names.directories.has(parentOf(path))) throw new FaultError("ENOENT", path);
      const file = this.names.files.get(path) ?? new DurableFile();
      if (!this.names.files.has(path)) {
        this.names.files.set(path, file);
        this.pending.push({ kind: "link", path, file });
      }
      file.truncate(0);
    }
    const file = this.fileAt(path);
    this.openHandles++;
    return new FaultyHandle(this, file, mode !== "r");
  }

  async rename(from: string, to: string): Promise<void> {
    await this.turn();
    this.step("rename");
    const file = this.fileAt(from);
    this.names.files.delete(from);
    this.names.files.set(to, file);
    this.pending.push({ kind: "rename", from, path: to, file });
  }

  async remove(path: string): Promise<void> {
    await this.turn();
    this.step("remove");
    if (this.names.files.delete(path)) this.pending.push({ kind: "unlink", path });
  }

  async list(directory: string): Promise<string[]> {
    await this.turn();
    this.checkPower();
    if (!this.names.directories.has(directory)) throw new FaultError("ENOENT", directory);
    return [...this.names.files.keys()]
      .filter((path) => parentOf(path) === directory)
      .map((path) => path.slice(path.lastIndexOf("/") + 1))
      .sort();
  }

  async makeDirectory(directory: string): Promise<void> {
    await this.turn();
    this.step("makeDirectory");
    for (let path = directory; !this.names.directories.has(path); path = parentOf(path)) {
      this.names.directories.add(path);
      this.pending.push({ kind: "directory", path });
    }
  }

  async syncDirectory(directory: string): Promise<void> {
    await this.turn();
    this.step("syncDirectory");
    const later: NameChange[] = [];
    for (const change of this.pending) {
      if (parentOf(change.path) === directory) applyChange(this.durable, change);
      else later.push(change);
    }
    this.pending = later;
  }

  async readWhole(path: string): Promise<Uint8Array | undefined> {
    await this.turn();
    this.checkPower();
    return this.names.files.get(path)?.content();
  }

  /** Counts an operation; fails it or the power if that was ordered. */
  step(what: string, onPowerLoss?: () => void): void {
    this.checkPower();
    this.operations++;
    if (this.operations >= this.powerFailsAt) {
      onPowerLoss?.();
      this.powerless = true;
      throw new PowerLossError();
    }
    const code = this.failures.get(this.operations);
    if (code !== undefined) throw new FaultError(code, what);
  }

  checkPower(): void {
    if (this.powerless) throw new PowerLossError();
  }

  /** Bytes that still fit. */
  get spaceLeft(): number {
    let used = 0;
    for (const file of this.names.files.values()) used += file.sizeBytes;
    return this.capacityBytes - used;
  }

  async turn(): Promise<void> {
    if (this.options.interleave && this.chance(0.3)) await nextTurn();
  }

  /** How many of `length` bytes a read returns. */
  readLength(length: number): number {
    if (!this.options.shortReads || length < 2 || !this.chance(0.3)) return length;
    return 1 + (this.options.random() % (length - 1));
  }

  private chance(probability: number): boolean {
    return this.options.random() / 2 ** 32 < probability;
  }

  private fileAt(path: string): DurableFile {
    this.checkPower();
    const file = this.names.files.get(path);
    if (file === undefined) throw new FaultError("ENOENT", path);
    return file;
  }

  /** Some of the pending changes have reached the disk: the first few in order, or any of them. */
  private keptNames(): Names {
    const kept = { files: new Map(this.durable.files), directories: new Set(this.durable.directories) };
    const inOrder = this.chance(0.5);
    const count = this.options.random() % (this.pending.length + 1);
    for (const [i, change] of this.pending.entries()) {
      if (inOrder ? i < count : this.chance(0.5)) applyChange(kept, change);
    }
    return kept;
  }
}

class FaultyHandle implements FileHandle {
  private readonly files: FaultyFiles;
  private readonly file: DurableFile;
  private readonly writable: boolean;
  private closed = false;

  constructor(files: FaultyFiles, file: DurableFile, writable: boolean) {
    this.files = files;
    this.file = file;
    this.writable = writable;
  }

  async read(target: Uint8Array, offset: number, length: number, position: number): Promise<number> {
    await this.files.turn();
    this.checkOpen();
    return this.file.read(target.subarray(offset, offset + this.files.readLength(length)), position);
  }

  async write(bytes: Uint8Array, position: number): Promise<void> {
    await this.files.turn();
    this.checkOpen();
    if (!this.writable) throw new FaultError("EBADF", "write");
    this.files.step("write", () => this.file.write(bytes, position));
    const growth = position + bytes.length - this.file.sizeBytes;
    const room = this.files.spaceLeft;
    if (growth > room) {
      this.file.write(bytes.subarray(0, Math.max(bytes.length - growth + room, 0)), position);
      throw new FaultError("ENOSPC", "write");
    }
    this.file.write(bytes, position);
  }

  async sync(): Promise<void> {
    await this.files.turn();
    this.checkOpen();
    this.files.step("sync");
    this.file.sync();
  }

  async size(): Promise<number> {
    await this.files.turn();
    this.checkOpen();
    return this.file.sizeBytes;
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.files.turn();
    this.checkOpen();
    this.files.step("truncate");
    this.file.truncate(sizeBytes);
  }

  async close(): Promise<void> {
    if (!this.closed) this.files.openHandles--;
    this.closed = true;
    await this.files.turn();
  }

  private checkOpen(): void {
    this.files.checkPower();
    if (this.closed) throw new FaultError("EBADF", "closed handle");
  }
}

function applyChange(names: Names, change: NameChange): void {
  switch (change.kind) {
    case "link":
      names.files.set(change.path, change.file);
      return;
    case "unlink":
      names.files.delete(change.path);
      return;
    case "rename":
      names.files.delete(change.from);
      names.files.set(change.path, change.file);
      return;
    case "directory":
      names.directories.add(change.path);
      return;
    default:
      unreachable(change);
  }
}

function parentOf(path: string): string {
  const at = path.lastIndexOf("/");
  return at <= 0 ? "/" : path.slice(0, at);
}
