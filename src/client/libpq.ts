/** Connection URIs and connections to pageservers over libpq, for those who may not import `pgwire/`. */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type ConnectOptions, type LibpqClient, connectLibpq } from "../pgwire/libpq-client.ts";
import { findPassword } from "../pgwire/password.ts";
import { type LibpqTarget, formatTarget, parseLibpqUri } from "../pgwire/uri.ts";
import { WireError } from "../pgwire/wire-errors.ts";

export { formatTarget, parseLibpqUri, redactUri } from "../pgwire/uri.ts";
export type { LibpqTarget } from "../pgwire/uri.ts";

/** A target with the password that is to be used, wherever it was found. */
export interface ResolvedTarget {
  readonly target: LibpqTarget;
  /** What the user should know about a password file that is not used. */
  readonly warning: string | undefined;
}

/** Reads a URI and finds its password: in the URI, in $PGPASSWORD, in a password file. Throws `usage`. */
export function resolveUri(uri: string): ResolvedTarget {
  const target = parseLibpqUri(uri);
  const { password, warning } = findPassword(target);
  return { target: { ...target, password }, warning };
}

/** Connects to another pageserver. Whatever keeps us from it is `unreachable`, also a refusal. */
export async function connectOrigin(
  target: LibpqTarget,
  signal?: AbortSignal,
  options?: ConnectOptions,
): Promise<LibpqClient> {
  try {
    return await connectLibpq(target, signal, options);
  } catch (error) {
    if (!(error instanceof NeonError)) throw error;
    throw asRefusal(error, target);
  }
}

/** Classes of SQLSTATEs that say that a server does not let us in. */
const REFUSALS = /^(28|08|53|57|42501)/;

function asRefusal(error: NeonError, target: LibpqTarget): NeonError {
  const state = error instanceof WireError ? error.sqlState : error.data["sql_state"];
  const refused = typeof state === "string" && REFUSALS.test(state);
  if (error.code === ErrorCode.Unreachable && !refused) return error;
  const message = refused ? `${formatTarget(target)} refuses: ${error.message}` : error.message;
  return new NeonError(ErrorCode.Unreachable, message, {
    hint: error.hint,
    data: { ...error.data, refused },
    cause: error,
  });
}
