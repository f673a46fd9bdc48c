/** The layers that a store writes by itself: a frozen memory layer as a delta, and images from a sorted source. */
import { assert } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import { type KeyRange, compareToKey } from "./key-range.ts";
import { LayerKind } from "./layer-format.ts";
import { type LayerSet, type NewLayer, asResourceError } from "./layer-set.ts";
import type { MemoryLayer } from "./memory-layer.ts";
import type { PrefixTable } from "./prefix-table.ts";
import { writeDelta } from "./write-delta.ts";
import { type ImageSource, writeImages } from "./write-images.ts";

/** A frozen layer that has values, under a temporary name. */
export async function writeDeltaLayer(
  layer: MemoryLayer,
  set: LayerSet,
  { prefixes, files }: { prefixes: PrefixTable; files: Files },
): Promise<NewLayer> {
  const { startLsn, endLsn } = layer;
  const name = set.newName(LayerKind.Delta, startLsn, endLsn);
  const temporaryPath = set.temporaryPathOf(name);
  try {
    const written = await writeDelta(layer, prefixes, temporaryPath, files);
    return { temporaryPath, descriptor: { ...written, name, kind: LayerKind.Delta, startLsn, endLsn } };
  } catch (error) {
    await set.discard([temporaryPath]);
    throw asResourceError(error, `write layer ${temporaryPath}`);
  }
}

export interface ImageLayerJob {
  readonly range: KeyRange;
  readonly lsn: Lsn;
  readonly source: ImageSource;
  readonly fileBytesMax: number | undefined;
}

/** Writes and publishes images of a range, in one or several files. */
export async function addImageLayer(job: ImageLayerJob, set: LayerSet, files: Files): Promise<void> {
  const { range, lsn } = job;
  assert(
    lsn >= set.startLsn && lsn <= set.durableLsn,
    `images at ${lsn} are not of this timeline's durable part`,
  );
  assert(compareToKey(range.from, range.from.block, range.to) < 0, "the range of an image layer is empty");
  set.checkUsable();
  const names = new Map<string, string>();
  const newPath = () => {
    const name = set.newName(LayerKind.Image, lsn, lsn);
    names.set(set.temporaryPathOf(name), name);
    return set.temporaryPathOf(name);
  };
  try {
    const written = await writeImages({ ...job, newPath }, files);
    const added = written.map(({ path, ...layer }) => ({
      temporaryPath: path,
      descriptor: {
        ...layer,
        name: names.get(path) ?? "",
        kind: LayerKind.Image,
        startLsn: lsn,
        endLsn: lsn,
      },
    }));
    await set.publish({ added });
  } catch (error) {
    await set.discard([...names.keys()]);
    throw asResourceError(error, `write image layer in ${set.directory}`);
  }
}
