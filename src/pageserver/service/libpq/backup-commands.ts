/** `basebackup` and `fullbackup`: a data directory as a tar, as CopyOut. */
import type { TenantId, TimelineId } from "../../../base/ids.ts";
import { type Lsn, parseLsn } from "../../../base/lsn.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import { type BackupRequest, backupStream } from "../backup-stream.ts";
import { usage } from "../http-errors.ts";
import type { Arguments } from "./arguments.ts";
import type { CommandSession, LibpqCommand } from "./command.ts";
import { checkTenant } from "../identity.ts";

interface BackupCommand extends BackupRequest {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
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

function readRequest(args: Arguments, full: boolean): BackupCommand {
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
  request: BackupCommand,
): Promise<void> {
  checkTenant(session.identity, request.tenantId);
  const tenant = tenants.get(request.tenantId);
  const timeline = tenant.timeline(request.timelineId);
  const stream = await backupStream(tenant, timeline, request);
  const out = await session.copyOut();
  for await (const chunk of stream) await out.send(chunk);
}
