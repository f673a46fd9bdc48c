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

export function planGc(input: GcInput): GcPlan {
  const images = input.layers.filter((layer) => layer.kind === LayerKind.Image);
  images.sort((a, b) => compareKeys(a.range.from, b.range.from));
  const removable: LayerDescriptor[] = [];
  const kept: { layer: LayerDescriptor; by: KeptBy }[] = [];
  for (const layer of input.layers) {
    const by = keptBy(layer, images, input);
    if (by === undefined) removable.push(layer);
    else kept.push({ layer, by });
  }
  return { removable, kept };
}

function keptBy(
  layer: LayerDescriptor,
  images: readonly LayerDescriptor[],
  { cutoffLsn, points, stretches = [], imagesWithin }: GcInput,
): KeptBy | undefined {
  if (layer.endLsn > cutoffLsn || stretches.some((stretch) => reachesInto(layer, stretch)))
    return { kind: "window" };
  const spans = (layer.spans ?? [layer.range])
    .filter((span) => rangesOverlap(span, imagesWithin))
    .map(({ from, to }) => ({ from: maxKey(from, imagesWithin.from), to: minKey(to, imagesWithin.to) }));
  const isNeededAt = (lsn: Lsn): boolean => {
    if (layer.kind === LayerKind.Image ? layer.endLsn > lsn : layer.startLsn >= lsn) return false;
    const hiding = images.filter((image) => image.endLsn <= lsn && hides(image, layer));
    return !spans.every((span) => isCovered(span, hiding));
  };
  const lsns = [...points, ...stretches.map(({ fromLsn }) => fromLsn)].filter(isNeededAt);
  if (isNeededAt(cutoffLsn)) return { kind: "cutoff", only: lsns.length === 0 };
  return lsns.length > 0 ? { kind: "points", lsns } : undefined;
}

/** Whether it has something that is seen in a stretch and not at its beginning. */
function reachesInto(layer: LayerDescriptor, { fromLsn, toLsn }: { fromLsn: Lsn; toLsn: Lsn }): boolean {
  if (layer.endLsn <= fromLsn) return false;
  return layer.kind === LayerKind.Image ? layer.endLsn <= toLsn : layer.startLsn < toLsn;
}

/** Whether a read that finds the image looks no further for what the layer holds. */
function hides(image: LayerDescriptor, layer: LayerDescriptor): boolean {
  if (layer.kind === LayerKind.Delta) return image.endLsn >= layer.endLsn;
  return image.endLsn > layer.endLsn;
}

/** `ranges` are sorted by where they begin. */
function isCovered(span: KeyRange, ranges: readonly LayerDescriptor[]): boolean {
  let covered: Key = span.from;
  for (const { range } of ranges) {
    if (compareKeys(range.from, covered) > 0) return false;
    if (compareKeys(range.to, covered) > 0) covered = range.to;
    if (compareKeys(covered, span.to) >= 0) return true;
  }
  return compareKeys(covered, span.to) >= 0;
}
