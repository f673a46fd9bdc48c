/**
 * Which branch a replication client follows. It cannot say so in its commands, so it says it when it connects: in
 * `options` (`-c tenant_id=… -c timeline_id=…` or `-c branch=…`), or by the database's name, where the client keeps it.
 */
import { ErrorCode } from "../../../base/errors.ts";
import { isId, parseTenantId, parseTimelineId } from "../../../base/ids.ts";
import { SqlState } from "../../../pgwire/errors.ts";
import type { Caller } from "../../../pgwire/statement.ts";
import { WireError } from "../../../pgwire/wire-errors.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenant } from "../../timeline/tenant.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import { type Identity, checkTenant, mayUseTenant } from "../identity.ts";

const DEFAULT_BRANCH = "main";
const HINT =
  "Name the branch in the connection string: options='-c tenant_id=ID -c branch=NAME' (or timeline_id=ID).";
/** Names that clients of replication send where nobody has named a database. */
const NO_DATABASES: ReadonlySet<string> = new Set(["", "replication", "postgres"]);

export interface FollowedBranch {
  readonly tenant: Tenant<ServedTimeline>;
  readonly timeline: ServedTimeline;
}

/** Whether the client wants to speak the replication protocol. */
export function wantsReplication({ parameters }: Caller): boolean {
  const value = (parameters.get("replication") ?? "").toLowerCase();
  return ["true", "on", "yes", "1", "database"].includes(value);
}

/** Throws for a tenant that may not be used, and what is not there or not named clearly. */
export function followedBranch(
  caller: Caller,
  identity: Identity,
  tenants: Tenants<ServedTimeline>,
): FollowedBranch {
  const options = parseOptions(caller.parameters.get("options") ?? "");
  const named = fromDatabase(caller);
  const tenantText = options.get("tenant_id") ?? named.tenant;
  const tenant = tenantText === undefined ? soleTenant(identity, tenants) : namedTenant(tenantText);
  return { tenant, timeline: timelineOf(tenant) };

  function namedTenant(text: string): Tenant<ServedTimeline> {
    const id = parseTenantId(text);
    checkTenant(identity, id);
    return tenants.get(id);
  }

  function timelineOf(from: Tenant<ServedTimeline>): ServedTimeline {
    const id = options.get("timeline_id");
    if (id !== undefined) return from.timeline(parseTimelineId(id));
    const name = options.get("branch") ?? named.branch ?? DEFAULT_BRANCH;
    return from.timeline(from.branch(name).ref.timelineId);
  }
}

/** `TENANT/BRANCH`, `TENANT` or `BRANCH`, as the name of the database. */
function fromDatabase({ parameters, user }: Caller): { tenant?: string; branch?: string } {
  const database = parameters.get("database") ?? "";
  if (NO_DATABASES.has(database) || database === user) return {};
  const slash = database.indexOf("/");
  const first = slash < 0 ? database : database.slice(0, slash);
  if (!isId(first)) return { branch: database };
  return slash < 0 ? { tenant: first } : { tenant: first, branch: database.slice(slash + 1) };
}

function soleTenant(identity: Identity, tenants: Tenants<ServedTimeline>): Tenant<ServedTimeline> {
  const usable = tenants.list().filter((entry) => {
    return mayUseTenant(identity, entry.kind === "open" ? entry.tenant.id : entry.id);
  });
  const [only] = usable;
  if (usable.length === 1 && only?.kind === "open") return only.tenant;
  const what = usable.length === 0 ? "there is no tenant" : `there are ${usable.length} tenants`;
  throw new WireError(
    SqlState.InvalidCatalogName,
    ErrorCode.NotFound,
    `${what}, and the connection names none whose WAL it wants`,
    { hint: HINT },
  );
}

/** `-c name=value` and `--name=value`, as Postgres reads them; a backslash keeps a blank. Others are ignored. */
function parseOptions(text: string): Map<string, string> {
  const words = (text.match(/(?:\\.|[^\s\\])+/g) ?? []).map((word) => word.replaceAll(/\\(.)/g, "$1"));
  const options = new Map<string, string>();
  for (let i = 0; i < words.length; i++) {
    const word = words[i] ?? "";
    const setting = word === "-c" ? words[++i] : /^(?:-c|--)(.+)$/.exec(word)?.[1];
    const equals = setting?.indexOf("=") ?? -1;
    if (setting === undefined || equals < 1) continue;
    // As the original's computes and safekeepers call them.
    const name = setting
      .slice(0, equals)
      .replace(/^neon\./, "")
      .replaceAll("-", "_")
      .toLowerCase();
    options.set(name, setting.slice(equals + 1));
  }
  return options;
}
