/**
 * Three kinds of error. Ours: a broken invariant, `assert` or `unreachable`, an `AssertionError`; it stops the
 * process or the timeline. The world's (a corrupt file, a lost peer, a full disk) and the user's: `NeonError` with
 * a code that callers may branch on, data that says where, a hint for the user and the cause.
 */

/** What went wrong, in words that callers branch on. The command line maps each to an exit code. */
export const ErrorCode = {
  /** Unclassified failure. */
  Failed: "failed",
  /** The request itself is malformed. */
  Usage: "usage",
  NotFound: "not_found",
  Exists: "exists",
  /** In use, has children, diverged, superseded by a newer writer. */
  Conflict: "conflict",
  /** A remote (or the pageserver) is unreachable or refused. */
  Unreachable: "unreachable",
  /** Stored or received bytes are wrong. */
  Corrupt: "corrupt",
  NotChecked: "not_checked",
  /** Port, disk space, permission: something of this machine. */
  Resource: "resource",
  /** Postgres itself failed, or its binaries are missing. */
  Postgres: "postgres",
  Timeout: "timeout",
  Declined: "declined",
  /** WAL of a kind that we do not understand. */
  Unsupported: "unsupported",
} as const;
export type ErrorCode = (typeof ErrorCode)[keyof typeof ErrorCode];

export type ErrorData = Readonly<Record<string, string | number | boolean | null>>;

/** The one error class of the project for everything that is not a bug. */
export class NeonError extends Error {
  readonly code: ErrorCode;
  /** What the user can do next; a full sentence. */
  readonly hint: string | undefined;
  /** Where and what: offsets, LSNs as text, expected and found values. */
  readonly data: ErrorData;

  constructor(
    code: ErrorCode,
    message: string,
    options: { hint?: string | undefined; data?: ErrorData; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "NeonError";
    this.code = code;
    this.hint = options.hint;
    this.data = options.data ?? {};
  }
}

/** A broken invariant: a bug of ours, never the fault of input. */
export class AssertionError extends Error {
  constructor(message: string) {
    super(`assertion failed: ${message}`);
    this.name = "AssertionError";
  }
}

/** Stops when an invariant does not hold. On in production. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** The end of a switch over one of our own unions. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable value ${String(value)}`);
}

/** Shorthand for damaged or hostile bytes. */
export function corrupt(message: string, data: ErrorData = {}, cause?: unknown): NeonError {
  return new NeonError(ErrorCode.Corrupt, message, { data, cause });
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The `code` of a Node.js system error (`ENOENT`, `ECONNREFUSED`…), if it is one. */
export function systemCode(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
