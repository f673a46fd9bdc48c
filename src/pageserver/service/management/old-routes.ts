/** The routes of the original's first year: branches by name, without a tenant in front. */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { type TimelineId, isId } from "../../../base/ids.ts";
import { formatLsn, parseLsn } from "../../../base/lsn.ts";
import { checkTenant } from "../identity.ts";
import { currentEnd, resolveMoment, waitUntilDurable } from "../points.ts";
import { type Answer, type ApiRequest, json } from "../request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, findersOf } from "../route-context.ts";

export function addOldRoutes(router: ApiRouter, { tenants }: RouteContext): void {
  const { inTenant } = findersOf(tenants);
  router
    .add(
      "GET",
      "/v1/branch/:tenant",
      inTenant(async (_, tenant) => json(tenant.branches().map(({ ref }) => branchInfo(tenant, ref.name)))),
    )
    .add(
      "GET",
      "/v1/branch/:tenant/:name",
      inTenant(async (request, tenant) => json(branchInfo(tenant, request.part("name")))),
    )
    .add("POST", "/v1/branch", (request) => createBranch(request, (id) => tenants.get(id)), "filtered");
}

/** BranchInfo of the original; the number of an LSN is exact up to 2^53. */
function branchInfo(tenant: AnyTenant, name: string): object {
  const { ref, entry } = tenant.branch(name);
  const ancestor = entry.kind === "open" ? entry.timeline.ancestor : entry.metadata?.ancestor;
  return {
    name: ref.name,
    timeline_id: ref.timelineId,
    latest_valid_lsn: entry.kind === "open" ? entry.timeline.lastRecordLsn : 0,
    ancestor_id: ancestor?.timelineId ?? null,
    ancestor_lsn: ancestor ? formatLsn(ancestor.lsn) : null,
  };
}

/** `start_point`: a branch or a timeline id, with `@LSN` behind it or not. */
async function createBranch(
  request: ApiRequest,
  find: (id: ApiRequest["tenantId"]) => AnyTenant,
): Promise<Answer> {
  const body = await request.body();
  const id = body.tenantId("tenant_id");
  checkTenant(request.identity, id);
  const name = body.text("name");
  const [source = "", position] = body.text("start_point").split("@");
  const tenant = find(id);
  tenant.checkNameFree(name);
  const from = isId(source) ? (source as TimelineId) : tenant.branch(source).ref.timelineId;
  const wanted = position === undefined ? undefined : parseLsn(position);
  if (position !== undefined && wanted === undefined) {
    throw new NeonError(ErrorCode.Usage, `could not parse point-in-time ${source.slice(0, 80)}@…`);
  }
  const lsn =
    wanted === undefined
      ? await currentEnd(tenant.timeline(from))
      : await resolveMoment(tenant, from, { lsn: wanted });
  await waitUntilDurable(tenant, from, lsn);
  await tenant.createBranch(name, from, lsn);
  return json(branchInfo(tenant, name), 201);
}
