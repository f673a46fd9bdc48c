/**
 * The index of a timeline: which layer files make it up. What the index does not name does not exist. One JSON
 * object whose first members are magic and version and whose last is a CRC-32C over all bytes before it; described
 * in `docs/formats/index-file.md`. Replaced as a whole, by an atomic rename.
 */
import { crc32c } from "../base/crc32c.ts";
import { ErrorCode, NeonError, corrupt, messageOf } from "../base/errors.ts";
import { type Lsn, formatLsn, parseLsn } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import { KEY_SIZE, compareKeys } from "./key.ts";
import { type KeyRange, parseKey } from "./key-range.ts";
import { checkSpans } from "./key-spans.ts";
import type { LayerDescriptor } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import { type RetainedPoint, type Retention, type Stretch, stretchEnds } from "./retention.ts";

export const INDEX_FILE_NAME = "index.json";
export const TEMPORARY_SUFFIX = ".tmp";

export interface TimelineIndex {
  /** Where the timeline begins. */
  readonly startLsn: Lsn;
  /** Every value at or below it is in the layers. */
  readonly durableLsn: Lsn;
  /** Goes into the name of the next layer file; never used twice. */
  readonly nextFile: number;
  /** Undefined as long as all history is there. */
  readonly retention?: Retention | undefined;
  /** In the order in which they were added. */
  readonly layers: readonly LayerDescriptor[];
}

export const HEAD = '{"magic":"neon-timeline-index","version":';
/** An index that retains less than all of the history has the second version, so that none reads what is not there. */
export const VERSION = 1;
export const VERSION_WITH_RETENTION = 2;
export const CRC_HEAD = ',"crc32c":"';
export const CRC_TAIL = '"}\n';
const TAIL_SIZE = CRC_HEAD.length + 8 + CRC_TAIL.length;
/** More than an index of a million layers takes. */
const INDEX_SIZE_MAX = 512 * 1024 * 1024;
const KEY_DIGITS = KEY_SIZE * 2;
const LAYER_NAME = /^[0-9A-Za-z][0-9A-Za-z._-]{0,199}\.(delta|image)$/;

/** Throws `corrupt` with file and offset. */
export function decodeIndex(bytes: Uint8Array, path: string): TimelineIndex {
  const wrong = (what: string, offset: number, cause?: unknown) =>
    corrupt(`${path}: ${what}`, { file: path, offset }, cause);
  if (bytes.length > INDEX_SIZE_MAX) throw wrong(`index of ${bytes.length} bytes`, 0);
  const text = (start: number, end: number) => new TextDecoder().decode(bytes.subarray(start, end));
  if (text(0, HEAD.length) !== HEAD) throw wrong("does not begin as an index of a timeline does", 0);
  const end = bytes.length - TAIL_SIZE;
  const tail = end >= HEAD.length ? text(end, bytes.length) : "";
  if (!tail.startsWith(CRC_HEAD) || !tail.endsWith(CRC_TAIL)) {
    throw wrong("does not end as an index of a timeline does", Math.max(end, 0));
  }
  const expected = tail.slice(CRC_HEAD.length, CRC_HEAD.length + 8);
  const found = crc32c(bytes, 0, end).toString(16).padStart(8, "0");
  if (found !== expected) throw wrong(`does not match its checksum ${expected}`, end);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text(0, bytes.length));
  } catch (error) {
    throw wrong(`is no JSON: ${messageOf(error)}`, 0, error);
  }
  const version = numberOf(parsed, "version");
  if (version !== VERSION && version !== VERSION_WITH_RETENTION) {
    throw wrong(`has version ${version}, known are ${VERSION} and ${VERSION_WITH_RETENTION}`, HEAD.length);
  }
  try {
    return readFields(memberOf(parsed, "index"));
  } catch (error) {
    throw wrong(messageOf(error), HEAD.length, error);
  }
}

/** Throws `not_found` if there is no index. */
export async function readIndex(path: string, files: Files): Promise<TimelineIndex> {
  return decodeIndex(await readIndexBytes(path, files), path);
}

/** Throws `not_found` if there is no such file. */
export async function readIndexBytes(path: string, files: Files): Promise<Uint8Array> {
  const bytes = await files.readWhole(path);
  if (bytes === undefined) throw new NeonError(ErrorCode.NotFound, `${path} does not exist`);
  return bytes;
}

function readFields(index: unknown): TimelineIndex {
  const layers = memberOf(index, "layers");
  if (!Array.isArray(layers)) throw corrupt('"layers" is no list');
  const names = new Set<string>();
  const startLsn = lsnOf(index, "start_lsn");
  const durableLsn = lsnOf(index, "durable_lsn");
  if (durableLsn < startLsn) throw corrupt("ends before it starts");
  return {
    startLsn,
    durableLsn,
    nextFile: numberOf(index, "next_file"),
    ...readRetention(index, startLsn, durableLsn),
    layers: layers.map((layer: unknown) => {
      const descriptor = readLayer(layer);
      if (names.has(descriptor.name)) throw corrupt(`names ${descriptor.name} twice`);
      if (descriptor.endLsn > durableLsn) throw corrupt(`${descriptor.name} goes beyond the durable LSN`);
      names.add(descriptor.name);
      return descriptor;
    }),
  };
}

function readRetention(index: unknown, startLsn: Lsn, durableLsn: Lsn): { retention?: Retention } {
  if (typeof index !== "object" || index === null || !("retention" in index)) return {};
  const points = memberOf(index.retention, "points");
  if (!Array.isArray(points)) throw corrupt('"points" is no list');
  const retention = {
    cutoff: readPoint(memberOf(index.retention, "cutoff")),
    points: points.map(readPoint),
    ...readStretches(index.retention),
  };
  const checkOrder = (ascending: readonly RetainedPoint[]): void => {
    let last: number = startLsn - 1;
    for (const { lsn } of [...ascending, retention.cutoff]) {
      if (lsn <= last || lsn > durableLsn) throw corrupt(`retains ${formatLsn(lsn)} out of order`);
      last = lsn;
    }
  };
  checkOrder(retention.points);
  checkOrder(stretchEnds(retention.stretches ?? []));
  return { retention };
}

function readStretches(retention: unknown): { stretches?: readonly Stretch[] } {
  if (typeof retention !== "object" || retention === null || !("stretches" in retention)) return {};
  const { stretches } = retention;
  if (!Array.isArray(stretches)) throw corrupt('"stretches" is no list');
  return {
    stretches: stretches.map((stretch: unknown) => ({
      from: readPoint(memberOf(stretch, "from")),
      to: readPoint(memberOf(stretch, "to")),
    })),
  };
}

function readPoint(point: unknown): RetainedPoint {
  const commitMs = memberOf(point, "commit_ms") === null ? null : numberOf(point, "commit_ms");
  const isExact = typeof point === "object" && point !== null && "commit_us" in point;
  return {
    lsn: lsnOf(point, "lsn"),
    previousLsn: lsnOf(point, "previous_lsn"),
    commitMs: isExact ? numberOf(point, "commit_us") / 1000 : commitMs,
  };
}

function readLayer(layer: unknown): LayerDescriptor {
  const name = stringOf(layer, "name");
  if (!LAYER_NAME.test(name)) throw corrupt(`"${name.slice(0, 250)}" is no name of a layer`);
  const startLsn = lsnOf(layer, "start_lsn");
  const endLsn = lsnOf(layer, "end_lsn");
  const range = { from: parseKey(stringOf(layer, "from_key")), to: parseKey(stringOf(layer, "to_key")) };
  if (endLsn < startLsn) throw corrupt(`${name} ends before it starts`);
  if (compareKeys(range.from, range.to) >= 0) throw corrupt(`${name} covers no key`);
  return {
    name,
    kind: name.endsWith(".delta") ? LayerKind.Delta : LayerKind.Image,
    startLsn,
    endLsn,
    range,
    sizeBytes: numberOf(layer, "size_bytes"),
    valueCount: numberOf(layer, "values"),
    ...readSpans(layer, range),
    ...(isSet(layer, "derived") ? { derived: true as const } : {}),
    ...(isSet(layer, "merged") ? { merged: true as const } : {}),
  };
}

function readSpans(layer: unknown, range: KeyRange): { spans?: readonly KeyRange[] } {
  if (typeof layer !== "object" || layer === null || !("spans" in layer)) return {};
  const { spans: texts } = layer;
  if (!Array.isArray(texts)) throw corrupt('"spans" is no list');
  const spans = texts.map((text: unknown) => {
    if (typeof text !== "string") throw corrupt('"spans" holds what is no text');
    return { from: parseKey(text.slice(0, KEY_DIGITS)), to: parseKey(text.slice(KEY_DIGITS)) };
  });
  checkSpans(spans, range);
  return { spans };
}

function isSet(layer: unknown, name: "derived" | "merged"): boolean {
  if (typeof layer !== "object" || layer === null || !(name in layer)) return false;
  if (memberOf(layer, name) !== true) throw corrupt(`"${name}" is not true`);
  return true;
}

function memberOf(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null || !(name in value)) throw corrupt(`"${name}" is missing`);
  return (value as Record<string, unknown>)[name];
}

function stringOf(value: unknown, name: string): string {
  const member = memberOf(value, name);
  if (typeof member !== "string") throw corrupt(`"${name}" is no string`);
  return member;
}

function numberOf(value: unknown, name: string): number {
  const member = memberOf(value, name);
  if (typeof member !== "number" || !Number.isSafeInteger(member) || member < 0) {
    throw corrupt(`"${name}" is no count`);
  }
  return member;
}

function lsnOf(value: unknown, name: string): Lsn {
  const lsn = parseLsn(stringOf(value, name));
  if (lsn === undefined) throw corrupt(`"${name}" is no LSN`);
  return lsn;
}
