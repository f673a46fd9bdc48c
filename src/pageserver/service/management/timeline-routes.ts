/** Timelines as the original's clients manage them. Each gets a branch here: what no branch names is deleted. */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import type { TimelineId } from "../../../base/ids.ts";
import type { Lsn } from "../../../base/lsn.ts";
import type { JsonFields } from "../../json-fields.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import { HttpError, usage } from "../http-errors.ts";
import { importWal } from "../import-wal.ts";
import { currentEnd, resolveMoment, waitUntilDurable } from "../points.ts";
import { type Answer, type ApiRequest, json } from "../request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, T, TL, findersOf } from "../route-context.ts";
import { brokenTimelineInfo, timelineInfo } from "./timeline-info.ts";
import { MeasuredTimelines } from "./timeline-measures.ts";

/** How long a new branch waits for the WAL that it is to begin behind. */
const LSN_WAIT_MS = 30_000;

export function addTimelineRoutes(router: ApiRouter, { tenants }: RouteContext): void {
  const { inTenant, onTimeline } = findersOf(tenants);
  const measured = new MeasuredTimelines();
  router
    .add(
      "GET",
      `${T}/timeline`,
      inTenant(async (_, tenant) => json(await listTimelines(tenant, measured))),
    )
    .add(
      "GET",
      `${T}/timeline_and_offloaded`,
      // Nothing is anywhere else.
      inTenant(async (_, tenant) =>
        json({ timelines: await listTimelines(tenant, measured), offloaded: [] }),
      ),
    )
    .add(
      "POST",
      `${T}/timeline`,
      inTenant((request, tenant) => createTimeline(request, tenant, measured)),
    )
    .add(
      "GET",
      TL,
      onTimeline(async (_, timeline, tenant) => json(await timelineInfo(tenant, timeline, measured))),
    )
    .add("DELETE", TL, onTimeline(deleteTimeline))
    .add(
      "PUT",
      `${TL}/import_basebackup`,
      inTenant((request, tenant) => importBaseBackup(request, tenant, measured)),
    )
    .add(
      "PUT",
      `${TL}/import_wal`,
      onTimeline((request, timeline, tenant) => importSegments(request, timeline, tenant, measured)),
    );
}

async function listTimelines(tenant: AnyTenant, measured: MeasuredTimelines): Promise<object[]> {
  const infos: object[] = [];
  for (const [id, entry] of tenant.timelineEntries()) {
    if (entry.kind === "open") infos.push(await timelineInfo(tenant, entry.timeline, measured));
    else infos.push(brokenTimelineInfo(tenant, id, entry));
  }
  return infos;
}

/** A branch of another timeline. Asked for again in the same way, it is as if it had just been made. */
async function createTimeline(
  request: ApiRequest,
  tenant: AnyTenant,
  measured: MeasuredTimelines,
): Promise<Answer> {
  const body = await request.body();
  const id = body.timelineId("new_timeline_id");
  if (body.has("import_pgdata")) {
    throw new NeonError(ErrorCode.Unsupported, "a data directory in an object store cannot be imported", {
      hint: "PUT …/import_basebackup takes one as a tar.",
    });
  }
  if (!body.has("ancestor_timeline_id")) throw noInitdb();
  checkVersion(tenant, body);
  const from = body.timelineId("ancestor_timeline_id");
  const wanted = body.has("ancestor_start_lsn") ? body.lsn("ancestor_start_lsn") : undefined;
  const lsn = await startOf(tenant, from, wanted);
  const existing = tenant.timelineEntries().get(id);
  if (existing?.kind === "open") {
    const { ancestor } = existing.timeline;
    const parent = tenant.timelineAt(from, lsn);
    const isSame = ancestor?.timelineId === parent.id && (wanted === undefined || ancestor.lsn === lsn);
    if (!isSame)
      throw new NeonError(ErrorCode.Conflict, `timeline ${id} exists already, made in another way`);
    return json(await timelineInfo(tenant, existing.timeline, measured), 201);
  }
  await waitUntilDurable(tenant, from, lsn);
  await tenant.createBranch(freeName(tenant, body.optionalText("name") ?? nameFor(id), id), from, lsn, id);
  return json(await timelineInfo(tenant, tenant.timeline(id), measured), 201);
}

/** Throws status 406 for an LSN that is not there, or not any more. */
async function startOf(tenant: AnyTenant, from: TimelineId, wanted: Lsn | undefined): Promise<Lsn> {
  const ancestor = tenant.timeline(from);
  if (wanted === undefined) return currentEnd(ancestor);
  try {
    if (wanted > ancestor.lastRecordLsn && ancestor.writer) await ancestor.waitForLsn(wanted, LSN_WAIT_MS);
    return await resolveMoment(tenant, from, { lsn: wanted });
  } catch (error) {
    // WAL that does not come is no other thing than WAL that is not there.
    const isAbsent =
      error instanceof NeonError && (error.code === ErrorCode.NotFound || error.code === ErrorCode.Timeout);
    if (!isAbsent) throw error;
    throw new HttpError(406, ErrorCode.NotFound, `invalid branch start lsn: ${error.message}`, {
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
}

function noInitdb(): NeonError {
  return new NeonError(
    ErrorCode.Unsupported,
    "a timeline without ancestor_timeline_id would be a new database, and the pageserver has no initdb to make one with",
    {
      hint:
        "Run `neon tenant create`, which has one. Or initdb yourself, and send the directory: " +
        "tar -C DIR -cf - . | curl -T - …/timeline/ID/import_basebackup",
    },
  );
}

function checkVersion(tenant: AnyTenant, body: JsonFields): void {
  if (!body.has("pg_version")) return;
  // The original's clients have written 15 and 150004 alike.
  const given = body.integer("pg_version", { min: 1, max: 999_999 });
  const major = given >= 10_000 ? Math.floor(given / 10_000) : given;
  if (major === tenant.pgVersion.major) return;
  throw body.wrong("pg_version", `must be ${tenant.pgVersion.major}, which the tenant is of`);
}

function nameFor(id: TimelineId): string {
  return `timeline-${id.slice(0, 8)}`;
}

function freeName(tenant: AnyTenant, name: string, id: TimelineId): string {
  const taken = tenant.branches().some(({ ref }) => ref.name === name);
  return taken && name === nameFor(id) ? `timeline-${id}` : name;
}

/** With all names that it has. 202: it is gone when the answer comes; asking for it again is 404. */
async function deleteTimeline(_: ApiRequest, timeline: ServedTimeline, tenant: AnyTenant): Promise<Answer> {
  const children = [...tenant.timelineEntries()]
    .filter(([, entry]) => ancestorOf(entry) === timeline.id)
    .map(([id]) => id);
  if (children.length > 0) {
    throw new HttpError(
      412,
      ErrorCode.Conflict,
      `timeline ${timeline.id} has children: ${children.slice(0, 5).join(", ")}`,
      { hint: "Delete them first." },
    );
  }
  for (const name of tenant.namesOf(timeline.id)) await tenant.deleteBranch(name);
  return json({ deleted: timeline.id }, 202);
}

function ancestorOf(
  entry: { kind: "open"; timeline: ServedTimeline } | { kind: "broken"; metadata?: unknown },
): unknown {
  return entry.kind === "open" ? entry.timeline.ancestor?.timelineId : undefined;
}

/** A root timeline from the tar of a cleanly stopped data directory, or of an online base backup with its WAL. */
async function importBaseBackup(
  request: ApiRequest,
  tenant: AnyTenant,
  measured: MeasuredTimelines,
): Promise<Answer> {
  const id = request.timelineId;
  const endLsn = request.queryLsn("end_lsn");
  const major = request.query("pg_version");
  if (major !== undefined && Number.parseInt(major, 10) !== tenant.pgVersion.major) {
    throw usage(
      `tenant ${tenant.id} is of Postgres ${tenant.pgVersion.major}, not ${major.slice(0, 10)}`,
      "pg_version",
    );
  }
  const name = freeName(tenant, nameFor(id), id);
  const { timeline } = await tenant.import({ branch: name, timelineId: id, tar: request.upload(), endLsn });
  return json(await timelineInfo(tenant, timeline, measured), 201);
}

/** Goes on with a timeline that was imported, from the tar of segments of WAL. */
async function importSegments(
  request: ApiRequest,
  timeline: ServedTimeline,
  tenant: AnyTenant,
  measured: MeasuredTimelines,
): Promise<Answer> {
  const startLsn = request.queryLsn("start_lsn");
  const endLsn = request.queryLsn("end_lsn");
  if (startLsn === undefined) throw usage('query parameter "start_lsn" is missing', "start_lsn");
  if (endLsn === undefined) throw usage('query parameter "end_lsn" is missing', "end_lsn");
  await importWal(tenant, timeline, { startLsn, endLsn, tar: request.upload() });
  return json(await timelineInfo(tenant, timeline, measured));
}
