/** The server's settings as its tenants and its clients see them. */
import type { PageserverOptions } from "./options.ts";
import {
  DEFAULT_TENANT_SETTINGS,
  type TenantSettings,
  flushDelayFor,
  renderTenantSettings,
} from "./timeline/tenant-settings.ts";

/** Those that a tenant may have of its own. */
export function serverTenantSettings(options: PageserverOptions): TenantSettings {
  const { maintenance, checkpointDistanceBytes, checkpointTimeoutMs } = options;
  return {
    ...DEFAULT_TENANT_SETTINGS,
    ...maintenance,
    checkpointDistanceBytes,
    checkpointTimeoutMs,
    flushDelayLayers: flushDelayFor(maintenance),
  };
}

export type ShownSettings = Readonly<Record<string, string | number>>;

/** Settings of the server and of one of its tenants by the names of the original: what `show` and GET …/config tell. */
export function shownSettings(
  options: Pick<PageserverOptions, "cacheBytes" | "memoryLimitBytes">,
  settings: TenantSettings,
): ShownSettings {
  return {
    ...renderTenantSettings(settings),
    cache_size: options.cacheBytes,
    memory_limit: options.memoryLimitBytes,
  };
}
