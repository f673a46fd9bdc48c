/**
 * Checks the files of one timeline's store: the index, every layer file that it names, whether the layers cover the
 * timeline's history without a hole, and what lies beside them. Reads only, and may run while the store is worked on:
 * layers never change, the index is replaced as a whole, and the store says which files it is writing.
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import { type CheckOptions, checkLayer } from "./check-layer.ts";
import type { Findings } from "./findings.ts";
import { INDEX_FILE_NAME, type TimelineIndex, readIndex } from "./index-file.ts";
import { INDEX_COPY_NAME } from "./index-copy.ts";
import { type KeyRange, formatKey } from "./key-range.ts";
import { compareKeys } from "./key.ts";
import { type LayerDescriptor, LayerFile } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import { isLayerSetFile } from "./layer-set.ts";
import { StoreCache } from "./store-cache.ts";
import type { TimelineStore } from "./store.ts";

/** What there is to check, known before the long part of it begins. */
export interface StoreToCheck {
  readonly directory: string;
  /** Undefined if it cannot be read. */
  readonly index: TimelineIndex | undefined;
  /** Those of the index; where that cannot be read, those that the open store knows. */
  readonly layers: readonly LayerDescriptor[];
  /** Size of all layer files, in bytes. */
  readonly sizeBytes: number;
}

export interface StoreExpectations {
  /** The store, if it is open. */
  readonly open?: TimelineStore | undefined;
  /** Where the timeline begins, if something else than the index says so. */
  readonly startLsn?: Lsn | undefined;
  /** A store without ancestor must hold images of all keys in this range where it begins. */
  readonly imagesOf?: KeyRange | undefined;
}

/** Reads the index, compares it with what is known otherwise, and looks for holes. */
export async function openToCheck(
  directory: string,
  expected: StoreExpectations,
  findings: Findings,
  files: Files,
): Promise<StoreToCheck> {
  const { open } = expected;
  const path = `${directory}/${INDEX_FILE_NAME}`;
  const knownLsn = open?.durableLsn;
  let index: TimelineIndex | undefined;
  try {
    index = await readIndex(path, files);
  } catch (error) {
    if (error instanceof NeonError && error.code === ErrorCode.NotFound)
      findings.corrupt("it is missing", path);
    else findings.addError(error, path);
  }
  if (index !== undefined) {
    if (expected.startLsn !== undefined && index.startLsn !== expected.startLsn) {
      const wanted = formatLsn(expected.startLsn);
      findings.corrupt(`begins at ${formatLsn(index.startLsn)}, the timeline at ${wanted}`, path);
    }
    if (knownLsn !== undefined && index.durableLsn < knownLsn) {
      const known = formatLsn(knownLsn);
      findings.corrupt(
        `ends at ${formatLsn(index.durableLsn)}, but the pageserver had reached ${known}`,
        path,
      );
    }
    for (const hole of holesIn(index, expected.imagesOf)) findings.corrupt(hole, path);
  }
  await checkCopy(`${directory}/${INDEX_COPY_NAME}`, findings, files);
  const layers = index?.layers ?? open?.layers() ?? [];
  const sizeBytes = layers.reduce((total, layer) => total + layer.sizeBytes, 0);
  return { directory, index, layers, sizeBytes };
}

/** It is missing where nothing was published yet, or where an earlier version of the program has written last. */
async function checkCopy(path: string, findings: Findings, files: Files): Promise<void> {
  try {
    await readIndex(path, files);
  } catch (error) {
    if (!(error instanceof NeonError && error.code === ErrorCode.NotFound)) findings.addError(error, path);
  }
}

/** Reads every layer, then looks for files that nothing names. */
export async function checkStore(
  store: StoreToCheck,
  open: TimelineStore | undefined,
  findings: Findings,
  files: Files,
  options: CheckOptions = {},
): Promise<void> {
  const { directory } = store;
  // Its own, so that a check neither fills the cache of those who work nor is spared a read by it.
  await using cache = new StoreCache({ capacityBytes: 0, handlesMax: 1 }, { files });
  for (const descriptor of store.layers) {
    options.signal?.throwIfAborted();
    const path = `${directory}/${descriptor.name}`;
    const here = await sizeOf(files, path);
    if (here === undefined) {
      if (await isNamed(directory, descriptor.name, files)) findings.corrupt("it is missing", path);
      continue;
    }
    await checkLayer(new LayerFile(path, descriptor, cache), findings, options);
    cache.handles.forget(path);
  }
  await findLeftovers(store, open, findings, files);
}

async function sizeOf(files: Files, path: string): Promise<number | undefined> {
  try {
    const handle = await files.open(path, "r");
    try {
      return await handle.size();
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    // The check of the layer meets it again and reports it.
    return 0;
  }
}

/** Whether the index names a layer now: one that has gone may have been replaced meanwhile. */
async function isNamed(directory: string, name: string, files: Files): Promise<boolean> {
  try {
    const { layers } = await readIndex(`${directory}/${INDEX_FILE_NAME}`, files);
    return layers.some((layer) => layer.name === name);
  } catch {
    return true;
  }
}

async function findLeftovers(
  store: StoreToCheck,
  open: TimelineStore | undefined,
  findings: Findings,
  files: Files,
): Promise<void> {
  const { directory } = store;
  // In this order: what is published between the two is in the index by then.
  const writing = open?.filesBeingWritten() ?? new Set();
  const names = await files.list(directory);
  // What an index that cannot be read would have named is not known, unless it was read when the store was opened.
  if (store.index === undefined && open === undefined) return;
  let layers = open?.layers() ?? store.layers;
  if (store.index !== undefined) {
    try {
      ({ layers } = await readIndex(`${directory}/${INDEX_FILE_NAME}`, files));
    } catch (error) {
      findings.addError(error, `${directory}/${INDEX_FILE_NAME}`);
      return;
    }
  }
  const begun = open?.filesBeingWritten() ?? new Set();
  const named = new Set(layers.map((layer) => layer.name));
  for (const name of names) {
    if (
      name === INDEX_FILE_NAME ||
      name === INDEX_COPY_NAME ||
      named.has(name) ||
      writing.has(name) ||
      begun.has(name)
    )
      continue;
    const what = isLayerSetFile(name) ? "no index names it" : "it is no file of a store; nobody removes it";
    findings.garbage(what, `${directory}/${name}`);
  }
}

/**
 * LSNs and keys that no layer covers, in words. Below the GC cutoff layers are missing where images cover their keys;
 * from the cutoff on, nothing may be.
 */
export function holesIn(index: TimelineIndex, imagesOf: KeyRange | undefined): string[] {
  const holes: string[] = [];
  const cutoff = index.retention?.cutoff.lsn;
  const deltas = index.layers.filter((layer) => layer.kind === LayerKind.Delta);
  deltas.sort((a, b) => a.startLsn - b.startLsn);
  let covered = imagesOf === undefined ? index.startLsn : firstImageLsn(index);
  if (covered === undefined) return ["names no image of the whole timeline to begin with"];
  if (imagesOf !== undefined) {
    const lsn = cutoff ?? covered;
    const images = index.layers.filter(
      (layer) =>
        layer.kind === LayerKind.Image && (cutoff === undefined ? layer.endLsn === lsn : layer.endLsn <= lsn),
    );
    holes.push(
      ...holesInKeys(images, imagesOf).map((keys) => `has no image of ${keys} at ${formatLsn(lsn)}`),
    );
  }
  if (cutoff !== undefined && cutoff > covered) covered = cutoff;
  const wholes = (index.retention?.stretches ?? []).map(({ from, to }) => ({ from: from.lsn, to: to.lsn }));
  for (const whole of [...wholes, { from: covered, to: index.durableLsn }]) {
    holes.push(...holesBetween(whole, deltas, index.durableLsn));
  }
  return holes;
}

/** `deltas` by where they begin. */
function holesBetween(
  { from, to }: { from: Lsn; to: Lsn },
  deltas: readonly LayerDescriptor[],
  end: Lsn,
): string[] {
  const holes: string[] = [];
  let covered = from;
  for (const { startLsn, endLsn } of deltas) {
    if (startLsn >= to) break;
    if (startLsn > covered) holes.push(`has no layer from ${formatLsn(covered)} to ${formatLsn(startLsn)}`);
    if (endLsn > covered) covered = endLsn;
  }
  if (covered < to) {
    const where = to === end ? "its end, " : "";
    holes.push(`has no layer from ${formatLsn(covered)} to ${where}${formatLsn(to)}`);
  }
  return holes;
}

function firstImageLsn(index: TimelineIndex): Lsn | undefined {
  const images = index.layers.filter((layer) => layer.kind === LayerKind.Image);
  return images.map((layer) => layer.endLsn).sort((a, b) => a - b)[0];
}

/** Parts of a range that image layers at one LSN do not cover, or cover twice. */
function holesInKeys(images: readonly LayerDescriptor[], range: KeyRange): string[] {
  const sorted = images.map((layer) => layer.range).sort((a, b) => compareKeys(a.from, b.from));
  const holes: string[] = [];
  let covered = range.from;
  for (const { from, to } of sorted) {
    if (compareKeys(from, covered) > 0) holes.push(`keys from ${formatKey(covered)} to ${formatKey(from)}`);
    if (compareKeys(to, covered) > 0) covered = to;
  }
  if (compareKeys(covered, range.to) < 0) {
    holes.push(`keys from ${formatKey(covered)} to ${formatKey(range.to)}`);
  }
  return holes;
}
