/**
 * An index that cannot be read, made again: from its copy, where all that it names is there and whole; otherwise from the
 * layer files, which say themselves what they hold. That only where it leaves no doubt: every file whole, no two that hold
 * the same, no hole between them, and none ever replaced or removed, which shows in the numbers of the files. (What
 * garbage collection has left of the history stands in the index and its copy only.)
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import { type CheckOptions, checkLayer } from "./check-layer.ts";
import { Findings } from "./findings.ts";
import { holesIn } from "./fsck.ts";
import { INDEX_COPY_NAME } from "./index-copy.ts";
import { encodeIndex } from "./index-encoder.ts";
import { INDEX_FILE_NAME, TEMPORARY_SUFFIX, type TimelineIndex, readIndex } from "./index-file.ts";
import type { KeyRange } from "./key-range.ts";
import { compareKeys } from "./key.ts";
import { decodeFooter, decodeHeader } from "./layer-codec.ts";
import { type LayerDescriptor, LayerFile } from "./layer-file.ts";
import { FOOTER_SIZE, HEADER_SIZE, LayerKind } from "./layer-format.ts";
import { readExactly } from "./read-file.ts";
import { StoreCache } from "./store-cache.ts";

export interface RebuildOptions extends CheckOptions {
  /** Where the timeline begins; of a root, where its first images are. */
  readonly startLsn?: Lsn | undefined;
  /** A store without ancestor must hold images of all keys in this range where it begins. */
  readonly imagesOf?: KeyRange | undefined;
}

export type RebuiltIndex =
  | { readonly kind: "index"; readonly index: TimelineIndex; readonly from: "copy" | "layers" }
  /** Why there can be none. */
  | { readonly kind: "impossible"; readonly why: string };

/** Reads every layer file in a directory; writes nothing. */
export async function rebuildIndex(
  directory: string,
  options: RebuildOptions,
  files: Files,
): Promise<RebuiltIndex> {
  const names = (await files.list(directory)).filter((name) => /\.(delta|image)$/.test(name));
  const copied = await indexOfCopy(directory, names, options, files);
  if (typeof copied !== "string") return { kind: "index", index: copied, from: "copy" };
  const rebuilt = await indexOfLayers(directory, names, options, files);
  if (rebuilt.kind === "index") return rebuilt;
  return { kind: "impossible", why: `${rebuilt.why}; and its copy ${copied}` };
}

/** What the copy says, if there is no doubt about it; otherwise what is wrong with it, in words. */
async function indexOfCopy(
  directory: string,
  names: readonly string[],
  options: RebuildOptions,
  files: Files,
): Promise<TimelineIndex | string> {
  let index: TimelineIndex;
  try {
    index = await readIndex(`${directory}/${INDEX_COPY_NAME}`, files);
  } catch (error) {
    return error instanceof NeonError && error.code === ErrorCode.NotFound ? "is missing" : "cannot be read";
  }
  if (options.startLsn !== undefined && index.startLsn !== options.startLsn) {
    return `begins at ${formatLsn(index.startLsn)}, the timeline at ${formatLsn(options.startLsn)}`;
  }
  const named = new Map(index.layers.map((layer) => [layer.name, layer]));
  for (const name of named.keys()) if (!names.includes(name)) return `names ${name}, which is missing`;
  for (const name of names) {
    const layer = named.get(name);
    const found = await describeLayer(directory, name, options, files, layer);
    if (layer !== undefined && typeof found === "string") return `names ${name}, which is damaged: ${found}`;
    // It was written by a program that knows of no copy, which may be far behind then.
    if (layer === undefined && typeof found !== "string" && found.endLsn > index.durableLsn)
      return `does not know of ${name}`;
  }
  const [hole] = holesIn(index, options.imagesOf);
  return hole ?? index;
}

async function indexOfLayers(
  directory: string,
  names: readonly string[],
  options: RebuildOptions,
  files: Files,
): Promise<RebuiltIndex> {
  const impossible = (why: string): RebuiltIndex => ({ kind: "impossible", why });
  const layers: LayerDescriptor[] = [];
  for (const name of names) {
    const read = await describeLayer(directory, name, options, files);
    if (typeof read === "string") return impossible(`${name}: ${read}`);
    layers.push(read);
  }
  layers.sort((a, b) => numberOf(a) - numberOf(b));
  if (layers.some((layer, i) => numberOf(layer) !== i + 1)) {
    return impossible(
      "layers were replaced or removed, and what of the history is whole since then stood there only",
    );
  }
  const twice = overlap(layers);
  if (twice !== undefined) return impossible(`${twice.join(" and ")} hold the same part of the history`);
  const startLsn = options.startLsn ?? firstImage(layers);
  if (startLsn === undefined) return impossible("there is no image to begin with");
  const durableLsn = layers.reduce((end, layer) => (layer.endLsn > end ? layer.endLsn : end), startLsn);
  const index: TimelineIndex = { startLsn, durableLsn, nextFile: layers.length + 1, layers };
  const [hole] = holesIn(index, options.imagesOf);
  return hole === undefined ? { kind: "index", index, from: "layers" } : impossible(`the timeline ${hole}`);
}

/** Puts an index in the place of one that cannot be read. Durable when it returns. */
export async function replaceIndex(directory: string, index: TimelineIndex, files: Files): Promise<void> {
  const path = `${directory}/${INDEX_FILE_NAME}`;
  const handle = await files.open(path + TEMPORARY_SUFFIX, "w");
  try {
    await handle.write(encodeIndex(index), 0);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await files.rename(path + TEMPORARY_SUFFIX, path);
  await files.syncDirectory(directory);
}

/** What a layer file says about itself, once all of it has been verified; or what is wrong with it. */
async function describeLayer(
  directory: string,
  name: string,
  options: CheckOptions,
  files: Files,
  known?: LayerDescriptor,
): Promise<LayerDescriptor | string> {
  const path = `${directory}/${name}`;
  const findings = new Findings();
  await using cache = new StoreCache({ capacityBytes: 0, handlesMax: 1 }, { files });
  try {
    const descriptor = known ?? (await readDescriptor(path, name, files));
    await checkLayer(new LayerFile(path, descriptor, cache), findings, options);
    if (findings.list[0] === undefined) return descriptor;
  } catch (error) {
    options.signal?.throwIfAborted();
    findings.addError(error, path);
  }
  return findings.list[0]?.what ?? "it cannot be read";
}

async function readDescriptor(path: string, name: string, files: Files): Promise<LayerDescriptor> {
  const handle = await files.open(path, "r");
  try {
    const sizeBytes = await handle.size();
    const head = await readExactly(handle, 0, HEADER_SIZE, path);
    const { kind, startLsn, endLsn } = decodeHeader(head, path);
    const foot = await readExactly(handle, Math.max(sizeBytes - FOOTER_SIZE, 0), FOOTER_SIZE, path);
    const { range, valueCount } = decodeFooter(foot, sizeBytes, path);
    return { name, kind, startLsn, endLsn, range, sizeBytes, valueCount };
  } finally {
    await handle.close();
  }
}

/** Names of flushed and imported layers begin with a number, counted from 1; 0 for other names. */
function numberOf(layer: LayerDescriptor): number {
  return Number(/^(\d{8})-/.exec(layer.name)?.[1] ?? 0);
}

function firstImage(layers: readonly LayerDescriptor[]): Lsn | undefined {
  const images = layers.filter((layer) => layer.kind === LayerKind.Image).map((layer) => layer.endLsn);
  return images.sort((a, b) => a - b)[0];
}

/** Two layers of a kind that share keys and LSNs: one of them was replaced by the other, or never counted. */
function overlap(layers: readonly LayerDescriptor[]): [string, string] | undefined {
  for (const [i, a] of layers.entries()) {
    for (const b of layers.slice(i + 1)) {
      if (a.kind !== b.kind || !shareKeys(a.range, b.range)) continue;
      const share =
        a.kind === LayerKind.Image ? a.endLsn === b.endLsn : a.startLsn < b.endLsn && b.startLsn < a.endLsn;
      if (share) return [a.name, b.name];
    }
  }
  return undefined;
}

function shareKeys(a: KeyRange, b: KeyRange): boolean {
  return compareKeys(a.from, b.to) < 0 && compareKeys(b.from, a.to) < 0;
}
