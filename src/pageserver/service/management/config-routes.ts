/**
 * Settings of a tenant: how much history it keeps, `gc_horizon` in bytes and `pitr_interval`, where that is not what the
 * server's settings say. Others are the server's alone.
 */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import type { JsonFields } from "../../json-fields.ts";
import type { TenantOverrides } from "../../timeline/tenant-metadata.ts";
import { checkTenant } from "../identity.ts";
import { type Answer, type ApiRequest, json } from "../request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, T, findersOf } from "../route-context.ts";

const NAMES = ["gc_horizon", "pitr_interval"];
const PITR_MS_MAX = 100 * 366 * 86_400_000;

/** As the original's times are written: `7 days`, `1h 30m`. */
const UNITS_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  sec: 1000,
  second: 1000,
  m: 60_000,
  min: 60_000,
  minute: 60_000,
  h: 3_600_000,
  hr: 3_600_000,
  hour: 3_600_000,
  d: 86_400_000,
  day: 86_400_000,
  w: 7 * 86_400_000,
  week: 7 * 86_400_000,
};

export function addConfigRoutes(router: ApiRouter, context: RouteContext): void {
  const { tenants } = context;
  const { inTenant } = findersOf(tenants);
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
  for (const name of body.keys()) {
    if (name === "tenant_id" || NAMES.includes(name)) continue;
    throw new NeonError(ErrorCode.Unsupported, `"${name.slice(0, 60)}" is no setting of a tenant here`, {
      hint: `There are ${NAMES.join(" and ")}; others are in pageserver.toml, for all tenants.`,
    });
  }
  const kept = how === "replace" ? {} : withoutNamed(tenant.overrides, body);
  await tenant.configure({ ...kept, ...readOverrides(body) });
  return json(renderConfig(tenant, context));
}

/** What of the old settings a change leaves alone; null takes one away. */
function withoutNamed(
  { gcHorizonBytes, pitrIntervalMs }: TenantOverrides,
  body: JsonFields,
): TenantOverrides {
  const names = body.keys();
  return {
    ...(gcHorizonBytes === undefined || names.includes("gc_horizon") ? {} : { gcHorizonBytes }),
    ...(pitrIntervalMs === undefined || names.includes("pitr_interval") ? {} : { pitrIntervalMs }),
  };
}

/** Reads `gc_horizon` and `pitr_interval`, as far as they are there. */
export function readOverrides(body: JsonFields): TenantOverrides {
  const pitrIntervalMs = body.has("pitr_interval") ? readDuration(body, "pitr_interval") : undefined;
  return {
    ...(body.has("gc_horizon")
      ? { gcHorizonBytes: body.integer("gc_horizon", { min: 0, max: 2 ** 50 }) }
      : {}),
    ...(pitrIntervalMs === undefined ? {} : { pitrIntervalMs }),
  };
}

function readDuration(body: JsonFields, name: string): number {
  const text = body.text(name, { maxLength: 60 });
  const wrong = (): NeonError => body.wrong(name, "must be a time such as 7 days, 1h 30m or 0s");
  let sum = 0;
  let rest = text.trim();
  while (rest !== "") {
    const [part, amount, unit] = /^(\d{1,12}) *([a-z]+) */.exec(rest) ?? [];
    if (part === undefined || unit === undefined) throw wrong();
    const unitMs = UNITS_MS[unit] ?? UNITS_MS[unit.replace(/s$/, "")];
    if (unitMs === undefined) throw wrong();
    sum += Number(amount) * unitMs;
    rest = rest.slice(part.length);
  }
  if (text.trim() === "" || sum > PITR_MS_MAX) throw wrong();
  return sum;
}

function renderConfig(tenant: AnyTenant, { retention, settings }: RouteContext): object {
  const { gcHorizonBytes, pitrIntervalMs } = tenant.overrides;
  const kept = tenant.retention(retention);
  return {
    tenant_specific_overrides: {
      ...(gcHorizonBytes === undefined ? {} : { gc_horizon: gcHorizonBytes }),
      ...(pitrIntervalMs === undefined ? {} : { pitr_interval: formatDuration(pitrIntervalMs) }),
    },
    effective_config: {
      ...settings,
      gc_horizon: kept.gcHorizonBytes,
      pitr_interval: formatDuration(kept.pitrIntervalMs),
    },
  };
}

function formatDuration(ms: number): string {
  return ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`;
}
