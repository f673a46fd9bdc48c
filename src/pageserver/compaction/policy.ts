/** When compaction does what, for timelines of Postgres clusters. */
import type { CompactionPolicy } from "../../storage/compact.ts";
import { IMAGE_RANGE } from "../ingest/keyspace.ts";

const MIB = 1024 * 1024;

const COMMON = {
  imagesWithin: IMAGE_RANGE,
  cuts: [IMAGE_RANGE.to],
} as const;

/** Inputs of one merge: bounds how long it takes and how much space it needs meanwhile. */
const MERGE_BYTES_MAX = 1024 * MIB;

/** What may be different for each tenant. */
export interface PolicyLimits {
  /** Flushed layers from which on they are merged. */
  readonly flushedLayersMin: number;
  /** Size at which a file is closed. */
  readonly layerBytesMax: number;
  /** Layers that would have to be asked from which on there is an image. */
  readonly imageLayersMax: number;
}

/** In the background: what it writes is worth it. */
export function backgroundPolicy(limits: PolicyLimits): CompactionPolicy {
  return {
    ...COMMON,
    fileBytesMax: limits.layerBytesMax,
    merge: { flushedLayersMin: limits.flushedLayersMin, mergeBytesMax: MERGE_BYTES_MAX },
    images: { changesPerImage: 1, changesBytesMin: 8 * MIB, layersMax: limits.imageLayersMax },
  };
}

/** On request: as few layers to ask and records to replay as one can have for about the size of the database. */
export function thoroughPolicy({ layerBytesMax, imageLayersMax }: PolicyLimits): CompactionPolicy {
  return {
    ...COMMON,
    fileBytesMax: layerBytesMax,
    merge: { flushedLayersMin: 1, mergeBytesMax: MERGE_BYTES_MAX },
    images: { changesPerImage: 0.05, changesBytesMin: 1, layersMax: Math.min(imageLayersMax, 3) },
  };
}

/** Images that free space: in the background where that is much, on request where it is anything worth mentioning. */
export const GARBAGE_IMAGES = {
  background: { freedPerImage: 1, freedBytesMin: 4 * MIB, cheapBytes: MIB },
  thorough: { freedPerImage: 0.1, freedBytesMin: 4096, cheapBytes: 8 * MIB },
} as const;
