/** The commands of the libpq service about the pageserver, its tenants and branches. The page is docs/libpq-api.md. */
import { formatLsn } from "../../../base/lsn.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Branch, Tenant } from "../../timeline/tenant.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import { renderBranch, renderDamagedBranch, renderTenant } from "../render.ts";
import { type LibpqCommand, jsonAnswer } from "./command.ts";
import { checkTenant, mayUseTenant } from "../identity.ts";

/** What pageservers tell each other before they exchange data; raised when they would no longer understand each other. */
export const SERVICE_PROTOCOL_VERSION = 1;

export interface CommandContext {
  readonly tenants: Tenants<ServedTimeline>;
  /** What `status` answers. */
  readonly status: () => Readonly<Record<string, string | number>>;
  readonly version: string;
}

export function generalCommands(context: CommandContext): LibpqCommand[] {
  return [status(context), identifySystem(context), set(), tenantList(context), branchList(context)];
}

function status({ status: answer }: CommandContext): LibpqCommand {
  return {
    name: "status",
    synopsis: "status",
    summary: "State of the pageserver: one column `data` of JSON.",
    prepare: () => jsonAnswer(async () => answer()),
  };
}

function identifySystem({ tenants, version }: CommandContext): LibpqCommand {
  return {
    name: "identify_system",
    synopsis: "identify_system [TENANT]",
    summary:
      "Who answers: system identifier of the tenant (or null), protocol version, program version, user.",
    prepare: (args) => {
      const id = args.atEnd ? undefined : args.tenantId();
      return {
        columns: [
          { name: "systemid", type: "text" },
          { name: "protocol_version", type: "int8" },
          { name: "version", type: "text" },
          { name: "user", type: "text" },
        ],
        run: async (session) => {
          if (id !== undefined) checkTenant(session.identity, id);
          const systemId = id === undefined ? undefined : tenants.get(id).systemId;
          const protocol = String(SERVICE_PROTOCOL_VERSION);
          await session.row([systemId?.toString() ?? null, protocol, version, session.identity.user]);
        },
      };
    },
  };
}

/** Drivers set what they like to have set; nothing of it concerns us. */
function set(): LibpqCommand {
  return {
    name: "set",
    synopsis: "set …",
    summary: "Accepted and ignored.",
    prepare: (args) => {
      args.remainder();
      return { run: async () => undefined };
    },
  };
}

function tenantList({ tenants }: CommandContext): LibpqCommand {
  return {
    name: "tenant_list",
    synopsis: "tenant_list",
    summary: "The tenants that the user may work with: one column `data`, a JSON array.",
    prepare: () =>
      jsonAnswer(async ({ identity }) =>
        tenants
          .list()
          .filter((entry) => mayUseTenant(identity, entry.kind === "open" ? entry.tenant.id : entry.id))
          .map((entry) => {
            const id = entry.kind === "open" ? entry.tenant.id : entry.id;
            return { id, ...renderTenant(entry) };
          }),
      ),
  };
}

function branchList({ tenants }: CommandContext): LibpqCommand {
  return {
    name: "branch_list",
    synopsis: "branch_list TENANT",
    summary: "The tenant's branches: one column `data`, a JSON array.",
    prepare: (args) => {
      const id = args.tenantId();
      return jsonAnswer(async ({ identity }) => {
        checkTenant(identity, id);
        return listBranches(tenants.get(id));
      });
    },
  };
}

/** The fields of the HTTP API, and those by which the original's clients know a branch. */
export function listBranches(tenant: Tenant<ServedTimeline>): object[] {
  const branches = tenant.branches().map((branch) => ({
    ...originalFields(branch),
    ...renderBranch(tenant, branch),
  }));
  const damaged = [...tenant.damagedRefs].map(([name, error]) => renderDamagedBranch(name, error.message));
  return [...branches, ...damaged];
}

function originalFields({ entry }: Branch): object {
  const ancestor = entry.kind === "open" ? entry.timeline.ancestor : entry.metadata?.ancestor;
  return {
    latest_valid_lsn: entry.kind === "open" ? entry.timeline.lastRecordLsn : 0,
    ancestor_id: ancestor?.timelineId ?? null,
    ancestor_lsn: ancestor ? formatLsn(ancestor.lsn) : null,
  };
}
