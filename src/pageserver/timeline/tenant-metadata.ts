/** tenant.json: what is known of a tenant beside its refs and timelines. Format: docs/formats/tenant.md. */
import { join } from "node:path";
import type { TenantId } from "../../base/ids.ts";
import type { Files } from "../../base/seams.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { versionByMajor } from "../../postgres/versions/versions.ts";
import { readJsonFile, writeJsonFile } from "./json-file.ts";
import type { ClusterIdentity } from "./served-timeline.ts";
import { type TenantOverrides, loadTenantSettings, storeTenantSettings } from "./tenant-settings.ts";

export const TENANT_FILE = "tenant.json";
const MAGIC = "neon-tenant";
const VERSION = 1;
export const GENERATION_MAX = 2 ** 32 - 1;
const SEGMENT_SIZE_MIN = 1024 * 1024;
const SEGMENT_SIZE_MAX = 1024 * 1024 * 1024;

/** The contents of the file. */
export interface TenantMetadata {
  readonly id: TenantId;
  readonly pgVersion: PgVersion;
  readonly createdAt: number;
  /** Undefined until the first import. */
  readonly cluster: ClusterIdentity | undefined;
  /** Settings that take the place of the server's. */
  readonly overrides: TenantOverrides;
  /** How often somebody else's list of pageservers has given it to one, if there is such a list. */
  readonly generation?: number | undefined;
}

export async function writeTenantMetadata(
  files: Files,
  directory: string,
  metadata: TenantMetadata,
): Promise<void> {
  const { cluster, overrides } = metadata;
  await writeJsonFile(files, join(directory, TENANT_FILE), MAGIC, VERSION, {
    tenant_id: metadata.id,
    pg_version: metadata.pgVersion.major,
    created_at: new Date(metadata.createdAt).toISOString(),
    cluster: cluster ? { system_id: cluster.systemId.toString(), segment_size: cluster.segmentSize } : null,
    ...(metadata.generation === undefined ? {} : { generation: metadata.generation }),
    ...(Object.keys(overrides).length === 0 ? {} : { config: storeTenantSettings(overrides) }),
  });
}

/** Undefined if there is no file. Throws `corrupt`. */
export async function readTenantMetadata(
  files: Files,
  directory: string,
  id: TenantId,
): Promise<TenantMetadata | undefined> {
  const path = join(directory, TENANT_FILE);
  const file = await readJsonFile(files, path, MAGIC, VERSION);
  if (!file) return undefined;
  const { fields } = file;
  if (fields.tenantId("tenant_id") !== id) throw fields.wrong("tenant_id", "is that of another tenant");
  const pgVersion = versionByMajor(fields.integer("pg_version", { min: 1, max: 1000 }));
  const cluster = fields.optionalObject("cluster");
  const config = fields.optionalObject("config");
  return {
    id,
    pgVersion,
    createdAt: fields.time("created_at"),
    cluster: cluster && {
      pgVersion,
      systemId: cluster.u64("system_id"),
      segmentSize: cluster.integer("segment_size", { min: SEGMENT_SIZE_MIN, max: SEGMENT_SIZE_MAX }),
    },
    overrides: config ? loadTenantSettings(config) : {},
    generation: fields.has("generation")
      ? fields.integer("generation", { min: 0, max: GENERATION_MAX })
      : undefined,
  };
}
