/**
 * What a timeline should contain, as simply as it can be said: a sorted list of versions per key. A value's bytes
 * follow from its number, so that a model remembers numbers and a check makes the bytes again.
 */
import assert from "node:assert/strict";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { type Key, ValueFlag, compareKeys } from "../../src/storage/key.ts";
import { type KeyRange, formatKey, parseKey, rangeContains } from "../../src/storage/key-range.ts";
import type { ImageSource, StoredValue, TimelineStore } from "../../src/storage/store.ts";
import { NO_BLOB } from "../../src/storage/store.ts";

export interface Version {
  readonly lsn: number;
  readonly flags: number;
  /** Number and size of the blob. */
  readonly id: number;
  readonly sizeBytes: number;
}

/** The content of a key: numbers of the blobs since the last base; undefined if it does not exist. */
export type State = readonly number[] | undefined;

const ID_SIZE = 4;
const IMAGE_MARK = 0xffffffff;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The bytes of blob `id`: its number, then a pattern. */
export function blobBytes(id: number, sizeBytes: number): Uint8Array {
  const bytes = new Uint8Array(Math.max(sizeBytes, ID_SIZE));
  new DataView(bytes.buffer).setUint32(0, id, true);
  for (let i = ID_SIZE; i < bytes.length; i++) bytes[i] = (id * 31 + i * 7) & 0xff;
  return bytes;
}

export class ModelTimeline {
  readonly parent: { readonly model: ModelTimeline; readonly lsn: number } | undefined;
  private readonly versions = new Map<string, Version[]>();

  constructor(parent?: { model: ModelTimeline; lsn: number }) {
    this.parent = parent;
  }

  put(key: Key, version: Version): void {
    const name = formatKey(key);
    const list = this.versions.get(name) ?? [];
    if (list.at(-1)?.lsn === version.lsn) list.pop();
    list.push(version);
    this.versions.set(name, list);
  }

  /** Forgets everything above an LSN. */
  truncate(lsn: number): void {
    for (const [name, list] of this.versions) {
      this.versions.set(
        name,
        list.filter((version) => version.lsn <= lsn),
      );
    }
  }

  /** Every key ever written, here or in an ancestor, in order. */
  keys(): Key[] {
    const names = new Set<string>();
    for (let model: ModelTimeline | undefined = this.self(); model; model = model.parent?.model) {
      for (const name of model.versions.keys()) names.add(name);
    }
    return [...names].sort().map(parseKey);
  }

  /** Versions at or below `lsn` and above `floor`, newest first, down to a base; the ancestors' too. */
  chain(key: Key, lsn: number, floor = -1): Version[] {
    const found: Version[] = [];
    let upTo = lsn;
    for (let model: ModelTimeline | undefined = this.self(); model; model = model.parent?.model) {
      const list = model.versions.get(formatKey(key)) ?? [];
      for (let i = list.length - 1; i >= 0; i--) {
        const version = list[i];
        if (version === undefined || version.lsn > upTo) continue;
        if (version.lsn <= floor) return found;
        found.push(version);
        upTo = version.lsn - 1;
        if ((version.flags & ~ValueFlag.Record) !== 0) return found;
      }
      upTo = Math.min(upTo, model.parent?.lsn ?? upTo);
    }
    return found;
  }

  exists(key: Key, lsn: number): boolean {
    const name = formatKey(key);
    let upTo = lsn;
    for (let model: ModelTimeline | undefined = this.self(); model; model = model.parent?.model) {
      const newest = model.versions.get(name)?.findLast((version) => version.lsn <= upTo);
      if (newest) return newest.flags !== ValueFlag.Tombstone;
      upTo = Math.min(upTo, model.parent?.lsn ?? upTo);
    }
    return false;
  }

  state(key: Key, lsn: number): State {
    return apply(
      undefined,
      this.chain(key, lsn)
        .reverse()
        .map((v) => ({ flags: v.flags, ids: [v.id] })),
    );
  }

  private self(): ModelTimeline {
    return this;
  }
}

function apply(start: State, changes: readonly { flags: number; ids: readonly number[] }[]): State {
  let state: number[] | undefined = start && [...start];
  for (const { flags, ids } of changes) {
    if (flags & ValueFlag.Tombstone) state = undefined;
    else if (flags & (ValueFlag.Image | ValueFlag.WillInit)) state = [...ids];
    else for (const id of ids) (state ??= []).push(id);
  }
  return state;
}

/** The state that values from a store lead to; checks that every byte of them is what was once written. */
export function stateOf(values: readonly StoredValue[], start?: State): State {
  const changes = [...values].reverse().map((value) => ({ flags: value.flags, ids: idsOf(value) }));
  return apply(start, changes);
}

function idsOf(value: StoredValue): number[] {
  const { bytes } = value;
  if (value.flags & ValueFlag.Tombstone) {
    assert.equal(bytes.length, 0);
    return [];
  }
  const id = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  if (id === IMAGE_MARK) return JSON.parse(decoder.decode(bytes.subarray(ID_SIZE))) as number[];
  assert.ok(Buffer.from(blobBytes(id, bytes.length)).equals(bytes), `the bytes of blob ${id} are wrong`);
  return [id];
}

/** The bytes of an image: a mark in the place of the number, then the numbers that it stands for. */
export function imageBytes(state: readonly number[]): Uint8Array {
  return Uint8Array.from([0xff, 0xff, 0xff, 0xff, ...encoder.encode(JSON.stringify(state))]);
}

export function putBoth(
  store: TimelineStore,
  model: ModelTimeline,
  keys: readonly Key[],
  version: Version,
): void {
  const bytes = blobBytes(version.id, version.sizeBytes);
  const blob = store.append(bytes, 0, bytes.length);
  for (const key of keys) {
    // What does not exist needs a base first.
    const flags =
      !model.exists(key, version.lsn - 1) && version.flags === ValueFlag.Record
        ? ValueFlag.Image
        : version.flags;
    const handle = store.intern(key.kind, key.spcOid, key.dbOid, key.relNumber, key.fork);
    store.put(handle, key.block, toLsn(version.lsn), flags, flags & ValueFlag.Tombstone ? NO_BLOB : blob);
    model.put(key, { ...version, flags });
  }
}

/** Checks one key at one LSN, as a whole or from a floor on. */
export async function checkGet(
  store: TimelineStore,
  model: ModelTimeline,
  key: Key,
  at: { lsn: number; floor?: number | undefined },
): Promise<void> {
  const floor = at.floor === undefined ? undefined : toLsn(at.floor);
  const { values, base } = await store.get(key, toLsn(at.lsn), floor);
  const where = `${formatKey(key)} at ${at.lsn} above ${at.floor}`;
  checkOrder(values, at.lsn, at.floor ?? -1, where);
  const newest = values.at(-1);
  const endsInBase = newest !== undefined && (newest.flags & ~ValueFlag.Record) !== 0;
  assert.equal(base, endsInBase ? "found" : base === "missing" ? "missing" : "floor", where);
  if (base === "floor") assert.notEqual(floor, undefined, where);
  const start = base === "floor" ? model.state(key, Math.min(at.floor ?? 0, at.lsn)) : undefined;
  assert.deepEqual(stateOf(values, start), model.state(key, at.lsn), where);
}

function checkOrder(values: readonly StoredValue[], lsn: number, floor: number, where: string): void {
  let above = lsn + 1;
  for (const [i, value] of values.entries()) {
    assert.ok(value.lsn < above && value.lsn > floor, `${where}: LSN ${value.lsn}`);
    above = value.lsn;
    const isBase = (value.flags & ~ValueFlag.Record) !== 0;
    assert.ok(!isBase || i === values.length - 1, `${where}: values below a base`);
  }
}

/** Checks that a scan returns exactly the keys that exist, in order, with the right content. */
export async function checkScan(
  store: TimelineStore,
  model: ModelTimeline,
  range: KeyRange,
  lsn: number,
): Promise<void> {
  const expected = model
    .keys()
    .filter((key) => rangeContains(range, key) && model.state(key, lsn) !== undefined);
  await checkScanned(store.scan(range, toLsn(lsn)), model, expected, lsn);
}

/** The same for a scan that was begun before; `expected` are the keys at that time. */
export async function checkScanned(
  scan: ReturnType<TimelineStore["scan"]>,
  model: ModelTimeline,
  expected: readonly Key[],
  lsn: number,
): Promise<void> {
  let count = 0;
  for await (const batch of scan) {
    assert.ok(batch.length > 0);
    for (const { key, values, base } of batch) {
      const wanted = expected[count++];
      assert.ok(wanted !== undefined && compareKeys(wanted, key) === 0, `key ${formatKey(key)} at ${lsn}`);
      checkOrder(values, lsn, -1, formatKey(key));
      assert.equal(base, "found");
      assert.deepEqual(stateOf(values), model.state(key, lsn), `${formatKey(key)} at ${lsn}`);
    }
  }
  assert.equal(count, expected.length, `keys at ${lsn}`);
}

/** The states of a scan as images, in batches of a few. */
export async function* imagesOf(store: TimelineStore, range: KeyRange, lsn: Lsn): ImageSource {
  for await (const batch of store.scan(range, lsn)) {
    yield batch.map(({ key, values }) => ({ key, bytes: imageBytes(stateOf(values) ?? []) }));
  }
}
