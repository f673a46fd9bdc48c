/**
 * A file system in memory that can lose power: what was not synced survives in part, sector by sector, and what was
 * not made durable in a directory is there or not, name by name. Deterministic for a seed.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import type { FileHandle, Files } from "../../src/base/seams.ts";
import type { DirectFileHandle } from "../../src/base/seams.ts";

const SECTOR_SIZE = 512;

interface Inode {
  content: Uint8Array;
  durable: Uint8Array;
}

/** Mulberry32: small, seeded, good enough for tests. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class MemoryFiles implements Files {
  private readonly random: () => number;
  /** Whether handles can write and sync on the spot. */
  private readonly direct: boolean;
  private names = new Map<string, Inode>();
  private durableNames = new Map<string, Inode>();
  /** Bytes that may still be written before the disk is full. */
  spaceLeft = Number.POSITIVE_INFINITY;
  /** The next sync fails. */
  failSync = false;
  syncCount = 0;
  /** Handles of before a power loss are dead. */
  private generation = 0;
  openHandles = 0;

  constructor(random: () => number, direct = false) {
    this.random = random;
    this.direct = direct;
  }

  /** Nothing is lost but what the process had in its own memory: handles are dead. */
  killProcess(): void {
    this.generation++;
    this.openHandles = 0;
  }

  /** What a machine finds when the power comes back. */
  losePower(): void {
    this.killProcess();
    const survivors = new Map<string, Inode>();
    for (const name of new Set([...this.names.keys(), ...this.durableNames.keys()])) {
      const inode = this.random() < 0.5 ? this.names.get(name) : this.durableNames.get(name);
      if (inode) survivors.set(name, inode);
    }
    for (const inode of survivors.values()) this.tear(inode);
    this.names = survivors;
    this.durableNames = new Map(survivors);
  }

  private tear(inode: Inode): void {
    const size = this.random() < 0.5 ? inode.content.length : inode.durable.length;
    const kept = new Uint8Array(size);
    kept.set(inode.durable.subarray(0, size));
    for (let at = 0; at < size; at += SECTOR_SIZE) {
      const sector = inode.content.subarray(at, Math.min(at + SECTOR_SIZE, size));
      if (Buffer.compare(sector, kept.subarray(at, at + sector.length)) === 0) continue;
      if (this.random() < 0.5) kept.set(sector, at);
    }
    inode.content = kept;
    inode.durable = kept.slice();
  }

  async open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle> {
    await nextTurn();
    let inode = this.names.get(path);
    if (mode === "w") {
      inode = { content: new Uint8Array(0), durable: new Uint8Array(0) };
      this.names.set(path, inode);
    }
    if (!inode) throw Object.assign(new Error(`ENOENT: ${path}`), { code: "ENOENT" });
    this.openHandles++;
    return this.handle(inode);
  }

  private handle(inode: Inode): FileHandle | DirectFileHandle {
    const generation = this.generation;
    const check = (): void => {
      if (generation !== this.generation) throw new Error("the machine lost power");
    };
    const turn = async (): Promise<void> => {
      await nextTurn();
      check();
    };
    const handle: FileHandle = {
      read: async (target, offset, length, position) => {
        await turn();
        const piece = inode.content.subarray(position, position + length);
        target.set(piece, offset);
        return piece.length;
      },
      write: async (bytes, position) => {
        await turn();
        this.write(inode, bytes, position);
      },
      sync: async () => {
        await turn();
        const synced = inode.content.slice();
        await turn();
        this.sync(inode, synced);
      },
      size: async () => inode.content.length,
      truncate: async (sizeBytes) => {
        await turn();
        resize(inode, sizeBytes);
      },
      close: async () => {
        if (generation === this.generation) this.openHandles--;
      },
    };
    if (!this.direct) return handle;
    const writeNow = (bytes: Uint8Array, position: number): void => {
      check();
      this.write(inode, bytes, position);
    };
    const syncNow = (): void => {
      check();
      this.sync(inode, inode.content.slice());
    };
    return { ...handle, writeNow, syncNow };
  }

  private write(inode: Inode, bytes: Uint8Array, position: number): void {
    const room = Math.min(bytes.length, this.spaceLeft);
    this.spaceLeft -= room;
    if (position + room > inode.content.length) resize(inode, position + room);
    inode.content.set(bytes.subarray(0, room), position);
    if (room < bytes.length) throw Object.assign(new Error("ENOSPC: disk full"), { code: "ENOSPC" });
  }

  private sync(inode: Inode, synced: Uint8Array): void {
    this.syncCount++;
    if (this.failSync) throw Object.assign(new Error("EIO: sync"), { code: "EIO" });
    inode.durable = synced;
  }

  async rename(from: string, to: string): Promise<void> {
    const inode = this.names.get(from);
    if (!inode) throw new Error(`ENOENT: ${from}`);
    this.names.delete(from);
    this.names.set(to, inode);
  }

  async remove(path: string): Promise<void> {
    this.names.delete(path);
  }

  async removeTree(directory: string): Promise<void> {
    for (const name of [...this.names.keys()]) {
      if (name.startsWith(`${directory}/`)) this.names.delete(name);
    }
  }

  async list(directory: string): Promise<string[]> {
    const prefix = `${directory}/`;
    return [...this.names.keys()]
      .filter((name) => name.startsWith(prefix))
      .map((name) => name.slice(prefix.length))
      .sort();
  }

  async makeDirectory(): Promise<void> {}

  async syncDirectory(directory: string): Promise<void> {
    await nextTurn();
    const inIt = (name: string): boolean => name.startsWith(`${directory}/`);
    for (const name of this.durableNames.keys())
      if (inIt(name) && !this.names.has(name)) this.durableNames.delete(name);
    for (const [name, inode] of this.names) if (inIt(name)) this.durableNames.set(name, inode);
  }

  async readWhole(path: string): Promise<Uint8Array | undefined> {
    return this.names.get(path)?.content.slice();
  }
}

function resize(inode: Inode, sizeBytes: number): void {
  const content = new Uint8Array(sizeBytes);
  content.set(inode.content.subarray(0, sizeBytes));
  inode.content = content;
}
