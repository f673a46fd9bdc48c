/** Origins as commands look at them: what a URI says, whether somebody answers there. */
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import { type LibpqTarget, parseLibpqUri, redactUri, resolveUri } from "../../client/libpq.ts";
import { identifyOrigin } from "../../client/remote-pageserver.ts";
import { originUri, withAbsolutePaths } from "../../repository/origins.ts";
import type { Repository } from "../../repository/repository.ts";

export interface CheckedUri {
  /** As it is kept. */
  readonly stored: string;
  /** Without its password. */
  readonly uri: string;
  /** What there is to say about it. */
  readonly notes: readonly string[];
}

/** Looks at a URI that a user has given. Throws `usage`. */
export function checkUri(text: string): CheckedUri {
  const stored = withAbsolutePaths(text, process.cwd());
  const target = parseLibpqUri(stored);
  const notes: string[] = [];
  if (target.password !== undefined) {
    notes.push(
      "The password is kept in .neon/config.toml, readable for you only, and may be in the history of your shell. " +
        "$PGPASSWORD or ~/.pgpass serve as well.",
    );
  }
  const mayBePlain =
    target.sslMode === "disable" || target.sslMode === "allow" || target.sslMode === "prefer";
  if (mayBePlain && !isLoopback(target.host)) {
    notes.push(
      `sslmode=${target.sslMode} may send everything unencrypted: ?sslmode=verify-full&sslrootcert=FILE makes sure who is there.`,
    );
  }
  return { stored, uri: redactUri(stored), notes };
}

/** The origin of that name with its password, ready to be connected to. Throws `not_found`, `usage`. */
export function targetOf(repository: Repository, name: string, caution: (text: string) => void): LibpqTarget {
  const { target, warning } = resolveUri(originUri(repository, name));
  if (warning !== undefined) caution(`${warning}.`);
  return target;
}

export interface OriginReport {
  readonly name: string;
  /** Without a password. */
  readonly uri: string;
  readonly state: "answers" | "refuses" | "unreachable" | "unchecked";
  /** Of the pageserver there. */
  readonly version: string | null;
  readonly error: string | null;
}

/** All origins, sorted by name; asks them all at once. */
export async function reportOrigins(
  repository: Repository,
  options: { ask: boolean; signal: AbortSignal },
): Promise<OriginReport[]> {
  const names = Object.keys(repository.config.origins).sort();
  return Promise.all(
    names.map(async (name): Promise<OriginReport> => {
      const text = repository.config.origins[name] ?? "";
      const head = { name, uri: redactUri(text), version: null, error: null };
      if (!options.ask) return { ...head, state: "unchecked" };
      try {
        const { version } = await identifyOrigin(resolveUri(text).target, options.signal);
        return { ...head, state: "answers", version };
      } catch (error) {
        options.signal.throwIfAborted();
        return { ...head, state: stateOf(error), error: messageOf(error) };
      }
    }),
  );
}

function stateOf(error: unknown): OriginReport["state"] {
  const refused = error instanceof NeonError && error.data["refused"] === true;
  const unreadable = error instanceof NeonError && error.code === ErrorCode.Usage;
  return refused ? "refuses" : unreadable ? "unchecked" : "unreachable";
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host.startsWith("127.") || host.startsWith("/");
}
