/**
 * The key/LSN store of one timeline: an open memory layer, frozen memory layers, delta and image layer files, and
 * below its branch point the store of its ancestor. One writer, many readers, one event loop.
 */
import { assert, corrupt } from "../base/errors.ts";
import { type Lsn, formatLsn, lsnMin } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import type { BlobRef } from "./arena.ts";
import { type AdoptedLayer, adoptLayers } from "./adopt.ts";
import { type LsnSpan, type VersionVisitor, eachVersion } from "./each-version.ts";
import { type ExportOptions, exportDelta } from "./export-delta.ts";
import type { OutputPlace } from "./compaction-job.ts";
import { collectFromFiles, imageAbove } from "./collect-files.ts";
import type { MapLevel } from "./plan-images.ts";
import type { Key } from "./key.ts";
import type { KeyRange } from "./key-range.ts";
import type { LayerAccesses, LayerDescriptor, LayerFile } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import { LayerSet, type NewLayer } from "./layer-set.ts";
import { MemoryLayer } from "./memory-layer.ts";
import { type KeyHandle, PrefixTable } from "./prefix-table.ts";
import {
  type AnnouncedCutoff,
  type RetainedPoint,
  type Retention,
  checkRetained,
  pointAt,
} from "./retention.ts";
import { type ScanLevel, scanLevels } from "./scan.ts";
import type { StoreCache } from "./store-cache.ts";
import { ChainBuilder, type ScanEntry, type ValueChain } from "./value.ts";
import type { ImageSource } from "./write-images.ts";
import { addImageLayer, writeDeltaLayer } from "./write-layers.ts";

export type { AdoptedLayer } from "./adopt.ts";
export type { ExportOptions } from "./export-delta.ts";
export { type BlobRef, NO_BLOB } from "./arena.ts";
export type { RetainedPoint, Retention, Stretch } from "./retention.ts";
export type { KeyHandle } from "./prefix-table.ts";
export type { LayerDescriptor } from "./layer-file.ts";
export type { ImageSource } from "./write-images.ts";
export type { KeyRange } from "./key-range.ts";
export type { ScanEntry, StoredValue, ValueChain } from "./value.ts";

export interface StoreOptions {
  /** Absolute. The store owns `index.json`, `*.delta`, `*.image` and temporary files in it, and nothing else. */
  readonly directory: string;
  /** Where this timeline branched off: the ancestor's values up to and including `lsn` are visible. */
  readonly ancestor?: { readonly store: TimelineStore; readonly lsn: Lsn } | undefined;
  /** Where this timeline's own values begin. */
  readonly startLsn: Lsn;
  /** Image layers are cut into files of about this size in bytes; 1 GiB. */
  readonly imageFileBytes?: number;
}

/** Without `startLsn`, what the index says is believed. */
export type OpenStoreOptions = Omit<StoreOptions, "startLsn"> & { readonly startLsn?: Lsn };

export interface StoreDependencies {
  readonly files: Files;
  readonly cache: StoreCache;
}

/** Sizes in bytes. */
export interface StoreStats {
  readonly openBytes: number;
  readonly frozenBytes: number;
  readonly frozenCount: number;
  readonly deltaBytes: number;
  readonly deltaCount: number;
  readonly imageBytes: number;
  readonly imageCount: number;
  readonly layerCount: number;
}

export class TimelineStore implements AsyncDisposable {
  readonly ancestor: { readonly store: TimelineStore; readonly lsn: Lsn } | undefined;
  private readonly files: Files;
  private readonly set: LayerSet;
  private readonly imageFileBytes: number | undefined;
  private readonly prefixes = new PrefixTable();
  private open: MemoryLayer;
  /** Newest first. Replaced, never changed: readers keep the list they began with. */
  private frozen: readonly MemoryLayer[] = [];
  private flushing: Promise<void> | undefined;
  private announced: AnnouncedCutoff | undefined;
  private readonly imaging = new Set<Promise<void>>();

  private constructor(options: StoreOptions, set: LayerSet, files: Files) {
    this.ancestor = options.ancestor;
    this.imageFileBytes = options.imageFileBytes;
    this.files = files;
    this.set = set;
    this.open = new MemoryLayer(set.durableLsn, this.prefixes, {
      startInclusive: set.map.deltas.length === 0,
    });
  }

  /** A new, empty store. Throws `exists` if the directory has one. */
  static async create(options: StoreOptions, { files, cache }: StoreDependencies): Promise<TimelineStore> {
    const set = await LayerSet.create(options.directory, options.startLsn, files, cache);
    return new TimelineStore(options, set, files);
  }

  /** Opens what is on disk and removes files that no index names. Values above `durableLsn` are gone. */
  static async open(options: OpenStoreOptions, { files, cache }: StoreDependencies): Promise<TimelineStore> {
    const set = await LayerSet.open(options.directory, files, cache);
    if (options.startLsn !== undefined && set.startLsn !== options.startLsn) {
      const found = formatLsn(set.startLsn);
      throw corrupt(
        `the index in ${options.directory} starts at ${found}, not at ${formatLsn(options.startLsn)}`,
        {
          file: options.directory,
          expected: formatLsn(options.startLsn),
          found,
        },
      );
    }
    return new TimelineStore({ ...options, startLsn: set.startLsn }, set, files);
  }

  get startLsn(): Lsn {
    return this.set.startLsn;
  }

  /** Every value at or below it is in layer files. */
  get durableLsn(): Lsn {
    return this.set.durableLsn;
  }

  /** What garbage collection has left of the history; undefined if that is all of it. */
  get retention(): Retention | undefined {
    return this.set.retention;
  }

  /** From here on everything of this timeline is readable. */
  get gcCutoffLsn(): Lsn {
    return this.set.retention?.cutoff.lsn ?? this.set.startLsn;
  }

  /** The point that was retained at exactly this LSN: the cutoff, one below it, or an end of a stretch. */
  retainedPoint(lsn: Lsn): RetainedPoint | undefined {
    return this.retention && pointAt(this.retention, lsn);
  }

  /** Throws `not_found` if history at an LSN, of this timeline or of an ancestor, was given up or is about to be. */
  checkReadable(lsn: Lsn): void {
    if (lsn < this.startLsn && this.ancestor !== undefined) {
      let { store } = this.ancestor;
      while (lsn < store.startLsn && store.ancestor !== undefined) ({ store } = store.ancestor);
      store.checkReadable(lsn);
      return;
    }
    checkRetained(lsn, this.retention, this.announced);
  }

  /** From now on nobody begins to read what is about to be given up; until disposed of. */
  announceCutoff(announced: AnnouncedCutoff): Disposable {
    this.announced = announced;
    return { [Symbol.dispose]: () => void (this.announced = undefined) };
  }

  /** Memory of the open layer in bytes. */
  get openBytes(): number {
    return this.open.sizeBytes;
  }

  /** Memory of the open layer and of those that wait to be written, in bytes. */
  get memoryBytes(): number {
    let sum = this.open.sizeBytes;
    for (const layer of this.frozen) sum += layer.sizeBytes;
    return sum;
  }

  /** A short name for a key without its block; valid for the life of the store. */
  intern(kind: number, spcOid: number, dbOid: number, relNumber: number, fork: number): KeyHandle {
    return this.prefixes.intern(kind, spcOid, dbOid, relNumber, fork);
  }

  /** Copies `bytes[start..end)` into the open layer, for one or several puts before the next freeze. */
  append(bytes: Uint8Array, start: number, end: number): BlobRef {
    return this.open.arena.append(bytes, start, end);
  }

  /**
   * LSNs must not decrease. The same key at the same LSN again replaces the value. A tombstone takes `NO_BLOB`. Returns
   * how many values of the key the open layer has since the last one that is a base.
   */
  put(handle: KeyHandle, block: number, lsn: Lsn, flags: number, blob: BlobRef): number {
    return this.open.put(handle, block, lsn, flags, blob);
  }

  /** Closes the open layer, which holds everything up to `endLsn`, and begins a new one. Only between records. */
  freeze(endLsn: Lsn): void {
    if (endLsn === this.open.startLsn && this.open.entryCount === 0) return;
    this.open.freeze(endLsn);
    this.frozen = [this.open, ...this.frozen];
    this.open = new MemoryLayer(endLsn, this.prefixes);
  }

  /**
   * Writes all frozen layers, oldest first. After a failure (a full disk) the layers that were not written stay in
   * memory, readable, and the next call tries again.
   */
  flush(): Promise<void> {
    // Forgotten behind the assignment, also where nothing has to be written and it is over at once.
    this.flushing ??= this.flushAll().finally(() => {
      this.flushing = undefined;
    });
    return this.flushing;
  }

  /**
   * Adds images of all keys that exist in a range at an LSN, which must not be above `durableLsn`. The source is
   * sorted by key and complete: what it leaves out does not exist at that LSN. All of it is published, or nothing.
   */
  addImageLayer(range: KeyRange, lsn: Lsn, source: ImageSource): Promise<void> {
    const job = { range, lsn, source, fileBytesMax: this.imageFileBytes };
    const work = addImageLayer(job, this.set, this.files).finally(() => this.imaging.delete(work));
    this.imaging.add(work);
    return work;
  }

  /**
   * Everything needed to know `key` at `lsn`, newest first, down to a base. With `floor`, only values above it: for a
   * caller who has the key at the floor already. What is in memory is collected without waiting.
   */
  get(key: Key, lsn: Lsn, floor?: Lsn): Promise<ValueChain> {
    return TimelineStore.read(this, key, lsn, floor);
  }

  /**
   * All keys of a range that exist at `lsn`, in key order, in batches. The layers are those of the moment of the call;
   * writing and flushing meanwhile change nothing. `lsn` must not be above the last complete record.
   */
  scan(range: KeyRange, lsn: Lsn): AsyncIterable<ScanEntry[]> {
    return scanLevels(range, TimelineStore.levels(this, lsn));
  }

  /**
   * Takes in layers that continue the timeline from `durableLsn` to `endLsn`; image layers may also lie below. Nothing
   * may have been put since the last flush. The files are moved; after a failure they are where they were. `retention`
   * says what of the history is there, if not all of it.
   */
  async adopt(layers: readonly AdoptedLayer[], endLsn: Lsn, retention?: Retention): Promise<void> {
    const isIdle = () => this.open.entryCount === 0 && this.frozen.length === 0;
    assert(isIdle(), "layers are adopted when everything is on disk");
    const onPublished = (): void => {
      assert(isIdle(), "nothing is put while layers are adopted");
      this.open = new MemoryLayer(endLsn, this.prefixes);
    };
    await adoptLayers(layers, { endLsn, onPublished, ...(retention ? { retention } : {}) }, this.set);
  }

  /** Writes the changes of a span of LSNs into delta layer files in another directory. Of this timeline only. */
  async exportDelta(options: ExportOptions): Promise<LayerDescriptor[]> {
    assert(options.toLsn <= this.durableLsn, "only what is durable is exported");
    const version = this.set.acquire();
    try {
      return await exportDelta(version.map, { ...options, startLsn: this.startLsn }, this.files);
    } finally {
      this.set.release(version);
    }
  }

  /** Every version in the delta layers of this timeline above `fromLsn`, up to `toLsn`, in no particular order. */
  async eachVersion(span: LsnSpan, visit: VersionVisitor): Promise<void> {
    const version = this.set.acquire();
    try {
      await eachVersion(version.map, span, visit);
    } finally {
      this.set.release(version);
    }
  }

  /** Keeps the files of the present layers (of this timeline only) from being deleted until it is disposed of. */
  pin(): Disposable & { readonly layers: readonly LayerDescriptor[] } {
    const version = this.set.acquire();
    let held = true;
    return {
      layers: version.map.layers.map((layer) => layer.descriptor),
      [Symbol.dispose]: () => {
        if (held) this.set.release(version);
        held = false;
      },
    };
  }

  /** What a read at `lsn` sees in files; undefined while a part of that is in memory only. Stays until disposed of. */
  holdLevels(lsn: Lsn): (Disposable & { readonly levels: readonly MapLevel[] }) | undefined {
    if (!TimelineStore.isDurable(this, lsn)) return undefined;
    const levels = TimelineStore.levels(this, lsn);
    return {
      levels: levels.map(({ version, upTo: visibleTo }) => ({ map: version.map, upTo: visibleTo })),
      [Symbol.dispose]: () => {
        for (const { version, release } of levels.splice(0)) release(version);
      },
    };
  }

  /** A place for files that others write for this store, until it is disposed of. */
  beginOutput(): Disposable & OutputPlace {
    const prefix = this.set.beginOutput();
    return { directory: this.set.directory, prefix, [Symbol.dispose]: () => this.set.endOutput(prefix) };
  }

  /** Puts finished layers in the place of others, which must be there; or takes some away. */
  async replaceLayers(added: readonly NewLayer[], removed: ReadonlySet<string>): Promise<void> {
    if (added.length > 0 || removed.size > 0) await this.set.publish({ added, removed });
  }

  /** Removes files that were written for this store and are not wanted. */
  discard(paths: readonly string[]): Promise<void> {
    return this.set.discard(paths);
  }

  /** Says durably what of the history is still readable. The cutoff never goes back. */
  async retain(retention: Retention): Promise<void> {
    assert(
      retention.cutoff.lsn >= this.gcCutoffLsn && retention.cutoff.lsn <= this.durableLsn,
      "the cutoff goes forward, up to what is durable",
    );
    await this.set.publish({ retention });
  }

  /** Gives back memory of an open layer that has no values. */
  relax(): void {
    if (this.open.entryCount === 0)
      this.open = new MemoryLayer(this.open.startLsn, this.prefixes, {
        startInclusive: this.open.startInclusive,
      });
  }

  /** Where a layer's file is. */
  pathOf(layer: LayerDescriptor): string {
    return this.set.pathOf(layer.name);
  }

  /** Writes the index again as it is, for one whose copy on disk is damaged. */
  rewriteIndex(): Promise<void> {
    return this.set.publish({});
  }

  /** The layer files, in the order in which they were added. */
  layers(): readonly LayerDescriptor[] {
    return this.set.map.layers.map((layer) => layer.descriptor);
  }

  /** How often each of them has been read since it was opened, by name. */
  accesses(): ReadonlyMap<string, LayerAccesses> {
    return new Map(this.set.map.layers.map(({ descriptor, accesses }) => [descriptor.name, accesses]));
  }

  /** Names in its directory that are no leftovers although no index names them (yet). */
  filesBeingWritten(): { has(name: string): boolean } {
    return this.set.filesBeingWritten();
  }

  /** Size of all layer files of this timeline in bytes, without its ancestors. */
  get physicalBytes(): number {
    return this.stats.deltaBytes + this.stats.imageBytes;
  }

  get stats(): StoreStats {
    const layers = this.layers();
    const deltas = layers.filter((layer) => layer.kind === LayerKind.Delta);
    const images = layers.filter((layer) => layer.kind === LayerKind.Image);
    return {
      openBytes: this.open.sizeBytes,
      frozenBytes: this.frozen.reduce((total, layer) => total + layer.sizeBytes, 0),
      frozenCount: this.frozen.length,
      deltaBytes: sumBytes(deltas),
      deltaCount: deltas.length,
      imageBytes: sumBytes(images),
      imageCount: images.length,
      layerCount: layers.length,
    };
  }

  /** Waits for writes that are under way and closes the files. What was not flushed is given up. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([this.flushing, ...this.imaging]);
    await this.set[Symbol.asyncDispose]();
  }

  private static async read(
    start: TimelineStore,
    key: Key,
    lsn: Lsn,
    floor: Lsn | undefined,
  ): Promise<ValueChain> {
    const callerFloor = floor ?? -1;
    const chain = new ChainBuilder(lsn, callerFloor);
    let store = start;
    let upTo = lsn;
    for (;;) {
      const image = await store.collect(key, upTo, callerFloor, chain);
      if (chain.done) return { values: chain.values, base: "found" };
      if (image !== undefined) return { values: chain.values, base: "missing" };
      const { ancestor } = store;
      if (ancestor === undefined || callerFloor >= ancestor.lsn) break;
      store = ancestor.store;
      upTo = lsnMin(upTo, ancestor.lsn);
      if (chain.below > upTo + 1) chain.below = upTo + 1;
    }
    return { values: chain.values, base: floor === undefined ? "missing" : "floor" };
  }

  /** Whether everything that a read at `lsn` sees is in layer files. */
  private static isDurable(start: TimelineStore, lsn: Lsn): boolean {
    let store = start;
    let upTo = lsn;
    for (;;) {
      if (upTo > store.durableLsn) return false;
      const { ancestor } = store;
      if (ancestor === undefined) return true;
      upTo = lsnMin(upTo, ancestor.lsn);
      store = ancestor.store;
    }
  }

  /** What a read at `lsn` sees of a timeline and its ancestors at this moment. */
  private static levels(start: TimelineStore, lsn: Lsn): ScanLevel[] {
    const levels: ScanLevel[] = [];
    let store = start;
    let upTo = lsn;
    for (;;) {
      const { open, frozen, prefixes, ancestor, set } = store;
      const visibleTo = upTo;
      const memory = [open, ...frozen].filter((layer) => layer.startLsn <= visibleTo);
      levels.push({
        version: set.acquire(),
        release: (version) => {
          set.release(version);
        },
        memory,
        prefixes,
        upTo,
      });
      if (ancestor === undefined) return levels;
      upTo = lsnMin(upTo, ancestor.lsn);
      store = ancestor.store;
    }
  }

  /** Collects what this timeline has, without its ancestors; returns the image layer that ended the search. */
  private async collect(
    key: Key,
    upTo: Lsn,
    callerFloor: number,
    chain: ChainBuilder,
  ): Promise<LayerFile | undefined> {
    const version = this.set.acquire();
    try {
      const { map } = version;
      const image = imageAbove(map, key, upTo, callerFloor);
      chain.floor = image?.endLsn ?? callerFloor;
      this.collectFromMemory(key, chain);
      if (!chain.done) await collectFromFiles(map, image, key, chain);
      return image;
    } finally {
      this.set.release(version);
    }
  }

  private collectFromMemory(key: Key, chain: ChainBuilder): void {
    this.open.collect(key, chain);
    for (const layer of this.frozen) {
      if (chain.done || layer.endLsn <= chain.floor) return;
      layer.collect(key, chain);
    }
  }

  private async flushAll(): Promise<void> {
    for (let layer = this.frozen.at(-1); layer !== undefined; layer = this.frozen.at(-1)) {
      await this.flushLayer(layer);
    }
  }

  private writeOut(layer: MemoryLayer): Promise<NewLayer> {
    const { set, prefixes, files } = this;
    return writeDeltaLayer(layer, set, { prefixes, files });
  }

  private async flushLayer(layer: MemoryLayer): Promise<void> {
    this.set.checkUsable();
    const added = layer.entryCount === 0 ? [] : [await this.writeOut(layer)];
    const onPublished = () => {
      this.frozen = this.frozen.filter((other) => other !== layer);
    };
    await this.set.publish({ added, durableLsn: layer.endLsn, onPublished });
  }
}

function sumBytes(layers: readonly LayerDescriptor[]): number {
  return layers.reduce((total, layer) => total + layer.sizeBytes, 0);
}
