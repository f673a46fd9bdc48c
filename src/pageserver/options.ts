/**
 * The pageserver's settings: `--workdir DIR` and that directory's pageserver.toml. Every key with its unit and default
 * is in the table below; a key that is not known is an error, so that a misspelt one is not silently ignored.
 */
import { parse } from "@iarna/toml";
import { readFileSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";
import type { TenantSettings } from "./timeline/tenant-settings.ts";

export const CONFIG_FILE = "pageserver.toml";

export interface ListenAddress {
  readonly host: string;
  /** 0 lets the operating system choose. */
  readonly port: number;
}

export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface PageserverOptions {
  /** Absolute. */
  readonly workdir: string;
  /** What the original's programs call this server. */
  readonly id: number;
  readonly listen: ListenAddress;
  /** Without one, everyone who reaches the port may do everything; allowed on loopback addresses only. */
  readonly authToken: string | undefined;
  /** Address of the libpq service; without one there is none. */
  readonly listenLibpq: ListenAddress | undefined;
  /** Address of the gRPC service; without one there is none. */
  readonly listenGrpc: ListenAddress | undefined;
  /** Pages that a tenant may read per second over gRPC; 0: as many as it likes. */
  readonly pageRateLimit: number;
  /** Absolute paths of certificate (chain) and key, in PEM; both or none. */
  readonly tls: { readonly certPath: string; readonly keyPath: string } | undefined;
  /** Absolute path of a public key in PEM, or of a directory of such, that tokens are checked with. */
  readonly jwtPublicKey: string | undefined;
  /** Lets clients of other machines in without TLS. */
  readonly insecure: boolean;
  /** The open layer is written to disk when it has this size. Its memory grows by a megabyte at a time. */
  readonly checkpointDistanceBytes: number;
  /** … or this age. */
  readonly checkpointTimeoutMs: number;
  /** Memory for pages and blocks that were read. */
  readonly cacheBytes: number;
  /** What the process may take in all. */
  readonly memoryLimitBytes: number;
  /** Compare redo with the pages that computes put into their WAL, and stop a timeline at the first difference. */
  readonly verifyRedo: boolean;
  readonly logLevel: LogLevel;
  readonly maintenance: MaintenanceSettings;
}

/** Compaction and garbage collection. A period of 0 switches it off. */
export type MaintenanceSettings = Pick<
  TenantSettings,
  "pitrIntervalMs" | "gcHorizonBytes" | "gcPeriodMs" | "compactionPeriodMs" | "flushedLayersMin"
>;

export type CommandLine =
  | { readonly kind: "run"; readonly workdir: string }
  | { readonly kind: "help" }
  | { readonly kind: "version" };

export const USAGE = `usage: pageserver --workdir DIR

  --workdir DIR   where it keeps its data; settings are read from DIR/${CONFIG_FILE}
  --version       print the version and exit
  --help          print this and exit
`;

const MIB = 1024 * 1024;
const DAY_MS = 86_400_000;
const DEFAULT_LISTEN = "127.0.0.1:9898";
const TOKEN_LENGTH_MIN = 16;
const CONFIG_BYTES_MAX = 1024 * 1024;

/** What the program itself takes: code, garbage that is not collected yet, buffers, compaction. */
const PROGRAM_BYTES = 288 * MIB;
/** What layers need at least to be worth writing. */
const LAYER_MEMORY_MIN = 32 * MIB;
/** More is never used: it is what must be replayed after a crash, at some 60 to 100 MB/s. */
const LAYER_MEMORY_MAX = 192 * MIB;

/** What is left of the memory limit for layers that are not on disk yet. */
export function layerMemoryBytes(
  options: Pick<PageserverOptions, "memoryLimitBytes" | "cacheBytes">,
): number {
  return options.memoryLimitBytes - options.cacheBytes - PROGRAM_BYTES;
}

/** Throws `usage`. */
export function parseCommandLine(args: readonly string[]): CommandLine {
  let values: { workdir?: string; help?: boolean; version?: boolean };
  try {
    ({ values } = parseArgs({
      args: [...args],
      options: {
        workdir: { type: "string", short: "D" },
        help: { type: "boolean", short: "h" },
        version: { type: "boolean" },
      },
    }));
  } catch (error) {
    throw new NeonError(ErrorCode.Usage, messageOf(error), { hint: "See `pageserver --help`." });
  }
  if (values.help) return { kind: "help" };
  if (values.version) return { kind: "version" };
  if (!values.workdir) {
    throw new NeonError(ErrorCode.Usage, "--workdir DIR is missing", { hint: "See `pageserver --help`." });
  }
  return { kind: "run", workdir: resolve(values.workdir) };
}

/** Reads DIR/pageserver.toml; a missing file means all defaults. */
export function readOptions(workdir: string): PageserverOptions {
  const path = join(workdir, CONFIG_FILE);
  let text = "";
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (systemCode(error) !== "ENOENT") {
      throw new NeonError(ErrorCode.Resource, `cannot read ${path}: ${messageOf(error)}`, { cause: error });
    }
  }
  return parseOptions(text, { workdir, path });
}

/** Throws `usage` with the file and the key. `path` is for messages. */
export function parseOptions(text: string, where: { workdir: string; path: string }): PageserverOptions {
  if (!isAbsolute(where.workdir))
    throw new NeonError(ErrorCode.Usage, "the working directory must be absolute");
  const settings = new Settings(text, where.path);
  const jwtPublicKey = settings.read("jwt_public_key", parsePath);
  const cacheBytes = settings.read("cache_size", sizeBetween(MIB, 1024 * 1024 * MIB)) ?? 64 * MIB;
  const options: PageserverOptions = {
    workdir: where.workdir,
    id: settings.read("id", countBetween(1, 2 ** 31 - 1)) ?? 1,
    listen: settings.read("listen", parseListen) ?? { host: "127.0.0.1", port: 9898 },
    authToken: settings.read("auth_token", parseToken),
    listenLibpq: settings.read("listen_libpq", parseListen),
    listenGrpc: settings.read("listen_grpc", parseListen),
    pageRateLimit: settings.read("page_rate_limit", countBetween(0, 100_000_000)) ?? 0,
    tls: readTls(settings, where.workdir),
    jwtPublicKey: jwtPublicKey === undefined ? undefined : resolve(where.workdir, jwtPublicKey),
    insecure: settings.read("insecure", parseBoolean) ?? false,
    checkpointDistanceBytes:
      settings.read("checkpoint_distance", sizeBetween(4 * MIB, 64 * 1024 * MIB)) ?? 64 * MIB,
    checkpointTimeoutMs:
      settings.read("checkpoint_timeout", durationBetween(1000, 7 * 86_400_000)) ?? 600_000,
    cacheBytes,
    memoryLimitBytes: readMemoryLimit(settings, cacheBytes),
    verifyRedo: settings.read("verify_redo", parseBoolean) ?? false,
    logLevel: settings.read("log_level", parseLogLevel) ?? "info",
    maintenance: {
      pitrIntervalMs: settings.read("pitr_interval", durationBetween(0, 100 * 366 * DAY_MS)) ?? 7 * DAY_MS,
      gcHorizonBytes: settings.read("gc_horizon_bytes", sizeBetween(0, 2 ** 50)) ?? 64 * MIB,
      gcPeriodMs: settings.read("gc_period", durationBetween(0, 7 * DAY_MS)) ?? 3_600_000,
      compactionPeriodMs: settings.read("compaction_period", durationBetween(0, 7 * DAY_MS)) ?? 20_000,
      flushedLayersMin: settings.read("compaction_threshold", countBetween(2, 1000)) ?? 8,
    },
  };
  settings.end();
  const authenticates = options.authToken !== undefined || options.jwtPublicKey !== undefined;
  if (!authenticates && !isLoopback(options.listen.host)) {
    throw settings.wrong(
      "auth_token",
      `must be set, or jwt_public_key, since ${options.listen.host} can be reached from other machines`,
    );
  }
  for (const [key, address] of [
    ["listen", options.listen],
    ["listen_libpq", options.listenLibpq],
    ["listen_grpc", options.listenGrpc],
  ] as const) {
    if (!address || isLoopback(address.host) || options.tls || options.insecure) continue;
    throw settings.wrong(
      key,
      `is ${address.host}, which can be reached from other machines: set tls_cert and tls_key ` +
        "(`neon pageserver cert` makes them), or insecure = true in a network you trust",
    );
  }
  const { listenGrpc } = options;
  if (listenGrpc && !authenticates && !isLoopback(listenGrpc.host)) {
    throw settings.wrong(
      "auth_token",
      `must be set, or jwt_public_key, since ${listenGrpc.host} can be reached from other machines`,
    );
  }
  return options;
}

/** Without the setting it grows with the cache. */
function readMemoryLimit(settings: Settings, cacheBytes: number): number {
  const least = PROGRAM_BYTES + LAYER_MEMORY_MIN + cacheBytes;
  const limit = settings.read("memory_limit", sizeBetween(MIB, 2048 * 1024 * MIB));
  if (limit === undefined) return PROGRAM_BYTES + LAYER_MEMORY_MAX + cacheBytes;
  if (limit >= least) return limit;
  const [limitMb, cacheMb] = [Math.ceil(least / MIB), Math.ceil(cacheBytes / MIB)];
  throw settings.wrong("memory_limit", `must be at least ${limitMb} MB where cache_size is ${cacheMb} MB`);
}

/** Relative paths are relative to the working directory of the pageserver. */
function readTls(settings: Settings, workdir: string): PageserverOptions["tls"] {
  const cert = settings.read("tls_cert", parsePath);
  const key = settings.read("tls_key", parsePath);
  if (cert === undefined && key === undefined) return undefined;
  if (cert === undefined) throw settings.wrong("tls_cert", "must be set as well as tls_key");
  if (key === undefined) throw settings.wrong("tls_key", "must be set as well as tls_cert");
  return { certPath: resolve(workdir, cert), keyPath: resolve(workdir, key) };
}

/** Returns the value or a text that says what is wanted. */
type Parser<T> = (value: unknown) => T | Wanted;

class Wanted {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

class Settings {
  private readonly values: Readonly<Record<string, unknown>>;
  private readonly path: string;
  private readonly known = new Set<string>();

  constructor(text: string, path: string) {
    this.path = path;
    if (text.length > CONFIG_BYTES_MAX) throw this.error(`is longer than ${CONFIG_BYTES_MAX} bytes`);
    try {
      this.values = parse(text);
    } catch (error) {
      throw this.error(`is no TOML: ${messageOf(error)}`, error);
    }
  }

  read<T>(key: string, parser: Parser<T>): T | undefined {
    this.known.add(key);
    if (!Object.hasOwn(this.values, key)) return undefined;
    const value = parser(this.values[key]);
    if (value instanceof Wanted) throw this.wrong(key, `must be ${value.text}`);
    return value;
  }

  end(): void {
    for (const key of Object.keys(this.values)) {
      if (!this.known.has(key))
        throw this.wrong(key, `is not known; there are ${[...this.known].join(", ")}`);
    }
  }

  wrong(key: string, message: string): NeonError {
    return this.error(`"${key}" ${message}`);
  }

  private error(message: string, cause?: unknown): NeonError {
    return new NeonError(ErrorCode.Usage, `${this.path}: ${message}`, { data: { path: this.path }, cause });
  }
}

function parseListen(value: unknown): ListenAddress | Wanted {
  const match =
    typeof value === "string" ? /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]+)):(\d{1,5})$/.exec(value) : null;
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535) return new Wanted(`HOST:PORT, such as "${DEFAULT_LISTEN}"`);
  return { host, port };
}

function parseToken(value: unknown): string | Wanted {
  // What fits into a header without quoting.
  if (typeof value === "string" && value.length >= TOKEN_LENGTH_MIN && /^[\u0021-\u007e]+$/.test(value))
    return value;
  return new Wanted(`at least ${TOKEN_LENGTH_MIN} printable characters without blanks`);
}

function parsePath(value: unknown): string | Wanted {
  const good = typeof value === "string" && value !== "" && !value.includes("\0");
  return good ? value : new Wanted("the path of a file");
}

function parseBoolean(value: unknown): boolean | Wanted {
  return typeof value === "boolean" ? value : new Wanted("true or false");
}

function parseLogLevel(value: unknown): LogLevel | Wanted {
  return LOG_LEVELS.find((level) => level === value) ?? new Wanted(`one of ${LOG_LEVELS.join(", ")}`);
}

const SIZE_UNITS: Readonly<Record<string, number>> = { B: 1, kB: 1024, MB: MIB, GB: 1024 * MIB };
const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

function sizeBetween(min: number, max: number): Parser<number> {
  return quantity(SIZE_UNITS, "a size in bytes or with a unit (kB, MB, GB)", min, max);
}

function countBetween(min: number, max: number): Parser<number> {
  return (value) =>
    typeof value === "number" && Number.isInteger(value) && value >= min && value <= max
      ? value
      : new Wanted(`a number from ${min} to ${max}`);
}

function durationBetween(min: number, max: number): Parser<number> {
  return quantity(DURATION_UNITS, "a time in milliseconds or with a unit (ms, s, min, h, d)", min, max);
}

function quantity(
  units: Readonly<Record<string, number>>,
  what: string,
  min: number,
  max: number,
): Parser<number> {
  return (value) => {
    const match = typeof value === "string" ? /^(\d{1,15}) *([A-Za-z]+)$/.exec(value) : null;
    const amount = match ? Number(match[1]) * (units[match[2] ?? ""] ?? Number.NaN) : value;
    if (typeof amount === "number" && Number.isInteger(amount) && amount >= min && amount <= max)
      return amount;
    return new Wanted(`${what}, from ${min} to ${max}`);
  };
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}
