import { string as stringArg } from "@oclif/core/args";
import { boolean, integer } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class PgStart extends BaseCommand {
  static override summary = "Start a compute; create it if only its branch exists.";
  static override description =
    "A compute whose directory is gone, out of date or not to be trusted is rebuilt from the pageserver first. " +
    "Starting one that runs is fine. The connection string goes to stdout.";
  static override examples = ["<%= config.bin %> pg start main", "<%= config.bin %> pg start --all"];
  static override args = { name: stringArg({ description: "Name of the compute, or of a branch." }) };
  static override flags = {
    all: boolean({ default: false, summary: "Start every compute that there is." }),
    port: integer({ char: "p", summary: "Another TCP port than before.", helpValue: "PORT" }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(PgStart);
    if ((args.name === undefined) === !flags.all) {
      throw new NeonError(ErrorCode.Usage, "neon pg start wants a NAME or --all", {
        hint: "`neon pg list` shows the computes.",
      });
    }
    if (flags.all && flags.port !== undefined) {
      throw new NeonError(ErrorCode.Usage, "--port is for one compute, not for --all");
    }
    const repository = await this.findRepository(flags);
    const client = await this.pageserverOf(repository, flags);
    const { computesOf, computeJson, describeCompute, startOrCreate } = await import("../shared/computes.ts");
    const { Progress } = await import("../shared/progress.ts");
    using progress = new Progress({ silent: this.jsonEnabled() });
    const computes = computesOf(repository, client, progress);
    const existing = await computes.list();
    const names = args.name === undefined ? existing.map((compute) => compute.name) : [args.name];
    const started = [];
    for (const name of names) {
      progress.begin(`starting compute ${name}`);
      const compute = await startOrCreate({ repository, client, computes }, name, flags.port);
      progress.end();
      this.say(describeCompute(compute));
      this.print(compute.uri);
      started.push(computeJson(compute));
    }
    return flags.all ? { computes: started } : (started[0] ?? {});
  }
}
