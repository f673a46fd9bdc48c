/** Reading one key from the layer files of a timeline. */
import type { Lsn } from "../base/lsn.ts";
import type { Key } from "./key.ts";
import type { LayerFile } from "./layer-file.ts";
import type { LayerMap } from "./layer-map.ts";
import type { ChainBuilder } from "./value.ts";

/** Delta layers from the newest to the oldest that matters, then the image layer, if there is one. */
export async function collectFromFiles(
  map: LayerMap,
  image: LayerFile | undefined,
  key: Key,
  chain: ChainBuilder,
): Promise<void> {
  for (let layer = map.deltaFor(key, chain.below); layer !== undefined;) {
    if (layer.endLsn <= chain.floor) break;
    await layer.collect(key, chain);
    if (chain.done) return;
    layer = map.deltaFor(key, Math.min(chain.below, layer.startLsn));
  }
  if (image === undefined) return;
  chain.floor = -1;
  await image.collect(key, chain);
}

/** The image layer to stop at, unless the caller wants to stop earlier. */
export function imageAbove(map: LayerMap, key: Key, upTo: Lsn, floor: number): LayerFile | undefined {
  const image = map.imageFor(key, upTo);
  return image !== undefined && image.endLsn > floor ? image : undefined;
}
