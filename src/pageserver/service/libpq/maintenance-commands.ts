/** Commands about space and retention: `do_gc`, `compact`, `lease lsn`. */
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { collectGarbage } from "../../compaction/tenant-gc.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import { leaseLsn as renewLease } from "../lease-lsn.ts";
import type { Arguments } from "./arguments.ts";
import type { LibpqCommand } from "./command.ts";
import { checkTenant } from "../identity.ts";

export function maintenanceCommands(tenants: Tenants<ServedTimeline>): LibpqCommand[] {
  return [doGc(tenants), compact(tenants), leaseLsn(tenants)];
}

function doGc(tenants: Tenants<ServedTimeline>): LibpqCommand {
  return {
    name: "do_gc",
    synopsis: "do_gc TENANT [TIMELINE [HORIZON_BYTES]]",
    summary: "Removes history that is not kept any more, of the whole tenant: counts and milliseconds.",
    prepare: (args) => {
      const id = args.tenantId();
      // The history of a tenant is one tree: what can go is decided for all of it.
      if (!args.atEnd) args.timelineId();
      const horizon = readHorizon(args);
      return {
        columns: [
          { name: "timelines", type: "int8" },
          { name: "removed_bytes", type: "int8" },
          { name: "written_bytes", type: "int8" },
          { name: "elapsed", type: "int8" },
        ],
        run: async (session) => {
          checkTenant(session.identity, id);
          const started = performance.now();
          const tenant = tenants.get(id);
          const { gcHorizonBytes, pitrIntervalMs } =
            horizon === undefined ? tenant.settings : { gcHorizonBytes: horizon, pitrIntervalMs: 0 };
          const options = { gcHorizonBytes, pitrIntervalMs, dryRun: false, thorough: true };
          const reports = await collectGarbage(tenant, options, () => session.signal.throwIfAborted());
          const sum = (field: "removedBytes" | "writtenBytes"): number =>
            reports.reduce((total, report) => total + report[field], 0);
          const elapsedMs = Math.round(performance.now() - started);
          const counts = [reports.length, sum("removedBytes"), sum("writtenBytes"), elapsedMs];
          await session.row(counts.map(String));
        },
      };
    },
  };
}

/** As in the original: a horizon that is given stands for all that is kept. */
function readHorizon(args: Arguments): number | undefined {
  const text = args.optionalWord();
  if (text === undefined) return undefined;
  const bytes = /^\d{1,15}$/.test(text) ? Number(text) : undefined;
  if (bytes === undefined) throw args.wrong("the horizon is no number of bytes");
  return bytes;
}

function compact(tenants: Tenants<ServedTimeline>): LibpqCommand {
  return {
    name: "compact",
    synopsis: "compact TENANT TIMELINE",
    summary: "Merges the layers of a timeline, and makes images that spare reads work.",
    prepare: (args) => {
      const id = args.tenantId();
      const timelineId = args.timelineId();
      return {
        run: async ({ identity }) => {
          checkTenant(identity, id);
          const { maintenance } = tenants.get(id).timeline(timelineId);
          if (!maintenance) throw new NeonError(ErrorCode.Unsupported, "this timeline has no layers");
          await maintenance.compact({ thorough: true });
        },
      };
    },
  };
}

function leaseLsn(tenants: Tenants<ServedTimeline>): LibpqCommand {
  return {
    name: "lease lsn",
    synopsis: "lease lsn TENANT TIMELINE LSN",
    summary:
      "Keeps an LSN readable, for ten minutes unless the tenant has another lsn_lease_length: column `valid_until`, milliseconds since 1970, or null.",
    prepare: (args) => {
      const id = args.tenantId();
      const timelineId = args.timelineId();
      const wanted = args.lsn("the LSN");
      return {
        columns: [{ name: "valid_until", type: "text" }],
        run: async (session) => {
          checkTenant(session.identity, id);
          const expiresAt = await renewLease(tenants.get(id), timelineId, wanted);
          await session.row([expiresAt === undefined ? null : String(expiresAt)]);
        },
      };
    },
  };
}
