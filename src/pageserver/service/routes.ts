/** The HTTP API: every route with what it reads and what it answers. */
import { isAbsolute } from "node:path";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import { versionByMajor } from "../../postgres/versions/versions.ts";
import { readWriterSource } from "../timeline/metadata.ts";
import { checkRefName } from "../timeline/refs.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { Tenants } from "../timeline/tenants.ts";
import { usage } from "./http-errors.ts";
import { checkEverything, checkTenant, mayUseTenant } from "./identity.ts";
import { jsonLines } from "./json-lines.ts";
import { currentEnd, readMoment, readSource, resolveMoment, waitUntilDurable } from "./points.ts";
import { backup as recoveryBackup, plan as recoveryPlan } from "./recovery-routes.ts";
import type { JwtKeys } from "./jwt-keys.ts";
import type { Metrics } from "./metrics.ts";
import {
  renderBranch,
  renderCheck,
  renderRepair,
  renderCreatedBranch,
  renderDamagedBranch,
  renderTenant,
  renderVerification,
} from "./render.ts";
import { type Answer, type ApiRequest, json } from "./request.ts";
import { Router } from "./router.ts";
import { addStorageRoutes } from "./storage-routes.ts";
import type { RetentionSettings } from "../compaction/maintenance.ts";
import { addUserRoutes } from "./user-routes.ts";
import type { Users } from "./users.ts";

export type Handler = (request: ApiRequest) => Promise<Answer>;

const METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";
const WAIT_TIMEOUT_MS_MAX = 60 * 60 * 1000;
const COMPUTE_NAME_LENGTH_MAX = 200;
const PATH_LENGTH_MAX = 4096;

export function buildRoutes(
  tenants: Tenants<ServedTimeline>,
  { users, keys }: { users: Users; keys: JwtKeys | undefined },
  retention: RetentionSettings,
  metrics: Metrics,
): Router<Handler> {
  const tenantOf = (request: ApiRequest): Tenant<ServedTimeline> => tenants.get(request.tenantId);
  const inTenant =
    (handler: (request: ApiRequest, tenant: Tenant<ServedTimeline>) => Promise<Answer>): Handler =>
    (request) =>
      handler(request, tenantOf(request));
  const onTimeline =
    (
      handler: (
        request: ApiRequest,
        timeline: ServedTimeline,
        tenant: Tenant<ServedTimeline>,
      ) => Promise<Answer>,
    ): Handler =>
    (request) => {
      const tenant = tenantOf(request);
      return handler(request, tenant.timeline(request.timelineId), tenant);
    };
  const t = "/v1/tenant/:tenant";
  const tl = `${t}/timeline/:timeline`;
  const router = new Router<Handler>();
  addUserRoutes(router, users, keys);
  addStorageRoutes(router, tenants, retention);
  return (
    router
      .add("GET", "/metrics", async () => ({
        kind: "text",
        contentType: METRICS_CONTENT_TYPE,
        text: metrics.render(),
      }))
      .add("GET", "/v1/tenant", async (request) => json(listTenants(request, tenants)), "filtered")
      .add("POST", "/v1/tenant", (request) => createTenant(request, tenants), "filtered")
      .add(
        "GET",
        t,
        inTenant(async (_, tenant) => json(renderTenant({ kind: "open", tenant }))),
      )
      .add("DELETE", t, async (request) => {
        await tenants.delete(request.tenantId);
        return json({ deleted: request.tenantId });
      })
      .add("POST", `${t}/import`, inTenant(importTar))
      .add("GET", `${t}/branch`, inTenant(listBranches))
      .add("POST", `${t}/branch`, inTenant(createBranch))
      .add("GET", `${t}/branch/:name`, inTenant(getBranch))
      .add("DELETE", `${t}/branch/:name`, inTenant(deleteBranch))
      .add("POST", `${t}/branch/:name/rename`, inTenant(renameBranch))
      .add("GET", `${t}/fsck`, inTenant(fsck))
      .add("POST", `${t}/repair`, inTenant(repair))
      .add("POST", `${tl}/resolve`, onTimeline(resolve))
      // It makes the pageserver connect to where the request says, and the one below read files of its machine.
      .add("POST", `${tl}/writer`, onTimeline(openWriter), "server")
      .add("DELETE", `${tl}/writer/:epoch`, onTimeline(closeWriter))
      .add("POST", `${tl}/wait`, onTimeline(wait))
      .add("GET", `${tl}/basebackup`, onTimeline(baseBackup))
      .add("POST", `${tl}/recovery`, onTimeline(recoveryPlan))
      .add("GET", `${tl}/recovery`, onTimeline(recoveryBackup))
      .add("POST", `${tl}/verify`, onTimeline(verify), "server")
  );
}

/** Those that the client may work with. */
function listTenants({ identity }: ApiRequest, tenants: Tenants<ServedTimeline>): object {
  const visible = tenants
    .list()
    .filter((entry) => mayUseTenant(identity, entry.kind === "open" ? entry.tenant.id : entry.id));
  return { tenants: visible.map(renderTenant) };
}

async function createTenant(request: ApiRequest, tenants: Tenants<ServedTimeline>): Promise<Answer> {
  const body = await request.body();
  const id = body.has("tenant_id") ? body.tenantId("tenant_id") : undefined;
  if (id === undefined) checkEverything(request.identity);
  else checkTenant(request.identity, id);
  const pgVersion = versionByMajor(body.integer("pg_version", { min: 1, max: 1000 }));
  body.end();
  const tenant = await tenants.create({ id, pgVersion });
  return json(renderTenant({ kind: "open", tenant }), 201);
}

async function importTar(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
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

async function listBranches(_: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
  const branches = tenant.branches().map((branch) => renderBranch(tenant, branch));
  for (const [name, error] of tenant.damagedRefs) branches.push(renderDamagedBranch(name, error.message));
  return json({ branches });
}

async function getBranch(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
  return json(renderBranch(tenant, tenant.branch(request.part("name"))));
}

async function createBranch(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
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

async function deleteBranch(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
  await tenant.deleteBranch(request.part("name"));
  return json({ deleted: request.part("name") });
}

async function renameBranch(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
  const body = await request.body();
  const newName = body.text("new_name");
  body.end();
  const branch = await tenant.renameBranch(request.part("name"), newName);
  return json(renderBranch(tenant, branch));
}

function fsck(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
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

async function repair(request: ApiRequest, tenant: Tenant<ServedTimeline>): Promise<Answer> {
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

async function resolve(
  request: ApiRequest,
  timeline: ServedTimeline,
  tenant: Tenant<ServedTimeline>,
): Promise<Answer> {
  const body = await request.body();
  const moment = readMoment(body);
  if (!moment) throw body.wrong("lsn", 'or "timestamp_ms" is wanted, one of the two');
  body.end();
  return json({ lsn: formatLsn(await resolveMoment(tenant, timeline.id, moment)) });
}

async function openWriter(
  request: ApiRequest,
  timeline: ServedTimeline,
  tenant: Tenant<ServedTimeline>,
): Promise<Answer> {
  const body = await request.body();
  const name = body.text("name", { maxLength: COMPUTE_NAME_LENGTH_MAX });
  const sourceFields = body.object("source");
  const source = readWriterSource(sourceFields);
  sourceFields.end();
  const takeover = body.has("takeover") ? body.boolean("takeover") : false;
  body.end();
  return tenant.change(async () => {
    const current = timeline.writer;
    if (current && current.name !== name && !takeover) {
      throw new NeonError(
        ErrorCode.Conflict,
        `compute "${current.name}" writes to this branch already; there can be only one`,
        { hint: `Stop it first: neon pg stop ${current.name}`, data: { writer: current.name } },
      );
    }
    if (current) await timeline.closeWriter(current.epoch, `compute "${name}" took over`);
    const { epoch, lsn } = await timeline.openWriter({ name, source });
    return json({ epoch, lsn: formatLsn(lsn) }, 201);
  });
}

async function closeWriter(
  request: ApiRequest,
  timeline: ServedTimeline,
  tenant: Tenant<ServedTimeline>,
): Promise<Answer> {
  const epoch = request.writerEpoch;
  return tenant.change(async () => {
    if (timeline.writer?.epoch !== epoch) {
      throw new NeonError(ErrorCode.NotFound, `the timeline has no open writer of epoch ${epoch}`, {
        data: { writer: timeline.writer?.name ?? null },
      });
    }
    await timeline.closeWriter(epoch, "closed on request");
    return json({ epoch, lsn: formatLsn(timeline.lastRecordLsn) });
  });
}

async function wait(request: ApiRequest, timeline: ServedTimeline): Promise<Answer> {
  const body = await request.body();
  const lsn = body.lsn("lsn");
  const timeoutMs = body.integer("timeout_ms", { min: 0, max: WAIT_TIMEOUT_MS_MAX });
  body.end();
  await timeline.waitForLsn(lsn, timeoutMs);
  return json({ lsn: formatLsn(timeline.lastRecordLsn) });
}

async function baseBackup(
  request: ApiRequest,
  timeline: ServedTimeline,
  tenant: Tenant<ServedTimeline>,
): Promise<Answer> {
  request.expectQuery("lsn", "read_only");
  const wanted = request.queryLsn("lsn");
  const readOnly = request.queryBoolean("read_only");
  const lsn = wanted === undefined ? undefined : await resolveMoment(tenant, timeline.id, { lsn: wanted });
  const backup = await timeline.baseBackup({ readOnly, ...(lsn === undefined ? {} : { lsn }) });
  return {
    kind: "stream",
    headers: {
      "content-type": "application/x-tar",
      "x-neon-lsn": formatLsn(backup.lsn),
      ...(backup.previousLsn === undefined ? {} : { "x-neon-previous-lsn": formatLsn(backup.previousLsn) }),
      "x-neon-system-id": timeline.cluster.systemId.toString(),
      "x-neon-pg-version": String(timeline.cluster.pgVersion.major),
    },
    stream: backup.stream,
  };
}

async function verify(request: ApiRequest, timeline: ServedTimeline): Promise<Answer> {
  const body = await request.body();
  const lsn = body.lsn("lsn");
  const directory = body.text("directory", { maxLength: PATH_LENGTH_MAX });
  if (!isAbsolute(directory)) throw body.wrong("directory", "must be an absolute path");
  const madeBy = body.has("recovered") && body.boolean("recovered") ? "recovery" : "primary";
  body.end();
  return jsonLines(async ({ signal, progress }) => {
    const found = await timeline.verifyDirectory(
      { directory, lsn, madeBy },
      {
        signal,
        progress: (pages) => {
          progress({ pages });
        },
      },
    );
    return renderVerification(found);
  });
}
