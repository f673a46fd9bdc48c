/**
 * A file system in memory that fails on purpose, for tests. It can lose power (what was not synced survives in part,
 * sector by sector; what was not made durable in a directory is there or not, name by name), fill up, return less
 * than was asked for, fail or stop at any given call, lie about a sync, and flip bits. The same seed gives the same
 * faults.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { unreachable } from "../base/errors.ts";
import type { DirectFileHandle, FileHandle, Files } from "../base/seams.ts";
import { DurableFile } from "./durable-file.ts";
import { Directory, FaultyTree, partsOf } from "./faulty-tree.ts";

export interface FaultyFilesOptions {
  /** A number below 2^32 for each call; its sequence decides what happens. */
  readonly random: () => number;
  /** Bytes of content that fit. */
  readonly capacityBytes?: number;
  /** Reads return less than was asked for, now and then. */
  readonly shortReads?: boolean;
  /** Operations give way to others, now and then. */
  readonly interleave?: boolean;
  /** Handles can write and sync on the spot. */
  readonly direct?: boolean;
}

/** What goes wrong at a call. */
export type Fault =
  /** The power fails; of a write or sync under way anything may have reached the disk. */
  | { readonly kind: "power" }
  /** The call fails with a system error. A sync that fails has lost what it was to make durable. */
  | { readonly kind: "error"; readonly code: string }
  /** A write stops half way, the disk being full; a read returns less than was asked for. */
  | { readonly kind: "short" }
  /** A sync returns, but has done nothing. */
  | { readonly kind: "lost-sync" };

export type CallKind = "open" | "read" | "write" | "sync" | "change" | "look" | "close";

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

/** What a call is to do beside or instead of its work. */
type Verdict = "go" | "short" | "skip";

export class FaultyFiles implements Files {
  /** Operations that change something, so far. */
  operations = 0;
  /** Kinds of all calls so far, with what they were about. */
  readonly calls: { readonly kind: CallKind; readonly what: string }[] = [];
  /** Handles that are open. */
  openHandles = 0;
  /** The power fails during this operation, counted from 1. */
  powerFailsAt = Number.POSITIVE_INFINITY;
  /** These operations fail with the given system error, once. */
  readonly failures = new Map<number, string>();
  capacityBytes: number;

  readonly options: FaultyFilesOptions;
  private readonly faults = new Map<number, Fault>();
  private readonly tree: FaultyTree;
  private powerless = false;

  constructor(options: FaultyFilesOptions, tree = new FaultyTree()) {
    this.options = options;
    this.capacityBytes = options.capacityBytes ?? Number.POSITIVE_INFINITY;
    this.tree = tree;
  }

  /** Has something go wrong at a call, counted from 1: any call, reads and looks included. */
  plan(call: number, fault: Fault): void {
    this.faults.set(call, fault);
  }

  /** What a machine finds when the power comes back: another file system. This one stays dead. */
  afterPowerLoss(): FaultyFiles {
    this.powerless = true;
    return new FaultyFiles(this.options, this.tree.afterPowerLoss(this.options.random));
  }

  /** What is left when only the process dies: everything it has written. */
  afterKill(): FaultyFiles {
    this.powerless = true;
    return new FaultyFiles(this.options, this.tree);
  }

  /** A file system with the same names and files, each of both for itself from now on. */
  copy(): FaultyFiles {
    return new FaultyFiles(this.options, this.tree.copy());
  }

  /** Makes a directory and its parents as if they had always been there. */
  addDirectory(directory: string): void {
    let path = "";
    for (const name of partsOf(directory)) {
      path += `/${name}`;
      if (this.tree.find(path) === undefined) this.tree.put(path, new Directory(), true);
    }
  }

  /** The bytes of a file, to look at or to damage. */
  contentOf(path: string): Uint8Array {
    return this.fileAt(path).content();
  }

  replaceContent(path: string, bytes: Uint8Array): void {
    const file = new DurableFile();
    file.write(bytes, 0);
    file.sync();
    if (!this.tree.put(path, file, true)) throw new FaultError("ENOENT", path);
  }

  /** Takes a file away, durably. */
  removeNow(path: string): void {
    if (!this.tree.remove(path, true)) throw new FaultError("ENOENT", path);
  }

  paths(): string[] {
    return this.tree.paths();
  }

  async open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle> {
    await this.turn();
    if (mode === "w") {
      this.step("change", `open ${path}`);
      const found = this.tree.file(path);
      const file = found ?? new DurableFile();
      if (found === undefined && !this.tree.put(path, file)) throw new FaultError("ENOENT", path);
      file.truncate(0);
    } else {
      this.look("open", `open ${path}`);
    }
    const file = this.fileAt(path);
    this.openHandles++;
    const handle = new FaultyHandle(this, file, { path, writable: mode !== "r" });
    return this.options.direct ? handle.direct() : handle;
  }

  async rename(from: string, to: string): Promise<void> {
    await this.turn();
    this.step("change", `rename ${from} to ${to}`);
    if (!this.tree.rename(from, to)) throw new FaultError("ENOENT", from);
  }

  async remove(path: string): Promise<void> {
    await this.turn();
    this.step("change", `remove ${path}`);
    this.tree.remove(path);
  }

  async removeTree(directory: string): Promise<void> {
    const found = this.tree.directory(directory);
    for (const name of found?.entries.keys() ?? []) await this.removeTree(`${directory}/${name}`);
    await this.remove(directory);
  }

  async list(directory: string): Promise<string[]> {
    await this.turn();
    this.look("look", `list ${directory}`);
    const found = this.tree.directory(directory);
    if (found === undefined) throw new FaultError("ENOENT", directory);
    return [...found.entries.keys()].sort();
  }

  async makeDirectory(directory: string): Promise<void> {
    await this.turn();
    this.step("change", `make ${directory}`);
    let path = "";
    for (const name of partsOf(directory)) {
      path += `/${name}`;
      if (this.tree.find(path) === undefined) this.tree.put(path, new Directory());
    }
    if (this.tree.directory(directory) === undefined) throw new FaultError("EEXIST", directory);
  }

  async syncDirectory(directory: string): Promise<void> {
    await this.turn();
    if (this.step("sync", `sync ${directory}`) === "skip") return;
    const found = this.tree.directory(directory);
    if (found === undefined) throw new FaultError("ENOENT", directory);
    this.tree.syncDirectory(found);
  }

  async readWhole(path: string): Promise<Uint8Array | undefined> {
    await this.turn();
    this.look("read", `read ${path}`);
    return this.tree.file(path)?.content();
  }

  /** Counts an operation that changes something; fails it or the power if that was ordered. */
  step(kind: CallKind, what: string, onFault?: (fault: Fault) => void): Verdict {
    this.checkPower();
    this.operations++;
    if (this.operations >= this.powerFailsAt) this.fail({ kind: "power" }, what, onFault);
    const code = this.failures.get(this.operations);
    if (code !== undefined) this.fail({ kind: "error", code }, what, onFault);
    return this.call(kind, what, onFault);
  }

  /** Counts a call that changes nothing. */
  look(kind: CallKind, what: string): Verdict {
    this.checkPower();
    return this.call(kind, what);
  }

  checkPower(): void {
    if (this.powerless) throw new PowerLossError();
  }

  /** Bytes that still fit. */
  get spaceLeft(): number {
    if (this.capacityBytes === Number.POSITIVE_INFINITY) return this.capacityBytes;
    return this.paths().reduce(
      (left, path) => left - (this.tree.file(path)?.sizeBytes ?? 0),
      this.capacityBytes,
    );
  }

  async turn(): Promise<void> {
    if (this.options.interleave && this.chance(0.3)) await nextTurn();
  }

  /** How many of `length` bytes a read returns. */
  readLength(length: number, verdict: Verdict): number {
    if (length < 2) return length;
    const short = verdict === "short" || (this.options.shortReads === true && this.chance(0.3));
    return short ? 1 + (this.options.random() % (length - 1)) : length;
  }

  private call(kind: CallKind, what: string, onFault?: (fault: Fault) => void): Verdict {
    this.calls.push({ kind, what });
    const fault = this.faults.get(this.calls.length);
    if (fault === undefined) return "go";
    return this.fail(fault, what, onFault);
  }

  private fail(fault: Fault, what: string, onFault?: (fault: Fault) => void): Verdict {
    onFault?.(fault);
    switch (fault.kind) {
      case "power":
        this.powerless = true;
        throw new PowerLossError();
      case "error":
        throw new FaultError(fault.code, what);
      case "short":
        return "short";
      case "lost-sync":
        return "skip";
      default:
        return unreachable(fault);
    }
  }

  private chance(probability: number): boolean {
    return this.options.random() / 2 ** 32 < probability;
  }

  private fileAt(path: string): DurableFile {
    this.checkPower();
    const file = this.tree.file(path);
    if (file !== undefined) return file;
    throw new FaultError(this.tree.directory(path) ? "EISDIR" : "ENOENT", path);
  }
}

class FaultyHandle implements FileHandle {
  private readonly files: FaultyFiles;
  private readonly file: DurableFile;
  private readonly path: string;
  private readonly writable: boolean;
  private closed = false;

  constructor(files: FaultyFiles, file: DurableFile, options: { path: string; writable: boolean }) {
    this.files = files;
    this.file = file;
    this.path = options.path;
    this.writable = options.writable;
  }

  /** The same, able to work on the spot. */
  direct(): DirectFileHandle {
    return {
      read: (...args) => this.read(...args),
      write: (...args) => this.write(...args),
      sync: () => this.sync(),
      size: () => this.size(),
      truncate: (sizeBytes) => this.truncate(sizeBytes),
      close: () => this.close(),
      writeNow: (bytes, position) => {
        this.writeNow(bytes, position);
      },
      syncNow: () => {
        this.syncNow();
      },
    };
  }

  async read(target: Uint8Array, offset: number, length: number, position: number): Promise<number> {
    await this.files.turn();
    this.checkOpen();
    const verdict = this.files.look("read", `read ${this.path}`);
    return this.file.read(target.subarray(offset, offset + this.files.readLength(length, verdict)), position);
  }

  async write(bytes: Uint8Array, position: number): Promise<void> {
    await this.files.turn();
    this.writeNow(bytes, position);
  }

  writeNow(bytes: Uint8Array, position: number): void {
    this.checkOpen();
    if (!this.writable) throw new FaultError("EBADF", "write");
    const verdict = this.files.step("write", `write ${this.path}`, ({ kind }) => {
      if (kind === "power") this.file.write(bytes, position);
    });
    const growth = position + bytes.length - this.file.sizeBytes;
    const room = verdict === "short" ? Math.floor(growth / 2) : this.files.spaceLeft;
    if (verdict === "short" || growth > room) {
      const fits = verdict === "short" ? bytes.length >> 1 : Math.max(bytes.length - growth + room, 0);
      this.file.write(bytes.subarray(0, fits), position);
      throw new FaultError("ENOSPC", "write");
    }
    this.file.write(bytes, position);
  }

  async sync(): Promise<void> {
    await this.files.turn();
    this.syncNow();
  }

  syncNow(): void {
    this.checkOpen();
    const verdict = this.files.step("sync", `sync ${this.path}`, ({ kind }) => {
      if (kind === "error") this.file.failSync();
    });
    if (verdict !== "skip") this.file.sync();
  }

  async size(): Promise<number> {
    await this.files.turn();
    this.checkOpen();
    this.files.look("look", `size ${this.path}`);
    return this.file.sizeBytes;
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.files.turn();
    this.checkOpen();
    this.files.step("change", `truncate ${this.path}`);
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
