/** What is written down of each request, and what holds for each request of a long call. */
import type { Logger } from "pino";
import type { Identity } from "../identity.ts";
import type { CallTarget } from "./call-target.ts";
import type { GrpcCall } from "./grpc-call.ts";
import { GrpcCode, GrpcError } from "./grpc-status.ts";

/** W3C Trace Context: version, trace, parent, flags. */
const TRACE_PARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** The trace that the client says its call belongs to. */
export function traceOf(call: GrpcCall): string | undefined {
  return TRACE_PARENT.exec(call.metadata("traceparent") ?? "")?.[1];
}

/** A line in the log at level debug; `more` is made only if somebody reads it. */
export function trace(log: Logger, call: GrpcCall, target: CallTarget, more: () => object): void {
  if (!log.isLevelEnabled("debug")) return;
  const { tenantId, timelineId, identity } = target;
  log.debug(
    {
      method: call.path.slice(call.path.lastIndexOf("/") + 1),
      trace: traceOf(call),
      user: identity.user,
      tenant: tenantId,
      timeline: timelineId,
      ...more(),
    },
    "gRPC request",
  );
}

/** A token that has expired opens nothing any more, on no stream that is still open either. */
export function checkNotExpired(
  identity: Identity & { readonly expiresAt?: number | undefined },
  now: number,
): void {
  if (identity.expiresAt === undefined || now < identity.expiresAt) return;
  throw new GrpcError(GrpcCode.Unauthenticated, "the token has expired", {
    hint: "Call again with a new one.",
  });
}
