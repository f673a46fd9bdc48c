/** Turns whatever was thrown into what the user gets to see: a code, a message, a hint and an exit code. */
import { stripVTControlCharacters } from "node:util";
import { AssertionError, ErrorCode, NeonError, messageOf, systemCode } from "../../base/errors.ts";

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly hint: string | undefined;
  readonly exitCode: number;
}

/** Exit code of each kind of failure; documented in `docs` and in `neon --help`. */
export const EXIT_CODES: Readonly<Record<ErrorCode, number>> = {
  [ErrorCode.Failed]: 1,
  [ErrorCode.Unsupported]: 1,
  [ErrorCode.Usage]: 2,
  [ErrorCode.NotFound]: 3,
  [ErrorCode.Exists]: 4,
  [ErrorCode.Conflict]: 5,
  [ErrorCode.Unreachable]: 6,
  [ErrorCode.Corrupt]: 7,
  [ErrorCode.NotChecked]: 8,
  [ErrorCode.Resource]: 9,
  [ErrorCode.Postgres]: 10,
  [ErrorCode.Timeout]: 11,
  [ErrorCode.Declined]: 12,
};

export const EXIT_UNKNOWN_COMMAND = 127;

/** What a shell expects of a process that a signal ended: 128 and the number of the signal. */
export function signalExitCode(signal: NodeJS.Signals): number {
  if (signal === "SIGHUP") return 129;
  return signal === "SIGTERM" ? 143 : 130;
}

/** No command of that name. */
export class UnknownCommandError extends Error {
  /** What to type instead. */
  readonly hint: string;

  constructor(name: string, hint: string) {
    super(`there is no command "${name}"`);
    this.name = "UnknownCommandError";
    this.hint = hint;
  }
}

export function failureOfSignal(signal: NodeJS.Signals, hint?: string): Failure {
  return {
    code: "interrupted",
    message: `interrupted by ${signal}`,
    hint,
    exitCode: signalExitCode(signal),
  };
}

/** `commandName` as the user typed it, for "see --help". */
export function failureOf(error: unknown, commandName: string): Failure {
  if (error instanceof NeonError) {
    return { code: error.code, message: error.message, hint: error.hint, exitCode: EXIT_CODES[error.code] };
  }
  if (error instanceof UnknownCommandError) {
    return {
      code: "unknown_command",
      message: error.message,
      hint: error.hint,
      exitCode: EXIT_UNKNOWN_COMMAND,
    };
  }
  if (isParseError(error)) return usageFailure(error, commandName);
  if (error instanceof AssertionError) {
    return {
      code: ErrorCode.Failed,
      message: error.message,
      hint: "This is a bug in neon. NEON_DEBUG=1 shows where.",
      exitCode: 1,
    };
  }
  const code = systemCode(error);
  if (code && ["ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EMFILE", "ENFILE"].includes(code)) {
    return {
      code: ErrorCode.Resource,
      message: messageOf(error),
      hint: code === "ENOSPC" || code === "EDQUOT" ? "The disk is full: make room and try again." : undefined,
      exitCode: EXIT_CODES[ErrorCode.Resource],
    };
  }
  return { code: ErrorCode.Failed, message: messageOf(error), hint: undefined, exitCode: 1 };
}

/** oclif's errors carry the exit code that it would use; those of its parser, and only those, have `parse`. */
function isParseError(error: unknown): error is Error {
  return error instanceof Error && ("parse" in error || ("oclif" in error && error.name !== "ExitError"));
}

function usageFailure(error: Error, commandName: string): Failure {
  const message = stripVTControlCharacters(error.message)
    .replace(/\n?See more help with --help/, "")
    .replace(/^The following errors? occurred:\s*/, "")
    .trim()
    .replaceAll(/:?\s*\n\s*/g, ": ")
    .replaceAll(/\s{2,}/g, ", ");
  return {
    code: ErrorCode.Usage,
    message: message.charAt(0).toLowerCase() + message.slice(1),
    hint: `See \`neon ${commandName} --help\`.`.replace("  ", " "),
    exitCode: EXIT_CODES[ErrorCode.Usage],
  };
}
