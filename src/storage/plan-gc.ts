/**
 * Which layers nobody can read any more. A read at an LSN stops at the newest image at or below it, so a layer is not
 * needed at a point if images between the two cover its keys; it can go if it is needed neither at the cutoff, which
 * stands for everything above, nor at any point that is retained below it.
 */
import type { Lsn } from "../base/lsn.ts";
import { type Key, compareKeys } from "./key.ts";
import { type KeyRange, maxKey, minKey, rangesOverlap } from "./key-range.ts";
import type { LayerDescriptor } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import { LayerSearch, type Searchable } from "./layer-search.ts";
import { Yielder } from "./yielder.ts";

export interface GcInput {
  readonly layers: readonly LayerDescriptor[];
  readonly cutoffLsn: Lsn;
  /** Below the cutoff. */
  readonly points: readonly Lsn[];
  /** Below the cutoff; between the two, everything is to be readable. */
  readonly stretches?: readonly { readonly fromLsn: Lsn; readonly toLsn: Lsn }[];
  /** Keys of which images are made. The others are only read where they are above the cutoff. */
  readonly imagesWithin: KeyRange;
}

/** Why a layer stays. */
export type KeptBy =
  /** It reaches above the cutoff, or into a stretch. */
  | { readonly kind: "window" }
  /** It is what the history above the cutoff begins with; `only`: and is not needed at a point below. */
  | { readonly kind: "cutoff"; readonly only: boolean }
  /** Reads at these points below the cutoff need it. */
  | { readonly kind: "points"; readonly lsns: readonly Lsn[] };

export interface GcPlan {
  readonly removable: readonly LayerDescriptor[];
  readonly kept: readonly { readonly layer: LayerDescriptor; readonly by: KeptBy }[];
}

export async function planGc(input: GcInput): Promise<GcPlan> {
  const yielder = new Yielder();
  const { stretches = [] } = input;
  const points = [...input.points, ...stretches.map(({ fromLsn }) => fromLsn)];
  const images = await searchImages(input.layers, yielder);
  const removable: LayerDescriptor[] = [];
  const kept: { layer: LayerDescriptor; by: KeptBy }[] = [];
  for (const layer of input.layers) {
    const isWhole =
      layer.endLsn > input.cutoffLsn || stretches.some((stretch) => reachesInto(layer, stretch));
    const by = isWhole ? WHOLE : await keptBelow(layer, images, { ...input, points }, yielder);
    if (by === undefined) removable.push(layer);
    else kept.push({ layer, by });
  }
  return { removable, kept };
}

const WHOLE: KeptBy = { kind: "window" };

interface Image extends Searchable {
  readonly range: KeyRange;
}

function searchImages(layers: readonly LayerDescriptor[], yielder: Yielder): Promise<LayerSearch<Image>> {
  const images = layers
    .filter((layer) => layer.kind === LayerKind.Image)
    .map(({ endLsn, range }) => ({ startLsn: endLsn, range, spans: [range] }));
  return LayerSearch.of(
    images.sort((a, b) => b.startLsn - a.startLsn),
    yielder,
  );
}

/** Whether it has something that is seen in a stretch and not at its beginning. */
function reachesInto(layer: LayerDescriptor, { fromLsn, toLsn }: { fromLsn: Lsn; toLsn: Lsn }): boolean {
  if (layer.endLsn <= fromLsn) return false;
  return layer.kind === LayerKind.Image ? layer.endLsn <= toLsn : layer.startLsn < toLsn;
}

/** Why a layer at or below the cutoff stays, if it does. */
async function keptBelow(
  layer: LayerDescriptor,
  images: LayerSearch<Image>,
  { cutoffLsn, points, imagesWithin }: GcInput,
  yielder: Yielder,
): Promise<KeptBy | undefined> {
  const spans = (layer.spans ?? [layer.range])
    .filter((span) => rangesOverlap(span, imagesWithin))
    .map(({ from, to }) => ({ from: maxKey(from, imagesWithin.from), to: minKey(to, imagesWithin.to) }));
  const isNeededAt = async (lsn: Lsn): Promise<boolean> => {
    if (layer.kind === LayerKind.Image ? layer.endLsn > lsn : layer.startLsn >= lsn) return false;
    // An image at the same LSN hides a delta layer, but not another image.
    const oldest = layer.kind === LayerKind.Image ? layer.endLsn + 1 : layer.endLsn;
    for (const span of spans) {
      if (yielder.due()) await yielder.yield();
      if (!isHidden(span, images, { oldest, lsn })) return true;
    }
    return false;
  };
  const lsns: Lsn[] = [];
  for (const point of points) if (await isNeededAt(point)) lsns.push(point);
  if (await isNeededAt(cutoffLsn)) return { kind: "cutoff", only: lsns.length === 0 };
  return lsns.length > 0 ? { kind: "points", lsns } : undefined;
}

/** Whether a read of any key of a span at an LSN finds an image, and none that is older than `oldest`. */
function isHidden(
  span: KeyRange,
  images: LayerSearch<Image>,
  { oldest, lsn }: { readonly oldest: number; readonly lsn: Lsn },
): boolean {
  for (let key: Key = span.from; compareKeys(key, span.to) < 0;) {
    const image = images.below(key, lsn + 1);
    if (image === undefined || image.startLsn < oldest) return false;
    key = image.range.to;
  }
  return true;
}
