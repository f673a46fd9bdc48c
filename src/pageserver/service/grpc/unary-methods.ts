/** The methods of the page service that have one answer: sizes, existence, SLRU segments, leases. */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { formatLsn } from "../../../base/lsn.ts";
import type { PageMethod, RelTag, SlruKind } from "../../../base/page-api/page-model.ts";
import {
  decodeCheckRelExistsRequest,
  decodeGetDbSizeRequest,
  decodeGetRelSizeRequest,
  decodeGetSlruSegmentRequest,
  decodeLeaseLsnRequest,
} from "../../../base/page-api/page-requests.ts";
import {
  encodeBytesResponse,
  encodeDbSizeResponse,
  encodeLeaseResponse,
  encodeRelExistsResponse,
  encodeRelSizeResponse,
  wholeMessage,
} from "../../../base/page-api/page-responses.ts";
import { Slru } from "../../../postgres/slru.ts";
import { leaseLsn as renewLease } from "../lease-lsn.ts";
import { checkShardZero } from "./call-target.ts";
import type { GrpcCall } from "./grpc-call.ts";
import type { GrpcPeer } from "./grpc-server.ts";
import { GrpcCode, GrpcError, grpcCodeName, grpcStatusOf } from "./grpc-status.ts";
import { type Found, type PageContext, find, openCall, pagesOf, readLsn } from "./page-context.ts";
import { trace } from "./tracing.ts";

/** Works out the answer to a request; throws for what cannot be answered. */
type Answer = (
  context: PageContext,
  found: Found,
  request: Uint8Array,
  signal: AbortSignal,
) => Promise<Uint8Array>;

export type UnaryMethod = Exclude<PageMethod, "GetPages" | "GetBaseBackup">;

const ANSWERS: Readonly<Record<UnaryMethod, Answer>> = {
  GetRelSize: relSize,
  CheckRelExists: relExists,
  GetDbSize: dbSize,
  GetSlruSegment: slruSegment,
  LeaseLsn: leaseLsn,
};

export const UNARY_METHODS: readonly UnaryMethod[] = [
  "GetRelSize",
  "CheckRelExists",
  "GetDbSize",
  "GetSlruSegment",
  "LeaseLsn",
];

export async function serveUnary(
  method: UnaryMethod,
  context: PageContext,
  call: GrpcCall,
  peer: GrpcPeer,
): Promise<void> {
  const target = await openCall(context, call, peer);
  const request = await call.receiveOne();
  const started = performance.now();
  let code: string = grpcCodeName(GrpcCode.Ok);
  try {
    const found = find(context, target);
    // A lease holds on each shard; everything else that is no block is on the first.
    if (method !== "LeaseLsn") checkShardZero(found.shard);
    context.rateLimit.take(target.tenantId, 1);
    await call.send(wholeMessage(await ANSWERS[method](context, found, request, call.signal)));
  } catch (error) {
    code = grpcCodeName(grpcStatusOf(error).code);
    throw error;
  } finally {
    trace(context.log, call, target, () => ({ status: code, ms: performance.now() - started }));
  }
}

/** Reads a request; what is no Protobuf is the client's fault. */
export function decoded<T>(decode: (bytes: Uint8Array) => T, bytes: Uint8Array): T {
  try {
    return decode(bytes);
  } catch (error) {
    if (!(error instanceof NeonError) || error.code !== ErrorCode.Corrupt) throw error;
    throw new GrpcError(GrpcCode.InvalidArgument, error.message, { cause: error });
  }
}

async function relSize(
  context: PageContext,
  found: Found,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { read, rel, allowMissing } = decoded(decodeGetRelSizeRequest, bytes);
  const lsn = await readLsn(found, read, signal);
  return context.scheduler.run("normal", signal, async () => {
    const pages = await pagesOf(context, found);
    if (allowMissing && !mayBeMissing(rel) && !(await pages.exists(rel, lsn)))
      return encodeRelSizeResponse(undefined);
    return encodeRelSizeResponse(await pages.blocks(rel, lsn));
  });
}

/** Free space and visibility maps: one that is missing has no pages. */
function mayBeMissing({ fork }: RelTag): boolean {
  return fork === 1 || fork === 2;
}

async function relExists(
  context: PageContext,
  found: Found,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { read, rel } = decoded(decodeCheckRelExistsRequest, bytes);
  const lsn = await readLsn(found, read, signal);
  return context.scheduler.run("normal", signal, async () =>
    encodeRelExistsResponse(await (await pagesOf(context, found)).exists(rel, lsn)),
  );
}

async function dbSize(
  context: PageContext,
  found: Found,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { read, dbOid } = decoded(decodeGetDbSizeRequest, bytes);
  const lsn = await readLsn(found, read, signal);
  return context.scheduler.run("normal", signal, async () =>
    encodeDbSizeResponse(await (await pagesOf(context, found)).databaseSize(dbOid, lsn)),
  );
}

const SLRUS: Readonly<Record<SlruKind, Slru>> = {
  0: Slru.Xact,
  1: Slru.MultixactMembers,
  2: Slru.MultixactOffsets,
};

async function slruSegment(
  context: PageContext,
  found: Found,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { read, kind, segment } = decoded(decodeGetSlruSegmentRequest, bytes);
  const lsn = await readLsn(found, read, signal);
  return context.scheduler.run("normal", signal, async () => {
    const pages = await pagesOf(context, found);
    return encodeBytesResponse(Buffer.concat(await pages.slruSegment(SLRUS[kind], segment, lsn)));
  });
}

async function leaseLsn(_context: PageContext, found: Found, bytes: Uint8Array): Promise<Uint8Array> {
  const { lsn } = decoded(decodeLeaseLsnRequest, bytes);
  const expiresAt = await renewLease(found.tenant, found.timeline.id, lsn);
  if (expiresAt === undefined) {
    throw new GrpcError(
      GrpcCode.FailedPrecondition,
      `${formatLsn(lsn)} cannot be leased: it is gone, or not there yet`,
      { hint: `The timeline ends at ${formatLsn(found.timeline.lastRecordLsn)}.` },
    );
  }
  return encodeLeaseResponse(expiresAt);
}
