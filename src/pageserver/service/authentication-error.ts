/** Why a client is not let in. Each protocol has its own words for it, so the reasons are told apart here. */
import { ErrorCode } from "../../base/errors.ts";
import { SqlState } from "../../pgwire/errors.ts";
import { WireError } from "../../pgwire/wire-errors.ts";

/**
 *   missing     nothing was shown, and something is wanted
 *   malformed   what was shown cannot be read: another scheme, no token, a token without the claims that it needs
 *   unknown     a token or a password that is not the right one
 *   signature   a token that none of the keys has signed, or one signed in a way that is not accepted
 *   expired     a token that was good, or will be
 *   forbidden   a good token whose scope opens nothing here
 */
export type Refusal = "missing" | "malformed" | "unknown" | "signature" | "expired" | "forbidden";

export class AuthenticationError extends WireError {
  readonly reason: Refusal;

  constructor(reason: Refusal, message: string, options: { hint?: string } = {}) {
    const forbidden = reason === "forbidden";
    super(
      forbidden ? "42501" : SqlState.InvalidPassword,
      forbidden ? ErrorCode.Declined : ErrorCode.Unreachable,
      message,
      options,
    );
    this.name = "AuthenticationError";
    this.reason = reason;
  }
}
