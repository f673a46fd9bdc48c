/** The major versions of Postgres that we know, and how to tell them apart. A new one is a data file and a line here. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { POSTGRES_14 } from "./postgres-14.ts";
import { POSTGRES_15 } from "./postgres-15.ts";
import { POSTGRES_16 } from "./postgres-16.ts";
import { POSTGRES_17 } from "./postgres-17.ts";
import { POSTGRES_18 } from "./postgres-18.ts";
import type { PgVersion } from "./version.ts";

export const SUPPORTED_VERSIONS: readonly PgVersion[] = [
  POSTGRES_14,
  POSTGRES_15,
  POSTGRES_16,
  POSTGRES_17,
  POSTGRES_18,
];

/** The version of a major number such as 17. Throws `unsupported`. */
export function versionByMajor(major: number): PgVersion {
  const version = SUPPORTED_VERSIONS.find((candidate) => candidate.major === major);
  if (!version) throw unsupported(`PostgreSQL ${major} is not supported`, { major });
  return version;
}

/** The version of a data directory, from the two numbers in its pg_control. Throws `unsupported`. */
export function versionByControl(controlVersion: number, catalogVersion: number): PgVersion {
  const version = SUPPORTED_VERSIONS.find(
    (candidate) => candidate.controlVersion === controlVersion && candidate.catalogVersion === catalogVersion,
  );
  if (!version) {
    throw unsupported(
      `the data directory is of an unsupported PostgreSQL version (pg_control version ${controlVersion}, catalog version ${catalogVersion})`,
      { control_version: controlVersion, catalog_version: catalogVersion },
    );
  }
  return version;
}

/** The version that writes WAL pages with this `xlp_magic`. Throws `unsupported`. */
export function versionByWalMagic(magic: number): PgVersion {
  const version = SUPPORTED_VERSIONS.find((candidate) => candidate.walPageMagic === magic);
  if (!version)
    throw unsupported(`no supported PostgreSQL version writes WAL pages with magic 0x${magic.toString(16)}`, {
      magic,
    });
  return version;
}

function unsupported(message: string, data: Record<string, number>): NeonError {
  const majors = SUPPORTED_VERSIONS.map((version) => version.major).join(", ");
  return new NeonError(ErrorCode.Unsupported, message, {
    hint: `Supported major versions: ${majors}.`,
    data,
  });
}
