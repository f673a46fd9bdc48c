/** GetBaseBackup: a data directory as a tar, in chunks of at most 256 KiB. */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { CHUNK_SIZE_MAX } from "../../../base/page-api/page-model.ts";
import { decodeGetBaseBackupRequest } from "../../../base/page-api/page-requests.ts";
import { encodeBytesResponse, wholeMessage } from "../../../base/page-api/page-responses.ts";
import { LSN_WAIT_MS } from "../../read/effective-lsn.ts";
import { backupStream } from "../backup-stream.ts";
import { checkShardZero } from "./call-target.ts";
import type { GrpcCall } from "./grpc-call.ts";
import type { GrpcPeer } from "./grpc-server.ts";
import { GrpcCode, GrpcError, grpcCodeName, grpcStatusOf, slowDown } from "./grpc-status.ts";
import { type PageContext, find, openCall, waitForLsn } from "./page-context.ts";
import { trace } from "./tracing.ts";
import { decoded } from "./unary-methods.ts";

/** At a time: each keeps a scan of the whole timeline open. */
const BACKUPS_MAX = 16;

export class BaseBackups {
  private readonly context: PageContext;
  private running = 0;

  constructor(context: PageContext) {
    this.context = context;
  }

  async serve(call: GrpcCall, peer: GrpcPeer): Promise<void> {
    const target = await openCall(this.context, call, peer);
    const bytes = await call.receiveOne();
    const started = performance.now();
    let code: string = grpcCodeName(GrpcCode.Ok);
    if (this.running >= BACKUPS_MAX) throw slowDown(`${this.running} base backups are being sent already`);
    this.running++;
    try {
      const found = find(this.context, target);
      checkShardZero(found.shard);
      const request = decoded(decodeGetBaseBackupRequest, bytes);
      if (request.lsn !== undefined) await waitForLsn(found, request.lsn, LSN_WAIT_MS, call.signal);
      const tar = await backupStream(found.tenant, found.timeline, request).catch(wrongLsn);
      for await (const chunk of inChunks(tar)) {
        await call.send(wholeMessage(encodeBytesResponse(chunk)), !request.gzip);
      }
    } catch (error) {
      code = grpcCodeName(grpcStatusOf(error).code);
      throw error;
    } finally {
      this.running--;
      trace(this.context.log, call, target, () => ({ status: code, ms: performance.now() - started }));
    }
  }
}

function wrongLsn(error: unknown): never {
  if (error instanceof NeonError && error.code === ErrorCode.NotFound) {
    throw new GrpcError(GrpcCode.InvalidArgument, `invalid basebackup LSN: ${error.message}`, {
      ...(error.hint === undefined ? {} : { hint: error.hint }),
      cause: error,
    });
  }
  throw error;
}

/** Neither tiny pieces, of which a tar has many, nor any that is too long. Never empty. */
async function* inChunks(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let chunk = Buffer.allocUnsafe(CHUNK_SIZE_MAX);
  let used = 0;
  for await (const piece of source) {
    for (let at = 0; at < piece.length;) {
      const count = Math.min(piece.length - at, CHUNK_SIZE_MAX - used);
      chunk.set(piece.subarray(at, at + count), used);
      at += count;
      used += count;
      if (used < CHUNK_SIZE_MAX) continue;
      yield chunk;
      chunk = Buffer.allocUnsafe(CHUNK_SIZE_MAX);
      used = 0;
    }
  }
  if (used > 0) yield chunk.subarray(0, used);
}
