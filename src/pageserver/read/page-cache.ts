/**
 * The newest version of each value that was read, made from its records, with the LSN up to which it holds. A later
 * version is made from it and the records since, so that following a page costs each record once. Shared by the
 * timelines of a process; each reader has keys of its own.
 */
import type { Lsn } from "../../base/lsn.ts";
import { BlockCache } from "../../storage/block-cache.ts";
import type { Key } from "../../storage/key.ts";

export interface CachedValue {
  /** Undefined if the key does not exist. Never changed. */
  readonly bytes: Uint8Array | undefined;
  /** From the value's own LSN up to this one, nothing has changed it. */
  readonly lsn: Lsn;
}

/** For the key, in bytes. */
const KEY_COST = 100;

export class PageCache {
  private readonly entries: BlockCache<CachedValue, string>;
  private readers = 0;

  constructor(options: { capacityBytes: number }) {
    this.entries = new BlockCache(options.capacityBytes);
  }

  /** What to tell apart the keys of a reader from those of others with. */
  newReader(): number {
    return this.readers++;
  }

  get sizeBytes(): number {
    return this.entries.sizeBytes;
  }

  /** How often a value was looked for and found, or not. */
  get counts(): { readonly hits: number; readonly misses: number } {
    return this.entries.counts;
  }

  get(reader: number, key: Key): CachedValue | undefined {
    return this.entries.get(idOf(reader, key));
  }

  /** Look-ups of several blocks of one fork. */
  fork(reader: number, key: Omit<Key, "block">): (block: number) => CachedValue | undefined {
    const prefix = prefixOf(reader, key);
    return (block) => this.entries.get(prefix + block.toString());
  }

  /** Keeps a version unless a later one is known. The bytes are not copied. */
  add(reader: number, key: Key, value: CachedValue): void {
    const id = idOf(reader, key);
    const known = this.entries.get(id);
    if (known !== undefined && known.lsn >= value.lsn) return;
    this.entries.add(id, value, KEY_COST + (value.bytes?.length ?? 0));
  }
}

function idOf(reader: number, key: Key): string {
  return prefixOf(reader, key) + key.block.toString();
}

/** What the ids of all blocks of a fork begin with. */
function prefixOf(reader: number, key: Omit<Key, "block">): string {
  return `${reader} ${key.kind} ${key.spcOid} ${key.dbOid} ${key.relNumber} ${key.fork} `;
}
