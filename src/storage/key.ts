/**
 * Keys of the store: `(kind, spcOid, dbOid, relNumber, fork, block)`, 18 bytes, ordered field by field. What the
 * fields mean is the business of whoever puts values; the store only compares them.
 *
 *   offset  size  field        big-endian, so that byte order is key order
 *        0     1  kind
 *        1     4  spcOid
 *        5     4  dbOid
 *        9     4  relNumber
 *       13     1  fork
 *       14     4  block
 */
export interface KeyPrefix {
  readonly kind: number;
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork: number;
}

export interface Key extends KeyPrefix {
  readonly block: number;
}

export const KEY_SIZE = 18;

export function compareKeyPrefixes(a: KeyPrefix, b: KeyPrefix): number {
  if (a.kind !== b.kind) return a.kind - b.kind;
  if (a.spcOid !== b.spcOid) return a.spcOid - b.spcOid;
  if (a.dbOid !== b.dbOid) return a.dbOid - b.dbOid;
  if (a.relNumber !== b.relNumber) return a.relNumber - b.relNumber;
  return a.fork - b.fork;
}

export function compareKeys(a: Key, b: Key): number {
  const order = compareKeyPrefixes(a, b);
  return order === 0 ? a.block - b.block : order;
}

/** Flags of a stored value. Exactly one of Image, Record and Tombstone is set. */
export const ValueFlag = {
  /** The bytes are the complete value. */
  Image: 0x01,
  /** The bytes are a change to apply to the value before it. */
  Record: 0x02,
  /** With Record: the change needs no value before it. */
  WillInit: 0x04,
  /** From here on the key does not exist. */
  Tombstone: 0x08,
} as const;

/** True if nothing older is needed to know the value. */
export function isBase(flags: number): boolean {
  return (flags & (ValueFlag.Image | ValueFlag.WillInit | ValueFlag.Tombstone)) !== 0;
}
