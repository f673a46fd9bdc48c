/**
 * Who calls and what for: the metadata that every call of the page service carries, checked in this order: who it is,
 * what it names, whether both go together. What another tenant has is as if it were not there to be asked about.
 */
import { NeonError } from "../../../base/errors.ts";
import { type TenantId, type TimelineId, isId, parseTenantId, parseTimelineId } from "../../../base/ids.ts";
import { MetadataKey } from "../../../base/page-api/page-model.ts";
import { type ShardId, formatShardId, parseShardId, shardOfBlock } from "../../../base/page-api/shard.ts";
import type { RelationFork } from "../../../postgres/relation.ts";
import { type Identity, checkTenant } from "../identity.ts";
import type { GrpcCall } from "./grpc-call.ts";
import type { GrpcPeer } from "./grpc-server.ts";
import { GrpcCode, GrpcError } from "./grpc-status.ts";

/** Who a client is, by what it shows. Throws for those who are not let in. */
export type Authenticate = (
  authorization: string | undefined,
  peer: { readonly loopback: boolean },
) => Promise<Identity>;

export interface CallTarget {
  readonly identity: Identity;
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly shard: ShardId;
}

export async function callTarget(
  call: GrpcCall,
  peer: GrpcPeer,
  authenticate: Authenticate,
): Promise<CallTarget> {
  const identity = await authenticate(call.metadata(MetadataKey.Authorization), peer);
  const target = {
    identity,
    tenantId: parseTenantId(idOf(call, MetadataKey.Tenant)),
    timelineId: parseTimelineId(idOf(call, MetadataKey.Timeline)),
    shard: shardOf(call),
  };
  checkTenant(identity, target.tenantId);
  return target;
}

function idOf(call: GrpcCall, name: string): string {
  const text = required(call, name).toLowerCase();
  if (isId(text)) return text;
  throw wrong(name, "has 32 hexadecimal digits");
}

function shardOf(call: GrpcCall): ShardId {
  const shard = parseShardId(required(call, MetadataKey.Shard).toLowerCase());
  if (shard !== undefined) return shard;
  throw wrong(MetadataKey.Shard, "has four hexadecimal digits: number and count, 0000 without shards");
}

function required(call: GrpcCall, name: string): string {
  const text = call.metadata(name);
  if (text === undefined || text === "") throw wrong(name, "is missing");
  return text;
}

function wrong(name: string, what: string): NeonError {
  return new GrpcError(GrpcCode.InvalidArgument, `metadata ${name} ${what}`);
}

/** That the shard that a client means is one that the tenant has here: that of a tenant that is not sharded. */
export function checkShard({ tenantId, shard }: CallTarget, served: ShardId): void {
  if (shard.number === served.number && shard.count === served.count) return;
  throw new GrpcError(
    GrpcCode.NotFound,
    `there is no shard ${formatShardId(shard)} of tenant ${tenantId} on this pageserver`,
    { hint: `It has ${formatShardId(served)}.` },
  );
}

/** Only shard 0 has what is no block. */
export function checkShardZero(shard: ShardId): void {
  if (shard.number === 0) return;
  throw new GrpcError(GrpcCode.InvalidArgument, `shard ${formatShardId(shard)} has blocks only: ask shard 0`);
}

/** That a shard has all of these blocks. */
export function checkBlocks(shard: ShardId, fork: RelationFork, blocks: readonly number[]): void {
  if (shard.count < 2) return;
  for (const block of blocks) {
    const owner = shardOfBlock({ ...fork, block }, shard.count);
    if (owner === shard.number) continue;
    throw new GrpcError(
      GrpcCode.InvalidArgument,
      `block ${block} is on shard ${formatShardId({ ...shard, number: owner })}, not on ${formatShardId(shard)}`,
    );
  }
}
