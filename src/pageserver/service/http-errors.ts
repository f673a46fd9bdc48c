/** Errors on the wire: every failure becomes `{error: {code, message, hint, data}}` with a fitting HTTP status. */
import { AssertionError, ErrorCode, NeonError, messageOf, systemCode } from "../../base/errors.ts";
import { AuthenticationError } from "./authentication-error.ts";

const STATUS: Readonly<Record<ErrorCode, number>> = {
  failed: 500,
  usage: 400,
  not_found: 404,
  exists: 409,
  conflict: 409,
  unreachable: 502,
  corrupt: 500,
  not_checked: 500,
  resource: 507,
  postgres: 502,
  timeout: 504,
  declined: 403,
  unsupported: 501,
};

/** What the operating system refuses, in words that say what to do. */
const SYSTEM_HINTS: Readonly<Record<string, string>> = {
  ENOSPC: "The disk is full: make room and repeat.",
  EDQUOT: "The disk quota is used up: make room and repeat.",
  EROFS: "The file system is read-only.",
  EACCES: "The pageserver lacks a permission there.",
  EPERM: "The pageserver lacks a permission there.",
  EMFILE: "Too many open files: raise the limit (ulimit -n) and restart the pageserver.",
  ENFILE: "The machine has too many open files.",
  ENOMEM: "The machine is out of memory.",
};

/** An error that carries its own HTTP status, where the code alone does not say enough. */
export class HttpError extends NeonError {
  readonly status: number;

  constructor(status: number, code: ErrorCode, message: string, options: { hint?: string } = {}) {
    super(code, message, options);
    this.name = "HttpError";
    this.status = status;
  }
}

/** Gives anything that was thrown a code that clients may branch on. */
export function toNeonError(error: unknown): NeonError {
  if (error instanceof NeonError) return error;
  const hint = SYSTEM_HINTS[systemCode(error) ?? ""];
  if (hint !== undefined) return new NeonError(ErrorCode.Resource, messageOf(error), { hint, cause: error });
  const bug = error instanceof AssertionError || error instanceof TypeError || error instanceof RangeError;
  return new NeonError(ErrorCode.Failed, bug ? `internal error: ${messageOf(error)}` : messageOf(error), {
    ...(bug ? { hint: "This is a bug in the pageserver; its log says more." } : {}),
    cause: error,
  });
}

export function statusOf(error: NeonError): number {
  if (error instanceof HttpError) return error.status;
  if (error instanceof AuthenticationError) return error.reason === "forbidden" ? 403 : 401;
  return STATUS[error.code];
}

/** `msg` is what clients of the original look for. */
export function errorBody(error: NeonError): { msg: string; error: Record<string, unknown> } {
  return {
    msg: error.message,
    error: { code: error.code, message: error.message, hint: error.hint ?? null, data: error.data },
  };
}

/** A malformed request; the message names the field. */
export function usage(message: string, field?: string): NeonError {
  return new NeonError(ErrorCode.Usage, message, field === undefined ? {} : { data: { field } });
}
