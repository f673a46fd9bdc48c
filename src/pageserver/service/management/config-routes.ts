/**
 * Settings of a tenant, where they are not the server's: how much history it keeps, when layers are written and compacted.
 * What the original has beyond these is about what there is not here, or for all tenants alike.
 */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import type { JsonFields } from "../../json-fields.ts";
import {
  TENANT_SETTING_NAMES,
  readTenantSettings,
  renderTenantSettings,
  withoutSettings,
} from "../../timeline/tenant-settings.ts";
import { checkTenant } from "../identity.ts";
import { type Answer, type ApiRequest, json } from "../request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, T, findersOf } from "../route-context.ts";

/** What the original's clients may set beside those: it is about what there is not here. */
const WITHOUT_COUNTERPART: ReadonlySet<string> = new Set([
  "compaction_upper_limit",
  "compaction_algorithm",
  "compaction_shard_ancestor",
  "compaction_l0_first",
  "compaction_l0_semaphore",
  "l0_flush_stall_threshold",
  "image_creation_preempt_threshold",
  "image_layer_creation_check_threshold",
  "walreceiver_connect_timeout",
  "lagging_wal_timeout",
  "max_lsn_wal_lag",
  "wal_receiver_protocol_override",
  "eviction_policy",
  "min_resident_size_override",
  "evictions_low_residence_duration_metric_threshold",
  "heatmap_period",
  "lazy_slru_download",
  "timeline_get_throttle",
  "timeline_offloading",
  "switch_aux_file_policy",
  "rel_size_v2_enabled",
  "relsize_snapshot_cache_capacity",
  "basebackup_cache_enabled",
  "sampling_ratio",
  "gc_compaction_enabled",
  "gc_compaction_verification",
  "gc_compaction_initial_threshold_kb",
  "gc_compaction_ratio_percent",
]);

export function addConfigRoutes(router: ApiRouter, context: RouteContext): void {
  const { inTenant } = findersOf(context.tenants);
  router
    .add(
      "GET",
      `${T}/config`,
      inTenant(async (_, tenant) => json(renderConfig(tenant, context))),
    )
    .add("PUT", "/v1/tenant/config", (request) => configure(request, context, "replace"), "filtered")
    .add("PATCH", "/v1/tenant/config", (request) => configure(request, context, "change"), "filtered");
}

async function configure(
  request: ApiRequest,
  context: RouteContext,
  how: "replace" | "change",
): Promise<Answer> {
  const body = await request.body();
  const id = body.tenantId("tenant_id");
  checkTenant(request.identity, id);
  const tenant = context.tenants.get(id);
  checkNames(body);
  const given = readTenantSettings(body);
  await tenant.configure((own) =>
    // Null takes one away.
    how === "replace" ? given : { ...withoutSettings(own, body.keys()), ...given },
  );
  return json(renderConfig(tenant, context));
}

function checkNames(body: JsonFields): void {
  for (const name of body.keys()) {
    if (name === "tenant_id" || TENANT_SETTING_NAMES.includes(name)) continue;
    const hint = `There are ${TENANT_SETTING_NAMES.join(", ")}; others are in pageserver.toml, for all tenants.`;
    if (WITHOUT_COUNTERPART.has(name)) {
      throw new NeonError(ErrorCode.Unsupported, `"${name}" has no counterpart here`, { hint });
    }
    throw new NeonError(ErrorCode.Usage, `"${name.slice(0, 60)}" is no setting of a tenant`, { hint });
  }
}

function renderConfig(tenant: AnyTenant, { show }: RouteContext): object {
  return {
    tenant_specific_overrides: renderTenantSettings(tenant.overrides),
    effective_config: show(tenant.settings),
  };
}
