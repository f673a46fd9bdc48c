/**
 * Shards of a tenant: which one a client means, and which one has a block. Blocks of relations are spread in stripes;
 * init forks and everything that is no block are on shard 0.
 *
 *   id    four hexadecimal digits: number of the shard, count of shards; 0000 for a tenant that is not sharded
 */

export interface ShardId {
  readonly number: number;
  /** 0: not sharded. */
  readonly count: number;
}

export const UNSHARDED: ShardId = { number: 0, count: 0 };
/** Blocks of a stripe, unless a tenant has another size. */
export const STRIPE_BLOCKS = 2048;
const INIT_FORK = 3;

/** Undefined for what is no id of a shard. */
export function parseShardId(text: string): ShardId | undefined {
  if (!/^[0-9a-f]{4}$/.test(text)) return undefined;
  const number = Number.parseInt(text.slice(0, 2), 16);
  const count = Number.parseInt(text.slice(2), 16);
  if (count === 0 ? number !== 0 : number >= count) return undefined;
  return { number, count };
}

export function formatShardId({ number, count }: ShardId): string {
  const byte = (value: number): string => value.toString(16).padStart(2, "0");
  return byte(number) + byte(count);
}

/** Number of the shard that has a block. */
export function shardOfBlock(
  { relNumber, fork, block }: { relNumber: number; fork: number; block: number },
  count: number,
  stripeBlocks = STRIPE_BLOCKS,
): number {
  if (count < 2 || fork === INIT_FORK) return 0;
  return combine(mix(relNumber), mix(Math.floor(block / stripeBlocks))) % count;
}

/** The finaliser of MurmurHash3, 32 bits. */
function mix(value: number): number {
  let hash = value >>> 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function combine(a: number, b: number): number {
  const added = (b + 0x9e3779b9 + (a << 6) + (a >>> 2)) >>> 0;
  return (a ^ added) >>> 0;
}
