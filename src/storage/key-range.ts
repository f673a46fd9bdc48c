/**
 * Ranges of keys and the 18-byte form of a key (layout in `key.ts`). A range holds `from` and everything up to, but
 * not including, `to`. The greatest key, all bits set, is kept as an end and never stored.
 */
import { corrupt } from "../base/errors.ts";
import { type Key, type KeyPrefix, KEY_SIZE, compareKeyPrefixes, compareKeys } from "./key.ts";

export interface KeyRange {
  readonly from: Key;
  /** Exclusive. */
  readonly to: Key;
}

const U32_MAX = 0xffffffff;

export const MIN_KEY: Key = { kind: 0, spcOid: 0, dbOid: 0, relNumber: 0, fork: 0, block: 0 };
export const MAX_KEY: Key = {
  kind: 0xff,
  spcOid: U32_MAX,
  dbOid: U32_MAX,
  relNumber: U32_MAX,
  fork: 0xff,
  block: U32_MAX,
};
/** Every key that can be stored. */
export const ALL_KEYS: KeyRange = { from: MIN_KEY, to: MAX_KEY };

/** Size in bytes of the part of an encoded key before the block number. */
export const PREFIX_SIZE = KEY_SIZE - 4;

export function makeKey(prefix: KeyPrefix, block: number): Key {
  return {
    kind: prefix.kind,
    spcOid: prefix.spcOid,
    dbOid: prefix.dbOid,
    relNumber: prefix.relNumber,
    fork: prefix.fork,
    block,
  };
}

/** Compares the key `(prefix, block)` with `other`, without making an object. */
export function compareToKey(prefix: KeyPrefix, block: number, other: Key): number {
  const order = compareKeyPrefixes(prefix, other);
  return order === 0 ? block - other.block : order;
}

export function rangeContains(range: KeyRange, key: Key): boolean {
  return compareKeys(range.from, key) <= 0 && compareKeys(key, range.to) < 0;
}

/** Whether one of some ranges holds a key; they are sorted and do not overlap. */
export function someContains(ranges: readonly KeyRange[], key: Key): boolean {
  for (const range of ranges) {
    if (compareKeys(key, range.from) < 0) return false;
    if (compareKeys(key, range.to) < 0) return true;
  }
  return false;
}

export function rangesOverlap(a: KeyRange, b: KeyRange): boolean {
  return compareKeys(a.from, b.to) < 0 && compareKeys(b.from, a.to) < 0;
}

export function someOverlaps(ranges: readonly KeyRange[], range: KeyRange): boolean {
  return ranges.some((other) => rangesOverlap(other, range));
}

export function minKey(a: Key, b: Key): Key {
  return compareKeys(a, b) <= 0 ? a : b;
}

export function maxKey(a: Key, b: Key): Key {
  return compareKeys(a, b) >= 0 ? a : b;
}

/** The least key greater than `key`; `MAX_KEY` is its own successor. */
export function nextKey(key: Key): Key {
  if (key.block < U32_MAX) return { ...key, block: key.block + 1 };
  const bytes = encodeKey(key);
  let at = KEY_SIZE - 1;
  while (at >= 0 && bytes[at] === 0xff) bytes[at--] = 0;
  if (at < 0) return MAX_KEY;
  bytes[at] = (bytes[at] ?? 0) + 1;
  return decodeKey(bytes, 0);
}

export function encodePrefixInto(target: Uint8Array, offset: number, prefix: KeyPrefix): void {
  target[offset] = prefix.kind;
  putU32be(target, offset + 1, prefix.spcOid);
  putU32be(target, offset + 5, prefix.dbOid);
  putU32be(target, offset + 9, prefix.relNumber);
  target[offset + 13] = prefix.fork;
}

export function encodeKeyInto(target: Uint8Array, offset: number, key: Key): void {
  encodePrefixInto(target, offset, key);
  putU32be(target, offset + PREFIX_SIZE, key.block);
}

export function encodeKey(key: Key): Uint8Array {
  const bytes = new Uint8Array(KEY_SIZE);
  encodeKeyInto(bytes, 0, key);
  return bytes;
}

/** The caller has checked that 14 bytes are there. */
export function decodePrefix(bytes: Uint8Array, offset: number): KeyPrefix {
  return {
    kind: bytes[offset] ?? 0,
    spcOid: getU32be(bytes, offset + 1),
    dbOid: getU32be(bytes, offset + 5),
    relNumber: getU32be(bytes, offset + 9),
    fork: bytes[offset + 13] ?? 0,
  };
}

/** The caller has checked that 18 bytes are there. */
export function decodeKey(bytes: Uint8Array, offset: number): Key {
  return makeKey(decodePrefix(bytes, offset), getU32be(bytes, offset + PREFIX_SIZE));
}

/** 36 lower-case hexadecimal digits; their order is key order. */
export function formatKey(key: Key): string {
  const { kind, spcOid, dbOid, relNumber, fork, block } = key;
  return hex(kind, 2) + hex(spcOid, 8) + hex(dbOid, 8) + hex(relNumber, 8) + hex(fork, 2) + hex(block, 8);
}

function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, "0");
}

const KEY_TEXT = /^[0-9a-f]{36}$/;

/** Reads what `formatKey` wrote; throws `corrupt`. */
export function parseKey(text: string): Key {
  if (!KEY_TEXT.test(text)) throw corrupt(`"${text.slice(0, 64)}" is no key`);
  const bytes = new Uint8Array(KEY_SIZE);
  for (let i = 0; i < KEY_SIZE; i++) bytes[i] = Number.parseInt(text.slice(i * 2, i * 2 + 2), 16);
  return decodeKey(bytes, 0);
}

function putU32be(target: Uint8Array, offset: number, value: number): void {
  target[offset] = value >>> 24;
  target[offset + 1] = value >>> 16;
  target[offset + 2] = value >>> 8;
  target[offset + 3] = value;
}

function getU32be(bytes: Uint8Array, offset: number): number {
  return (
    (((bytes[offset] ?? 0) << 24) |
      ((bytes[offset + 1] ?? 0) << 16) |
      ((bytes[offset + 2] ?? 0) << 8) |
      (bytes[offset + 3] ?? 0)) >>>
    0
  );
}
