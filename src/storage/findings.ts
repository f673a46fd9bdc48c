/** What a check has found wrong, and where. A damaged file may have a thousand wrong blocks: only so many are kept. */
import { ErrorCode, NeonError, messageOf } from "../base/errors.ts";

/** The four things that may be said about what was looked at, from the best to the worst. */
export const CHECK_STATES = ["clean", "garbage", "not_checked", "corrupt"] as const;
export type CheckState = (typeof CHECK_STATES)[number];

export interface Finding {
  /** `garbage`: a leftover that the next start removes. `not_checked`: it could not be looked at, `what` says why. */
  readonly kind: Exclude<CheckState, "clean">;
  readonly what: string;
  /** Absolute path. */
  readonly file: string;
  /** Where in the file, in bytes. */
  readonly offset?: number | undefined;
}

/** The worse of two. */
export function worseState(a: CheckState, b: CheckState): CheckState {
  return CHECK_STATES.indexOf(a) >= CHECK_STATES.indexOf(b) ? a : b;
}

const KEPT_MAX = 100;
const KEPT_PER_FILE_MAX = 10;

export class Findings {
  readonly list: Finding[] = [];
  /** Findings that were not kept. */
  omitted = 0;
  state: CheckState = "clean";
  private readonly perFile = new Map<string, number>();

  add(finding: Finding): void {
    this.state = worseState(this.state, finding.kind);
    const count = this.perFile.get(finding.file) ?? 0;
    if (count >= KEPT_PER_FILE_MAX || this.list.length >= KEPT_MAX) {
      this.omitted++;
      return;
    }
    this.perFile.set(finding.file, count + 1);
    this.list.push(finding);
  }

  /** Adds what another check has found. */
  addAll(other: Findings): void {
    for (const finding of other.list) this.add(finding);
    this.omitted += other.omitted;
  }

  corrupt(what: string, file: string, offset?: number): void {
    this.add({ kind: "corrupt", what, file, offset });
  }

  garbage(what: string, file: string): void {
    this.add({ kind: "garbage", what, file });
  }

  notChecked(what: string, file: string): void {
    this.add({ kind: "not_checked", what, file });
  }

  /**
   * What reading `file` threw: damage, with its place, or a reason why it could not be read. Rethrows bugs and
   * interruptions.
   */
  addError(error: unknown, file: string): void {
    if (error instanceof NeonError && error.code === ErrorCode.Corrupt) {
      const { offset } = error.data;
      this.corrupt(withoutPath(error.message, file), file, typeof offset === "number" ? offset : undefined);
    } else if (error instanceof NeonError) {
      this.notChecked(withoutPath(error.message, file), file);
    } else if (isSystemError(error)) {
      this.notChecked(`it cannot be read: ${messageOf(error)}`, file);
    } else {
      throw error;
    }
  }
}

/** Errors of the operating system have a number of their own. */
function isSystemError(error: unknown): boolean {
  return (
    error instanceof Error &&
    "code" in error &&
    typeof error.code === "string" &&
    /^E[A-Z]+$/.test(error.code)
  );
}

/** The file is shown beside the text. */
function withoutPath(message: string, file: string): string {
  return message.startsWith(`${file}: `) ? message.slice(file.length + 2) : message;
}
