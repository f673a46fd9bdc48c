/**
 * The layer files of one timeline and their index on disk. Publishing is atomic: new files are written, synced and
 * renamed, then the index that names them replaces the old one, and only then do readers see them.
 */
import { ErrorCode, NeonError, assert, corrupt, messageOf, systemCode } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import { IndexEncoder, encodeIndex } from "./index-encoder.ts";
import {
  INDEX_FILE_NAME,
  TEMPORARY_SUFFIX,
  type TimelineIndex,
  decodeIndex,
  readIndexBytes,
} from "./index-file.ts";
import { INDEX_COPY_NAME, alignIndexCopy, removeIndexCopy, writeIndexCopy } from "./index-copy.ts";
import { type LayerDescriptor, LayerFile } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import { LayerMap } from "./layer-map.ts";
import { type MapVersion, MapVersions } from "./map-versions.ts";
import type { Retention } from "./retention.ts";
import type { StoreCache } from "./store-cache.ts";

/** A finished layer that still has its temporary name. */
export interface NewLayer {
  readonly temporaryPath: string;
  readonly descriptor: LayerDescriptor;
}

/** What changes together with the layers. */
export interface Publication {
  readonly added?: readonly NewLayer[];
  /** Names of layers that are no longer needed. Their files go when nobody reads them any more. */
  readonly removed?: ReadonlySet<string>;
  readonly durableLsn?: Lsn;
  readonly retention?: Retention;
  /** Runs in the same turn in which readers begin to see the change. */
  readonly onPublished?: () => void;
  /** If it fails, added files are put back under their temporary names; otherwise they are removed. */
  readonly returnFiles?: boolean;
}

/** Files that only a layer set makes, and that are garbage if the index does not name them. */
const OUR_FILE = /\.(delta|image)(\.tmp)?$|^(copy\.)?index\.json\.tmp$/;

/** Whether a file that no index names would be removed by `LayerSet.open`. */
export function isLayerSetFile(name: string): boolean {
  return OUR_FILE.test(name);
}

interface Place {
  readonly directory: string;
  readonly files: Files;
  readonly cache: StoreCache;
}

export class LayerSet implements AsyncDisposable {
  readonly directory: string;
  private readonly files: Files;
  private readonly cache: StoreCache;
  private index: TimelineIndex;
  private readonly encoder = new IndexEncoder();
  private readonly versions: MapVersions;
  private nextFile: number;
  /** Names of layers that have been begun and are neither published nor given up. */
  private readonly begun = new Set<string>();
  /** What the names of files begin with that others write for us. */
  private readonly outputs = new Set<string>();
  /** Publications one after another. */
  private last: Promise<unknown> = Promise.resolve();
  private broken: unknown;

  private constructor(place: Place, index: TimelineIndex, map: LayerMap) {
    const { directory, files, cache } = place;
    this.directory = directory;
    this.files = files;
    this.cache = cache;
    this.index = index;
    this.nextFile = index.nextFile;
    this.versions = new MapVersions(map, async (name) => {
      cache.handles.forget(this.pathOf(name));
      await files.remove(this.pathOf(name));
    });
  }

  /** Makes the directory and an empty index. Throws `exists` if there is an index already. */
  static async create(directory: string, startLsn: Lsn, files: Files, cache: StoreCache): Promise<LayerSet> {
    await files.makeDirectory(directory);
    if ((await files.list(directory)).includes(INDEX_FILE_NAME)) {
      throw new NeonError(ErrorCode.Exists, `there is a timeline in ${directory} already`);
    }
    const index = { startLsn, durableLsn: startLsn, nextFile: 1, layers: [] };
    const set = new LayerSet({ directory, files, cache }, index, await LayerMap.of([]));
    await set.prepareIndex(encodeIndex(index));
    await files.rename(set.temporaryPathOf(INDEX_FILE_NAME), set.pathOf(INDEX_FILE_NAME));
    await files.syncDirectory(directory);
    await files.syncDirectory(parentOf(directory));
    return set;
  }

  /** Reads the index and removes what it does not name. Throws `corrupt` if a layer is missing. */
  static async open(directory: string, files: Files, cache: StoreCache): Promise<LayerSet> {
    const bytes = await readIndexBytes(`${directory}/${INDEX_FILE_NAME}`, files);
    const index = decodeIndex(bytes, `${directory}/${INDEX_FILE_NAME}`);
    const layers = index.layers.map(
      (descriptor) => new LayerFile(`${directory}/${descriptor.name}`, descriptor, cache),
    );
    const set = new LayerSet({ directory, files, cache }, index, await LayerMap.of(layers));
    // The process before may have died between the index's rename and its sync: what follows from the index, such as
    // the removal of files and WAL, must not outlive it.
    await files.syncDirectory(directory);
    const names = await files.list(directory);
    // Before anything is removed that the copy may name. A timeline without layers needs none.
    if (index.layers.length > 0 || names.includes(INDEX_COPY_NAME))
      await alignIndexCopy(directory, bytes, files);
    const named = new Set(index.layers.map((layer) => layer.name));
    for (const name of names) {
      if (named.delete(name)) continue;
      if (isLayerSetFile(name)) await files.remove(set.pathOf(name));
    }
    for (const name of named) {
      throw corrupt(`${set.pathOf(name)} is missing`, { file: set.pathOf(name), offset: 0 });
    }
    return set;
  }

  get map(): LayerMap {
    return this.versions.current;
  }

  /** The layers of this moment, whose files stay until `release`. */
  acquire(): MapVersion {
    return this.versions.acquire();
  }

  release(version: MapVersion): void {
    this.versions.release(version);
  }

  get startLsn(): Lsn {
    return this.index.startLsn;
  }

  get durableLsn(): Lsn {
    return this.index.durableLsn;
  }

  get retention(): Retention | undefined {
    return this.index.retention;
  }

  /** A name for a new layer that was never used. */
  newName(kind: LayerKind, startLsn: Lsn, endLsn: Lsn): string {
    const number = String(this.nextFile++).padStart(8, "0");
    const name =
      kind === LayerKind.Delta
        ? `${number}-${lsnForName(startLsn)}-${lsnForName(endLsn)}.delta`
        : `${number}-${lsnForName(endLsn)}.image`;
    this.begun.add(name);
    return name;
  }

  /** A beginning of names that was never used, for files whose number is not known yet; theirs until `endOutput`. */
  beginOutput(): string {
    const prefix = String(this.nextFile++).padStart(8, "0");
    this.outputs.add(prefix);
    return prefix;
  }

  endOutput(prefix: string): void {
    this.outputs.delete(prefix);
  }

  /** Files that are being written now, under each name that they may have meanwhile, and those that are still read. */
  filesBeingWritten(): { has(name: string): boolean } {
    const names = [...this.begun].flatMap((name) => [name, name + TEMPORARY_SUFFIX]);
    const indexes = [INDEX_FILE_NAME, INDEX_COPY_NAME].map((name) => name + TEMPORARY_SUFFIX);
    const all = new Set([...names, ...this.versions.doomed(), ...indexes]);
    const prefixes = [...this.outputs];
    return { has: (name) => all.has(name) || prefixes.some((prefix) => name.startsWith(`${prefix}-`)) };
  }

  pathOf(name: string): string {
    return `${this.directory}/${name}`;
  }

  temporaryPathOf(name: string): string {
    return this.pathOf(name) + TEMPORARY_SUFFIX;
  }

  /** Removes files that were begun and are not to be published; failures leave garbage for the next start. */
  async discard(paths: readonly string[]): Promise<void> {
    for (const path of paths) {
      await this.files.remove(path).catch(() => undefined);
      const name = path.slice(this.directory.length + 1);
      this.begun.delete(name.endsWith(TEMPORARY_SUFFIX) ? name.slice(0, -TEMPORARY_SUFFIX.length) : name);
    }
  }

  /**
   * Makes finished layers (already synced) part of the timeline, moves `durableLsn` up, lets others go; all of it, or
   * nothing. If it fails before the index was replaced, nothing has changed and it can be tried again.
   */
  publish(change: Publication): Promise<void> {
    const turn = this.last.then(() => this.publishNow(change));
    this.last = turn.catch(() => undefined);
    return turn;
  }

  private async publishNow(change: Publication): Promise<void> {
    this.checkUsable();
    const { added = [], removed = NOTHING } = change;
    const index = this.changedIndex(change);
    const layers = await this.map.changed(
      added.map(({ descriptor }) => new LayerFile(this.pathOf(descriptor.name), descriptor, this.cache)),
      removed,
    );
    try {
      for (const layer of added) {
        await this.files.rename(layer.temporaryPath, this.pathOf(layer.descriptor.name));
      }
      if (added.length > 0) await this.files.syncDirectory(this.directory);
      const bytes = await this.encoder.encode(index);
      await writeIndexCopy(this.directory, bytes, this.files);
      await this.prepareIndex(bytes);
      await this.renameIndex();
    } catch (error) {
      if (this.broken !== undefined) throw error;
      if (change.returnFiles) await this.moveBack(added);
      else await this.discard(added.map((layer) => layer.temporaryPath));
      const begun = added.map(({ descriptor }) => this.pathOf(descriptor.name));
      await this.discard([
        ...begun,
        this.temporaryPathOf(INDEX_FILE_NAME),
        this.temporaryPathOf(INDEX_COPY_NAME),
      ]);
      await this.restoreCopy();
      throw asResourceError(error, `publish layers in ${this.directory}`);
    }
    await this.syncIndexName();
    this.index = index;
    for (const { descriptor } of added) this.begun.delete(descriptor.name);
    this.versions.replace(layers, [...removed]);
    change.onPublished?.();
  }

  /** After a publication that failed. */
  private async restoreCopy(): Promise<void> {
    const { directory, files, index } = this;
    if (index.layers.length === 0) await removeIndexCopy(directory, files);
    else await alignIndexCopy(directory, await this.encoder.encode(index), files);
  }

  private changedIndex({ added = [], removed = NOTHING, durableLsn, retention }: Publication): TimelineIndex {
    const { index } = this;
    const newDurableLsn = durableLsn ?? index.durableLsn;
    assert(newDurableLsn >= index.durableLsn, "the durable LSN never decreases");
    const kept = index.layers.filter((layer) => !removed.has(layer.name));
    assert(kept.length === index.layers.length - removed.size, "removed layers are there");
    return {
      ...index,
      durableLsn: newDurableLsn,
      retention: retention ?? index.retention,
      nextFile: this.nextFile,
      layers: [...kept, ...added.map((layer) => layer.descriptor)],
    };
  }

  private async moveBack(layers: readonly NewLayer[]): Promise<void> {
    for (const { temporaryPath, descriptor } of layers) {
      await this.files.rename(this.pathOf(descriptor.name), temporaryPath).catch(() => undefined);
    }
  }

  /** Throws if an earlier failure left the state of the disk unknown. */
  checkUsable(): void {
    if (this.broken === undefined) return;
    throw new NeonError(
      ErrorCode.Failed,
      `the index in ${this.directory} could not be replaced: ${messageOf(this.broken)}`,
      { hint: "Restart the pageserver; it continues from what is on disk.", cause: this.broken },
    );
  }

  private async prepareIndex(bytes: Uint8Array): Promise<void> {
    const handle = await this.files.open(this.temporaryPathOf(INDEX_FILE_NAME), "w");
    try {
      await handle.write(bytes, 0);
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  /** If this fails, the old index is in force, unless the set is broken. */
  private async renameIndex(): Promise<void> {
    const path = this.pathOf(INDEX_FILE_NAME);
    try {
      await this.files.rename(this.temporaryPathOf(INDEX_FILE_NAME), path);
    } catch (error) {
      const found = await this.files.readWhole(path).catch(() => undefined);
      if (!found || !sameBytes(found, await this.encoder.encode(this.index))) this.broken = error;
      throw error;
    }
  }

  private async syncIndexName(): Promise<void> {
    try {
      await this.files.syncDirectory(this.directory);
    } catch (error) {
      // Whether the disk has the old index or the new one is unknown: nothing may be built on either.
      this.broken = error;
      throw error;
    }
  }

  /** Waits for a publication that is under way and closes the files. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.last;
    await this.versions.settled();
    for (const layer of this.map.layers) this.cache.handles.forget(layer.path);
  }
}

const NOTHING: ReadonlySet<string> = new Set();

/** A full disk and other failures of the system as a `resource` error; anything else stays what it is. */
export function asResourceError(error: unknown, what: string): unknown {
  const code = systemCode(error);
  if (code === undefined || error instanceof NeonError) return error;
  return new NeonError(ErrorCode.Resource, `${what}: ${messageOf(error)}`, {
    hint: "Nothing is lost. Once the cause is removed, the write is tried again.",
    data: { systemCode: code },
    cause: error,
  });
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function parentOf(directory: string): string {
  const at = directory.lastIndexOf("/");
  return at <= 0 ? "/" : directory.slice(0, at);
}

function lsnForName(lsn: Lsn): string {
  return formatLsn(lsn).replace("/", "_");
}
