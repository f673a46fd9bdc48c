/**
 * How calls and requests end: gRPC's status codes, and which of them an error of ours becomes. On a stream of pages most
 * errors concern one request only and are answered; the others end the stream.
 * Source: grpc.io, "Status codes and their use in gRPC".
 */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { PageStatus } from "../../../base/page-api/page-model.ts";
import { toNeonError } from "../http-errors.ts";

export const GrpcCode = {
  Ok: 0,
  Cancelled: 1,
  Unknown: 2,
  InvalidArgument: 3,
  DeadlineExceeded: 4,
  NotFound: 5,
  AlreadyExists: 6,
  PermissionDenied: 7,
  ResourceExhausted: 8,
  FailedPrecondition: 9,
  Aborted: 10,
  OutOfRange: 11,
  Unimplemented: 12,
  Internal: 13,
  Unavailable: 14,
  DataLoss: 15,
  Unauthenticated: 16,
} as const;
export type GrpcCode = (typeof GrpcCode)[keyof typeof GrpcCode];

export interface GrpcStatus {
  readonly code: GrpcCode;
  readonly details: string;
}

export const OK: GrpcStatus = { code: GrpcCode.Ok, details: "" };

const DETAILS_LENGTH_MAX = 1000;

/** An error with a status of its own, where our code alone does not say enough. */
export class GrpcError extends NeonError {
  readonly status: GrpcCode;

  constructor(status: GrpcCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(ErrorCode.Failed, message, options);
    this.name = "GrpcError";
    this.status = status;
  }
}

/** Why a client has to wait: it asks too much at once. */
export function slowDown(message: string): GrpcError {
  return new GrpcError(GrpcCode.ResourceExhausted, message, { hint: "Ask again in a moment." });
}

const CODES: Readonly<Record<ErrorCode, GrpcCode>> = {
  failed: GrpcCode.Internal,
  usage: GrpcCode.InvalidArgument,
  not_found: GrpcCode.NotFound,
  exists: GrpcCode.AlreadyExists,
  conflict: GrpcCode.FailedPrecondition,
  unreachable: GrpcCode.Unavailable,
  corrupt: GrpcCode.DataLoss,
  not_checked: GrpcCode.FailedPrecondition,
  resource: GrpcCode.Internal,
  postgres: GrpcCode.Internal,
  // WAL that did not come in time.
  timeout: GrpcCode.Internal,
  declined: GrpcCode.PermissionDenied,
  unsupported: GrpcCode.FailedPrecondition,
};

export function grpcCodeOf(error: NeonError): GrpcCode {
  if (error instanceof GrpcError) return error.status;
  // An LSN whose history has been given up: the request is to blame, as in the original.
  if (error.data["gc_cutoff_lsn"] !== undefined) return GrpcCode.InvalidArgument;
  return CODES[error.code];
}

/** The status for anything that was thrown. */
export function grpcStatusOf(thrown: unknown): GrpcStatus {
  if (isAbort(thrown)) return { code: GrpcCode.Cancelled, details: "the call was cancelled" };
  const error = toNeonError(thrown);
  return { code: grpcCodeOf(error), details: describe(error) };
}

/** What happened and what to do, for people. */
export function describe(error: NeonError): string {
  const text = error.hint === undefined ? error.message : `${error.message}. ${error.hint}`;
  return text.slice(0, DETAILS_LENGTH_MAX);
}

export function isAbort(thrown: unknown): boolean {
  return thrown instanceof Error && thrown.name === "AbortError";
}

type Failure = Exclude<PageStatus, typeof PageStatus.Ok>;

const PAGE_STATUSES: Readonly<Partial<Record<GrpcCode, Failure>>> = {
  [GrpcCode.AlreadyExists]: PageStatus.InvalidRequest,
  [GrpcCode.FailedPrecondition]: PageStatus.InvalidRequest,
  [GrpcCode.InvalidArgument]: PageStatus.InvalidRequest,
  [GrpcCode.OutOfRange]: PageStatus.InvalidRequest,
  [GrpcCode.DataLoss]: PageStatus.InternalError,
  [GrpcCode.Internal]: PageStatus.InternalError,
  [GrpcCode.NotFound]: PageStatus.NotFound,
  [GrpcCode.ResourceExhausted]: PageStatus.SlowDown,
};

/** What a stream of pages answers; undefined for what ends it. */
export function pageStatusOf(code: GrpcCode): Failure | undefined {
  return PAGE_STATUSES[code];
}

/** Names as in gRPC's documents, for metrics and the log. */
const NAMES = new Map<number, string>(
  Object.entries(GrpcCode).map(([name, code]) => [
    code,
    name.replaceAll(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase(),
  ]),
);

export function grpcCodeName(code: GrpcCode): string {
  return NAMES.get(code) ?? "UNKNOWN";
}
