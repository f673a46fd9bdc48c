/**
 * Where images are worth their space: key ranges in which the changes since the last image are larger than an image,
 * or lie in too many layers to ask. Sizes come from the directories of the layers, which tell where each of their
 * index blocks begins, so that nothing else has to be read.
 */
import { type Lsn, lsnMin } from "../base/lsn.ts";
import { type Key, compareKeys } from "./key.ts";
import { type KeyRange, maxKey, minKey, rangesOverlap, someOverlaps } from "./key-range.ts";
import type { LayerFile } from "./layer-file.ts";
import type { LayerMap } from "./layer-map.ts";
import { Yielder } from "./yielder.ts";

export interface ImagePolicy {
  /** An image is made where the changes since the last one are this many times as large as it. */
  readonly changesPerImage: number;
  /** Changes below this size in bytes need no image. */
  readonly changesBytesMin: number;
  /** An image is also made where this many layers would have to be asked. */
  readonly layersMax: number;
}

/** Images that are made to free space: where what they replace is larger than they are. */
export interface GarbagePolicy {
  /** Layers that can go once there are images. */
  readonly names: readonly string[];
  /** An image is made where it frees this many times as much as it takes … */
  readonly freedPerImage: number;
  /** … and at least this many bytes. */
  readonly freedBytesMin: number;
  /** An image of at most this many bytes is made wherever there are changes: a few keys would keep whole layers. */
  readonly cheapBytes: number;
  /** Keys that separate what `liveBytes` knows from what it does not. */
  readonly cuts: readonly Key[];
}

/** What a read at an LSN sees of one timeline. */
export interface MapLevel {
  readonly map: LayerMap;
  readonly upTo: Lsn;
}

/** A range of keys below which one image layer, or none, lies. */
interface Unit {
  readonly range: KeyRange;
  readonly image: LayerFile | undefined;
  readonly imageLsn: number;
  imageBytes: number;
  changeBytes: number;
  layers: number;
}

/** Ranges closer than this, in bytes of image between them, become one. */
const GAP_BYTES = 16 * 1024 * 1024;

/** Ranges within `within` that should get images at the LSN of the first level; sorted, without overlap. */
export async function planImages(
  levels: readonly MapLevel[],
  within: KeyRange,
  policy: ImagePolicy,
): Promise<KeyRange[]> {
  const units = await measureImages(levels, within);
  await measureChanges(units, levels);
  const wanted = units.map(
    (unit) =>
      unit.changeBytes > 0 &&
      ((unit.changeBytes >= policy.changesBytesMin &&
        unit.changeBytes >= unit.imageBytes * policy.changesPerImage) ||
        unit.layers >= policy.layersMax),
  );
  return joined(units, wanted, levels[0]?.upTo ?? -1);
}

/**
 * Ranges within `within` in which images free space. `liveBytes` says how large an image would be at most; where it does
 * not know, it is taken to be as large as the last one.
 */
export async function planGarbageImages(
  level: MapLevel,
  within: KeyRange,
  policy: GarbagePolicy,
  liveBytes: (range: KeyRange) => number | undefined,
): Promise<KeyRange[]> {
  const units = await measureImages([level], within, policy.cuts);
  await measureChanges(units, [level]);
  // A file goes as a whole or not at all, so what is dead in one counts for all of its ranges.
  const files = new Map<LayerFile | undefined, { live: number; freed: number }>();
  const measured = units.map((unit) => {
    const live = liveBytes(unit.range) ?? unit.imageBytes;
    const freed = unit.imageBytes + unit.changeBytes - live;
    const file = files.get(unit.image) ?? { live: 0, freed: 0 };
    files.set(unit.image, { live: file.live + live, freed: file.freed + freed });
    return { unit, live, freed };
  });
  const isWorthIt = ({ live, freed }: { live: number; freed: number }): boolean =>
    freed >= policy.freedBytesMin && freed >= live * policy.freedPerImage;
  const wanted = measured.map(({ unit, live, freed }) => {
    if (unit.imageLsn === level.upTo) return false;
    if (unit.changeBytes > 0 && live <= policy.cheapBytes) return true;
    const file = unit.image && files.get(unit.image);
    return isWorthIt({ live, freed }) || (file !== undefined && isWorthIt(file));
  });
  return joined(units, wanted, level.upTo);
}

async function measureImages(
  levels: readonly MapLevel[],
  within: KeyRange,
  extraCuts: readonly Key[] = [],
): Promise<Unit[]> {
  const cuts: Key[] = [within.from, ...extraCuts, within.to];
  const images = new Map<LayerFile, Awaited<ReturnType<LayerFile["open"]>>>();
  for (const { map, upTo } of levels) {
    for (const image of map.images) {
      if (image.endLsn > upTo || !rangesOverlap(image.range, within)) continue;
      cuts.push(maxKey(image.range.from, within.from), minKey(image.range.to, within.to));
    }
  }
  const yielder = new Yielder();
  const ranges: { range: KeyRange; image: LayerFile | undefined }[] = [];
  for (const range of between(cuts)) {
    const image = visibleImage(range.from, levels);
    ranges.push({ range, image });
    if (image !== undefined && !images.has(image)) images.set(image, await image.open());
    if (yielder.due()) await yielder.yield();
  }
  const units: Unit[] = [];
  for (const { range, image } of ranges) {
    const open = image && images.get(image);
    if (image === undefined || open === undefined) {
      units.push({ range, image, imageLsn: -1, imageBytes: 0, changeBytes: 0, layers: 0 });
      continue;
    }
    const bytes = image.descriptor.sizeBytes / Math.max(open.firstKeys.length, 1);
    const inside = open.firstKeys.filter(
      (key) => compareKeys(key, range.from) > 0 && compareKeys(key, range.to) < 0,
    );
    for (const part of between([range.from, ...inside, range.to])) {
      units.push({
        range: part,
        image,
        imageLsn: image.endLsn,
        imageBytes: bytes,
        changeBytes: 0,
        layers: 0,
      });
    }
  }
  return units;
}

async function measureChanges(units: readonly Unit[], levels: readonly MapLevel[]): Promise<void> {
  const yielder = new Yielder();
  for (const { map, upTo } of levels) {
    for (const layer of map.deltas) {
      if (layer.startLsn >= upTo) continue;
      // What lies above the branch point is not seen.
      const endLsn = lsnMin(layer.endLsn, upTo);
      if (!units.some((unit) => endLsn > unit.imageLsn && someOverlaps(layer.spans, unit.range))) continue;
      const open = await layer.open();
      const bytes = layer.descriptor.sizeBytes / Math.max(open.firstKeys.length, 1);
      for (const unit of units) {
        if (endLsn <= unit.imageLsn || !someOverlaps(layer.spans, unit.range)) continue;
        unit.layers++;
        unit.changeBytes += bytes * Math.max(countWithin(open.firstKeys, unit.range), 0.01);
      }
      if (yielder.due()) await yielder.yield();
    }
  }
}

/** How many sorted keys lie in a range. */
function countWithin(keys: readonly Key[], range: KeyRange): number {
  return countBelow(keys, range.to) - countBelow(keys, range.from);
}

function countBelow(keys: readonly Key[], key: Key): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareKeys(keys[middle] as Key, key) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

function visibleImage(key: Key, levels: readonly MapLevel[]): LayerFile | undefined {
  for (const { map, upTo } of levels) {
    const image = map.imageFor(key, upTo);
    if (image !== undefined) return image;
  }
  return undefined;
}

/** The ranges between some keys. */
function between(cuts: readonly Key[]): KeyRange[] {
  const sorted = [...cuts].sort(compareKeys);
  const ranges: KeyRange[] = [];
  for (const [i, from] of sorted.entries()) {
    const to = sorted[i + 1];
    if (to !== undefined && compareKeys(from, to) < 0) ranges.push({ from, to });
  }
  return ranges;
}

/** The wanted units, together with those between them that are small, unless they have images at this LSN already. */
function joined(units: readonly Unit[], wanted: readonly boolean[], lsn: number): KeyRange[] {
  const ranges: KeyRange[] = [];
  let gapBytes = 0;
  for (const [i, unit] of units.entries()) {
    if (!wanted[i]) {
      gapBytes += unit.imageLsn === lsn ? Number.POSITIVE_INFINITY : unit.imageBytes;
      continue;
    }
    const last = ranges.at(-1);
    if (last !== undefined && gapBytes <= GAP_BYTES) {
      ranges[ranges.length - 1] = { from: last.from, to: unit.range.to };
    } else {
      ranges.push(unit.range);
    }
    gapBytes = 0;
  }
  return ranges;
}
