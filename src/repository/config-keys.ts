/**
 * The settings of a repository, one row each. Everything that knows the keys of config.toml goes by this table: the
 * parser, `neon config`, and the test that holds `.neon.example.toml` against it.
 */
import { isAbsolute } from "node:path";
import { isId } from "../base/ids.ts";

export type ConfigValue = string | number | boolean;

export interface ConfigKey {
  /** Path with dots; `<name>` stands for any name of a compute or an origin. */
  readonly path: string;
  readonly type: "text" | "integer" | "boolean";
  /** What holds when the file does not say; undefined if it must or nothing does. */
  readonly defaultValue?: ConfigValue;
  /** Environment variable that takes precedence over the file. */
  readonly environment?: string;
  readonly required?: boolean;
  /** Never printed unless asked for. */
  readonly secret?: boolean;
  /** Set when the repository is made; its data depends on it. */
  readonly fixed?: boolean;
  readonly description: string;
  /** Why a value of the right type is not allowed, or undefined. */
  readonly problem: (value: ConfigValue) => string | undefined;
}

const PORT_MAX = 65_535;

const portProblem = (value: ConfigValue): string | undefined =>
  Number(value) >= 1 && Number(value) <= PORT_MAX ? undefined : `a port is between 1 and ${PORT_MAX}`;

/** `host:port`; an IPv6 address in brackets. */
export function parseListenAddress(text: string): { host: string; port: number } | undefined {
  const match = /^(\[[0-9a-fA-F:]+\]|[^\s:/[\]]+):(\d{1,5})$/.exec(text);
  if (!match?.[1] || !match[2]) return undefined;
  const port = Number(match[2]);
  return port >= 1 && port <= PORT_MAX ? { host: match[1], port } : undefined;
}

export const CONFIG_KEYS: readonly ConfigKey[] = [
  {
    path: "default_tenant_id",
    type: "text",
    required: true,
    description: "Tenant that commands work on unless --tenant-id says otherwise; 32 hexadecimal digits.",
    problem: (value) => (isId(String(value)) ? undefined : "a tenant id has 32 hexadecimal digits"),
  },
  {
    path: "pg_version",
    type: "integer",
    required: true,
    fixed: true,
    description: "Major version of Postgres of the default tenant, chosen by `neon init`.",
    problem: (value) =>
      Number(value) >= 14 && Number(value) <= 18 ? undefined : "Postgres 14 to 18 are possible",
  },
  {
    path: "pg_bin",
    type: "text",
    environment: "NEON_PG_BIN",
    description:
      "Directory with the Postgres programs (initdb, postgres). Unset: the embedded ones, then the system's.",
    problem: (value) => (isAbsolute(String(value)) ? undefined : "an absolute path is wanted"),
  },
  {
    path: "run_as",
    type: "text",
    description: "User that Postgres runs as when neon is run by root. Unset: postgres, else nobody.",
    problem: (value) => (/^[^\s:/]+$/.test(String(value)) ? undefined : "the name of a user is wanted"),
  },
  {
    path: "pageserver.listen",
    type: "text",
    required: true,
    description: "Address of the pageserver, HOST:PORT.",
    problem: (value) => (parseListenAddress(String(value)) ? undefined : "HOST:PORT is wanted"),
  },
  {
    path: "pageserver.auth_token",
    type: "text",
    required: true,
    secret: true,
    description: "Secret that the command line shows to the pageserver.",
    problem: (value) =>
      /^[\u0021-\u007e]{16,}$/.test(String(value))
        ? undefined
        : "at least 16 printable characters are wanted",
  },
  {
    path: "pageserver.listen_libpq",
    type: "text",
    description:
      "Address of the pageserver for other pageservers and libpq clients, HOST:PORT. Unset: `neon start` takes " +
      "127.0.0.1:64000 or the next free port.",
    problem: (value) => (parseListenAddress(String(value)) ? undefined : "HOST:PORT is wanted"),
  },
  {
    path: "pageserver.listen_grpc",
    type: "text",
    description:
      "Address of the pageserver for clients of its gRPC page API, HOST:PORT. Unset: `neon start` takes " +
      "127.0.0.1:51051 or the next free port.",
    problem: (value) => (parseListenAddress(String(value)) ? undefined : "HOST:PORT is wanted"),
  },
  {
    path: "pageserver.tls_cert",
    type: "text",
    description: "File with the pageserver's certificate in PEM; `neon pageserver cert` makes one.",
    problem: (value) => (isAbsolute(String(value)) ? undefined : "an absolute path is wanted"),
  },
  {
    path: "pageserver.tls_key",
    type: "text",
    description: "File with the key of the certificate in PEM, readable for its owner only.",
    problem: (value) => (isAbsolute(String(value)) ? undefined : "an absolute path is wanted"),
  },
  {
    path: "pageserver.jwt_public_key",
    type: "text",
    description:
      "File with the public key that tokens (JSON Web Tokens) are checked with, in PEM, or a directory of such files " +
      "*.pem; `neon pageserver key` makes a pair.",
    problem: (value) => (isAbsolute(String(value)) ? undefined : "an absolute path is wanted"),
  },
  {
    path: "pageserver.insecure",
    type: "boolean",
    defaultValue: false,
    description: "true: let clients of other machines in without TLS.",
    problem: () => undefined,
  },
  {
    path: "pageserver.verify_redo",
    type: "boolean",
    defaultValue: false,
    description:
      "true: compare redo with the pages that computes with wal_consistency_checking put into their WAL, and stop " +
      "the branch at the first difference.",
    problem: () => undefined,
  },
  {
    path: "origins.<name>",
    type: "text",
    secret: true,
    description: "Address of another pageserver: postgresql://user[:password]@host:port.",
    problem: (value) =>
      /^postgres(ql)?:\/\/[^/]+/.test(String(value)) ? undefined : "postgresql://user@host:port is wanted",
  },
  {
    path: "computes.<name>.port",
    type: "integer",
    description: "TCP port of a compute on 127.0.0.1. Unset: the next free one from 55432 on.",
    problem: portProblem,
  },
  {
    path: "computes.<name>.commit",
    type: "text",
    defaultValue: "remote",
    description:
      "remote: COMMIT returns when the pageserver has the WAL on disk; local: when the compute itself has.",
    problem: (value) =>
      value === "remote" || value === "local" ? undefined : "`remote` or `local` is wanted",
  },
];

/** The row that a path belongs to, and its parts: `computes.dev.port` → `["computes", "dev", "port"]`. */
export function findConfigKey(path: string): { key: ConfigKey; parts: string[] } | undefined {
  for (const key of CONFIG_KEYS) {
    const parts = matchPath(key.path, path);
    if (parts) return { key, parts };
  }
  return undefined;
}

/** Names may contain dots, so the fixed words around them decide. */
function matchPath(pattern: string, path: string): string[] | undefined {
  const at = pattern.indexOf("<name>");
  if (at < 0) return pattern === path ? pattern.split(".") : undefined;
  const before = pattern.slice(0, at);
  const after = pattern.slice(at + "<name>".length);
  if (!path.startsWith(before) || !path.endsWith(after)) return undefined;
  const name = path.slice(before.length, path.length - after.length);
  if (name === "") return undefined;
  return [before.slice(0, -1), name, ...(after === "" ? [] : [after.slice(1)])];
}

/** Why a value does not fit a key, or undefined if it does. */
export function configValueProblem(key: ConfigKey, value: unknown): string | undefined {
  if (key.type === "integer") {
    if (typeof value !== "number" || !Number.isInteger(value)) return "a whole number is wanted";
    return key.problem(value);
  }
  if (key.type === "boolean") {
    if (typeof value !== "boolean") return "true or false is wanted, without quotes";
    return key.problem(value);
  }
  if (typeof value !== "string") return "text in quotes is wanted";
  return key.problem(value);
}
