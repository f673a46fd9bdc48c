import { string as stringArg } from "@oclif/core/args";
import { formatLsn } from "../base/lsn.ts";
import type { TenantId } from "../base/ids.ts";
import type { BranchInfo } from "../client/pageserver-client.ts";
import type { RemoteBranch, RemoteTenant } from "../client/remote-pageserver.ts";
import { readUpstreams } from "../repository/origins.ts";
import type { Repository } from "../repository/repository.ts";
import { BaseCommand, type CommonFlags, type JsonFields } from "./shared/base-command.ts";
import { formatTable, paint } from "./shared/output.ts";
import { STANDING_STYLES, type Standing, compareWith, standingText } from "./shared/upstream.ts";

/** A branch of the origin and the one here that goes with it. */
interface Row {
  readonly branch: RemoteBranch;
  readonly here: string | undefined;
  readonly standing: Standing | undefined;
}

export default class Fetch extends BaseCommand {
  static override summary = "Show the branches of an origin and how ours stand to them; changes no branch.";
  static override description =
    "HERE is the branch whose upstream it is, or the one of the same name. Unlike git's fetch it gets no data: " +
    "`neon pull` does. What it shows is what `neon branch` and `neon status` know of the origin from then on.";
  static override examples = ["<%= config.bin %> fetch staging", "<%= config.bin %> fetch staging --json"];
  static override args = { origin: stringArg({ description: "Name of the origin.", required: true }) };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(Fetch);
    const repository = await this.findRepository(flags);
    const { targetOf } = await import("./shared/origins.ts");
    const { listRemote } = await import("../client/remote-pageserver.ts");
    const { writeTracking } = await import("../repository/tracking.ts");
    const { Progress } = await import("./shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    const target = targetOf(repository, args.origin, (text) => this.caution(text));
    progress.begin(`asking ${args.origin}`);
    const tenants = await listRemote(target, { signal: this.interruption.signal });
    progress.end();
    const tenantId = this.tenantOf(repository, flags);
    // That it has none of our tenant is to be known as well.
    const known = tenants.some((tenant) => tenant.tenantId === tenantId);
    await writeTracking(repository, args.origin, {
      contactedAt: Date.now(),
      tenants: known ? tenants : [...tenants, { tenantId, branches: [] }],
    });
    const ours = tenants.find((tenant) => tenant.tenantId === tenantId);
    const rows = await this.rows(repository, flags, args.origin, ours?.branches ?? []);
    this.show(args.origin, tenantId, tenants, rows);
    return {
      origin: args.origin,
      tenant_id: tenantId,
      branches: rows.map(({ branch, here, standing }) => ({
        name: branch.name,
        last_record_lsn: formatLsn(branch.lastRecordLsn),
        ancestor: branch.ancestor && { name: branch.ancestor.name, lsn: formatLsn(branch.ancestor.lsn) },
        local_branch: here ?? null,
        state: standing?.state ?? null,
        ahead_bytes: standing?.aheadBytes ?? null,
        behind_bytes: standing?.behindBytes ?? null,
      })),
      tenants: tenants.map(({ tenantId: id, pgVersion, branches }) => ({
        tenant_id: id,
        pg_version: pgVersion,
        branches: branches.map((branch) => branch.name),
      })),
    };
  }

  private async rows(
    repository: Repository,
    flags: CommonFlags,
    origin: string,
    remote: readonly RemoteBranch[],
  ): Promise<Row[]> {
    const local = await this.localBranches(repository, flags);
    const upstreams = readUpstreams(repository);
    return remote.map((branch) => {
      const partner =
        local.find(({ timelineId }) => {
          const upstream = upstreams.get(timelineId);
          return upstream?.origin === origin && upstream.branch === branch.name;
        }) ?? local.find(({ name }) => name === branch.name);
      const standing = partner && compareWith(partner.lineage, branch.lineage);
      return { branch, here: partner?.name, standing };
    });
  }

  /** None where the local pageserver does not run, or does not have the tenant. */
  private async localBranches(repository: Repository, flags: CommonFlags): Promise<readonly BranchInfo[]> {
    try {
      return await (await this.pageserverOf(repository, flags)).listBranches();
    } catch {
      return [];
    }
  }

  private show(
    origin: string,
    tenantId: TenantId,
    tenants: readonly RemoteTenant[],
    rows: readonly Row[],
  ): void {
    const others = tenants.filter((tenant) => tenant.tenantId !== tenantId);
    if (rows.length === 0) this.say(`${origin} has no branch of tenant ${tenantId}.`);
    else {
      const cells = rows.map(({ branch, here, standing }) => [
        branch.name,
        formatLsn(branch.lastRecordLsn),
        here ?? "-",
        standing ? standingText(standing) : "",
      ]);
      const [header, ...lines] = formatTable(["BRANCH", "LSN", "HERE", "WHICH IS"], cells).split("\n");
      this.print(header ?? "");
      for (const [i, { standing }] of rows.entries()) {
        const text = standing ? standingText(standing) : "";
        const line = lines[i] ?? "";
        const painted = standing ? paint(STANDING_STYLES[standing.state], text) : "";
        this.print(line.slice(0, line.length - text.length) + painted);
      }
    }
    for (const { tenantId: id, branches } of others) {
      const names = branches.map((branch) => branch.name).join(", ");
      this.say(`Another tenant there: ${id} (${names || "no branches"}); --tenant-id ${id} works on it.`);
    }
  }
}
