/**
 * URIs of a pageserver's HTTP API: `http[s]://[user[:password]@]host[:port][?sslmode=…&sslrootcert=…&passfile=…]`, with
 * the parameters of libpq's URIs that make sense here. Passwords never appear in errors.
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { findPassword } from "../pgwire/password.ts";
import { trustOf } from "../pgwire/tls-client.ts";
import { SSL_MODES, type SslMode, redactUri } from "../pgwire/uri.ts";
import type { HttpTarget } from "./http.ts";

export interface PageserverUri {
  /** `http://host:port` or `https://host:port`. */
  readonly baseUrl: string;
  readonly host: string;
  readonly port: number;
  readonly user: string | undefined;
  readonly password: string | undefined;
  /** How far the server's certificate is checked; undefined without encryption. */
  readonly tls: { readonly sslMode: SslMode; readonly sslRootCert: string | undefined } | undefined;
  readonly passFile: string | undefined;
}

/** Port of a pageserver's HTTP API, where the URI names none. */
const DEFAULT_PORT = 9898;
const URI_LENGTH_MAX = 4096;
const PARAMETERS = ["sslmode", "sslrootcert", "passfile"];

/** Throws `usage` with the part that is wrong. */
export function parsePageserverUri(text: string): PageserverUri {
  const fail = (what: string): never => {
    throw new NeonError(ErrorCode.Usage, `${redactUri(text.slice(0, URI_LENGTH_MAX))}: ${what}`, {
      hint: "A pageserver's URI looks like https://user@host:9898?sslrootcert=/path/server.crt",
    });
  };
  if (text.length > URI_LENGTH_MAX) fail(`it is longer than ${URI_LENGTH_MAX} characters`);
  const scheme = /^(https?):\/\//i.exec(text)?.[1]?.toLowerCase();
  if (scheme === undefined) {
    return fail(
      /^postgres(ql)?:/.test(text)
        ? "that is its address for libpq; its HTTP address is wanted, http://… or https://…"
        : "it does not begin with http:// or https://",
    );
  }
  // The class URL drops the default ports of the web, which are not ours.
  const authority = /^[^/]*\/\/([^/?#]*)/.exec(text)?.[1] ?? "";
  const explicitPort = /:(\d+)$/.exec(authority)?.[1];
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return fail("host or port are wrong");
  }
  if (url.pathname !== "/" && url.pathname !== "") fail("nothing but ? may stand behind host and port");
  if (url.hash !== "") fail("a # is not expected");
  const port = explicitPort === undefined ? DEFAULT_PORT : Number(explicitPort);
  if (port < 1) fail("the port is not between 1 and 65535");
  const parameters = parametersOf(url, fail);
  return {
    baseUrl: `${scheme}://${url.hostname}:${port}`,
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port,
    user: decoded(url.username, "the user", fail),
    password: decoded(url.password, "the password", fail),
    tls: tlsOf(scheme, parameters, fail),
    passFile: parameters.get("passfile"),
  };
}

/**
 * How to reach the pageserver of a URI. A user's password is taken from where libpq takes it: the URI, $PGPASSWORD, a
 * password file; without a user the token is that of $NEON_PAGESERVER_TOKEN, if it is set. Throws `usage`, also for a
 * file of certificates that cannot be read. `warning`: what the user should know about a password file that is not used.
 */
export function remoteTarget(
  uri: PageserverUri,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): { target: HttpTarget; warning: string | undefined } {
  const target = {
    baseUrl: uri.baseUrl,
    remote: true,
    ...(uri.tls === undefined ? {} : { trust: trustOf(uri.tls) }),
  };
  const { user } = uri;
  if (user === undefined) {
    return {
      target: { ...target, token: environment["NEON_PAGESERVER_TOKEN"] || undefined },
      warning: undefined,
    };
  }
  const { password, warning } = findPassword({ ...uri, user, database: undefined }, environment);
  if (password === undefined) {
    throw new NeonError(ErrorCode.Usage, `no password is known for user ${user} at ${uri.baseUrl}`, {
      hint: `Set $PGPASSWORD, or write it into ~/.pgpass: ${uri.host}:${uri.port}:*:${user}:PASSWORD`,
    });
  }
  return { target: { ...target, login: { user, password } }, warning };
}

/** Whether the pageserver is reached over this machine's loopback interface. */
export function isOnThisMachine({ host }: Pick<PageserverUri, "host">): boolean {
  return host === "localhost" || host === "::1" || /^127(?:\.\d{1,3}){3}$/.test(host);
}

/** The URI without the password and as it was meant, to be kept in a file. */
export function formatPageserverUri(uri: PageserverUri): string {
  const user = uri.user === undefined ? "" : `${encodeURIComponent(uri.user)}@`;
  const parameters = new URLSearchParams();
  if (uri.tls) parameters.set("sslmode", uri.tls.sslMode);
  if (uri.tls?.sslRootCert !== undefined) parameters.set("sslrootcert", uri.tls.sslRootCert);
  if (uri.passFile !== undefined) parameters.set("passfile", uri.passFile);
  const query = parameters.size === 0 ? "" : `?${parameters.toString()}`;
  return uri.baseUrl.replace("://", `://${user}`) + query;
}

function parametersOf(url: URL, fail: (what: string) => never): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const [name, value] of url.searchParams) {
    if (name === "password") fail("the password goes before the host, or better into a passfile");
    if (!PARAMETERS.includes(name)) {
      fail(`parameter "${name.slice(0, 40)}" is not known; there are ${PARAMETERS.join(", ")}`);
    }
    if (parameters.has(name)) fail(`parameter "${name}" is given twice`);
    if (value === "") fail(`parameter "${name}" has no value`);
    parameters.set(name, value);
  }
  return parameters;
}

/** As browsers do, and unlike libpq, the host is verified unless the URI says otherwise: https promises it. */
function tlsOf(
  scheme: string,
  parameters: ReadonlyMap<string, string>,
  fail: (what: string) => never,
): PageserverUri["tls"] {
  const text = parameters.get("sslmode");
  const sslRootCert = parameters.get("sslrootcert");
  if (scheme === "http") {
    if (text !== undefined || sslRootCert !== undefined)
      fail("sslmode and sslrootcert go with https:// only");
    return undefined;
  }
  const sslMode = SSL_MODES.find((mode) => mode === (text ?? "verify-full"));
  if (sslMode === undefined) return fail(`sslmode is one of ${SSL_MODES.join(", ")}`);
  if (sslMode === "disable" || sslMode === "allow" || sslMode === "prefer") {
    fail("with https:// sslmode is require, verify-ca or verify-full");
  }
  return { sslMode, sslRootCert: sslRootCert ?? (sslMode === "verify-full" ? "system" : undefined) };
}

function decoded(text: string, what: string, fail: (what: string) => never): string | undefined {
  if (text === "") return undefined;
  try {
    return decodeURIComponent(text);
  } catch {
    return fail(`${what} has a wrong % sequence`);
  }
}
