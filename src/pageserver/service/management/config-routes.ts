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
    throw new NeonError(ErrorCode.Unsupported, `"${name.slice(0, 60)}" is no setting of a tenant here`, {
      hint: `There are ${TENANT_SETTING_NAMES.join(", ")}; others are in pageserver.toml, for all tenants.`,
    });
  }
}

function renderConfig(tenant: AnyTenant, { show }: RouteContext): object {
  return {
    tenant_specific_overrides: renderTenantSettings(tenant.overrides),
    effective_config: show(tenant.settings),
  };
}
