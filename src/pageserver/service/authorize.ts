/** Bearer tokens. Comparison takes the same time wherever the texts differ. */
import { createHash, timingSafeEqual } from "node:crypto";
import { ErrorCode } from "../../base/errors.ts";
import { HttpError } from "./http-errors.ts";

/** Throws (status 401) unless the header carries the token. */
export function authorize(header: string | undefined, token: string): void {
  const match = /^Bearer +([^ ]+) *$/i.exec(header ?? "");
  if (match?.[1] !== undefined && sameText(match[1], token)) return;
  throw new HttpError(
    401,
    ErrorCode.Unreachable,
    match ? "the pageserver does not know this token" : "the pageserver wants a bearer token",
    { hint: "Use the auth_token of this pageserver's pageserver.toml." },
  );
}

/** Hashes first: `timingSafeEqual` wants equal lengths, and the length of the token is nobody's business. */
function sameText(a: string, b: string): boolean {
  return timingSafeEqual(createHash("sha256").update(a).digest(), createHash("sha256").update(b).digest());
}
