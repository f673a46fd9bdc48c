/**
 * Tenants as the original's clients manage them. Their lists and details have our own fields as well, so that there is one
 * answer for everybody.
 */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import type { TenantId } from "../../../base/ids.ts";
import { versionByMajor } from "../../../postgres/versions/versions.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import { GENERATION_MAX } from "../../timeline/tenant-metadata.ts";
import { readTenantSettings } from "../../timeline/tenant-settings.ts";
import type { TenantEntry, Tenants } from "../../timeline/tenants.ts";
import { checkEverything, checkTenant, mayUseTenant } from "../identity.ts";
import { renderTenant } from "../render.ts";
import { type Answer, type ApiRequest, json } from "../request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, T, findersOf } from "../route-context.ts";

/** How the original's clients may want a tenant. */
const MODES: readonly string[] = [
  "AttachedSingle",
  "AttachedMulti",
  "AttachedStale",
  "Secondary",
  "Detached",
];
/** Of tenants whose creation says nothing of it. */
const DEFAULT_PG_VERSION = 17;

export function addTenantRoutes(router: ApiRouter, { tenants, nodeId }: RouteContext): void {
  const { inTenant } = findersOf(tenants);
  router
    .add("GET", "/v1/tenant", async (request) => json(listTenants(request, tenants)), "filtered")
    .add("POST", "/v1/tenant", (request) => createTenant(request, tenants), "filtered")
    .add(
      "GET",
      T,
      inTenant(async (_, tenant) => json(renderDetails(tenant))),
    )
    .add("DELETE", T, async (request) => {
      await tenants.delete(request.tenantId);
      return json({ deleted: request.tenantId });
    })
    .add("PUT", `${T}/location_config`, (request) => configureLocation(request, tenants, nodeId));
}

/** Those that the client may work with. */
function listTenants({ identity }: ApiRequest, tenants: Tenants<ServedTimeline>): object[] {
  return tenants
    .list()
    .filter((entry) => mayUseTenant(identity, idOf(entry)))
    .map(renderTenantInfo);
}

async function createTenant(request: ApiRequest, tenants: Tenants<ServedTimeline>): Promise<Answer> {
  const body = await request.body();
  const id = body.has("tenant_id") ? body.tenantId("tenant_id") : undefined;
  if (id === undefined) checkEverything(request.identity);
  else checkTenant(request.identity, id);
  const pgVersion = versionByMajor(body.integer("pg_version", { min: 1, max: 1000 }));
  body.end();
  const tenant = await tenants.create({ id, pgVersion });
  return json(renderTenantInfo({ kind: "open", tenant }), 201);
}

/** How clients of the original create a tenant: it is attached, and made if it is not there. */
async function configureLocation(
  request: ApiRequest,
  tenants: Tenants<ServedTimeline>,
  nodeId: number,
): Promise<Answer> {
  const body = await request.body();
  const mode = body.text("mode");
  if (!MODES.includes(mode)) {
    throw body.wrong("mode", `must be one of ${MODES.join(", ")}, not "${mode.slice(0, 40)}"`);
  }
  if (!mode.startsWith("Attached")) {
    throw new NeonError(
      ErrorCode.Unsupported,
      `a tenant cannot be ${mode.slice(0, 40)} here: it is attached or deleted`,
      {
        hint: `DELETE /v1/tenant/${request.tenantId} deletes it with its data.`,
      },
    );
  }
  const major = body.has("pg_version")
    ? body.integer("pg_version", { min: 1, max: 1000 })
    : DEFAULT_PG_VERSION;
  const generation = body.has("generation")
    ? body.integer("generation", { min: 0, max: GENERATION_MAX })
    : undefined;
  const config = body.optionalObject("tenant_conf");
  const own = config && readTenantSettings(config);
  const id = request.tenantId;
  if (!tenants.list().some((entry) => idOf(entry) === id)) {
    await tenants.create({ id, pgVersion: versionByMajor(major) });
  }
  if (generation !== undefined) await tenants.get(id).setGeneration(generation);
  // What else it has of settings is about what there is not here, as is said in the documentation.
  if (own) await tenants.get(id).configure(() => own);
  return json({ shards: [{ node_id: nodeId, shard_id: id }], stripe_size: null });
}

function idOf(entry: TenantEntry<ServedTimeline>): TenantId {
  return entry.kind === "open" ? entry.tenant.id : entry.id;
}

/** TenantInfo of the original, and our own fields. */
export function renderTenantInfo(entry: TenantEntry<ServedTimeline>): object {
  const own = renderTenant(entry);
  const shared = {
    id: idOf(entry),
    attachment_status: { slug: "attached" },
    generation: entry.kind === "open" ? entry.tenant.generation : 1,
    gc_blocking: null,
  };
  if (entry.kind === "broken") {
    return { ...own, ...shared, state: brokenState(entry.error), current_physical_size: null };
  }
  let sizeBytes = 0;
  for (const timeline of entry.tenant.timelineEntries().values()) {
    if (timeline.kind === "open") sizeBytes += timeline.timeline.physicalBytes;
  }
  return { ...own, ...shared, state: { slug: "Active" }, current_physical_size: sizeBytes };
}

function brokenState(error: NeonError): object {
  return { slug: "Broken", data: { reason: error.message, backtrace: "" } };
}

function renderDetails(tenant: AnyTenant): object {
  return {
    ...renderTenantInfo({ kind: "open", tenant }),
    walredo: null,
    timelines: [...tenant.timelineEntries().keys()],
  };
}
