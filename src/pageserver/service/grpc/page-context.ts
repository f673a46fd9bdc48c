/** What the methods of the page service work with, and what all of them do: find the timeline, the LSN, and count. */
import type { Logger } from "pino";
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { type Lsn, formatLsn } from "../../../base/lsn.ts";
import type { ReadAt } from "../../../base/page-api/page-model.ts";
import type { ShardId } from "../../../base/page-api/shard.ts";
import { effectiveLsn } from "../../read/effective-lsn.ts";
import type { PageReaders, TimelinePages } from "../../read/timeline-pages.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenant } from "../../timeline/tenant.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import type { Metrics } from "../metrics.ts";
import type { ByteSlab } from "./byte-slab.ts";
import { type Authenticate, type CallTarget, callTarget, checkShard } from "./call-target.ts";
import type { GrpcCall } from "./grpc-call.ts";
import type { GrpcPeer } from "./grpc-server.ts";
import { GrpcCode, GrpcError } from "./grpc-status.ts";
import type { RateLimit } from "./rate-limit.ts";
import type { RequestScheduler } from "./request-scheduler.ts";
import type { Turn } from "./turn.ts";

export interface PageContext {
  readonly tenants: Tenants<ServedTimeline>;
  readonly readers: PageReaders;
  readonly scheduler: RequestScheduler;
  readonly rateLimit: RateLimit;
  readonly turn: Turn;
  /** For what is sent beside pages. */
  readonly slab: ByteSlab;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly authenticate: Authenticate;
  /** False until all tenants are open. */
  readonly isReady: () => boolean;
  /** Which shard of a tenant is here. */
  readonly shardOf: (tenant: Tenant<ServedTimeline>) => ShardId;
  /** Whether as much waits for clients to take it as may. */
  readonly isCongested: () => boolean;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

/** Who calls and for what; throws for those who may not, and before the server is ready. */
export async function openCall(context: PageContext, call: GrpcCall, peer: GrpcPeer): Promise<CallTarget> {
  const target = await callTarget(call, peer, context.authenticate);
  if (!context.isReady()) {
    throw new GrpcError(GrpcCode.Unavailable, "the pageserver is starting", {
      hint: "Ask again in a moment.",
    });
  }
  return target;
}

export interface Found {
  readonly tenant: Tenant<ServedTimeline>;
  readonly timeline: ServedTimeline;
  readonly shard: ShardId;
}

/** Throws `not_found` for a tenant, timeline or shard that is not here. Asked anew by each request of a stream. */
export function find(context: PageContext, target: CallTarget): Found {
  const tenant = context.tenants.get(target.tenantId);
  const timeline = tenant.timeline(target.timelineId);
  const shard = context.shardOf(tenant);
  checkShard(target, shard);
  return { tenant, timeline, shard };
}

export async function pagesOf(context: PageContext, { timeline }: Found): Promise<TimelinePages> {
  return context.readers.of(timeline);
}

/** Where to read; waits for WAL, but not for a client that has gone. */
export async function readLsn({ timeline }: Found, read: ReadAt, signal: AbortSignal): Promise<Lsn> {
  return unlessAborted(effectiveLsn(timeline, read), signal);
}

/** Until everything up to an LSN is here. */
export async function waitForLsn(
  { timeline }: Found,
  lsn: Lsn,
  waitMs: number,
  signal: AbortSignal,
): Promise<void> {
  if (timeline.lastRecordLsn >= lsn) return;
  await unlessAborted(timeline.waitForLsn(lsn, waitMs), signal).catch((error: unknown) => {
    if (!(error instanceof NeonError) || error.code !== ErrorCode.Timeout) throw error;
    throw new NeonError(ErrorCode.Timeout, `${formatLsn(lsn)} did not come within ${waitMs / 1000} s`, {
      hint: error.hint,
      cause: error,
    });
  });
}

/** The same promise, but over as soon as the signal is aborted. */
async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const gone = Promise.withResolvers<never>();
  const onAbort = (): void => gone.reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([work, gone.promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
    // Whichever of the two is not waited for any more.
    work.catch(() => undefined);
    gone.promise.catch(() => undefined);
  }
}
