/**
 * Names of branches and computes. The rules are git's for refs (`git check-ref-format`), and two of ours: no `@`,
 * because `NAME@LSN` means a point in time, and no 32 hexadecimal digits, because that is a timeline id.
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { isId } from "../base/ids.ts";

/** Bytes. A file name may have 255; a ref is one, with room for a suffix while it is written. */
const NAME_BYTES_MAX = 200;

/** Why a name is not allowed, or undefined if it is. */
export function refNameProblem(name: string): string | undefined {
  if (name === "") return "it is empty";
  if (Buffer.byteLength(name) > NAME_BYTES_MAX) return `it is longer than ${NAME_BYTES_MAX} bytes`;
  if (name.startsWith("-")) return "it starts with a dash";
  // eslint-disable-next-line no-control-regex -- control characters are what is looked for.
  if (/[\u0000-\u0020\u007f]/.test(name)) return "it contains a space or a control character";
  const special = /[~^:?*[\\@]/.exec(name);
  if (special) return `it contains "${special[0]}"`;
  if (name.includes("..")) return 'it contains ".."';
  if (name.endsWith(".")) return "it ends with a dot";
  if (name.startsWith("/") || name.endsWith("/") || name.includes("//")) {
    return "it has a slash at its start or end, or two in a row";
  }
  for (const part of name.split("/")) {
    if (part.startsWith(".")) return "it, or a part of it after a slash, starts with a dot";
    if (part.endsWith(".lock")) return 'it, or a part of it before a slash, ends with ".lock"';
  }
  if (isId(name.toLowerCase())) return "32 hexadecimal digits are a timeline id";
  return undefined;
}

/** Throws `usage` if a branch (or whatever `what` says) may not have this name. */
export function checkRefName(name: string, what = "branch"): void {
  const problem = refNameProblem(name);
  if (problem === undefined) return;
  throw new NeonError(ErrorCode.Usage, `"${name}" is no valid name for a ${what}: ${problem}`, {
    hint: "Use letters, digits, `.`, `_`, `-` and single slashes, as in `feature/login`.",
  });
}
