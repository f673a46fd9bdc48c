/** Settings of a tenant: those of its own, and what holds with the pageserver's where it has none. */
import { type JsonObject, asObject } from "./json.ts";
import { requestJson } from "./http.ts";
import type { PageserverClient } from "./pageserver-client.ts";

/** Times are texts such as `1h 30m`, sizes numbers of bytes. */
export type TenantSetting = string | number;

export interface TenantConfig {
  readonly own: ReadonlyMap<string, TenantSetting>;
  readonly effective: ReadonlyMap<string, TenantSetting>;
}

/** Told along with the others, and the same for all tenants. */
const SERVER_ONLY: ReadonlySet<string> = new Set(["cache_size", "memory_limit"]);
const TIMEOUT_MS = 30_000;

type Server = Pick<PageserverClient, "target" | "tenantId">;

export async function tenantConfig({ target, tenantId }: Server): Promise<TenantConfig> {
  const path = `/v1/tenant/${tenantId}/config`;
  return configOf(
    asObject(await requestJson(target, { method: "GET", path, timeoutMs: TIMEOUT_MS }), "config"),
  );
}

/** Gives a setting a value of the tenant's own, or takes it away (null). Throws `usage` for what cannot be. */
export async function setTenantConfig(
  { target, tenantId }: Server,
  name: string,
  value: TenantSetting | null,
): Promise<TenantConfig> {
  const body = { tenant_id: tenantId, [name]: value };
  const call = { method: "PATCH", path: "/v1/tenant/config", body, timeoutMs: TIMEOUT_MS } as const;
  return configOf(asObject(await requestJson(target, call), "config"));
}

function configOf(answer: JsonObject): TenantConfig {
  return {
    own: settingsOf(answer["tenant_specific_overrides"], "tenant_specific_overrides"),
    effective: settingsOf(answer["effective_config"], "effective_config"),
  };
}

function settingsOf(value: unknown, field: string): Map<string, TenantSetting> {
  const settings = new Map<string, TenantSetting>();
  for (const [name, setting] of Object.entries(asObject(value, field))) {
    if (SERVER_ONLY.has(name)) continue;
    if (typeof setting === "string" || typeof setting === "number") settings.set(name, setting);
  }
  return settings;
}
