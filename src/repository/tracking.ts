/**
 * What an origin had when it was last asked: `.neon/tracking/<origin>.json`, written after every contact. It answers "am I
 * ahead or behind" without asking again; nothing is ever decided by it. A file that is damaged or missing means that
 * nothing is known. Format: docs/formats/tracking.md.
 */
import { readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type TenantId, isId, parseTenantId } from "../base/ids.ts";
import type { Lineage } from "../base/lineage.ts";
import { type Lsn, formatLsn, parseLsn } from "../base/lsn.ts";
import { fileError, writeFileAtomically } from "./atomic-file.ts";
import type { Repository } from "./repository.ts";

/** A branch of an origin as it was. */
export interface TrackedBranch {
  readonly name: string;
  readonly lastRecordLsn: Lsn;
  /** Undefined where the origin does not say. */
  readonly lineage: Lineage | undefined;
}

export interface TrackedTenant {
  readonly tenantId: TenantId;
  readonly branches: readonly TrackedBranch[];
}

export interface Contact {
  /** Milliseconds since 1970. */
  readonly contactedAt: number;
  readonly tenants: readonly TrackedTenant[];
}

const FORMAT = "neon tracking";
const VERSION = 1;

export function trackingPath(repository: Repository, origin: string): string {
  return join(repository.directory, "tracking", `${origin}.json`);
}

/** What was there at the last contact; undefined if nothing is known. */
export function readTracking(repository: Repository, origin: string): Contact | undefined {
  try {
    return decode(JSON.parse(readFileSync(trackingPath(repository, origin), "utf8")));
  } catch {
    return undefined;
  }
}

/** Replaces what is known of the tenants that are named; of others it stays as it was. */
export async function writeTracking(repository: Repository, origin: string, contact: Contact): Promise<void> {
  const path = trackingPath(repository, origin);
  const fresh = new Set(contact.tenants.map((tenant) => tenant.tenantId));
  const others = (readTracking(repository, origin)?.tenants ?? []).filter(
    (tenant) => !fresh.has(tenant.tenantId),
  );
  const file = {
    format: FORMAT,
    version: VERSION,
    contacted_at: new Date(contact.contactedAt).toISOString(),
    tenants: [...contact.tenants, ...others].map(encodeTenant),
  };
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  } catch (error) {
    throw fileError(`cannot create ${dirname(path)}`, error);
  }
  await writeFileAtomically(path, `${JSON.stringify(file, undefined, 1)}\n`, 0o600);
}

/** Notes single branches of a tenant as they are now; what is known of others stays. */
export async function trackBranches(
  repository: Repository,
  origin: string,
  tenantId: TenantId,
  branches: readonly TrackedBranch[],
): Promise<void> {
  const known = readTracking(repository, origin)?.tenants.find((tenant) => tenant.tenantId === tenantId);
  const fresh = new Set(branches.map(({ name }) => name));
  const others = (known?.branches ?? []).filter(({ name }) => !fresh.has(name));
  await writeTracking(repository, origin, {
    contactedAt: Date.now(),
    tenants: [{ tenantId, branches: [...others, ...branches] }],
  });
}

/** One branch of one tenant at the last contact. */
export function trackedBranch(
  contact: Contact | undefined,
  tenantId: TenantId,
  branch: string,
): TrackedBranch | undefined {
  const tenant = contact?.tenants.find((item) => item.tenantId === tenantId);
  return tenant?.branches.find((item) => item.name === branch);
}

function encodeTenant({ tenantId, branches }: TrackedTenant): object {
  return {
    tenant_id: tenantId,
    branches: branches.map(({ name, lastRecordLsn, lineage }) => ({
      name,
      last_record_lsn: formatLsn(lastRecordLsn),
      lineage: lineage === undefined ? null : encodeLineage(lineage),
    })),
  };
}

function encodeLineage({ entries, endLsn }: Lineage): object {
  return {
    entries: entries.map(({ startLsn, epoch }) => ({ start_lsn: formatLsn(startLsn), epoch })),
    end_lsn: formatLsn(endLsn),
  };
}

function decode(value: unknown): Contact {
  const file = record(value);
  if (file["format"] !== FORMAT || file["version"] !== VERSION) throw damaged("format");
  const contactedAt = Date.parse(String(file["contacted_at"]));
  if (!Number.isFinite(contactedAt)) throw damaged("contacted_at");
  return { contactedAt, tenants: list(file["tenants"]).map(decodeTenant) };
}

function decodeTenant(value: unknown): TrackedTenant {
  const { tenant_id: id, branches } = record(value);
  if (typeof id !== "string" || !isId(id)) throw damaged("tenant_id");
  return { tenantId: parseTenantId(id), branches: list(branches).map(decodeBranch) };
}

function decodeBranch(value: unknown): TrackedBranch {
  const { name, last_record_lsn: end, lineage } = record(value);
  if (typeof name !== "string") throw damaged("name");
  return {
    name,
    lastRecordLsn: lsn(end),
    lineage: lineage === null || lineage === undefined ? undefined : decodeLineage(lineage),
  };
}

function decodeLineage(value: unknown): Lineage {
  const { entries, end_lsn: end } = record(value);
  return {
    entries: list(entries).map((entry) => {
      const { start_lsn: start, epoch } = record(entry);
      if (typeof epoch !== "string") throw damaged("epoch");
      return { startLsn: lsn(start), epoch };
    }),
    endLsn: lsn(end),
  };
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw damaged("object");
  return value as Record<string, unknown>;
}

function list(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw damaged("list");
  return value;
}

function lsn(value: unknown): Lsn {
  const parsed = typeof value === "string" ? parseLsn(value) : undefined;
  if (parsed === undefined) throw damaged("lsn");
  return parsed;
}

function damaged(what: string): NeonError {
  return new NeonError(ErrorCode.Corrupt, `the tracking file has no valid ${what}`);
}
