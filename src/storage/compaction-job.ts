/**
 * A piece of compaction that needs nothing but immutable files: so it can run in another thread. What goes in and comes
 * out can be copied from thread to thread. The files that it writes are synced and have temporary names.
 */
import { type Lsn, MAX_LSN } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import type { Key } from "./key.ts";
import type { KeyRange } from "./key-range.ts";
import { type LayerDescriptor, LayerFile } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import { LayerMap } from "./layer-map.ts";
import { mergeDeltas } from "./merge-deltas.ts";
import {
  type GarbagePolicy,
  type ImagePolicy,
  type MapLevel,
  planGarbageImages,
  planImages,
} from "./plan-images.ts";
import { PrefixTable } from "./prefix-table.ts";
import { scanLevels } from "./scan.ts";
import { StoreCache } from "./store-cache.ts";
import type { ScanEntry } from "./value.ts";
import { type ImageSource, writeImages } from "./write-images.ts";

/** A layer and where its file is. */
export interface PlacedLayer {
  readonly path: string;
  readonly descriptor: LayerDescriptor;
}

export interface MergeRequest {
  readonly kind: "merge";
  readonly inputs: readonly PlacedLayer[];
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  readonly startInclusive: boolean;
  readonly cuts: readonly Key[];
  readonly fileBytesMax: number;
  readonly output: OutputPlace;
}

export interface ImagesRequest {
  readonly kind: "images";
  /** What a read at `lsn` sees: the timeline, then its ancestors. */
  readonly levels: readonly { readonly layers: readonly PlacedLayer[]; readonly upTo: Lsn }[];
  readonly lsn: Lsn;
  /** Images are made within this range where the policy wants them. */
  readonly within: KeyRange;
  readonly policy: ImagePolicy | GarbagePolicy;
  readonly fileBytesMax: number;
  readonly output: OutputPlace;
}

/** Files are `<directory>/<prefix>-<number>.<kind>.tmp`. */
export interface OutputPlace {
  readonly directory: string;
  readonly prefix: string;
}

export type CompactionRequest = MergeRequest | ImagesRequest;

export interface WrittenOutput {
  readonly temporaryPath: string;
  readonly descriptor: LayerDescriptor;
}

/** What a scan at the LSN of the images returns for a range. */
export type ScanRange = (range: KeyRange) => AsyncIterable<readonly ScanEntry[]>;
/** From what is stored to images, for a range: sorted, complete, without what does not exist at that LSN. */
export type ImagesOf = (range: KeyRange) => ImageSource;

export interface PreparedImages {
  readonly imagesOf: ImagesOf;
  /** Bytes that exist in a range, at most; undefined where that is not known. */
  readonly liveBytes: (range: KeyRange) => number | undefined;
}

export interface CompactionTools {
  readonly files: Files;
  /** The one thing that must know what values mean. */
  readonly prepareImages: (scan: ScanRange, lsn: Lsn) => Promise<PreparedImages>;
}

/**
 * What a piece of compaction has in memory at most, in bytes, however much it reads and writes: blocks that are read again
 * (16 MiB), what is read ahead of the inputs (16 MiB), buffers of the file that is being written and its index (some
 * MiB), and directories of the inputs.
 */
export const COMPACTION_BYTES_MAX = 64 * 1024 * 1024;
/** Memory for blocks that are read again, in bytes. */
const CACHE_BYTES = 16 * 1024 * 1024;
const TEMPORARY = ".tmp";

/** Runs it. After a failure nothing that it wrote is left, unless that could not be removed. */
export async function runCompaction(
  request: CompactionRequest,
  tools: CompactionTools,
): Promise<WrittenOutput[]> {
  const { files } = tools;
  await using cache = new StoreCache({ capacityBytes: CACHE_BYTES }, { files });
  const paths: string[] = [];
  const newPath = (kind: "delta" | "image") => (): string => {
    const { directory, prefix } = request.output;
    const path = `${directory}/${prefix}-${paths.length + 1}.${kind}${TEMPORARY}`;
    paths.push(path);
    return path;
  };
  try {
    if (request.kind === "merge") return await merge(request, cache, newPath("delta"), files);
    return await makeImages(request, cache, newPath("image"), tools);
  } catch (error) {
    for (const path of paths) await files.remove(path).catch(() => undefined);
    throw error;
  }
}

async function merge(
  request: MergeRequest,
  cache: StoreCache,
  newPath: () => string,
  files: Files,
): Promise<WrittenOutput[]> {
  const { inputs, startLsn, endLsn, output } = request;
  const layers = inputs.map(({ path, descriptor }) => new LayerFile(path, descriptor, cache));
  const written = await mergeDeltas({ ...request, inputs: layers, newPath }, files);
  return written.map(({ path, ...layer }) => ({
    temporaryPath: path,
    descriptor: {
      ...layer,
      name: nameOf(path, output),
      kind: LayerKind.Delta,
      startLsn,
      endLsn,
      merged: true,
    },
  }));
}

async function makeImages(
  request: ImagesRequest,
  cache: StoreCache,
  newPath: () => string,
  { files, prepareImages }: CompactionTools,
): Promise<WrittenOutput[]> {
  const { lsn, fileBytesMax, output } = request;
  const levels: MapLevel[] = [];
  for (const { layers, upTo } of request.levels) {
    const opened = layers.map(({ path, descriptor }) => new LayerFile(path, descriptor, cache));
    levels.push({ map: await LayerMap.of(opened), upTo });
  }
  const prepare = (): Promise<PreparedImages> => prepareImages((range) => scanFiles(range, levels), lsn);
  const { policy, within } = request;
  let prepared: PreparedImages | undefined;
  let ranges: KeyRange[];
  if ("names" in policy) {
    prepared = await prepare();
    const level = await onlyNamed(levels[0], policy.names);
    ranges = await planGarbageImages(level, within, policy, prepared.liveBytes);
  } else {
    ranges = await planImages(levels, within, policy);
  }
  if (ranges.length === 0) return [];
  const { imagesOf } = prepared ?? (await prepare());
  const outputs: WrittenOutput[] = [];
  for (const range of ranges) {
    const written = await writeImages({ range, lsn, source: imagesOf(range), newPath, fileBytesMax }, files);
    for (const { path, ...layer } of written) {
      outputs.push({
        temporaryPath: path,
        descriptor: {
          ...layer,
          name: nameOf(path, output),
          kind: LayerKind.Image,
          startLsn: lsn,
          endLsn: lsn,
          derived: true,
        },
      });
    }
  }
  return outputs;
}

async function onlyNamed(level: MapLevel | undefined, names: readonly string[]): Promise<MapLevel> {
  const wanted = new Set(names);
  const layers = level?.map.layers.filter((layer) => wanted.has(layer.descriptor.name)) ?? [];
  return { map: await LayerMap.of(layers), upTo: level?.upTo ?? MAX_LSN };
}

function scanFiles(range: KeyRange, levels: readonly MapLevel[]): AsyncIterable<ScanEntry[]> {
  const prefixes = new PrefixTable();
  return scanLevels(
    range,
    levels.map(({ map, upTo }) => ({
      version: { map },
      release: () => undefined,
      memory: [],
      prefixes,
      upTo,
    })),
  );
}

function nameOf(path: string, { directory }: OutputPlace): string {
  return path.slice(directory.length + 1, -TEMPORARY.length);
}
