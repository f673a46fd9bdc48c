/** Commands that change tenants and branches, and ask for points of their history. */
import { isLoopback } from "../../../pgwire/loopback.ts";
import { SSL_MODES, type SslMode } from "../../../pgwire/uri.ts";
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { type TimelineId, isId } from "../../../base/ids.ts";
import { formatLsn, parseLsn } from "../../../base/lsn.ts";
import { versionByMajor } from "../../../postgres/versions/versions.ts";
import type { ShownSettings } from "../../server-settings.ts";
import type { WriterSource } from "../../timeline/metadata.ts";
import { checkRefName } from "../../timeline/refs.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenant } from "../../timeline/tenant.ts";
import type { TenantSettings } from "../../timeline/tenant-settings.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import { usage } from "../http-errors.ts";
import { type Moment, currentEnd, resolveMoment, waitUntilDurable } from "../points.ts";
import { renderCreatedBranch, renderTenant } from "../render.ts";
import type { Arguments } from "./arguments.ts";
import { type LibpqCommand, jsonAnswer } from "./command.ts";
import { checkEverything, checkTenant } from "../identity.ts";

type AllTenants = Tenants<ServedTimeline>;

const DEFAULT_PG_VERSION = 17;
/** Writer that `callmemaybe` registers. */
const CALLER = "callmemaybe";
const DEFAULT_PG_PORT = 5432;

export interface AdminContext {
  readonly tenants: AllTenants;
  /** What `show` answers without a tenant: names and values, sizes in bytes. */
  readonly settings: ShownSettings;
  /** The same with the settings of a tenant. */
  readonly show: (settings: TenantSettings) => ShownSettings;
}

export function adminCommands(context: AdminContext): LibpqCommand[] {
  const { tenants } = context;
  return [
    tenantCreate(tenants),
    branchCreate(tenants),
    branchDelete(tenants),
    lsnByTimestamp(tenants),
    lastRecord(tenants),
    checkpoint(tenants),
    callMeMaybe(tenants),
    show(context),
  ];
}

function tenantCreate(tenants: AllTenants): LibpqCommand {
  return {
    name: "tenant_create",
    synopsis: "tenant_create TENANT [PG_VERSION]",
    summary: "A tenant without branches: one column `data` of JSON.",
    prepare: (args) => {
      const id = args.tenantId();
      const pgVersion = versionByMajor(Number(args.optionalWord() ?? DEFAULT_PG_VERSION));
      return jsonAnswer(async ({ identity }) => {
        checkTenant(identity, id);
        return renderTenant({ kind: "open", tenant: await tenants.create({ id, pgVersion }) });
      });
    },
  };
}

function branchCreate(tenants: AllTenants): LibpqCommand {
  return {
    name: "branch_create",
    synopsis: "branch_create TENANT NAME START",
    summary:
      "A branch; START is a branch or timeline, with @LSN or @TIME behind it or not: one column `data` of JSON.",
    prepare: (args) => {
      const id = args.tenantId();
      const name = args.word("the name");
      checkRefName(name);
      const start = readStart(args);
      return jsonAnswer(async ({ identity }) => {
        checkTenant(identity, id);
        const tenant = tenants.get(id);
        const from = timelineOf(tenant, start.source);
        tenant.checkNameFree(name);
        const lsn = start.moment
          ? await resolveMoment(tenant, from, start.moment)
          : await currentEnd(tenant.timeline(from));
        await waitUntilDurable(tenant, from, lsn);
        const branch = await tenant.createBranch(name, from, lsn);
        return { ...renderCreatedBranch(tenant, branch), ancestor_lsn: formatLsn(lsn), ancestor_id: from };
      });
    },
  };
}

function readStart(args: Arguments): { source: string; moment: Moment | undefined } {
  const text = args.word("the starting point");
  const at = text.indexOf("@");
  if (at < 0) return { source: text, moment: undefined };
  const point = text.slice(at + 1);
  const lsn = parseLsn(point);
  if (lsn !== undefined) return { source: text.slice(0, at), moment: { lsn } };
  return { source: text.slice(0, at), moment: { timestampMs: readTime(point, text) } };
}

function readTime(text: string, shown: string): number {
  const timestampMs = Date.parse(text);
  // Of a fraction, the language reads milliseconds; commits have microseconds.
  const rest = /:\d\d[.,]\d{3}(\d{1,3})/.exec(text)?.[1] ?? "";
  if (!Number.isNaN(timestampMs) && timestampMs >= 0) return timestampMs + Number(rest.padEnd(3, "0")) / 1000;
  throw usage(`could not parse point-in-time ${shown.slice(0, 80)}`);
}

function timelineOf(tenant: Tenant<ServedTimeline>, source: string): TimelineId {
  const lower = source.toLowerCase();
  return isId(lower) ? tenant.timeline(lower as TimelineId).id : tenant.branch(source).ref.timelineId;
}

function branchDelete(tenants: AllTenants): LibpqCommand {
  return {
    name: "branch_delete",
    synopsis: "branch_delete TENANT NAME",
    summary: "Deletes a branch that has no children and no compute.",
    prepare: (args) => {
      const id = args.tenantId();
      const name = args.word("the name");
      return {
        run: async ({ identity }) => {
          checkTenant(identity, id);
          await tenants.get(id).deleteBranch(name);
        },
      };
    },
  };
}

function lsnByTimestamp(tenants: AllTenants): LibpqCommand {
  return {
    name: "get_lsn_by_timestamp",
    synopsis: "get_lsn_by_timestamp TENANT TIMELINE TIME",
    summary: "End of the last commit at or before a time in ISO 8601: one column `lsn`.",
    prepare: (args) => {
      const id = args.tenantId();
      const timelineId = args.timelineId();
      const text = args.word("the time");
      const timestampMs = readTime(text, text);
      return {
        columns: [{ name: "lsn", type: "text" }],
        run: async (session) => {
          checkTenant(session.identity, id);
          await session.row([formatLsn(await resolveMoment(tenants.get(id), timelineId, { timestampMs }))]);
        },
      };
    },
  };
}

function lastRecord(tenants: AllTenants): LibpqCommand {
  return {
    name: "get_last_record_rlsn",
    synopsis: "get_last_record_rlsn TENANT TIMELINE",
    summary: "Start and end of the last record: columns `prev_lsn`, `last_lsn`.",
    prepare: (args) => {
      const id = args.tenantId();
      const timelineId = args.timelineId();
      return {
        columns: [
          { name: "prev_lsn", type: "text" },
          { name: "last_lsn", type: "text" },
        ],
        run: async (session) => {
          checkTenant(session.identity, id);
          const timeline = tenants.get(id).timeline(timelineId);
          const { previousLsn, endLsn } = await timeline.recordBoundary(timeline.lastRecordLsn);
          await session.row([formatLsn(previousLsn), formatLsn(endLsn)]);
        },
      };
    },
  };
}

function checkpoint(tenants: AllTenants): LibpqCommand {
  return {
    name: "checkpoint",
    synopsis: "checkpoint TENANT TIMELINE",
    summary: "Puts what is in memory into layer files.",
    prepare: (args) => {
      const id = args.tenantId();
      const timelineId = args.timelineId();
      return {
        run: async ({ identity }) => {
          checkTenant(identity, id);
          await tenants.get(id).timeline(timelineId).exchange?.checkpoint();
        },
      };
    },
  };
}

function callMeMaybe(tenants: AllTenants): LibpqCommand {
  return {
    name: CALLER,
    synopsis: `${CALLER} TENANT TIMELINE host=… port=… user=… [password=… sslmode=… sslrootcert=…]`,
    summary: "Follows the WAL of a Postgres, which gets the right to write to the timeline.",
    prepare: (args) => {
      const id = args.tenantId();
      const timelineId = args.timelineId();
      const source = readSource(args.remainder());
      return {
        run: async ({ identity }) => {
          // It makes this pageserver connect to where the client says.
          checkEverything(identity);
          const tenant = tenants.get(id);
          const timeline = tenant.timeline(timelineId);
          await tenant.change(async () => {
            const { writer } = timeline;
            if (writer && writer.name !== CALLER) {
              throw new NeonError(
                ErrorCode.Conflict,
                `compute "${writer.name}" writes to this timeline already; there can be only one`,
                { data: { writer: writer.name } },
              );
            }
            if (writer) await timeline.closeWriter(writer.epoch, "called again");
            await timeline.openWriter({ name: CALLER, source });
          });
        },
      };
    },
  };
}

/** Keywords and values as libpq has them; those that are not named here say nothing to us. */
const SOURCE_WORD = /\s*([a-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^\s']\S*))(?:\s+|$)/y;

/** `host=db.example.com port=5432 user=postgres password='…' sslmode=verify-full sslrootcert=/path`. */
function readSource(text: string): WriterSource {
  const values = new Map<string, string>();
  for (SOURCE_WORD.lastIndex = 0; SOURCE_WORD.lastIndex < text.length;) {
    const match = SOURCE_WORD.exec(text);
    // The text itself is not shown: it may hold a password.
    if (!match?.[1]) throw usage("the address of the Postgres is written host=… port=… user=…");
    values.set(match[1], match[2]?.replaceAll(/\\(.)/g, "$1") ?? match[3] ?? "");
  }
  const host = values.get("host") ?? "";
  const port = Number(values.get("port") ?? DEFAULT_PG_PORT);
  if (host === "") throw usage("the address of the Postgres has no host=…");
  if (!Number.isInteger(port) || port < 1 || port > 65_535) throw usage("port=… is no port");
  const password = values.get("password");
  const rest = {
    port,
    user: values.get("user") ?? "postgres",
    ...(password === undefined ? {} : { password }),
  };
  if (host.startsWith("/")) return { socketDirectory: host, ...rest };
  const sslRootCert = values.get("sslrootcert");
  return {
    host,
    ...rest,
    sslMode: readSslMode(values.get("sslmode"), host),
    ...(sslRootCert === undefined ? {} : { sslRootCert }),
  };
}

/** As libpq, encryption is preferred where nothing is said; on this machine there is nobody to hide anything from. */
function readSslMode(text: string | undefined, host: string): SslMode {
  if (text === undefined) return isLoopback(host) ? "disable" : "prefer";
  const mode = SSL_MODES.find((known) => known === text);
  if (mode === undefined) throw usage(`sslmode=… is one of ${SSL_MODES.join(", ")}`);
  return mode;
}

function show({ tenants, settings, show: shown }: AdminContext): LibpqCommand {
  const names = Object.keys(settings);
  return {
    name: "show",
    synopsis: "show [TENANT]",
    summary: "Settings of the pageserver, or those that hold for a tenant: one column each.",
    prepare: (args) => {
      const id = args.atEnd ? undefined : args.tenantId();
      return {
        columns: names.map((name) => ({ name, type: typeof settings[name] === "number" ? "int8" : "text" })),
        run: async (session) => {
          if (id !== undefined) checkTenant(session.identity, id);
          const values = id === undefined ? settings : shown(tenants.get(id).settings);
          await session.row(names.map((name) => String(values[name])));
        },
      };
    },
  };
}
