/** Branches of a tenant, and the tenant's files as a whole: what the command line works with. */
import { formatLsn } from "../../base/lsn.ts";
import { checkRefName } from "../timeline/refs.ts";
import { usage } from "./http-errors.ts";
import { jsonLines } from "./json-lines.ts";
import { currentEnd, readMoment, readSource, resolveMoment, waitUntilDurable } from "./points.ts";
import {
  renderBranch,
  renderCheck,
  renderCreatedBranch,
  renderDamagedBranch,
  renderRepair,
} from "./render.ts";
import { type Answer, type ApiRequest, json } from "./request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, T, findersOf } from "./route-context.ts";

export function addBranchRoutes(router: ApiRouter, { tenants }: RouteContext): void {
  const { inTenant } = findersOf(tenants);
  router
    .add("POST", `${T}/import`, inTenant(importTar))
    .add("GET", `${T}/branch`, inTenant(listBranches))
    .add("POST", `${T}/branch`, inTenant(createBranch))
    .add("GET", `${T}/branch/:name`, inTenant(getBranch))
    .add("DELETE", `${T}/branch/:name`, inTenant(deleteBranch))
    .add("POST", `${T}/branch/:name/rename`, inTenant(renameBranch))
    .add("GET", `${T}/fsck`, inTenant(fsck))
    .add("POST", `${T}/repair`, inTenant(repair));
}

async function importTar(request: ApiRequest, tenant: AnyTenant): Promise<Answer> {
  request.expectQuery("branch", "timeline_id");
  const branch = request.query("branch");
  if (branch === undefined) throw usage('query parameter "branch" is missing', "branch");
  const timelineId = request.queryTimelineId("timeline_id");
  const { timeline } = await tenant.import({ branch, timelineId, tar: request.upload() });
  return json(
    {
      timeline_id: timeline.id,
      lsn: formatLsn(timeline.lastRecordLsn),
      system_id: timeline.cluster.systemId.toString(),
      pg_version: timeline.cluster.pgVersion.major,
    },
    201,
  );
}

async function listBranches(_: ApiRequest, tenant: AnyTenant): Promise<Answer> {
  const branches = tenant.branches().map((branch) => renderBranch(tenant, branch));
  for (const [name, error] of tenant.damagedRefs) branches.push(renderDamagedBranch(name, error.message));
  return json({ branches });
}

async function getBranch(request: ApiRequest, tenant: AnyTenant): Promise<Answer> {
  return json(renderBranch(tenant, tenant.branch(request.part("name"))));
}

async function createBranch(request: ApiRequest, tenant: AnyTenant): Promise<Answer> {
  const body = await request.body();
  const name = body.text("name");
  checkRefName(name);
  const point = body.object("point");
  const from = readSource(point, tenant);
  const moment = readMoment(point);
  point.end();
  body.end();
  tenant.checkNameFree(name);
  const lsn = moment ? await resolveMoment(tenant, from, moment) : await currentEnd(tenant.timeline(from));
  await waitUntilDurable(tenant, from, lsn);
  const branch = await tenant.createBranch(name, from, lsn);
  return json(renderCreatedBranch(tenant, branch), 201);
}

async function deleteBranch(request: ApiRequest, tenant: AnyTenant): Promise<Answer> {
  await tenant.deleteBranch(request.part("name"));
  return json({ deleted: request.part("name") });
}

async function renameBranch(request: ApiRequest, tenant: AnyTenant): Promise<Answer> {
  const body = await request.body();
  const newName = body.text("new_name");
  body.end();
  const branch = await tenant.renameBranch(request.part("name"), newName);
  return json(renderBranch(tenant, branch));
}

function fsck(request: ApiRequest, tenant: AnyTenant): Promise<Answer> {
  request.expectQuery();
  return Promise.resolve(
    jsonLines(async ({ signal, progress }) => {
      const report = await tenant.check({
        signal,
        progress: (done, total) => {
          progress({ done_bytes: done, total_bytes: total });
        },
      });
      return renderCheck(report);
    }),
  );
}

async function repair(request: ApiRequest, tenant: AnyTenant): Promise<Answer> {
  const body = await request.body();
  const apply = body.boolean("apply");
  body.end();
  return jsonLines(async ({ signal, progress }) => {
    const report = await tenant.repair({
      apply,
      signal,
      progress: (done, total) => {
        progress({ done_bytes: done, total_bytes: total });
      },
    });
    return renderRepair(report);
  });
}
