/** Commands that take in what other servers have: `import basebackup` and `import wal`. */
import type { TimelineId } from "../../../base/ids.ts";
import { formatLsn } from "../../../base/lsn.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import { usage } from "../http-errors.ts";
import { checkTenant } from "../identity.ts";
import { importWal } from "../import-wal.ts";
import type { LibpqCommand } from "./command.ts";

type AllTenants = Tenants<ServedTimeline>;

export function importCommands(tenants: AllTenants): LibpqCommand[] {
  return [importBackup(tenants), importSegments(tenants)];
}

/** The branch that names an imported timeline: the original has none, but what no branch names is deleted here. */
export function importedBranchName(timelineId: TimelineId): string {
  return `import-${timelineId.slice(0, 8)}`;
}

function importBackup(tenants: AllTenants): LibpqCommand {
  return {
    name: "import basebackup",
    synopsis: "import basebackup TENANT TIMELINE BASE_LSN END_LSN [PG_VERSION]",
    summary:
      "A timeline from the tar of a cleanly stopped data directory, or of an online base backup with its WAL, up to END_LSN: CopyIn.",
    prepare: (args) => {
      const id = args.tenantId();
      const timelineId = args.timelineId();
      args.lsn("the base LSN");
      const endLsn = args.lsn("the end LSN");
      const major = args.optionalWord();
      return {
        run: async (session) => {
          checkTenant(session.identity, id);
          const tenant = tenants.get(id);
          if (major !== undefined && major !== String(tenant.pgVersion.major)) {
            throw usage(`tenant ${id} is of Postgres ${tenant.pgVersion.major}, not ${major.slice(0, 10)}`);
          }
          const branch = importedBranchName(timelineId);
          const tar = await session.copyIn();
          await tenant.import({ branch, timelineId, tar, endLsn });
        },
      };
    },
  };
}

function importSegments(tenants: AllTenants): LibpqCommand {
  return {
    name: "import wal",
    synopsis: "import wal TENANT TIMELINE START_LSN END_LSN",
    summary:
      "WAL from the end of the timeline, START_LSN, up to END_LSN, from a tar of segment files: CopyIn.",
    prepare: (args) => {
      const id = args.tenantId();
      const timelineId = args.timelineId();
      const startLsn = args.lsn("the start LSN");
      const endLsn = args.lsn("the end LSN");
      if (endLsn <= startLsn)
        throw args.wrong(`${formatLsn(endLsn)} does not lie behind ${formatLsn(startLsn)}`);
      return {
        run: async (session) => {
          checkTenant(session.identity, id);
          const tenant = tenants.get(id);
          const timeline = tenant.timeline(timelineId);
          const tar = await session.copyIn();
          await importWal(tenant, timeline, { startLsn, endLsn, tar });
        },
      };
    },
  };
}
