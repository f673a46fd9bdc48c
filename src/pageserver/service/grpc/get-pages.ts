/**
 * GetPages: a stream of requests, each for some blocks of a relation at one LSN, answered one after the other. What is
 * wrong with a request is said in its answer, and the stream goes on; several streams are worked on side by side.
 */
import { NeonError } from "../../../base/errors.ts";
import type { Lsn } from "../../../base/lsn.ts";
import {
  type GetPageRequest,
  type GetPageResponse,
  PageStatus,
  type RequestId,
} from "../../../base/page-api/page-model.ts";
import { type ReceivedPageRequest, decodeGetPageRequest } from "../../../base/page-api/page-requests.ts";
import { encodeGetPageResponse } from "../../../base/page-api/page-responses.ts";
import { effectiveLsnNow } from "../../read/effective-lsn.ts";
import { toNeonError } from "../http-errors.ts";
import { type CallTarget, checkBlocks } from "./call-target.ts";
import type { GrpcCall } from "./grpc-call.ts";
import type { GrpcPeer } from "./grpc-server.ts";
import {
  GrpcCode,
  GrpcError,
  describe,
  grpcCodeName,
  grpcCodeOf,
  grpcStatusOf,
  isAbort,
  pageStatusOf,
  slowDown,
} from "./grpc-status.ts";
import { type PageContext, find, openCall, pagesOf, readLsn } from "./page-context.ts";
import { type Lane, laneOf } from "./request-scheduler.ts";
import { checkNotExpired, trace } from "./tracing.ts";

export async function getPages(context: PageContext, call: GrpcCall, peer: GrpcPeer): Promise<void> {
  const target = await openCall(context, call, peer);
  find(context, target);
  const stream = new PageStream(context, call, target);
  for (;;) {
    const bytes = await call.receive();
    if (bytes === undefined) return;
    await call.send(encodeGetPageResponse(await stream.answer(decode(bytes))));
  }
}

/** What is no Protobuf cannot be answered: nobody knows which request it was. */
function decode(bytes: Uint8Array): ReceivedPageRequest {
  try {
    return decodeGetPageRequest(bytes);
  } catch (error) {
    if (!(error instanceof NeonError)) throw error;
    throw new GrpcError(GrpcCode.InvalidArgument, error.message, { cause: error });
  }
}

class PageStream {
  private readonly context: PageContext;
  private readonly call: GrpcCall;
  private readonly target: CallTarget;

  constructor(context: PageContext, call: GrpcCall, target: CallTarget) {
    this.context = context;
    this.call = call;
    this.target = target;
  }

  async answer(received: ReceivedPageRequest): Promise<GetPageResponse> {
    const started = performance.now();
    const lane = received.kind === "request" ? laneOf(received.request.requestClass) : "normal";
    const requestId = received.kind === "request" ? received.request.requestId : received.requestId;
    let status = "OK";
    try {
      if (received.kind === "invalid") throw received.problem;
      return await this.read(received.request, lane);
    } catch (thrown) {
      status = grpcCodeName(grpcStatusOf(thrown).code);
      return this.failure(thrown, requestId);
    } finally {
      this.count(received, lane, status, started);
    }
  }

  private async read(request: GetPageRequest, lane: Lane): Promise<GetPageResponse> {
    const { context, call, target } = this;
    checkNotExpired(target.identity, context.now());
    const found = find(context, target);
    const { rel, blocks, requestId } = request;
    checkBlocks(found.shard, rel, blocks);
    context.rateLimit.take(target.tenantId, blocks.length);
    if (context.isCongested()) throw slowDown("too many pages wait for clients to take them");
    // Waiting for WAL takes nobody's turn.
    const lsn =
      effectiveLsnNow(found.timeline, request.read) ?? (await readLsn(found, request.read, call.signal));
    const images = await context.scheduler.run(lane, call.signal, async () =>
      this.images(request, lsn, found),
    );
    const pages = images.map((image, index) => ({ block: blocks[index] ?? 0, image }));
    return { requestId, status: PageStatus.Ok, rel, pages };
  }

  private async images(
    { rel, blocks }: GetPageRequest,
    lsn: Lsn,
    found: ReturnType<typeof find>,
  ): Promise<Uint8Array[]> {
    const pages = await pagesOf(this.context, found);
    return pages.pages(rel, blocks, lsn);
  }

  /** The answer to what went wrong. Throws it where it ends the stream. */
  private failure(thrown: unknown, requestId: RequestId): GetPageResponse {
    if (this.call.signal.aborted || isAbort(thrown)) throw thrown;
    const error = toNeonError(thrown);
    const code = grpcCodeOf(error);
    const status = pageStatusOf(code);
    if (status === undefined) throw thrown;
    if (code === GrpcCode.Internal || code === GrpcCode.DataLoss) {
      const { tenantId, timelineId } = this.target;
      this.context.log.error(
        { tenant: tenantId, timeline: timelineId, err: error },
        `cannot read pages: ${error.message}`,
      );
    }
    return { requestId, status, reason: describe(error) };
  }

  private count(received: ReceivedPageRequest, lane: Lane, status: string, started: number): void {
    const { metrics, log } = this.context;
    const ms = performance.now() - started;
    metrics.grpcRequests.add({ method: "GetPages", class: lane, status });
    metrics.grpcDurations.observe({ method: "GetPages" }, ms / 1000);
    if (received.kind === "request" && status === "OK") {
      metrics.grpcPages.add({ class: lane }, received.request.blocks.length);
    }
    trace(log, this.call, this.target, () => ({
      class: lane,
      status,
      ms,
      ...(received.kind === "request"
        ? {
            request: received.request.requestId.id.toString(),
            rel: received.request.rel,
            blocks: received.request.blocks,
          }
        : {}),
    }));
  }
}
