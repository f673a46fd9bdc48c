/**
 * Connection URIs: `postgresql://[user[:password]@]host[:port][/database][?key=value&…]`, as libpq reads them, with the
 * parameters that we honour. Passwords never appear in errors.
 * Source: PostgreSQL 17 documentation, "Connection URIs" and "Parameter Key Words".
 */
import { ErrorCode, NeonError } from "../base/errors.ts";

export const SSL_MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const;
export type SslMode = (typeof SSL_MODES)[number];

export interface LibpqTarget {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  /** From the URI only; where else one may come from is in `password.ts`. */
  readonly password: string | undefined;
  /** What stands behind the slash, without it. */
  readonly database: string | undefined;
  readonly sslMode: SslMode;
  /** File of certificates that are trusted, or `system`. */
  readonly sslRootCert: string | undefined;
  readonly passFile: string | undefined;
  readonly connectTimeoutMs: number;
}

/** Port of a pageserver, where the URI names none. */
export const DEFAULT_LIBPQ_PORT = 64_000;
/** The user that a pageserver always has. */
export const DEFAULT_USER = "neon";
const CONNECT_TIMEOUT_MS = 10_000;
/** libpq, too, takes no less than two seconds. */
const CONNECT_TIMEOUT_S_MIN = 2;
const CONNECT_TIMEOUT_S_MAX = 3600;
const URI_LENGTH_MAX = 4096;
const SCHEME = /^postgres(?:ql)?:\/\//;
const PARAMETERS = ["sslmode", "sslrootcert", "passfile", "connect_timeout", "application_name"];

/** Throws `usage` with the part that is wrong. */
export function parseLibpqUri(uri: string): LibpqTarget {
  const fail = (what: string): never => {
    throw new NeonError(ErrorCode.Usage, `${redactUri(uri)}: ${what}`, {
      hint: "A URI looks like postgresql://user@host:64000?sslmode=verify-full&sslrootcert=/path/server.crt",
    });
  };
  if (uri.length > URI_LENGTH_MAX) fail(`it is longer than ${URI_LENGTH_MAX} characters`);
  // oxlint-disable-next-line no-control-regex -- that is what is looked for
  if (/[\s\u0000-\u001f\u007f]/.test(uri)) fail("it contains a blank or a control character");
  if (!SCHEME.test(uri)) fail("it does not begin with postgresql://");
  const { credentials, address, database, query, misplacedAt } = splitUri(uri);
  if (misplacedAt)
    fail("an @ stands behind the host: write it %40, and in a password also / %2F, ? %3F and # %23");
  const decoded = (text: string, what: string): string =>
    decode(text) ?? fail(`${what} has a wrong % sequence`);

  const colon = credentials.indexOf(":");
  const user = decoded(colon < 0 ? credentials : credentials.slice(0, colon), "the user");
  const password = colon < 0 ? undefined : decoded(credentials.slice(colon + 1), "the password");
  const { host, port } = parseAddress(address, fail);
  const parameters = parseParameters(query, decoded, fail);

  const sslRootCert = parameters.get("sslrootcert");
  // As in libpq: certificates of the system are trusted for a name only.
  const sslModeText = parameters.get("sslmode") ?? (sslRootCert === "system" ? "verify-full" : "prefer");
  const sslMode = SSL_MODES.find((mode) => mode === sslModeText);
  if (sslMode === undefined) return fail(`sslmode is one of ${SSL_MODES.join(", ")}`);
  if (sslRootCert === "system" && sslMode !== "verify-full") {
    fail("sslrootcert=system goes with sslmode=verify-full only");
  }
  return {
    host: decoded(host, "the host"),
    port,
    user: user === "" ? DEFAULT_USER : user,
    password: password === "" ? undefined : password,
    database: database === "" ? undefined : decoded(database, "the part behind the host"),
    sslMode,
    sslRootCert,
    passFile: parameters.get("passfile"),
    connectTimeoutMs: connectTimeout(parameters.get("connect_timeout"), fail),
  };
}

/** The URI without its password, for people; works for what is no URI as well. */
export function redactUri(uri: string): string {
  const scheme = /^[a-z]*:\/\//i.exec(uri)?.[0] ?? "";
  const rest = uri.slice(scheme.length);
  const at = rest.lastIndexOf("@", endOfAuthority(rest) - 1);
  const head = at < 0 ? "" : rest.slice(0, at);
  const colon = head.indexOf(":");
  const credentials = colon < 0 ? head : `${head.slice(0, colon)}:***`;
  const tail = at < 0 ? rest : rest.slice(at);
  return scheme + credentials + tail.replaceAll(/([?&](?:ssl)?password=)[^&]*/gi, "$1***");
}

/** The URI of a target, without a password. */
export function formatTarget(target: LibpqTarget): string {
  const host = target.host.includes(":") ? `[${target.host}]` : target.host;
  return `postgresql://${encodeURIComponent(target.user)}@${host}:${target.port}`;
}

/** Where host and port end: passwords may contain what ends them, up to the last @ before. */
function endOfAuthority(rest: string): number {
  const at = rest.lastIndexOf("@");
  const end = rest.slice(at + 1).search(/[/?#]/);
  return end < 0 ? rest.length : at + 1 + end;
}

interface UriParts {
  readonly credentials: string;
  readonly address: string;
  readonly database: string;
  readonly query: string;
  /** What stands before it may be a password, so that nothing of the rest may be shown. */
  readonly misplacedAt: boolean;
}

function splitUri(uri: string): UriParts {
  const rest = uri.replace(SCHEME, "");
  // Unlike in redactUri, what is not encoded ends the authority: a guess could send a password to the wrong host.
  const end = rest.search(/[/?#]/);
  const authority = end < 0 ? rest : rest.slice(0, end);
  const tail = end < 0 ? "" : rest.slice(end);
  const at = authority.lastIndexOf("@");
  const question = tail.indexOf("?");
  const path = question < 0 ? tail : tail.slice(0, question);
  return {
    credentials: at < 0 ? "" : authority.slice(0, at),
    address: at < 0 ? authority : authority.slice(at + 1),
    database: path.replace(/^\//, ""),
    query: question < 0 ? "" : tail.slice(question + 1),
    misplacedAt: tail.includes("@"),
  };
}

function parseAddress(address: string, fail: (what: string) => never): { host: string; port: number } {
  if (address.includes(",")) fail("it names several hosts; one is wanted");
  const match = /^(?:\[([0-9a-fA-F:.]+(?:%[0-9A-Za-z]+)?)\]|([^:[\]]*))(?::(\d{0,6}))?$/.exec(address);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined) return fail("host and port are no HOST:PORT (an IPv6 address goes into brackets)");
  if (host === "") fail("the host is missing");
  const text = match?.[3] ?? "";
  const port = text === "" ? DEFAULT_LIBPQ_PORT : Number(text);
  // Not shown: where an @ is missing, the password stands here.
  if (port < 1 || port > 65_535) fail("the port is not between 1 and 65535");
  return { host, port };
}

function parseParameters(
  query: string,
  decoded: (text: string, what: string) => string,
  fail: (what: string) => never,
): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const part of query.split("&")) {
    if (part === "") continue;
    const equals = part.indexOf("=");
    const name = equals < 0 ? part : part.slice(0, equals);
    if (name === "password") fail("the password goes before the host, or better into a passfile");
    if (!PARAMETERS.includes(name))
      fail(`parameter "${name}" is not known; there are ${PARAMETERS.join(", ")}`);
    if (equals < 0) fail(`parameter "${name}" has no value`);
    if (parameters.has(name)) fail(`parameter "${name}" is given twice`);
    parameters.set(name, decoded(part.slice(equals + 1), `parameter "${name}"`));
  }
  return parameters;
}

function connectTimeout(text: string | undefined, fail: (what: string) => never): number {
  if (text === undefined) return CONNECT_TIMEOUT_MS;
  const seconds = /^\d{1,6}$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds <= CONNECT_TIMEOUT_S_MAX)) {
    fail(`connect_timeout is a number of seconds up to ${CONNECT_TIMEOUT_S_MAX}`);
  }
  return seconds === 0 ? CONNECT_TIMEOUT_S_MAX * 1000 : Math.max(seconds, CONNECT_TIMEOUT_S_MIN) * 1000;
}

function decode(text: string): string | undefined {
  try {
    const value = decodeURIComponent(text);
    return value.includes("\0") ? undefined : value;
  } catch {
    return undefined;
  }
}
