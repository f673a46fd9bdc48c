/**
 * GetPages: a stream of requests, each for some blocks of a relation at one LSN, answered in their order. Requests that
 * have arrived together are read together and answered in one go. What is wrong with a request is said in its answer, and
 * the stream goes on; several streams are worked on side by side.
 */
import type { Logger } from "pino";
import { NeonError, assert } from "../../../base/errors.ts";
import {
  BATCH_MAX,
  type GetPageResponse,
  PAGE_API_PAGE_SIZE,
  PageStatus,
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
import {
  type PageTask,
  type ReadableTask,
  countTasks,
  framedAnswers,
  isReadable,
  mustWait,
  runsOf,
} from "./page-task.ts";
import { laneOf } from "./request-scheduler.ts";
import { checkNotExpired, trace } from "./tracing.ts";

/** Blocks that are read together at most, unless a single request wants more. */
const BLOCKS_MAX = BATCH_MAX;
/** Requests that are answered together at most: those that are wrong have no blocks. */
const TASKS_MAX = BATCH_MAX;

export async function getPages(context: PageContext, call: GrpcCall, peer: GrpcPeer): Promise<void> {
  const target = await openCall(context, call, peer);
  find(context, target);
  await new PageStream(context, call, target).serve();
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
  /** The first of the next batch, if it has been looked at already. */
  private held: PageTask | undefined;
  /** What ends the stream, when everything before has been answered. */
  private failure: { readonly error: unknown } | undefined;
  /** The turn of the event loop in which the last batch began. */
  private lastTurn = -1;
  /** Whether requests come several at a time. */
  private isPipelined = false;

  constructor(context: PageContext, call: GrpcCall, target: CallTarget) {
    this.context = context;
    this.call = call;
    this.target = target;
  }

  /** Until the client ends the stream. */
  async serve(): Promise<void> {
    for (;;) {
      if (this.failure !== undefined) throw this.failure.error;
      const first = this.held ?? (await this.next());
      if (first === undefined) return;
      this.held = undefined;
      const batch = this.collect(first);
      if (batch.some(isReadable)) await this.answer(batch);
      await this.send(batch);
    }
  }

  /**
   * Requests come one by one even if they have arrived together. The first is answered at once; whatever comes in the same
   * turn of the event loop, or to a stream where that was so the last time, is looked at when the turn has ended.
   */
  private async next(): Promise<PageTask | undefined> {
    const bytes = await this.call.receive();
    if (bytes === undefined) return undefined;
    const task = this.place(decode(bytes));
    const { turn } = this.context;
    const now = turn.now();
    const mayBeMore = this.isPipelined || now === this.lastTurn;
    this.lastTurn = now;
    if (mayBeMore) await turn.end();
    this.isPipelined = mayBeMore;
    return task;
  }

  /** What is here already and can be answered together: of one class, and nothing that has to wait for WAL. */
  private collect(first: PageTask): PageTask[] {
    const batch = [first];
    let blocks = first.blocks.length;
    while (batch.length < TASKS_MAX && blocks < BLOCKS_MAX && !mustWait(first)) {
      const next = this.nextNow();
      if (next === undefined) break;
      blocks += next.blocks.length;
      if (mustWait(next) || next.lane !== first.lane || blocks > BLOCKS_MAX) {
        this.held = next;
        break;
      }
      batch.push(next);
    }
    if (batch.length === 1 && this.held === undefined) this.isPipelined = false;
    return batch;
  }

  private nextNow(): PageTask | undefined {
    if (this.failure !== undefined) return undefined;
    try {
      const bytes = this.call.receiveNow();
      return bytes === undefined ? undefined : this.place(decode(bytes));
    } catch (error) {
      this.failure = { error };
      return undefined;
    }
  }

  /** Everything that is to be said to a request before it is read. */
  private place(received: ReceivedPageRequest): PageTask {
    const isRequest = received.kind === "request";
    const task: PageTask = {
      requestId: isRequest ? received.request.requestId : received.requestId,
      lane: isRequest ? laneOf(received.request.requestClass) : "normal",
      blocks: isRequest ? received.request.blocks : [],
      startedAt: performance.now(),
      status: "OK",
    };
    try {
      if (!isRequest) throw received.problem;
      const { context, target } = this;
      const { request } = received;
      task.request = request;
      checkNotExpired(target.identity, context.now());
      const found = find(context, target);
      checkBlocks(found.shard, request.rel, request.blocks);
      context.rateLimit.take(target.tenantId, request.blocks.length);
      if (context.isCongested()) throw slowDown("too many pages wait for clients to take them");
      task.lsn = effectiveLsnNow(found.timeline, request.read);
      task.found = found;
    } catch (error) {
      this.fail(task, error);
    }
    return task;
  }

  private async answer(batch: readonly PageTask[]): Promise<void> {
    const tasks = batch.filter(isReadable);
    const [first] = tasks;
    if (first === undefined) return;
    const { signal } = this.call;
    try {
      // Waiting for WAL takes nobody's turn.
      first.lsn ??= await readLsn(first.found, first.request.read, signal);
      await this.context.scheduler.run(first.lane, signal, async () => {
        await Promise.all(runsOf(tasks).map((run) => this.read(run)));
      });
    } catch (error) {
      for (const task of tasks) if (task.answer === undefined) this.fail(task, error);
    }
  }

  /** Tasks of one relation at one LSN. */
  private async read(run: readonly ReadableTask[]): Promise<void> {
    const [first] = run;
    if (first === undefined) return;
    const { found, request, lsn } = first;
    assert(lsn !== undefined, "read before its WAL is here");
    const blocks = run.length === 1 ? request.blocks : run.flatMap((task) => task.request.blocks);
    try {
      const pages = await pagesOf(this.context, found);
      const images = await pages.pages(request.rel, blocks, lsn);
      let at = 0;
      for (const task of run) {
        const { requestId, rel } = task.request;
        const own = task.blocks.map((block) => ({ block, image: images[at++] ?? ZERO_PAGE }));
        task.answer = { requestId, status: PageStatus.Ok, rel, pages: own };
      }
    } catch (error) {
      if (run.length === 1) this.fail(first, error);
      // One of them cannot be read: the others can be.
      else await Promise.all(run.map((task) => this.read([task])));
    }
  }

  /** Up to the first that ends the stream. */
  private async send(batch: readonly PageTask[]): Promise<void> {
    const { context, call, target } = this;
    const answers: GetPageResponse[] = [];
    for (const task of batch) {
      if (task.answer === undefined) {
        this.failure = task.failure ?? { error: new Error("a request without an answer") };
        break;
      }
      answers.push(task.answer);
    }
    countTasks(context.metrics, batch);
    if (context.log.isLevelEnabled("debug"))
      for (const task of batch) traceTask(context.log, call, target, task);
    if (answers.length === 0) return;
    if (!call.isCompressing) await call.sendFramed(framedAnswers(answers, context.slab));
    else for (const answer of answers) await call.send(encodeGetPageResponse(answer));
  }

  /** What went wrong with a request becomes its answer, unless it ends the stream. */
  private fail(task: PageTask, thrown: unknown): void {
    task.status = grpcCodeName(grpcStatusOf(thrown).code);
    const error = toNeonError(thrown);
    const code = grpcCodeOf(error);
    const status = pageStatusOf(code);
    if (this.call.signal.aborted || isAbort(thrown) || status === undefined) {
      task.failure = { error: thrown };
      return;
    }
    if (code === GrpcCode.Internal || code === GrpcCode.DataLoss) {
      const { tenantId, timelineId } = this.target;
      this.context.log.error(
        { tenant: tenantId, timeline: timelineId, err: error },
        `cannot read pages: ${error.message}`,
      );
    }
    task.answer = { requestId: task.requestId, status, reason: describe(error) };
  }
}

const ZERO_PAGE = new Uint8Array(PAGE_API_PAGE_SIZE);

function traceTask(log: Logger, call: GrpcCall, target: CallTarget, task: PageTask): void {
  trace(log, call, target, () => ({
    class: task.lane,
    status: task.status,
    ms: performance.now() - task.startedAt,
    ...(task.request === undefined
      ? {}
      : { request: task.requestId.id.toString(), rel: task.request.rel, blocks: task.blocks }),
  }));
}
