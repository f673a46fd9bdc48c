/** `basebackup` and `fullbackup`: a data directory as a tar, as CopyOut. */
import { PassThrough, Readable, pipeline } from "node:stream";
import { constants, createGzip } from "node:zlib";
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import type { TenantId, TimelineId } from "../../../base/ids.ts";
import { type Lsn, parseLsn } from "../../../base/lsn.ts";
import { baseBackup } from "../../basebackup/basebackup.ts";
import { makeReconstructor } from "../../read/make-reconstructor.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import { usage } from "../http-errors.ts";
import { resolveMoment } from "../points.ts";
import type { Arguments } from "./arguments.ts";
import type { CommandSession, LibpqCommand } from "./command.ts";
import { checkTenant } from "./identity.ts";

interface BackupRequest {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** The end of the timeline unless given. */
  readonly lsn: Lsn | undefined;
  readonly gzip: boolean;
  readonly replica: boolean;
  /** Whether the files of relations are in it. */
  readonly full: boolean;
}

export function backupCommands(tenants: Tenants<ServedTimeline>): LibpqCommand[] {
  return [
    {
      name: "basebackup",
      synopsis: "basebackup TENANT TIMELINE [LSN|latest] [--gzip] [--replica]",
      summary: "A data directory without the files of relations, as a tar: CopyOut.",
      prepare: (args) => {
        const request = readRequest(args, false);
        return { run: (session) => backup(session, tenants, request) };
      },
    },
    {
      name: "fullbackup",
      synopsis: "fullbackup TENANT TIMELINE [LSN|latest] [PREVIOUS_LSN] [--gzip] [--replica]",
      summary: "A whole data directory on which a stock Postgres starts, as a tar: CopyOut.",
      prepare: (args) => {
        const request = readRequest(args, true);
        return { run: (session) => backup(session, tenants, request) };
      },
    },
  ];
}

function readRequest(args: Arguments, full: boolean): BackupRequest {
  const tenantId = args.tenantId();
  const timelineId = args.timelineId();
  let gzip = false;
  let replica = false;
  const lsns: (Lsn | undefined)[] = [];
  for (let word = args.optionalWord(); word !== undefined; word = args.optionalWord()) {
    if (word === "--gzip") gzip = true;
    else if (word === "--replica") replica = true;
    else if (lsns.length < (full ? 2 : 1)) lsns.push(word === "latest" ? undefined : backupLsn(word));
    else throw args.wrong(`"${word.slice(0, 40)}" is too much`);
  }
  return { tenantId, timelineId, lsn: lsns[0], gzip, replica, full };
}

function backupLsn(text: string): Lsn {
  const lsn = parseLsn(text);
  if (lsn === undefined)
    throw usage(`invalid basebackup lsn: "${text.slice(0, 40)}" is no LSN such as 0/16E2408`);
  return lsn;
}

async function backup(
  session: CommandSession,
  tenants: Tenants<ServedTimeline>,
  request: BackupRequest,
): Promise<void> {
  checkTenant(session.identity, request.tenantId);
  const tenant = tenants.get(request.tenantId);
  const timeline = tenant.timeline(request.timelineId);
  const { lsn: wanted } = request;
  const lsn = wanted === undefined ? undefined : await resolveMoment(tenant, timeline.id, { lsn: wanted });
  const tar = request.full
    ? (await timeline.baseBackup({ readOnly: request.replica, ...(lsn === undefined ? {} : { lsn }) })).stream
    : await withoutRelations(timeline, lsn ?? timeline.lastRecordLsn, request.replica);
  const out = await session.copyOut();
  for await (const chunk of request.gzip ? gzipped(tar) : tar) await out.send(chunk);
}

async function withoutRelations(
  timeline: ServedTimeline,
  lsn: Lsn,
  readOnly: boolean,
): Promise<AsyncIterable<Uint8Array>> {
  const store = timeline.exchange?.store;
  if (!store) throw new NeonError(ErrorCode.Unsupported, "this timeline has no base backups");
  const at = await timeline.recordBoundary(lsn);
  const version = timeline.cluster.pgVersion;
  return baseBackup({
    store,
    reconstructor: await makeReconstructor(store, version, at.endLsn),
    version,
    lsn: at.endLsn,
    previousLsn: at.previousLsn,
    readOnly,
    nowMs: Date.now(),
    relationFiles: false,
  });
}

/** The quickest level: most of an empty database is zeros. */
function gzipped(tar: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  // An error of any part destroys the last one, whose reader gets it.
  const gzip = createGzip({ level: constants.Z_BEST_SPEED });
  return pipeline(Readable.from(tar), gzip, new PassThrough(), () => undefined);
}
