/** `.neon/config.toml`: parsing it into a typed value, rendering a new one, changing one setting of an existing one. */
import { parse } from "@iarna/toml";
import { ErrorCode, NeonError, messageOf } from "../base/errors.ts";
import { type TenantId, parseTenantId } from "../base/ids.ts";
import { CONFIG_KEYS, type ConfigValue, configValueProblem, findConfigKey } from "./config-keys.ts";
import { formatTomlValue, setTomlValue } from "./toml-edit.ts";

export interface ComputeConfig {
  readonly port?: number;
  readonly commit?: "remote" | "local";
}

export interface NeonConfig {
  readonly defaultTenantId: TenantId;
  readonly pgVersion: number;
  readonly pgBin?: string;
  /** User of Postgres when run by root. */
  readonly runAs?: string;
  readonly pageserver: {
    /** `host:port`. */
    readonly listen: string;
    readonly authToken: string;
    /** `host:port`; undefined until the first start. */
    readonly listenLibpq?: string;
    /** `host:port`; undefined until the first start. */
    readonly listenGrpc?: string;
    /** Paths of files in PEM. */
    readonly tlsCert?: string;
    readonly tlsKey?: string;
    /** Path of a public key in PEM, or of a directory of such. */
    readonly jwtPublicKey?: string;
    readonly insecure?: boolean;
    readonly verifyRedo?: boolean;
  };
  /** Name → `postgresql://…`. */
  readonly origins: Readonly<Record<string, string>>;
  readonly computes: Readonly<Record<string, ComputeConfig>>;
}

/** Settings as the file has them: full path → value. Unknown keys and wrong values are `usage` errors. */
export type ConfigSettings = ReadonlyMap<string, ConfigValue>;

/** Where the pageserver is reached. */
export function pageserverUrl(config: NeonConfig): string {
  return `http://${config.pageserver.listen}`;
}

/** Parses the text of a config file; `path` is for error messages. */
export function parseSettings(text: string, path: string): ConfigSettings {
  let document: Record<string, unknown>;
  try {
    document = parse(text);
  } catch (error) {
    throw new NeonError(ErrorCode.Usage, `${path} is no valid TOML: ${firstLine(messageOf(error))}`, {
      hint: "Correct the line, or compare with .neon.example.toml.",
      cause: error,
    });
  }
  const settings = new Map<string, ConfigValue>();
  for (const [name, value] of Object.entries(document)) collect(settings, name, value, path, 0);
  for (const key of CONFIG_KEYS) {
    if (key.required && !settings.has(key.path)) throw invalid(path, key.path, "it is missing");
  }
  return settings;
}

export function configFromSettings(settings: ConfigSettings): NeonConfig {
  const origins: Record<string, string> = {};
  const computes: Record<string, ComputeConfig> = {};
  for (const [path, value] of settings) {
    const [group, name, field] = findConfigKey(path)?.parts ?? [];
    if (name === undefined) continue;
    if (group === "origins") origins[name] = String(value);
    if (group === "computes" && field === "port") computes[name] = { ...computes[name], port: Number(value) };
    if (group === "computes" && field === "commit") {
      computes[name] = { ...computes[name], commit: value === "local" ? "local" : "remote" };
    }
  }
  const pgBin = settings.get("pg_bin");
  const runAs = settings.get("run_as");
  const verifyRedo = settings.get("pageserver.verify_redo");
  return {
    defaultTenantId: parseTenantId(String(settings.get("default_tenant_id"))),
    pgVersion: Number(settings.get("pg_version")),
    ...(pgBin === undefined ? {} : { pgBin: String(pgBin) }),
    ...(runAs === undefined ? {} : { runAs: String(runAs) }),
    pageserver: {
      listen: String(settings.get("pageserver.listen")),
      authToken: String(settings.get("pageserver.auth_token")),
      ...accessSettings(settings),
      ...(typeof verifyRedo === "boolean" ? { verifyRedo } : {}),
    },
    origins,
    computes,
  };
}

/** Where and how others come in. */
function accessSettings(settings: ConfigSettings): Partial<NeonConfig["pageserver"]> {
  const text = (key: string): string | undefined => {
    const value = settings.get(`pageserver.${key}`);
    return value === undefined ? undefined : String(value);
  };
  const listenLibpq = text("listen_libpq");
  const listenGrpc = text("listen_grpc");
  const tlsCert = text("tls_cert");
  const tlsKey = text("tls_key");
  const jwtPublicKey = text("jwt_public_key");
  const insecure = settings.get("pageserver.insecure");
  return {
    ...(listenLibpq === undefined ? {} : { listenLibpq }),
    ...(listenGrpc === undefined ? {} : { listenGrpc }),
    ...(tlsCert === undefined ? {} : { tlsCert }),
    ...(tlsKey === undefined ? {} : { tlsKey }),
    ...(jwtPublicKey === undefined ? {} : { jwtPublicKey }),
    ...(typeof insecure === "boolean" ? { insecure } : {}),
  };
}

/** The file that `neon init` writes. */
export function renderConfig(config: NeonConfig): string {
  const pgBin = config.pgBin === undefined ? "" : `pg_bin = ${formatTomlValue(config.pgBin)}\n`;
  return `# Settings of this neon repository. All keys: .neon.example.toml, or \`neon config list\`.
# The file holds secrets: keep it readable for yourself only.

default_tenant_id = ${formatTomlValue(config.defaultTenantId)}
pg_version = ${config.pgVersion}
${pgBin}
[pageserver]
listen = ${formatTomlValue(config.pageserver.listen)}
auth_token = ${formatTomlValue(config.pageserver.authToken)}
`;
}

/** The file's text with one setting changed (or removed); comments and order stay. Throws `usage`. */
export function changeSetting(
  text: string,
  path: string,
  value: ConfigValue | undefined,
  file: string,
): string {
  const found = findConfigKey(path);
  if (!found) throw unknownKey(path);
  if (value !== undefined) {
    const problem = configValueProblem(found.key, value);
    if (problem) {
      throw new NeonError(ErrorCode.Usage, `${path} cannot be ${formatTomlValue(value)}: ${problem}`, {
        hint: found.key.description,
      });
    }
  }
  const changed = setTomlValue(text, found.parts, value);
  const after = parseSettings(changed, file).get(path);
  if (after !== value) {
    throw new NeonError(ErrorCode.Failed, `${path} is written in ${file} in a way that neon cannot change`, {
      hint: "Change it there with an editor.",
    });
  }
  return changed;
}

export function unknownKey(path: string): NeonError {
  return new NeonError(ErrorCode.NotFound, `there is no setting "${path}"`, {
    hint: `Settings are ${CONFIG_KEYS.map((key) => key.path).join(", ")}.`,
  });
}

/** Deepest nesting of tables that any key has. */
const DEPTH_MAX = 3;

function collect(
  into: Map<string, ConfigValue>,
  path: string,
  value: unknown,
  file: string,
  depth: number,
): void {
  if (typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date)) {
    if (depth >= DEPTH_MAX) throw invalid(file, path, "no such setting is known");
    for (const [name, item] of Object.entries(value)) collect(into, `${path}.${name}`, item, file, depth + 1);
    return;
  }
  const found = findConfigKey(path);
  if (!found) throw invalid(file, path, "no such setting is known");
  const problem = configValueProblem(found.key, value);
  if (problem) throw invalid(file, path, problem);
  if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") {
    into.set(path, value);
  }
}

function invalid(file: string, path: string, problem: string): NeonError {
  return new NeonError(ErrorCode.Usage, `${file}: ${path}: ${problem}`, {
    hint: "All settings are explained in .neon.example.toml.",
  });
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? text;
}
