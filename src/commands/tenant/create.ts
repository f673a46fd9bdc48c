import { resolve } from "node:path";
import { string as stringArg } from "@oclif/core/args";
import { integer, string as stringFlag } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import type { JsonFields } from "../shared/base-command.ts";
import { walSegmentFlag } from "../shared/wal-segment-flag.ts";
import { PageserverCommand } from "../shared/pageserver-command.ts";

export default class TenantCreate extends PageserverCommand {
  static override summary = "Create a tenant: another Postgres cluster, with branches of its own.";
  static override description =
    "Runs initdb and loads the result into the pageserver as branch `main` of the new tenant. The default tenant stays " +
    "the default; `neon tenant use ID` changes that, --tenant-id names the tenant for one command.\n\n" +
    "Its Postgres may be of another version than that of other tenants. The id goes to stdout. When it is interrupted, " +
    "nothing is left.";
  static override examples = [
    "<%= config.bin %> tenant create",
    "<%= config.bin %> tenant create --pg-version 16",
    'neon tenant use "$(<%= config.bin %> tenant create)"',
  ];
  static override args = {
    id: stringArg({ description: "32 hexadecimal digits; random unless given." }),
  };
  static override flags = {
    "pg-version": integer({
      summary: "Major version of Postgres, 14 to 18; that of the default tenant unless given.",
      helpValue: "N",
      min: 14,
      max: 18,
    }),
    "pg-bin": stringFlag({
      summary: "Directory with the Postgres programs to run initdb from.",
      helpValue: "DIR",
    }),
    "wal-segsize": walSegmentFlag({
      summary: "Size of a WAL segment in megabytes, a power of two from 1 to 1024. Cannot be changed later.",
      helpValue: "MB",
    }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(TenantCreate);
    const given = args.id ?? flags["tenant-id"];
    if (args.id !== undefined && flags["tenant-id"] !== undefined && args.id !== flags["tenant-id"]) {
      throw new NeonError(ErrorCode.Usage, "ID and --tenant-id name different tenants");
    }
    const { parseTenantId, newTenantId } = await import("../../base/ids.ts");
    const { randomBytes } = await import("node:crypto");
    const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };
    const tenantId = given === undefined ? newTenantId(random) : parseTenantId(given);
    const repository = await this.findRepository(flags);
    const { client: server } = await this.connectToServer(flags);
    const client = server.withTenant(tenantId);
    const { createTenant } = await import("../../compute/create-tenant.ts");
    const { MAIN_BRANCH } = await import("../../compute/fresh-cluster.ts");
    const { Progress } = await import("../shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    const pgVersion = flags["pg-version"] ?? repository.config.pgVersion;
    const { binaries, imported } = await createTenant(repository, client, {
      pgVersion,
      walSegmentMb: flags["wal-segsize"],
      pgBin: flags["pg-bin"] === undefined ? undefined : resolve(flags["pg-bin"]),
      signal: this.interruption.signal,
      onStep: (step) => progress.begin(step),
      onBytes: (sizeBytes) => progress.advance(sizeBytes),
    });
    progress.end();
    this.print(tenantId);
    this.say(
      `Branch ${MAIN_BRANCH} at ${formatLsn(imported.lsn)}, Postgres ${binaries.version} (${binaries.source}). ` +
        `Work on it: neon tenant use ${tenantId}`,
    );
    return {
      tenant_id: tenantId,
      branch: MAIN_BRANCH,
      timeline_id: imported.timelineId,
      lsn: formatLsn(imported.lsn),
      pg_version: pgVersion,
      default: tenantId === repository.config.defaultTenantId,
    };
  }
}
