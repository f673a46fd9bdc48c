/** What computes need of a timeline: points of it, the right to write, data directories, comparisons. */
import { isAbsolute } from "node:path";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import { readWriterSource } from "../timeline/metadata.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import { jsonLines } from "./json-lines.ts";
import { readMoment, resolveMoment } from "./points.ts";
import { backup as recoveryBackup, plan as recoveryPlan } from "./recovery-routes.ts";
import { renderVerification } from "./render.ts";
import { type Answer, type ApiRequest, json } from "./request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, TL, findersOf } from "./route-context.ts";

const WAIT_TIMEOUT_MS_MAX = 60 * 60 * 1000;
const COMPUTE_NAME_LENGTH_MAX = 200;
const PATH_LENGTH_MAX = 4096;

export function addComputeRoutes(router: ApiRouter, { tenants }: RouteContext): void {
  const { onTimeline } = findersOf(tenants);
  router
    .add("POST", `${TL}/resolve`, onTimeline(resolve))
    // It makes the pageserver connect to where the request says; `verify` reads files of its machine.
    .add("POST", `${TL}/writer`, onTimeline(openWriter), "server")
    .add("DELETE", `${TL}/writer/:epoch`, onTimeline(closeWriter))
    .add("POST", `${TL}/wait`, onTimeline(wait))
    .add("GET", `${TL}/basebackup`, onTimeline(baseBackup))
    .add("POST", `${TL}/recovery`, onTimeline(recoveryPlan))
    .add("GET", `${TL}/recovery`, onTimeline(recoveryBackup))
    .add("POST", `${TL}/verify`, onTimeline(verify), "server");
}

async function resolve(request: ApiRequest, timeline: ServedTimeline, tenant: AnyTenant): Promise<Answer> {
  const body = await request.body();
  const moment = readMoment(body);
  if (!moment) throw body.wrong("lsn", 'or "timestamp_ms" is wanted, one of the two');
  body.end();
  return json({ lsn: formatLsn(await resolveMoment(tenant, timeline.id, moment)) });
}

async function openWriter(request: ApiRequest, timeline: ServedTimeline, tenant: AnyTenant): Promise<Answer> {
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
  tenant: AnyTenant,
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

async function baseBackup(request: ApiRequest, timeline: ServedTimeline, tenant: AnyTenant): Promise<Answer> {
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
